"""Hard prompts, soft prompts and classifiers go to the Hub and come back: the real client against a hub on this machine."""

import dataclasses
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_samples import PROMPT, fitted_tuner, same, soft
from loopback_hub import LoopbackHub

from hardprompts import ClassifierPromptTuner, HardPrompt, HubError, SoftPrompt, sharing
from hardprompts.hub import PushResult
from hardprompts.softprompts.prompt import soft_files
from hardprompts.testing import toy_language_model


def test_a_hard_prompt_goes_there_and_comes_back(hub: LoopbackHub) -> None:
    pushed = PROMPT.push_to_hub("alice/tiger", commit_message="my tiger")
    repo = hub.repos["alice/tiger"]
    assert set(repo.files) == {".gitattributes", "README.md", "prompt.json"}
    assert repo.messages == ["initial commit", "my tiger"] and not repo.private
    assert pushed == PushResult("alice/tiger", f"{hub.url}/alice/tiger/commit/{pushed.revision}", pushed.revision)
    assert pushed.revision == repo.refs["main"]
    assert HardPrompt.from_pretrained("alice/tiger") == PROMPT
    assert HardPrompt.from_pretrained("alice/tiger", revision=pushed.revision) == PROMPT
    assert len(hub.requests("^POST .*/commit/")) == 1


