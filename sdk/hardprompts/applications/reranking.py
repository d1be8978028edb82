"""Candidates in the order of the pictures that a generator makes of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from PIL import Image

from hardprompts.allowance import Allowance
from hardprompts.applications.pictures import Generate, ImageScore, _Pictures, picture_grid
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate
from hardprompts.search.seeds import checked_seed


@dataclasses.dataclass(frozen=True, eq=False)
class RankedPrompt:
    """A prompt with the pictures that it made.

    Attributes:
        text: the prompt, which goes into the slot.
        score: the mean over the pictures.
        scores: of each picture.
        pictures: one for each seed, RGB.
    """

    text: str
    score: float
    scores: tuple[float, ...]
    pictures: tuple[Image.Image, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Reranking:
    """The outcome of `rerank`.

    Attributes:
        prompt: the winner, with its candidates in their new order, and scores by pictures.
        ranked: all that were drawn, best first.
    """

    prompt: HardPrompt
    ranked: tuple[RankedPrompt, ...]

    def grid(self) -> Image.Image:
        """All pictures: one row for each prompt, best first, with its score."""
        pictures = [picture for entry in self.ranked for picture in entry.pictures]
        captions = [f"{entry.text}  {score:.3f}" for entry in self.ranked for score in entry.scores]
        return picture_grid(pictures, captions, columns=len(self.ranked[0].pictures))


def rerank(
    prompt: HardPrompt,
    generate: Generate,
    image_score: ImageScore,
    seeds: Sequence[int] = (0, 1, 2, 3),
    top: int | None = None,
    score_unit: str = "mean image score",
    deadline: float | None = None,
) -> Reranking:
    """The candidates of a prompt in the order of the pictures that they make.

    A prompt can be good for the model that it was searched with, and not for the one that draws.

    Args:
        image_score: what a picture is worth; see `likeness`.
        seeds: each candidate draws with all of them.
        top: how many candidates, best first, are drawn; default: all.
        score_unit: what the score is, for display.
        deadline: seconds for the whole call. Candidates that there was no time to draw are left out, the last ones
            first; so they are after a keyboard interrupt. One is always drawn.

    Raises:
        ValueError: no seeds, or `top` is below 1.
        ImageError: `generate` or `image_score` returned another number of results than asked for, or NaN.

    Source: PH2P, arXiv 2312.12416, which chooses among all prompts of a run in this way (`get_best_text.py`
    of the reference code).
    """
    drawing = [checked_seed(one, "each of seeds") for one in seeds]
    if not drawing or (top is not None and top < 1):
        raise ValueError(f"rerank needs at least one seed and one candidate, got seeds={drawing}, top={top}")
    candidates = (prompt.candidates or (Candidate(prompt.text, prompt.token_ids, prompt.score),))[:top]
    template = PromptTemplate(prompt.template)
    drawn = _Pictures(generate, image_score, tuple(drawing))
    allowance, texts = Allowance(deadline), [template.fill(candidate.text) for candidate in candidates]
    entries: list[Any] = []
    with allowance.reporting():
        for part in allowance.batches(texts, len(texts), passes=0, first=1):
            entries += drawn.of(part)
    if not entries:
        entries = drawn.of(texts[:1])
    allowance.leave_out("candidates drawn", len(entries), len(candidates))
    candidates = candidates[: len(entries)]
    ranked = [
        (candidate, RankedPrompt(candidate.text, entry.score, entry.scores, entry.pictures))
        for candidate, entry in zip(candidates, entries, strict=True)
    ]
    ranked.sort(key=lambda pair: -pair[1].score)
    best, entry = ranked[0]
    same = best.text == prompt.text
    winner = dataclasses.replace(
        prompt,
        text=best.text,
        token_ids=best.token_ids,
        score=entry.score,
        score_unit=score_unit,
        # Of another candidate neither is known here, and attributions were shares of the old score.
        tokens=prompt.tokens if same else (),
        attributions=(),
        candidates=tuple(dataclasses.replace(candidate, score=own.score) for candidate, own in ranked),
        history=(),
        left_out=(*prompt.left_out, *allowance.left_out),
        provenance={
            **prompt.provenance,
            "reranked": {
                "seeds": drawing,
                "before": [{"text": c.text, "score": c.score, "unit": prompt.score_unit} for c in candidates],
            },
        },
    )
    return Reranking(winner, tuple(own for _, own in ranked))
