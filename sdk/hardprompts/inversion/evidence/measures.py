"""What is measured of the statements of a prompt, from which their truth is judged."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.inversion.evidence.contrast import FEWEST, FalseWords
from hardprompts.inversion.evidence.looks import PARTS, Looks
from hardprompts.inversion.evidence.statements import Statement, without
from hardprompts.prompts import PromptTemplate
from hardprompts.wording import Region

#: False words that stand in the place of each statement.
EXCHANGES = 8

#: What a phrase takes: alone, left out, and exchanged.
PASSES_OF_A_PHRASE = 2 + EXCHANGES

#: Figures of a phrase that depend on what it stands beside.
IN_CONTEXT = frozenset({"contribution", "exchange", "least exchange", "score"})

#: How many spreads of false words nearer a part of a picture must be than the mean part for a statement to hold there.
HOLDS = 0.5

#: Added to how likely a classifier holds something, before the logarithm.
LEAST_RECOGNIZED = 0.003

#: No spread of similarities counts as smaller.
LEAST_SPREAD = 1e-6


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured of one statement.

    Attributes:
        statement: of which.
        contribution, exchange: see `WordEvidence`.
        of_pictures: for each picture, figures by name, in spreads of the similarity of false words.
        regions: the parts of the first picture in which it holds.
        searched: whether a search with the model found it.
        added: the search did not find it; it was looked for again afterwards.
    """

    statement: Statement
    contribution: float
    exchange: float | None
    of_pictures: tuple[Mapping[str, float], ...]
    regions: tuple[Region, ...]
    searched: bool
    added: bool = False

    def looked_for_again(self) -> "Measures":
        """The same without what depends on a prompt that no search found, of which nothing is calibrated."""
        alone = tuple(
            {name: value for name, value in own.items() if name not in IN_CONTEXT} for own in self.of_pictures
        )
        return dataclasses.replace(self, of_pictures=alone, added=True)

    def judged_by(self, other: "Measures") -> "Measures":
        """What a phrase contributes here, and the figures that say how likely it is from where they are calibrated."""
        return dataclasses.replace(self, of_pictures=other.of_pictures, added=other.added)


