"""What is measured of the statements of a prompt, from which their truth is judged."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.inversion.evidence.figures import Backdrops, Figures, backdrops, spread_of
from hardprompts.inversion.evidence.known_words import Contrast, KnownWords
from hardprompts.inversion.evidence.looks import Looks
from hardprompts.inversion.evidence.statements import Statement, without
from hardprompts.prompts import PromptTemplate
from hardprompts.wording import Region

#: Known words that stand in the place of each statement.
EXCHANGES = 8

#: What a phrase takes: alone, left out, and exchanged.
PASSES_OF_A_PHRASE = 2 + EXCHANGES

#: By which figures the words are found that a prompt may lack, and how many by each.
LEADING, LED = ("said", "alone", "part", "part said", "recognized", "part recognized"), 24

#: Words, at most, of which it is measured whether a prompt lacks them.
LACKING = 64

#: Pictures, at most, by which these words are found, of several that share a prompt.
LOOKED_AT = 8


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured of one statement.

    Attributes:
        statement: of which; a word that the prompt may lack has no spans.
        contribution: see `WordEvidence`; of a word that the prompt may lack, what it would add.
        exchange: see `WordEvidence`.
        of_pictures: for each picture, figures by name; see `Figures`.
        regions: the parts of the first picture in which it holds.
        searched: whether a search with the model found the text.
    """

    statement: Statement
    contribution: float
    exchange: float | None
    of_pictures: tuple[Mapping[str, float], ...]
    regions: tuple[Region, ...]
    searched: bool

    def judged_by(self, other: "Measures") -> "Measures":
        """What a phrase contributes here, and the figures that say how likely it is from another text."""
        return dataclasses.replace(self, of_pictures=other.of_pictures)


