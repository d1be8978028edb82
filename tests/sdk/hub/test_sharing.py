"""Prompts on the Hub: the real client against a hub on this machine, and everything that can go wrong there."""

import dataclasses
import io
import json
import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from loopback_hub import LoopbackHub
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from hardprompts import Candidate, ClassifierPromptTuner, FileFormatError, HardPrompt, HubError, SoftPrompt
from hardprompts import hub as module
from hardprompts.classification import Verbalizer
from hardprompts.cli import app
from hardprompts.model_card import MARK, hub_model, render_card
from hardprompts.testing import toy_language_model

PROMPT = HardPrompt(
    text="red tiger, 虎 (big) [x]",
    token_ids=(3, 1, 4, 1, 5),
    score=0.25,
    template="a photo of {}",
    model="transformers:openai/clip-vit-large-patch14",
    method="pez+refine",
    candidates=(Candidate("red tiger", (3, 1), 0.25), Candidate("red", (3,), 0.2)),
    seed=7,
    provenance={"steps": 9},
)

HOSTILE = (
    "``` \n</code><script>alert(1)</script>",
    "`" * 70 + "\n# Title\n---\ntags: [evil]\n---",
    "---\nlicense: evil\n---",
    "<img src=x onerror=alert(1)> <!-- --> &amp; <details>",
    "[link](javascript:alert(1)) ![i](http://x/y.png) | a | b |",
    "$(rm -rf ~); `id` && echo 'x' \"y\"",
    "\u202egpj.exe\u2066 \u200b\x1b[2J\x07\r\x85\u2028end",
    "   leading and trailing ` ",
    "~~~\n<b>",
    "{} {{}} ${x} %s !!python/object:os.system *a &b",
    "a" * 100_000,
)


def soft(**values: Any) -> SoftPrompt:
    generator = torch.Generator().manual_seed(0)
    embeddings = values.pop("embeddings", {"clip_l": torch.randn(2, 768, generator=generator)})
    return SoftPrompt(
        embeddings,
        **{
            "name": "<my style>",
            "step": 500,
            "base_models": ("runwayml/stable-diffusion-v1-5", "hash"),
            "metadata": {"a": 1.5, "b": None, "c": "虎"},
            **values,
        },
    )