@dataclasses.dataclass(frozen=True, eq=False)
class Witness:
    """Measures statements of texts against pictures.

    Attributes:
        looks: the pictures.
        words: false words of the searched model.
        template: in which texts are scored.
        scores_of: the scores of filled texts, in the unit of contributions.
        searched: whether a search with the model found the texts.
    """

    looks: Looks
    words: FalseWords
    template: PromptTemplate
    scores_of: Callable[[Sequence[str]], Sequence[float]]
    searched: bool = True

    def measures(self, text: str, found: Sequence[Statement], allowance: Allowance) -> list[Measures] | None:
        """What is measured of each statement; None, with a note, where there is no room for it.

        What false words in their place cost is left out first.
        """
        left_out = [without(text, [one]) for one in found]
        told = allowance.measured("evidence of phrases", [text, *left_out], self.scores)
        alone = None if told is None else self._alone(found, allowance)
        if told is None or alone is None:
            return None
        losses = self._losses(text, found, told[0], allowance)
        return [
            self._of(one, told[0], told[0] - score, own, by_itself)
            for one, score, own, by_itself in zip(found, told[1:], losses, alone, strict=True)
        ]

    def _of(
        self, one: Statement, score: float, contribution: float, losses: Sequence[float], alone: "_Alone"
    ) -> Measures:
        figures = tuple(
            {**of_picture, **_context(contribution, losses, spread), "score": score}
            for of_picture, spread in alone.of_pictures
        )
        exchange = sum(losses) / len(losses) if losses and self.words.of(one.category) else None
        return Measures(one, contribution, exchange, figures, alone.regions, self.searched)

    def scores(self, texts: Sequence[str]) -> Sequence[float]:
        """The scores of texts in the template."""
        return self.scores_of([self.template.fill(text) for text in texts])

    def _losses(
        self, text: str, found: Sequence[Statement], whole: float, allowance: Allowance
    ) -> list[Sequence[float]]:
        """For each statement, the scores that are lost when false words stand in its place; none without room."""
        texts = [self._exchanged(text, one, found) for one in found]
        told = allowance.measured("exchanges of phrases", [other for own in texts for other in own], self.scores)
        if told is None:
            return [() for _ in found]
        scores = iter(told)
        return [[whole - next(scores) for _ in own] for own in texts]

    def _exchanged(self, text: str, one: Statement, found: Sequence[Statement]) -> list[str]:
        """The text with false words in the place of a statement."""
        own = {statement.phrase.lower() for statement in found}
        others = [word for word in self.words.beside(one.category) if word not in own]
        step = max(1, len(others) // EXCHANGES)
        return [one.exchanged(text, word) for word in others[::step][:EXCHANGES]]

    def _alone(self, found: Sequence[Statement], allowance: Allowance) -> "list[_Alone] | None":
        """What phrases say by themselves, against false words of their categories, for every model."""
        contrasts = [self.words.beside(one.category) for one in found]
        every = list(dict.fromkeys(word for own in contrasts for word in own))
        if min(map(len, contrasts)) < FEWEST:
            allowance.leave_out("false words", min(map(len, contrasts)), FEWEST)
            return None
        of_models: list[list[_Alone]] = []
        for place, model in enumerate(self.looks.models):
            read = allowance.measured(
                "evidence of phrases", [one.phrase.lower() for one in found], functools.partial(_features, model)
            )
            if read is None or not self.words.read(every, model, allowance):
                return None
            of_models.append(
                [
                    _contrasted(self.looks, place, torch.cat([own[None], self.words.features(words, model)]))
                    for own, words in zip(read, contrasts, strict=True)
                ]
            )
        return [functools.reduce(_Alone.beside, own) for own in zip(*of_models, strict=True)]


def _features(model: Backend, texts: Sequence[str]) -> list[Tensor]:
    return list(model.encode_texts(texts))


@dataclasses.dataclass(frozen=True)
class _Alone:
    """Figures of each picture with the spread of similarities, and where a phrase holds in the first."""

    of_pictures: tuple[tuple[dict[str, float], float], ...]
    regions: tuple[Region, ...]

    def beside(self, other: "_Alone") -> "_Alone":
        pairs = zip(self.of_pictures, other.of_pictures, strict=True)
        return _Alone(tuple(({**own, **more}, spread) for (own, spread), (more, _) in pairs), self.regions)


def _contrasted(looks: Looks, model: int, texts: Float[Tensor, "texts features"]) -> _Alone:
    """What the first of some texts says of pictures against the others."""
    whole, parts = looks.similarities(model, texts)
    z, margin, _ = _standing(whole)  # (pictures, views)
    mean = whole.mean(dim=1, keepdim=True)
    named = {
        "alone": z.mean(dim=1),
        "least alone": z.amin(dim=1),
        "margin": margin.mean(dim=1),
        "rank": _standing(mean)[2][:, 0],
        "similarity": mean[:, 0, 0],
        "common": (texts[0] @ texts[1:].T).mean().expand(len(whole)),
    }
    if parts is not None:
        z_parts, margin_parts, _ = _standing(parts)
        named |= {
            "part": z_parts.amax(dim=1), "mean part": z_parts.mean(dim=1), "part margin": margin_parts.amax(dim=1)
        }  # fmt: skip
    recognized = looks.recognized(model, texts[0])
    if recognized is not None:
        odds = torch.log(recognized + LEAST_RECOGNIZED)
        named |= {"recognized": odds[:, 0], "part recognized": odds[:, 1:].amax(dim=1)}
    prefix = "judge " if model else ""
    spreads = mean[:, 0, 1:].std(dim=-1).clamp_min(LEAST_SPREAD).tolist()
    figures = [{prefix + name: float(values[place]) for name, values in named.items()} for place in range(len(whole))]
    regions = () if parts is None else _regions(z_parts[0])
    return _Alone(tuple(zip(figures, spreads, strict=True)), regions)


def _standing(similar: Float[Tensor, "pictures looks texts"]) -> tuple[Tensor, Tensor, Tensor]:
    """How far the first text is above the mean of the others, and above the best; and the log odds of its rank."""
    own, others = similar[..., 0], similar[..., 1:]
    mean, spread = others.mean(dim=-1), others.std(dim=-1).clamp_min(LEAST_SPREAD)
    above = (others >= own.unsqueeze(-1)).sum(dim=-1)
    odds = torch.log((others.shape[-1] - above + 0.5) / (above + 0.5))
    return (own - mean) / spread, (own - others.amax(dim=-1)) / spread, odds


def _regions(parts: Float[Tensor, " parts"]) -> tuple[Region, ...]:
    held = parts >= torch.maximum(parts.mean() + HOLDS, parts.amax() - HOLDS)
    return tuple(region for region, holds in zip(PARTS, held.tolist(), strict=True) if holds)


def _context(contribution: float, losses: Sequence[float], spread: float) -> dict[str, float]:
    found = {"contribution": contribution / spread}
    if losses:
        found |= {"exchange": sum(losses) / len(losses) / spread, "least exchange": min(losses) / spread}
    return found
