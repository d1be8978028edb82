"""Prompts joined, and what to leave out, on the toy model."""

import pytest
from painter import BACKEND, TOWER

from hardprompts import BackendError, Candidate, HardPrompt, PromptInverter, TemplateError, VocabularyError
from hardprompts.applications.joining import concatenate, negative_prompt

VOCABULARY = BACKEND.vocabulary


def prompt(text: str, template: str = "{}", model: str = "toy") -> HardPrompt:
    return HardPrompt(text, tuple(VOCABULARY.encode(text)), 0.5, template=template, model=model)


def cosine(a: str, b: str) -> float:
    first, second = BACKEND.encode_texts([a, b])
    return float(first @ second)


def test_joined_prompts_are_encoded_checked_and_scored_anew() -> None:
    joined = concatenate([prompt("red house"), prompt("old boat"), prompt("night")], BACKEND, separator=" near ")
    assert joined.text == joined.filled == "red house near old boat near night"
    assert joined.token_ids == tuple(VOCABULARY.encode(joined.text)) and joined.tokens == tuple(joined.text.split())
    parts = ("red house", "old boat", "night")
    assert joined.score == pytest.approx(sum(cosine(joined.text, part) for part in parts) / 3, abs=1e-5)
    assert joined.score_unit == "cosine similarity with its parts"
    assert joined.candidates == (Candidate(joined.text, joined.token_ids, joined.score),)
    assert joined.provenance["parts"] == list(parts)


def test_joined_prompts_are_scored_against_images_and_in_their_template() -> None:
    template = "the {} in snow"
    joined = concatenate([prompt("red", template), prompt("house", template)], BACKEND, images=TOWER.picture("boat"))
    assert joined.filled == "the red house in snow" and joined.score_unit == "cosine similarity"
    assert joined.score == pytest.approx(cosine("the red house in snow", "boat"), abs=1e-5)


def test_prompts_are_joined_by_the_model_that_they_name(toy_plugin: str) -> None:
    a, b, c = prompt("red house"), prompt("old boat"), prompt("night")
    assert concatenate([a, b]) == concatenate([a, b], BACKEND)
    assert concatenate([concatenate([a, b]), c]).text == "red house old boat night"


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([], VocabularyError, "no prompts"),
        ([prompt("red", model=""), prompt("boat", model="")], BackendError, r"no model.*concatenate"),
        ([prompt("red"), prompt("boat", model="other")], BackendError, r"'other', 'toy'"),
        ([prompt("red", "the {}"), prompt("boat")], TemplateError, "different templates"),
    ],
)
def test_prompts_that_cannot_be_joined_by_themselves(prompts, error, message) -> None:
    with pytest.raises(error, match=message):
        concatenate(prompts)


def test_joined_prompts_must_fit_and_survive() -> None:
    long = prompt("red house near the old boat on the river")
    with pytest.raises(TemplateError, match="room for 16"):
        concatenate([long, long], BACKEND)
    with pytest.raises(VocabularyError, match="not encoded to ids that spell it"):
        concatenate([prompt("red"), prompt("boat")], BACKEND, separator="")


def test_a_negative_prompt_leaves_out_what_is_wanted() -> None:
    inverter = PromptInverter(BACKEND)
    options = {"num_tokens": 2, "views": 1, "restarts": 8, "progress": False, "seed": 0}
    unwanted, wanted = TOWER.picture("red house"), TOWER.picture("blue house")
    alone = negative_prompt(unwanted, inverter, **options)
    contrast = negative_prompt(unwanted, inverter, wanted, unlike_weight=0.8, **options)
    assert alone.text == "red house"
    assert cosine(contrast.text, "blue house") < cosine(alone.text, "blue house")
    assert contrast.provenance["use"] == "negative prompt"
    with pytest.raises(ValueError, match="wanted"):
        negative_prompt(unwanted, inverter, unlike=wanted, **options)
