"""Styles: tags and keywords are written anew and scored as they are written; captions need somebody who writes them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hardprompts import HardPrompt, PromptInverter, PromptTemplate, VocabularyError, load_backend
from hardprompts.allowance import Allowance
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.styles import Styling
from hardprompts.prompts import Candidate
from hardprompts.testing import toy_backend

EMOJI, TOY = load_backend("emoji", device="cpu"), toy_backend()
EXAMPLES = Path(__file__).parents[3] / "plugins" / "hardprompts_emoji" / "examples"
TEXTS = ("red fox on a purple background", "old owl at night")
TARGETS = EMOJI.encode_texts(TEXTS)
QUICK: dict[str, Any] = {"views": 1, "restarts": 2, "progress": False, "seed": 0, "max_evaluations": 600}


def inverted(style: str | None, **options: Any) -> list[HardPrompt]:
    return PromptInverter(EMOJI).invert_each(TARGETS, style=style, **{**QUICK, **options})  # type: ignore[arg-type]


def check(prompt: HardPrompt, target: torch.Tensor) -> None:
    """Tokens and score are those of the text that is returned, and so are its candidates'."""
    template = PromptTemplate(prompt.template)
    for one in (prompt, *prompt.candidates):
        filled = template.fill(one.text)
        assert one.score == pytest.approx(float((EMOJI.encode_texts([filled]) @ target).mean()), abs=1e-4)
    assert list(prompt.token_ids) == EMOJI.vocabulary.encode(prompt.text)
    assert EMOJI.vocabulary.admits(prompt.token_ids, template)
    assert prompt.candidates[0].text == prompt.text and prompt.candidates[0].token_ids == prompt.token_ids


def test_tags_have_commas_fit_into_the_length_and_begin_with_the_most_important() -> None:
    for prompt, target in zip(inverted("tags", num_tokens=9), TARGETS, strict=True):
        check(prompt, target)
        tags = prompt.text.split(", ")
        assert len(tags) > 1 and len(prompt.token_ids) <= 9 and " ," not in prompt.text
        assert sorted(prompt.text.replace(",", "").split()) == sorted(set(prompt.text.replace(",", "").split()))
        without = [EMOJI.encode_texts([", ".join(tags[:i] + tags[i + 1 :])]) @ target for i in range(len(tags))]
        assert without == sorted(without)


def test_keywords_are_words_alone_and_begin_with_the_most_important() -> None:
    for prompt, target in zip(inverted("keywords"), TARGETS, strict=True):
        check(prompt, target)
        words = prompt.text.split()
        assert "," not in prompt.text and len(set(words)) == len(words) > 1
        assert list(prompt.attributions) == sorted(prompt.attributions, reverse=True)


def test_without_a_style_nothing_changes() -> None:
    plain = PromptInverter(EMOJI).invert_each(TARGETS, **QUICK)
    assert [prompt.text for prompt in inverted(None)] == [prompt.text for prompt in plain]


@pytest.mark.parametrize("style", ["tags", "keywords"])
def test_required_words_the_template_bans_and_limits_hold_in_every_style(style: str) -> None:
    limited = inverted(style, required=["pixel"], template="art of {}, framed", banned=["fox", "night"], num_tokens=10)
    for prompt, target in zip(limited, TARGETS, strict=True):
        check(prompt, target)
        assert prompt.text.startswith("pixel") and not {"fox", "night"} & {*prompt.text.replace(",", "").split()}
        assert len(prompt.token_ids) <= 10 and prompt.evaluations <= 600 + len(TEXTS)
    scarce = inverted(style, max_evaluations=60)
    assert all(len(prompt.text.split()) >= 1 for prompt in scarce)
    assert all(f"as {style}" in " ".join(prompt.left_out) or prompt.left_out for prompt in scarce)


def styling(style: Any, likes: str, vocabulary: Any = EMOJI.vocabulary) -> Styling:
    """A model that likes one text, and otherwise texts with few commas."""

    def scores_of(texts: Sequence[str]) -> list[float]:
        return [2.0 if text == likes else 1.0 - 0.001 * text.count(",") for text in texts]

    return Styling(style, vocabulary, PromptTemplate(), scores_of, "emoji")


def candidate(text: str) -> Candidate:
    return Candidate(text, tuple(EMOJI.vocabulary.encode(text)), 0.5)


def test_words_that_the_model_likes_side_by_side_become_a_phrase() -> None:
    (found,) = styling("tags", "red fox, purple").written([candidate("red fox purple")], Allowance())
    assert set(found.text.split(", ")) == {"red fox", "purple"}
    (found,) = styling("tags", "").written([candidate("red fox red purple")], Allowance())
    assert sorted(found.text.split(", ")) == ["fox", "purple", "red"]


