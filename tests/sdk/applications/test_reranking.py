"""Candidates ranked by the pictures that they make."""

import dataclasses
import math
from collections.abc import Sequence

import pytest
from painter import BACKEND, TOWER, Painter
from PIL import Image

from hardprompts import Candidate, HardPrompt, ImageError
from hardprompts.applications.pictures import likeness
from hardprompts.applications.reranking import rerank

VOCABULARY = BACKEND.vocabulary


def prompt(text: str, template: str = "{}", model: str = "toy") -> HardPrompt:
    return HardPrompt(text, tuple(VOCABULARY.encode(text)), 0.5, template=template, model=model)


def cosine(a: str, b: str) -> float:
    first, second = BACKEND.encode_texts([a, b])
    return float(first @ second)


def candidates(*texts: str) -> HardPrompt:
    found = tuple(
        Candidate(text, tuple(VOCABULARY.encode(text)), 0.9 - 0.1 * place) for place, text in enumerate(texts)
    )
    return dataclasses.replace(
        prompt(texts[0]), candidates=found, tokens=tuple(texts[0].split()), attributions=(0.1,) * 2, score=0.9
    )


def test_the_candidate_with_the_best_pictures_wins() -> None:
    paint = Painter()
    asked = candidates("old boat", "red house", "red boat")
    outcome = rerank(asked, paint, likeness(TOWER.picture("red house"), BACKEND), seeds=(3, 4))
    assert outcome.ranked[0].text == outcome.prompt.text == "red house"
    scores = [cosine(entry.text, "red house") for entry in outcome.ranked]
    assert scores == sorted(scores, reverse=True)
    assert [entry.score for entry in outcome.ranked] == pytest.approx(scores, abs=1e-5)
    assert outcome.prompt.token_ids == tuple(VOCABULARY.encode("red house")) and outcome.prompt.tokens == ()
    assert [c.score for c in outcome.prompt.candidates] == [entry.score for entry in outcome.ranked]
    assert outcome.prompt.score_unit == "mean image score" and outcome.prompt.attributions == ()
    assert outcome.prompt.provenance["reranked"]["before"][0] == {"text": "old boat", "score": 0.9, "unit": "cosine similarity"}  # fmt: skip
    assert sorted(paint.drawn) == sorted((c.text, seed) for c in asked.candidates for seed in (3, 4))
    assert HardPrompt.from_dict(outcome.prompt.to_dict()) == outcome.prompt
    assert outcome.grid().width > outcome.ranked[0].pictures[0].width


def test_scores_are_means_over_the_seeds() -> None:
    def noisy(pictures: Sequence[Image.Image]) -> list[float]:
        return [len(pictures) + picture.width for picture in pictures]

    def sized(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return [Image.new("RGB", (len(text) * seed, 4)) for text, seed in zip(prompts, seeds, strict=True)]

    outcome = rerank(candidates("red house", "boat"), sized, noisy, seeds=(1, 2, 6))
    assert outcome.prompt.score == pytest.approx(2 + 9 * 3) and outcome.ranked[0].scores == (11, 20, 56)
    assert outcome.prompt.tokens == ("red", "house")  # it was the first before


def test_only_the_top_is_drawn_and_in_the_template() -> None:
    paint = Painter()
    asked = dataclasses.replace(candidates("old boat", "red house", "cat"), template="the {} in snow")
    outcome = rerank(asked, paint, lambda pictures: [1.0] * len(pictures), seeds=(0,), top=2)
    assert [text for text, _ in paint.drawn] == ["the old boat in snow", "the red house in snow"]
    assert len(outcome.prompt.candidates) == 2
    bare = rerank(prompt("cat"), paint, lambda pictures: [1.0] * len(pictures), seeds=(0,))
    assert bare.prompt.text == "cat"


@pytest.mark.parametrize(
    ("generate", "score", "options", "error", "message"),
    [
        (lambda prompts, seed: [Image.new("RGB", (4, 4))], None, {}, ImageError, "1 pictures for 2 prompts"),
        (None, lambda pictures: [1.0], {}, ImageError, "2 numbers"),
        (None, lambda pictures: [math.nan] * len(pictures), {}, ImageError, "nan"),
        (None, None, {"seeds": ()}, ValueError, "at least one seed"),
        (None, None, {"top": 0}, ValueError, "top=0"),
    ],
)
def test_generators_and_scores_that_do_not_answer_are_named(generate, score, options, error, message) -> None:
    with pytest.raises(error, match=message):
        rerank(candidates("red house", "boat"), generate or Painter(), score or (lambda p: [1.0] * len(p)), **options)