def same(first: SoftPrompt, second: SoftPrompt) -> bool:
    fields = ("name", "step", "base_models", "metadata", "encoders")
    return all(getattr(first, field) == getattr(second, field) for field in fields) and all(
        torch.equal(first.embeddings[name], second.embeddings[name]) for name in first.encoders
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """A hub on this machine, and alice's token as the one that is logged in."""
    with LoopbackHub().running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files go the older way, by LFS
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        # The client waits seconds between its attempts.
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        yield running


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def cached(tmp_path: Path) -> set[str]:
    """What the cache shows to readers."""
    return {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}


# --- there and back -----------------------------------------------------------------------


def test_a_hard_prompt_goes_there_and_comes_back(hub: LoopbackHub) -> None:
    pushed = PROMPT.push_to_hub("alice/tiger", commit_message="my tiger")
    repo = hub.repos["alice/tiger"]
    assert set(repo.files) == {".gitattributes", "README.md", "prompt.json"}
    assert repo.messages == ["initial commit", "my tiger"] and not repo.private
    assert pushed == module.Pushed("alice/tiger", f"{hub.url}/alice/tiger/commit/{pushed.revision}", pushed.revision)
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
    PROMPT.push_to_hub("alice/both", soft_prompt=soft())
    assert HardPrompt.from_pretrained("alice/both") == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/both"), soft())
    hard, found = module.pull("alice/both")
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
    written = module.soft_files(soft(embeddings={"lm": torch.ones(2, 8)}))
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


# --- private, pull requests, branches, updates ----------------------------------------------


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


def test_a_card_that_a_person_changed_stays(hub: LoopbackHub) -> None:
    PROMPT.push_to_hub("alice/tiger")
    files = hub.repos["alice/tiger"].files
    dataclasses.replace(PROMPT, score=0.5).push_to_hub("alice/tiger")
    files = hub.repos["alice/tiger"].files
    assert b"0.5000" in files["README.md"]
    files["README.md"] = files["README.md"].replace(MARK.encode(), b"") + b"\nMy own words.\n"
    kept = files["README.md"]
    dataclasses.replace(PROMPT, score=0.75).push_to_hub("alice/tiger")
    assert hub.repos["alice/tiger"].files["README.md"] == kept
    assert HardPrompt.from_pretrained("alice/tiger").score == 0.75


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


# --- the cache ----------------------------------------------------------------------------


def test_offline_the_cache_is_read(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    PROMPT.push_to_hub("alice/both", soft_prompt=soft())
    HardPrompt.from_pretrained("alice/both")
    SoftPrompt.from_pretrained("alice/both")
    asked = len(hub.log)
    assert HardPrompt.from_pretrained("alice/both", local_files_only=True) == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/both", local_files_only=True), soft())
    offline(monkeypatch)
    assert HardPrompt.from_pretrained("alice/both") == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/both"), soft())
    assert len(hub.log) == asked
    with pytest.raises(HubError, match="offline mode is on; unset HF_HUB_OFFLINE"):
        PROMPT.push_to_hub("alice/both")
    for kind in (HardPrompt, SoftPrompt):
        with pytest.raises(HubError, match="not in the cache, and offline mode is on"):
            kind.from_pretrained("alice/never-seen")


def test_what_is_not_in_the_cache_says_so(hub: LoopbackHub) -> None:
    for kind in (HardPrompt, SoftPrompt):
        with pytest.raises(HubError, match="not in the cache; leave local_files_only out"):
            kind.from_pretrained("alice/never-seen", local_files_only=True)


# --- what goes wrong ------------------------------------------------------------------------


def test_a_gated_repository_says_where_to_ask(hub: LoopbackHub) -> None:
    hub.create("bob/gated", gated=True).files["prompt.json"] = PROMPT.to_json().encode()
    with pytest.raises(HubError, match=rf"gives access on request; ask for it at {hub.url}/bob/gated"):
        HardPrompt.from_pretrained("bob/gated")
    with pytest.raises(HubError, match="gives access on request"):
        SoftPrompt.from_pretrained("bob/gated")


def test_an_answer_that_is_none_of_a_hubs(hub: LoopbackHub) -> None:
    hub.create("alice/tiger")
    hub.fail("POST", "validate-yaml", "page")  # of the network that one has to log in to, say
    with pytest.raises(HubError, match="none of a Hub's"):
        PROMPT.push_to_hub("alice/tiger")
    with pytest.raises(ValueError, match="commit_message"):
        PROMPT.push_to_hub("alice/tiger", commit_message=" ")
    assert len(hub.repos["alice/tiger"].commits) == 1


def test_a_repository_without_a_prompt_says_so(hub: LoopbackHub) -> None:
    hub.create("bob/empty")
    with pytest.raises(HubError, match=r"'bob/empty': it has no prompt\.json"):
        HardPrompt.from_pretrained("bob/empty")
    with pytest.raises(HubError, match="holds no soft prompt"):
        SoftPrompt.from_pretrained("bob/empty")
    with pytest.raises(FileFormatError, match="no prompt is in"):
        module.pull("bob/empty")


@pytest.mark.parametrize(
    "token, why", [("hf_expired", "does not accept the token"), ("hf_alice_read", "right to write")]
)
def test_a_token_that_may_not_write(token: str, why: str, hub: LoopbackHub) -> None:
    with pytest.raises(HubError, match=why):
        PROMPT.push_to_hub("alice/new", token=token)
    hub.create("alice/tiger")
    with pytest.raises(HubError, match=why):
        PROMPT.push_to_hub("alice/tiger", token=token)
    with pytest.raises(HubError, match="right to write"):
        PROMPT.push_to_hub("bob/new")
    assert set(hub.repos) == {"alice/tiger"} and len(hub.repos["alice/tiger"].commits) == 1


def test_nobody_is_logged_in(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    with pytest.raises(HubError, match="hf auth login"):
        PROMPT.push_to_hub("alice/tiger")
    assert not hub.repos


@pytest.mark.parametrize(
    "status, why",
    [
        (400, "does not accept it: it went wrong"),
        (409, "conflict .*push again"),
        (412, "somebody changed"),
        (413, "too large"),
        (429, "fewer requests"),
        (500, "the Hub has trouble .status 500"),
        (418, "the Hub answers it went wrong"),
    ],
)
def test_each_status_is_one_clear_error(status: int, why: str, hub: LoopbackHub) -> None:
    hub.create("alice/tiger")
    hub.fail("POST", "/commit/", status, times=10)
    with pytest.raises(HubError, match=why) as caught:
        PROMPT.push_to_hub("alice/tiger")
    assert str(caught.value).startswith("pushing to 'alice/tiger': ") and "\n" not in str(caught.value)
    assert len(hub.repos["alice/tiger"].commits) == 1


@pytest.mark.parametrize(
    "method, path",
    [("GET", "^/api/models"), ("POST", "preupload"), ("POST", "batch"), ("PUT", "^/lfs"), ("POST", "/commit/")],
)
def test_a_push_that_breaks_off_commits_nothing(method: str, path: str, hub: LoopbackHub) -> None:
    hub.create("alice/style")
    hub.fail(method, path, "close", times=10)
    with pytest.raises(HubError, match="the connection broke off.*try again"):
        soft().push_to_hub("alice/style")
    assert set(hub.repos["alice/style"].files) == {".gitattributes"}
    hub.faults.clear()
    soft().push_to_hub("alice/style")
    assert same(SoftPrompt.from_pretrained("alice/style"), soft())


@pytest.mark.parametrize(
    "method, kind",
    [("HEAD", "close"), ("HEAD", 500), ("HEAD", 503), ("GET", "close"), ("GET", "half"), ("GET", 500), ("GET", 503)],
)
def test_a_pull_that_breaks_off_leaves_nothing_half_done(
    method: str, kind: Any, hub: LoopbackHub, tmp_path: Path
) -> None:
    PROMPT.push_to_hub("alice/both", soft_prompt=soft())
    hub.fail(method, "/resolve/", kind, times=100)
    for read in (HardPrompt.from_pretrained, SoftPrompt.from_pretrained):
        with pytest.raises(HubError, match=r"try again|check the connection"):
            read("alice/both")
    assert not cached(tmp_path)
    hub.faults.clear()
    assert HardPrompt.from_pretrained("alice/both") == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/both"), soft())


def test_a_hub_that_is_not_there(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(HubError, match="the connection broke off"):
        PROMPT.push_to_hub("alice/tiger")
    for kind in (HardPrompt, SoftPrompt):
        with pytest.raises(HubError, match="the Hub cannot be reached"):
            kind.from_pretrained("alice/tiger")


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(FileFormatError, match="empty"):
        SoftPrompt.from_pretrained(tmp_path / "x")


@pytest.mark.parametrize("repo_id", ["tiger", "a/b/c", "a b/c", "../x", "alice/", "a/b..c", "https://x/y", "a/b\n"])
def test_what_is_no_repository(repo_id: str, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # so that "../x" is nothing
    with pytest.raises(HubError, match="no repository; write it as user/name"):
        PROMPT.push_to_hub(repo_id)
    with pytest.raises(FileFormatError, match=r"no prompt\.json in"):
        HardPrompt.from_pretrained(repo_id)
    with pytest.raises(FileFormatError, match="does not exist"):
        SoftPrompt.from_pretrained(repo_id)
    assert not hub.log


def test_a_folder_comes_before_the_hub(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PROMPT.save_pretrained("alice/tiger")
    soft().save_pretrained("alice/style")
    assert HardPrompt.from_pretrained("alice/tiger") == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/style"), soft())
    assert not hub.log


SECRET = "hf_q8zTsecretsecretsecret"


@pytest.mark.parametrize("token", [SECRET, f"{SECRET}\n", f"{SECRET} x", f"{SECRET}é"])
def test_no_token_is_ever_shown(token: str, hub: LoopbackHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hub.create("alice/tiger")
    hub.fail("POST", "/commit/", 400)
    screens = io.StringIO()
    with redirect_stdout(screens), redirect_stderr(screens):
        for action in (PROMPT.push_to_hub, HardPrompt.from_pretrained, SoftPrompt.from_pretrained):
            with pytest.raises(HubError) as caught:
                action("alice/tiger", token=token)  # type: ignore[operator]
            shown = "".join(traceback.format_exception(caught.value))
            assert SECRET not in shown + repr(caught.value) + screens.getvalue()
    assert SECRET not in caplog.text
    assert hub.authorizations or token != SECRET, "the hub saw the token, and nobody else did"
    assert not any(SECRET in entry for entry in hub.log)


def test_a_hub_that_repeats_the_token_does_not_get_it_shown(hub: LoopbackHub) -> None:
    hub.create("alice/tiger")
    hub.tokens[SECRET] = ("alice", True)
    hub.fail("POST", "/commit/", 400, **{"X-Error-Message": f"bad header Bearer {SECRET}"})
    with pytest.raises(HubError, match=r"bad header Bearer \*\*\*") as caught:
        PROMPT.push_to_hub("alice/tiger", token=SECRET)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"format": "tensor"},
        {"format": "../x"},
        {"format": ["diffusers"]},
        {"name": 5},
        {"name": "../../x"},
        {"name": "a\x1b[2J"},
        {"step": "many"},
        {"step": True},
        {"base_models": "one"},
        {"base_models": [1]},
        {"metadata": []},
        {"metadata": {"a": []}},
    ],
)
def test_a_damaged_description_is_one_clear_error(change: dict[str, Any], tmp_path: Path) -> None:
    soft().save_pretrained(tmp_path)
    path = tmp_path / "soft_prompt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FileFormatError, match=r"soft_prompt\.json"):
        SoftPrompt.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_description_that_is_no_json(content: bytes, tmp_path: Path) -> None:
    soft().save_pretrained(tmp_path)
    (tmp_path / "soft_prompt.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"soft_prompt\.json"):
        SoftPrompt.from_pretrained(tmp_path)


# --- the card -------------------------------------------------------------------------------


def parsed(card: str) -> tuple[dict[str, Any], list[Any]]:
    """The metadata as the Hub reads it, and the tokens of the Markdown behind it."""
    found = ModelCard(card)
    return yaml.safe_load(found.data.to_yaml()), MarkdownIt("commonmark").enable("table").parse(found.content)


def everything(tokens: list[Any]) -> list[Any]:
    return [token for parent in tokens for token in (parent, *(parent.children or ()))]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_card_stays_valid_and_inert(text: str, hub: LoopbackHub) -> None:
    hostile = dataclasses.replace(
        PROMPT,
        text=text,
        model=text,
        method=text,
        score_unit=text,
        stop_reason=text,
        template=text.replace("{", "").replace("}", "") + "{}",
        candidates=(Candidate(text, (1,), 0.5),) * 2,
    )
    prompt = soft(base_models=(text,), metadata={text: text})
    card = render_card("alice/tiger", hostile, prompt, "cc0-1.0")
    metadata, tokens = parsed(card)
    plain, expected = parsed(render_card("alice/tiger", PROMPT, soft(), "cc0-1.0"))
    assert {**plain, "base_model": None} == {**metadata, "base_model": None} and "base_model" not in metadata
    listed = everything(tokens)
    kinds = {token.type for token in listed}
    assert not kinds & {"html_inline", "link_open", "image"}
    assert [token.content.strip() for token in listed if token.type == "html_block"] == [MARK]
    assert [t.content for t in listed if t.type == "heading_open"] == [
        t.content for t in expected if t.type == "heading_open"
    ]
    blocks = [token.content for token in listed if token.type == "fence"]
    assert len(blocks) == 4 and blocks[0].count("\n") == 1
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2066-\u2069]", card)
    # The real client asks the hub whether the metadata are valid before it commits.
    assert hostile.push_to_hub("alice/hostile", soft_prompt=prompt).changed
    assert hub.requests("validate-yaml") and HardPrompt.from_pretrained("alice/hostile") == hostile


def test_a_card_tells_what_the_prompt_is() -> None:
    metadata, tokens = parsed(render_card("alice/tiger", PROMPT, license="cc0-1.0"))
    assert metadata == {
        "base_model": "openai/clip-vit-large-patch14",
        "library_name": "hardprompts",
        "license": "cc0-1.0",
        "pipeline_tag": "text-to-image",
        "tags": ["hardprompts", "hard-prompt", "prompt-inversion"],
    }
    fences = [token.content for token in tokens if token.type == "fence"]
    assert fences[0] == "a photo of red tiger, 虎 (big) [x]\n"
    assert 'HardPrompt.from_pretrained("alice/tiger")' in fences[1]
    spans = [token.content for token in everything(tokens) if token.type == "code_inline"]
    assert PROMPT.model in spans and "0.2500" in spans and PROMPT.escaped("a1111") in spans


def test_the_metadata_of_soft_prompts() -> None:
    metadata, _ = parsed(render_card("alice/style", None, soft()))
    assert metadata["base_model"] == "runwayml/stable-diffusion-v1-5" and metadata["pipeline_tag"] == "text-to-image"
    metadata, _ = parsed(
        render_card("alice/lm", None, soft(embeddings={"lm": torch.ones(1, 8)}, base_models=("/x/y",)))
    )
    assert "base_model" not in metadata and metadata["pipeline_tag"] == "text-generation"
    with pytest.raises(ValueError, match="neither"):
        render_card("alice/x", None)


def test_a_license_that_the_hub_does_not_know(hub: LoopbackHub) -> None:
    with pytest.raises(HubError, match="does not accept the card.*license"):
        PROMPT.push_to_hub("alice/tiger", license="whatever I like")
    assert len(hub.repos["alice/tiger"].commits) == 1


def test_the_hub_itself_validates_the_card(hub: LoopbackHub) -> None:
    ModelCard(render_card("alice/tiger", PROMPT, soft())).validate()
    with pytest.raises(ValueError, match="license"):
        ModelCard(render_card("alice/tiger", PROMPT, license="evil")).validate()


@pytest.mark.parametrize(
    "name, repo_id",
    [
        ("transformers:openai/clip", "openai/clip"),
        ("diffusers:a/b", "a/b"),
        ("open_clip:hf-hub:a/b", "a/b"),
        ("open_clip:ViT-L-14/openai", ""),
        ("transformers:/home/me/model", ""),
        ("transformers:./model", ""),
        ("emoji", ""),
        ("", ""),
    ],
)
def test_the_base_model_is_named_where_the_hub_has_it(name: str, repo_id: str) -> None:
    assert hub_model(name) == repo_id


# --- the command ----------------------------------------------------------------------------


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_push_and_pull(hub: LoopbackHub, tmp_path: Path) -> None:
    PROMPT.save_pretrained(tmp_path / "out")
    pushed = run("push", tmp_path / "out", "alice/tiger", "--private", "--message", "hello")
    assert (
        pushed.exit_code == 0
        and pushed.stdout == f"{hub.url}/alice/tiger/commit/{hub.repos['alice/tiger'].refs['main']}\n"
    )
    assert hub.repos["alice/tiger"].private and hub.repos["alice/tiger"].messages[-1] == "hello"
    assert "nothing was committed" in run("push", tmp_path / "out", "alice/tiger").stderr
    pulled = run("pull", "alice/tiger", "--save", tmp_path / "in")
    assert pulled.exit_code == 0 and pulled.stdout == f"{PROMPT.filled}\n"
    assert HardPrompt.from_pretrained(tmp_path / "in") == PROMPT
    assert run("pull", "alice/tiger", "--offline").stdout == f"{PROMPT.filled}\n"


def test_push_and_pull_of_a_soft_prompt(hub: LoopbackHub, tmp_path: Path) -> None:
    soft().save(tmp_path / "style.pt", format="a1111")
    assert run("push", tmp_path / "style.pt", "alice/style").exit_code == 0
    pulled = run("pull", "alice/style", "--save", tmp_path / "in")
    assert pulled.exit_code == 0 and "2 tokens, clip_l 768" in pulled.stdout
    assert torch.equal(SoftPrompt.from_pretrained(tmp_path / "in").embeddings["clip_l"], soft().embeddings["clip_l"])


def test_the_commands_fail_in_one_line(hub: LoopbackHub, tmp_path: Path) -> None:
    for words in (
        ("push", tmp_path, "alice/tiger"),
        ("push", tmp_path / "nowhere", "alice/tiger"),
        ("pull", "tiger"),
        ("pull", "alice/nowhere"),
    ):
        failed = run(*words)
        assert failed.exit_code == 2 and failed.stdout == ""
        assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1, failed.stderr


def test_the_client_is_the_real_one() -> None:
    assert huggingface_hub.HfApi.create_commit.__module__ == "huggingface_hub.hf_api"


# --- classifiers --------------------------------------------------------------------------


def fitted_tuner(**options: Any) -> ClassifierPromptTuner:
    texts = ["red fire", "old night", "green fire", "dark night"] * 4
    chosen: dict[str, Any] = {"num_tokens": 2, "restarts": 1, "max_steps": 2, "random_state": 0, "progress": False}
    tuner = ClassifierPromptTuner(toy_language_model(), template="{prompt} {text} the {label}", **{**chosen, **options})
    return tuner.fit(texts, ["sun", "moon"] * 8)


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


def test_the_card_of_a_classifier_has_its_report() -> None:
    tuner = fitted_tuner()
    card = module.contents("alice/weather", None, None, tuner=tuner._saved())["README.md"].decode()
    metadata, tokens = parsed(card)
    assert metadata["pipeline_tag"] == "text-classification"
    assert metadata["tags"] == ["hardprompts", "hard-prompt", "prompt-tuning"]
    assert f"| this prompt | {tuner.report_['prompt']['accuracy']:.3f} |" in card
    assert f"| no prompt | {tuner.report_['empty_template']['accuracy']:.3f} |" in card
    spans = [token.content for token in everything(tokens) if token.type == "code_inline"]
    assert "{prompt} {text} the {label}" in spans and "sun: sun" in spans


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_classifier_becomes_markup(text: str) -> None:
    saved = fitted_tuner()._saved()
    words = Verbalizer((text, "b"), ((text.strip(),), ("b",)))
    hostile = dataclasses.replace(
        saved, model=text, parameters={**saved.parameters, "template": text}, verbalizer=words,
        prompt=dataclasses.replace(saved.prompt, text=text, method=text, stop_reason=text),
        report={**saved.report, "notes": [text], "measured_on": text},
    )  # fmt: skip
    _, tokens = parsed(module.contents("alice/x", None, None, tuner=hostile)["README.md"].decode())
    listed = everything(tokens)
    assert not {token.type for token in listed} & {"html_inline", "link_open", "image"}
    assert [token.content.strip() for token in listed if token.type == "html_block"] == [MARK]
    assert len([token for token in listed if token.type == "heading_open"]) == 1