def test_a_banned_order_of_words_is_passed_over() -> None:
    banned = EMOJI.vocabulary.without(["fox red"])
    keywords = styling("keywords", "red purple", banned)  # without the fox it would be best: the fox comes last
    (found,) = keywords.written([candidate("red fox purple")], Allowance())
    assert "fox red" not in found.text and sorted(found.text.split()) == ["fox", "purple", "red"]


def test_what_there_is_no_room_to_measure_keeps_its_order_and_is_named() -> None:
    nothing = Allowance(max_evaluations=0)
    (found,) = styling("keywords", "").written([candidate("owl night brown"), candidate("owl")], nothing)
    assert found.text == "owl night brown"
    assert nothing.left_out == ["the order of keywords: 0 of 3", "candidates as keywords: 1 of 2"]


def test_a_model_without_commas_says_so() -> None:
    target = TOY.encode_texts(["red house near river"])[0]
    with pytest.raises(VocabularyError, match="style='tags' needs commas; use style='keywords'"):
        PromptInverter(TOY).invert(target, style="tags", **QUICK)
    assert PromptInverter(TOY).invert(target, style="keywords", **QUICK).text


def test_a_caption_needs_somebody_who_knows_how_captions_read() -> None:
    with pytest.raises(ValueError, match="style='caption' needs something that knows how captions read"):
        PromptInverter(EMOJI, proposers="none").invert_each(TARGETS, style="caption", **QUICK)

    class Writes:
        def propose(self, features: Any, count: int, max_tokens: int, generator: Any) -> list[list[str]]:
            return [["a fox on a purple background", "an owl at night"] for _ in features]

    with pytest.raises(ValueError, match="no initial_prompt"):
        PromptInverter(EMOJI, proposers=Writes()).invert(TARGETS[0], style="caption", initial_prompt="fox", **QUICK)
    # It does not know how likely other texts are: what it wrote stays whole.
    found = PromptInverter(EMOJI, proposers=Writes()).invert_each(TARGETS, style="caption", **QUICK)
    assert [prompt.text for prompt in found] == ["a fox on a purple background", "an owl at night"]
    assert {prompt.stop_reason for prompt in found} == {"proposed"} and {p.method for p in found} == {"proposals"}


def test_captions_read_as_texts_and_are_polished_no_further_than_that() -> None:
    inverter = PromptInverter("emoji", device="cpu", proposers="auto", fluency_model="emoji:emoji-lm")
    pictures = [EXAMPLES / name for name in ("fox-purple-flat.png", "guitar-black-neon.png", "owl-brown-night.png")]
    options = {**QUICK, "num_tokens": 12, "max_evaluations": 1500}
    captions = inverter.invert_each(pictures, style="caption", **options)
    plain = inverter.invert_each(pictures, **options)
    for caption, short, target in zip(
        captions, plain, EMOJI.encode_images([Image.open(picture) for picture in pictures]), strict=True
    ):
        check(caption, target)
        assert caption.fluency is not None and short.fluency is not None and caption.fluency > short.fluency + 2
        assert {"a", "of", "on", "with"} & {*caption.text.split()}
        assert caption.score > 0.8


def test_the_fluency_of_what_was_found_is_told_by_a_model_that_had_no_say() -> None:
    asked: list[str] = []

    def likelihood(texts: Sequence[str]) -> torch.Tensor:
        asked.extend(texts)
        return torch.tensor([-6.0 * len(text.split()) for text in texts])

    prompt = PromptInverter(EMOJI, fluency_model=likelihood).invert(TARGETS[0], template="art of {}", **QUICK)
    assert asked == [prompt.filled] and prompt.fluency == pytest.approx(-6.0)
    assert HardPrompt.from_dict(prompt.to_dict()).fluency == prompt.fluency
    plain = PromptInverter(EMOJI).invert(TARGETS[0], template="art of {}", **QUICK)
    assert plain.fluency is None and plain.text == prompt.text


@pytest.mark.parametrize(
    "options, said",
    [
        ({"style": "poem"}, "style must be 'tags', 'caption', 'keywords' or None, got 'poem'"),
        ({"style": "tags", "pareto": True}, "style='tags' writes them anew"),
        ({"style": "keywords", "shortest": 0.9}, "style='keywords' writes them anew"),
        ({"likelihood_weight": -1.0}, "likelihood_weight must be finite and not negative, got -1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        InversionOptions(**options)
    assert dataclasses.replace(InversionOptions(), style="tags").places(8) == 4
