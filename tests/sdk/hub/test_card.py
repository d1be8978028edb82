"""Cards: what they tell, and that nothing in a prompt becomes markup."""

import dataclasses
import inspect
import re
from typing import Any

import pytest
import torch
import yaml
from hub_samples import PROMPT, fitted_tuner, soft
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from markdown_it import MarkdownIt

from hardprompts import Candidate, HardPrompt, HubError, sharing
from hardprompts.classification import Verbalizer
from hardprompts.hub import repository_files
from hardprompts.hub.card import MARK
from hardprompts.hub.names import hub_model

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


def parsed(card: str) -> tuple[dict[str, Any], list[Any]]:
    """The metadata as the Hub reads it, and the tokens of the Markdown behind it."""
    found = ModelCard(card)
    return yaml.safe_load(found.data.to_yaml()), MarkdownIt("commonmark").enable("table").parse(found.content)


def card(repo_id: str, *values: Any, license: str | None = None) -> str:
    held = [value for value in values if value is not None]
    return repository_files(repo_id, held, license)["README.md"].decode()


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
    written = card("alice/tiger", hostile, prompt, license="cc0-1.0")
    metadata, tokens = parsed(written)
    plain, expected = parsed(card("alice/tiger", PROMPT, soft(), license="cc0-1.0"))
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
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2066-\u2069]", written)
    # The real client asks the hub whether the metadata are valid before it commits.
    assert sharing.push("alice/hostile", hostile, prompt).changed
    assert hub.requests("validate-yaml") and HardPrompt.from_pretrained("alice/hostile") == hostile


def test_a_card_tells_what_the_prompt_is() -> None:
    metadata, tokens = parsed(card("alice/tiger", PROMPT, license="cc0-1.0"))
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
    metadata, _ = parsed(card("alice/style", None, soft()))
    assert metadata["base_model"] == "runwayml/stable-diffusion-v1-5" and metadata["pipeline_tag"] == "text-to-image"
    metadata, _ = parsed(card("alice/lm", None, soft(embeddings={"lm": torch.ones(1, 8)}, base_models=("/x/y",))))
    assert "base_model" not in metadata and metadata["pipeline_tag"] == "text-generation"
    with pytest.raises(ValueError, match="neither"):
        sharing.push("alice/x")


def test_a_license_that_the_hub_does_not_know(hub: LoopbackHub) -> None:
    with pytest.raises(HubError, match="does not accept the card.*license"):
        PROMPT.push_to_hub("alice/tiger", license="whatever I like")
    assert len(hub.repos["alice/tiger"].commits) == 1


def test_the_hub_itself_validates_the_card(hub: LoopbackHub) -> None:
    if "https://huggingface.co/" in inspect.getsource(ModelCard.validate):
        pytest.skip("before huggingface_hub 1.0 the client asks the Hub itself, whatever the endpoint")
    ModelCard(card("alice/tiger", PROMPT, soft())).validate()
    with pytest.raises(ValueError, match="license"):
        ModelCard(card("alice/tiger", PROMPT, license="evil")).validate()


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


def test_the_card_of_a_classifier_has_its_report() -> None:
    tuner = fitted_tuner()
    written = repository_files("alice/weather", [tuner._saved()])["README.md"].decode()
    metadata, tokens = parsed(written)
    assert metadata["pipeline_tag"] == "text-classification"
    assert metadata["tags"] == ["hardprompts", "hard-prompt", "prompt-tuning"]
    assert f"| this prompt | {tuner.report_['prompt']['accuracy']:.3f} |" in written
    assert f"| no prompt | {tuner.report_['empty_template']['accuracy']:.3f} |" in written
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
    _, tokens = parsed(repository_files("alice/x", [hostile])["README.md"].decode())
    listed = everything(tokens)
    assert not {token.type for token in listed} & {"html_inline", "link_open", "image"}
    assert [token.content.strip() for token in listed if token.type == "html_block"] == [MARK]
    assert len([token for token in listed if token.type == "heading_open"]) == 1