@dataclasses.dataclass(frozen=True, eq=False)
class Witness:
    """Measures statements of texts against pictures.

    Attributes:
        looks: the pictures.
        words: what the searched model knows.
        template: in which texts are scored.
        scores_of: the scores of filled texts, in the unit of contributions.
        searched: whether a search with the model found the texts.
        thorough: see `EvidenceSource`.
    """

    looks: Looks
    words: KnownWords
    template: PromptTemplate
    scores_of: Callable[[Sequence[str]], Sequence[float]]
    searched: bool = True
    thorough: bool = True
    _known: dict[int, tuple[Contrast, list[Backdrops]]] = dataclasses.field(default_factory=dict)

    def measures(self, text: str, found: Sequence[Statement], allowance: Allowance) -> list[Measures] | None:
        """What is measured of each statement; None, with a note, where there is no room for it.

        What other words in their place cost is left out first.
        """
        left_out = [without(text, [one]) for one in found]
        told = allowance.measured("evidence of phrases", [text, *left_out], self.scores)
        alone = None if told is None else self._alone(found, allowance)
        if told is None or alone is None:
            return None
        losses = self._losses(text, found, told[0], allowance)
        return [
            self._of(one, place, told[0], told[0] - told[1 + place], losses[place], alone, in_text=True)
            for place, one in enumerate(found)
        ]

    def lacking(
        self, text: str, said: Sequence[Statement], separator: str, allowance: Allowance, count: int = LACKING
    ) -> list[Measures] | None:
        """What is measured of words that are not in a text and that the pictures may show; None without room for it.

        Args:
            said: the statements of the text.
            separator: what stands between the text and a word behind it.
            count: words, at most; half of the passes that are left may be spent on them.
        """
        if allowance.remaining is not None:
            count = min(count, allowance.remaining // 2)
        contrast, behind = self._behind(0, allowance)
        if contrast is None or behind is None:
            return None
        categories = self.words.categories
        every = Figures.of(self.looks, 0, contrast.features, categories, contrast, behind[:LOOKED_AT])
        own = {one.phrase.lower() for one in said}
        places = [place for place in _leading(every) if self.words.texts[place] not in own][:count]
        found = [Statement(self.words.texts[place], self.words.categories[place], ()) for place in places]
        meant = contrast.features[places]
        own_figures = Figures.of(self.looks, 0, meant, [one.category for one in found], contrast, behind)
        texts = [f"{text}{separator}{one.phrase}" if text else one.phrase for one in found]
        told = allowance.measured("words looked for again", [text, *texts] if text else texts, self.scores)
        judges = None if told is None else self._alone(found, allowance, first=1)
        if told is None or judges is None:
            return None
        alone, without_it = [own_figures, *judges], told[0] if text else 0.0
        return [
            self._of(one, place, without_it, score - without_it, (), alone, in_text=False)
            for place, (one, score) in enumerate(zip(found, told[len(told) - len(found) :], strict=True))
        ]

    def _of(
        self,
        one: Statement,
        place: int,
        score: float,
        contribution: float,
        losses: Sequence[float],
        alone: Sequence[Figures],
        *,
        in_text: bool,
    ) -> Measures:
        of_models = [figures.of_phrase(place) for figures in alone]
        of_pictures = tuple(
            {
                **{name: value for own in figures for name, value in own.items()},
                "contribution": contribution / alone[0].spreads[picture],
                "in text": float(in_text),
                "score": score,
            }
            for picture, figures in enumerate(zip(*of_models, strict=True))
        )
        exchange = sum(losses) / len(losses) if losses and self.words.of(one.category) else None
        return Measures(one, contribution, exchange, of_pictures, alone[0].regions(place), self.searched)

    @property
    def spread(self) -> float:
        """The spread of the similarities of known words, once anything was measured; the mean over the pictures."""
        _, behind = self._known[0]
        return sum(spread_of(own) for own in behind) / len(behind)

    def scores(self, texts: Sequence[str]) -> Sequence[float]:
        """The scores of texts in the template."""
        return self.scores_of([self.template.fill(text) for text in texts])

    def _losses(
        self, text: str, found: Sequence[Statement], whole: float, allowance: Allowance
    ) -> list[Sequence[float]]:
        """For each statement, the scores that are lost when other words stand in its place; none without room."""
        texts = [self._exchanged(text, one, found) for one in found]
        told = allowance.measured("exchanges of phrases", [other for own in texts for other in own], self.scores)
        if told is None:
            return [() for _ in found]
        scores = iter(told)
        return [[whole - next(scores) for _ in own] for own in texts]

    def _exchanged(self, text: str, one: Statement, found: Sequence[Statement]) -> list[str]:
        """The text with other words in the place of a statement."""
        own = {statement.phrase.lower() for statement in found}
        others = [word for word in self.words.beside(one.category) if word not in own]
        step = max(1, len(others) // EXCHANGES)
        return [one.exchanged(text, word) for word in others[::step][:EXCHANGES]]

    def _alone(self, found: Sequence[Statement], allowance: Allowance, first: int = 0) -> list[Figures] | None:
        """What each model says of phrases by themselves.

        Args:
            first: of the models that are asked.
        """
        of_models: list[Figures] = []
        for place, model in list(enumerate(self.looks.models))[first:]:
            contrast, behind = self._behind(place, allowance)
            features = None if contrast is None else self._features([one.phrase for one in found], model, allowance)
            if contrast is None or behind is None or features is None:
                return None
            categories = [one.category for one in found]
            of_models.append(Figures.of(self.looks, place, features, categories, contrast, behind))
        return of_models

    def _behind(self, model: int, allowance: Allowance) -> tuple[Contrast | None, list[Backdrops] | None]:
        """What phrases are measured against by a model, found once; None, with a note, where there is no time."""
        if model not in self._known:
            contrast = self.words.contrast(self.looks.models[model], model == 0 and self.thorough, allowance)
            behind = None if contrast is None else backdrops(self.looks, model, contrast, allowance)
            if contrast is None or behind is None:
                return contrast, None
            self._known[model] = contrast, behind
        return self._known[model]

    def _features(
        self, phrases: Sequence[str], model: Backend, allowance: Allowance
    ) -> Float[Tensor, "phrases features"] | None:
        read = allowance.measured(
            "evidence of phrases", [phrase.lower() for phrase in phrases], lambda texts: list(model.encode_texts(texts))
        )
        return None if read is None else torch.stack(read)


def _leading(figures: Figures) -> list[int]:
    """The words that stand among the first by some figure with every picture, those by most figures first."""
    worst = {
        name: torch.stack([own[name] for own in figures.of_pictures]).amin(dim=0)
        for name in LEADING
        if name in figures.of_pictures[0]
    }
    ranks = torch.stack([values.argsort(descending=True, stable=True).argsort() for values in worst.values()])
    first = (ranks < LED).any(dim=0).nonzero()[:, 0]
    order = ranks[:, first].clamp(max=LED).sum(dim=0).argsort(stable=True)
    return [int(place) for place in first[order]]