@pytest.mark.parametrize(
    "embeddings, files",
    [
        ({"clip_l": 768}, {"learned_embeds.safetensors"}),
        ({"clip_l": 768, "clip_g": 1280}, {"learned_embeds.safetensors", "learned_embeds_2.safetensors"}),
        ({"lm": 40}, {"adapter_config.json", "adapter_model.safetensors"}),
        ({"lm_encoder": 40, "lm_decoder": 40}, {"adapter_config.json", "adapter_model.safetensors"}),
        ({"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}, {"embeddings.safetensors"}),
    ],
)
def test_a_soft_prompt_goes_there_and_comes_back(
    embeddings: dict[str, int], files: set[str], hub: LoopbackHub, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    prompt = soft(embeddings={name: torch.randn(3, width, generator=generator) for name, width in embeddings.items()})
    prompt.push_to_hub("alice/style")
    assert set(hub.repos["alice/style"].files) == {".gitattributes", "README.md", "soft_prompt.json", *files}
    assert same(SoftPrompt.from_pretrained("alice/style"), prompt)
    prompt.save_pretrained(tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"soft_prompt.json", *files}
    assert same(SoftPrompt.from_pretrained(tmp_path / "folder"), prompt)


def test_both_in_one_repository(hub: LoopbackHub) -> None:
    sharing.push("alice/both", PROMPT, soft())
    assert HardPrompt.from_pretrained("alice/both") == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/both"), soft())
    hard, found = sharing.pull("alice/both")
    assert hard == PROMPT and found is not None and same(found, soft())


def test_a_soft_prompt_without_a_name_is_called_as_its_repository(hub: LoopbackHub) -> None:
    soft(name="").push_to_hub("alice/the-style")
    assert SoftPrompt.from_pretrained("alice/the-style").name == "the-style"


def test_soft_prompts_of_other_tools_are_read(hub: LoopbackHub, tmp_path: Path) -> None:
    torch.save({"<cat>": torch.ones(768)}, tmp_path / "learned_embeds.bin")
    files = hub.create("bob/cat-toy").files
    files["learned_embeds.bin"] = (tmp_path / "learned_embeds.bin").read_bytes()
    files["model.safetensors"] = b"much"
    found = SoftPrompt.from_pretrained("bob/cat-toy")
    assert found.name == "<cat>" and torch.equal(found.embeddings["clip_l"], torch.ones(1, 768))
    assert not hub.requests("model.safetensors"), "nothing else is downloaded"


def test_an_adapter_of_other_tools_is_called_as_its_repository(hub: LoopbackHub) -> None:
    written = soft_files(soft(embeddings={"lm": torch.ones(2, 8)}))
    del written["soft_prompt.json"]
    hub.create("bob/adapter").files.update(written)
    assert SoftPrompt.from_pretrained("bob/adapter").name == "adapter"


def test_plain_diffusers_loads_a_pushed_soft_prompt(hub: LoopbackHub) -> None:
    pytest.importorskip("diffusers")
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    import hardprompts_emoji

    tokenizer = CLIPTokenizer.from_pretrained(hardprompts_emoji.path("emoji-clip"))
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **shape))
    parts = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor", "image_encoder"))
    pipe = StableDiffusionPipeline(**parts, text_encoder=encoder, tokenizer=tokenizer, requires_safety_checker=False)
    values = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    soft(embeddings={"text_encoder": values}).push_to_hub("alice/style")
    pipe.load_textual_inversion("alice/style")
    ids = tokenizer.convert_tokens_to_ids(["<my style>", "<my style>_1"])
    assert torch.equal(encoder.get_input_embeddings().weight[ids], values)


def test_a_private_repository_is_seen_by_its_owner_alone(hub: LoopbackHub) -> None:
    PROMPT.push_to_hub("alice/secret", private=True)
    assert hub.repos["alice/secret"].private
    assert HardPrompt.from_pretrained("alice/secret", token="hf_alice") == PROMPT
    with pytest.raises(HubError, match="no such repository, or it is private.*hf auth login"):
        HardPrompt.from_pretrained("alice/secret", token="hf_bob", revision="main", cache_dir="elsewhere")


def test_what_exists_is_never_opened_or_closed(hub: LoopbackHub) -> None:
    hub.create("alice/open")
    hub.create("alice/closed", private=True)
    with pytest.raises(HubError, match="is public, and private was asked for"):
        PROMPT.push_to_hub("alice/open", private=True)
    with pytest.raises(HubError, match="is private, and public was asked for"):
        PROMPT.push_to_hub("alice/closed", private=False)
    assert set(hub.repos["alice/open"].files) == set(hub.repos["alice/closed"].files) == {".gitattributes"}
    PROMPT.push_to_hub("alice/closed")
    assert hub.repos["alice/closed"].private and "prompt.json" in hub.repos["alice/closed"].files


def test_a_pull_request_leaves_the_main_branch(hub: LoopbackHub) -> None:
    before = hub.create("alice/tiger").refs["main"]
    pushed = PROMPT.push_to_hub("alice/tiger", token="hf_bob", create_pr=True)
    assert pushed.url == f"{hub.url}/alice/tiger/discussions/1"
    assert hub.repos["alice/tiger"].refs == {"main": before, "refs/pr/1": pushed.revision}
    assert HardPrompt.from_pretrained("alice/tiger", revision="refs/pr/1") == PROMPT
    assert HardPrompt.from_pretrained("alice/tiger", revision=pushed.revision) == PROMPT
    with pytest.raises(HubError, match=r"has no prompt\.json"):
        HardPrompt.from_pretrained("alice/tiger")
    with pytest.raises(ValueError, match="create_pr"):
        PROMPT.push_to_hub("alice/tiger", create_pr=True, revision="dev")


def test_a_branch_is_made_if_need_be(hub: LoopbackHub) -> None:
    PROMPT.push_to_hub("alice/tiger")
    other = dataclasses.replace(PROMPT, text="blue tiger")
    for text in ("blue tiger", "green tiger"):
        other = dataclasses.replace(PROMPT, text=text)
        other.push_to_hub("alice/tiger", revision="dev")
    assert HardPrompt.from_pretrained("alice/tiger") == PROMPT
    assert HardPrompt.from_pretrained("alice/tiger", revision="dev") == other
    with pytest.raises(HubError, match="no branch, tag or commit 'nowhere'"):
        HardPrompt.from_pretrained("alice/tiger", revision="nowhere")


def test_an_update_replaces_what_was_there(hub: LoopbackHub) -> None:
    pair = soft(embeddings={"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)})
    pair.push_to_hub("alice/style")
    hub.repos["alice/style"].files["notes.txt"] = b"the owner's"
    soft().push_to_hub("alice/style")  # its other half would make a pair of two prompts
    assert set(hub.repos["alice/style"].files) == {
        ".gitattributes", "README.md", "notes.txt", "soft_prompt.json", "learned_embeds.safetensors",
    }  # fmt: skip
    assert same(SoftPrompt.from_pretrained("alice/style"), soft())


def test_the_same_prompt_again_is_no_commit(hub: LoopbackHub) -> None:
    first = PROMPT.push_to_hub("alice/tiger")
    again = PROMPT.push_to_hub("alice/tiger")
    assert first.changed and not again.changed and again.revision == first.revision
    assert len(hub.repos["alice/tiger"].commits) == 2


def test_two_pushes_at_once_never_mix(hub: LoopbackHub) -> None:
    hub.create("alice/tiger")

    def somebody_else(running: LoopbackHub) -> None:
        running.repos["alice/tiger"].commit("main", {"prompt.json": b"theirs"}, "theirs")

    hub.fail("POST", "/commit/main", somebody_else)
    with pytest.raises(HubError, match="somebody changed the repository meanwhile.*push again"):
        PROMPT.push_to_hub("alice/tiger")
    assert hub.repos["alice/tiger"].files == {"prompt.json": b"theirs"}
    PROMPT.push_to_hub("alice/tiger")
    assert HardPrompt.from_pretrained("alice/tiger") == PROMPT


def test_two_that_make_the_repository_at_once_both_get_there(hub: LoopbackHub) -> None:
    hub.fail("POST", "/api/repos/create", lambda running: running.create("alice/tiger"))
    PROMPT.push_to_hub("alice/tiger")  # the answer is 409: it exists
    assert HardPrompt.from_pretrained("alice/tiger") == PROMPT


def test_the_client_is_the_real_one() -> None:
    assert huggingface_hub.HfApi.create_commit.__module__ == "huggingface_hub.hf_api"


def test_a_classifier_goes_there_and_comes_back(hub: LoopbackHub) -> None:
    tuner = fitted_tuner()
    pushed = tuner.push_to_hub("alice/weather", license="cc0-1.0")
    assert set(hub.repos["alice/weather"].files) == {".gitattributes", "README.md", "prompt.json", "tuner.json"}
    texts = ["red fire", "dark night"]
    loaded = ClassifierPromptTuner.from_pretrained("alice/weather", model=toy_language_model())
    assert (loaded.predict_proba(texts) == tuner.predict_proba(texts)).all()
    assert loaded.report_ == tuner.report_
    assert HardPrompt.from_pretrained("alice/weather", revision=pushed.revision) == tuner.hard_prompt_
    assert not tuner.push_to_hub("alice/weather", license="cc0-1.0").changed
    tuner.hard_prompt_.push_to_hub("alice/weather")
    assert "tuner.json" not in hub.repos["alice/weather"].files, "a prompt alone is no classifier any more"
    with pytest.raises(HubError, match=r"no tuner\.json"):
        ClassifierPromptTuner.from_pretrained("alice/weather")
    with pytest.raises(ValueError, match="not fitted"):
        ClassifierPromptTuner(toy_language_model()).push_to_hub("alice/weather")
