"""What is measured of the statements of a prompt, from which their truth is judged."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.inversion.evidence.contrast import FalseWords
from hardprompts.inversion.evidence.looks import PARTS, Looks
from hardprompts.inversion.evidence.statements import Statement, without
from hardprompts.prompts import PromptTemplate
from hardprompts.wording import Region

#: False words that stand in the place of each statement.
EXCHANGES = 8

#: How many spreads of false words nearer a part of a picture must be than the mean part for a statement to hold there.
HOLDS = 0.5


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured of one statement.

    Attributes:
        statement: of which.
        contribution, exchange: see `WordEvidence`.
        of_pictures: for each picture, figures by name, in spreads of the similarity of false words.
        regions: the parts of the first picture in which it holds.
    """

    statement: Statement
    contribution: float
    exchange: float | None
    of_pictures: tuple[Mapping[str, float], ...]
    regions: tuple[Region, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Witness:
    """Measures statements of texts against pictures.

    Attributes:
        looks: the pictures.
        words: false words of the searched model.
        template: in which texts are scored.
        scores_of: the scores of filled texts, in the unit of contributions.
    """

    looks: Looks
    words: FalseWords
    template: PromptTemplate
    scores_of: Callable[[Sequence[str]], Sequence[float]]

    def measures(self, text: str, found: Sequence[Statement], allowance: Allowance) -> list[Measures] | None:
        """What is measured of each statement; None, with a note, where there is no room for it.

        What false words in their place cost is left out first.
        """
        left_out = [without(text, [one]) for one in found]
        told = allowance.measured("evidence of phrases", [text, *left_out], self._scores)
        alone = None if told is None else self._alone(found, allowance)
        if told is None or alone is None:
            return None
        losses = self._losses(text, found, told[0], allowance)
        return [
            self._of(one, told[0] - score, own, by_itself)
            for one, score, own, by_itself in zip(found, told[1:], losses, alone, strict=True)
        ]

    def _of(self, one: Statement, contribution: float, losses: Sequence[float], alone: "_Alone") -> Measures:
        figures = tuple(
            {**of_picture, **_context(contribution, losses, spread)} for of_picture, spread in alone.of_pictures
        )
        exchange = sum(losses) / len(losses) if losses and self.words.of(one.category) else None
        return Measures(one, contribution, exchange, figures, alone.regions)

    def _scores(self, texts: Sequence[str]) -> Sequence[float]:
        return self.scores_of([self.template.fill(text) for text in texts])

    def _losses(
        self, text: str, found: Sequence[Statement], whole: float, allowance: Allowance
    ) -> list[Sequence[float]]:
        """For each statement, the scores that are lost when false words stand in its place; none without room."""
        texts = [self._exchanged(text, one, found) for one in found]
        told = allowance.measured("exchanges of phrases", [other for own in texts for other in own], self._scores)
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
        of_models: list[list[_Alone]] = []
        for place, model in enumerate(self.looks.models):
            read = allowance.measured(
                "evidence of phrases", [one.phrase.lower() for one in found], functools.partial(_features, model)
            )
            if read is None or not self.words.read(every, model, allowance):
                return None
            prefix = "" if place == 0 else "judge "
            of_models.append(
                [
                    _contrasted(
                        self.looks.similarities(place, torch.cat([own[None], self.words.features(words, model)])),
                        prefix,
                    )
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


def _contrasted(similar: Float[Tensor, "pictures looks texts"], prefix: str) -> _Alone:
    """What the first of some texts says against the others."""
    own, others = similar[..., 0], similar[..., 1:]
    mean, spread = others.mean(dim=-1), others.std(dim=-1).clamp_min(1e-6)
    z = (own - mean) / spread  # (pictures, looks)
    rank = (others >= own.unsqueeze(-1)).sum(dim=-1)
    share = torch.log((rank + 0.5) / (others.shape[-1] - rank + 0.5))
    best = (others.amax(dim=-1) - mean) / spread
    figures = []
    for place in range(len(similar)):
        named = {
            "alone": z[place, 0],
            "rank": -share[place, 0],
            "margin": z[place, 0] - best[place, 0],
            "similarity": own[place, 0],
        }
        if similar.shape[1] > 1:
            named |= {"part": z[place, 1:].amax(), "part rank": (-share[place, 1:]).amax()}
        figures.append(({prefix + name: float(value) for name, value in named.items()}, float(spread[place, 0])))
    return _Alone(tuple(figures), _regions(z[0]))


def _regions(z: Float[Tensor, " looks"]) -> tuple[Region, ...]:
    if len(z) == 1:
        return ()
    parts = z[1:]
    held = parts >= torch.maximum(parts.mean() + HOLDS, parts.amax() - HOLDS)
    return tuple(region for region, holds in zip(PARTS, held.tolist(), strict=True) if holds)


def _context(contribution: float, losses: Sequence[float], spread: float) -> dict[str, float]:
    found = {"contribution": contribution / spread}
    if losses:
        found |= {"exchange": sum(losses) / len(losses) / spread, "least exchange": min(losses) / spread}
    return found
