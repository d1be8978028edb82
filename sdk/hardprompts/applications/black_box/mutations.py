"""Small changes of prompts: phrases that come, go or change, crossing, and tokens that a gradient names."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.encoders import Backend
from hardprompts.methods.banks import PhraseTable
from hardprompts.methods.evolution import cross
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate

#: What may stand around a phrase in a prompt.
SIGNS = ",.;:!?"


@runtime_checkable
class Mutation(Protocol):
    """One kind of change of a prompt."""

    @property
    def name(self) -> str:
        """What results call it; no two of a run have the same."""
        ...

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        """A text made of the first of these; None where it cannot make any.

        Args:
            parents: the prompt to change, and others that do well, best first.
            generator: of all randomness.
        """
        ...


@runtime_checkable
class Watcher(Protocol):
    """A mutation that learns from what is drawn."""

    def drawn(self, text: str, picture: Image.Image) -> None:
        """Takes in a picture that came of a prompt of the search, as soon as it is there."""
        ...


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


class Phrases:
    """Phrases of several kinds, and where they are in a text.

    Args:
        tables: kinds of phrases; of one that is in several, the first counts.
    """

    def __init__(self, tables: Sequence[PhraseTable]) -> None:
        self.tables = tuple(tables)
        self._kinds = {
            phrase.lower(): number for number, table in reversed(list(enumerate(tables))) for phrase in table.phrases
        }
        self._longest = max((phrase.count(" ") + 1 for phrase in self._kinds), default=1)

    def split(self, text: str) -> list[str]:
        """The phrases of a text: the longest that is in a table, else a word; signs stay with them."""
        words, found = text.split(), []
        while words:
            count = next(
                (
                    n
                    for n in range(min(self._longest, len(words)), 1, -1)
                    if self._kind(" ".join(words[:n])) is not None
                ),
                1,
            )
            found.append(" ".join(words[:count]))
            del words[:count]
        return found

    def alternatives(self, phrase: str) -> Sequence[str]:
        """The phrases of its kind; () where it is in no table."""
        kind = self._kind(phrase)
        return () if kind is None else self.tables[kind].phrases

    def other(self, phrase: str, generator: torch.Generator) -> str | None:
        """Another phrase of the same kind, with the same sign behind; of any kind where this one is in no table."""
        kind = self._kind(phrase)
        table = self.any_table(generator) if kind is None else self.tables[kind]
        chosen = table.phrases[_draw(len(table), generator)]
        bare = phrase.rstrip(SIGNS)
        return None if chosen.lower() == bare.lower() else chosen + phrase[len(bare) :]

    def any_table(self, generator: torch.Generator) -> PhraseTable:
        """One of the tables, each as likely."""
        return self.tables[_draw(len(self.tables), generator)]

    def _kind(self, phrase: str) -> int | None:
        return self._kinds.get(phrase.lower().strip(SIGNS))


@dataclasses.dataclass(frozen=True, eq=False)
class ExchangePhrase:
    """One phrase becomes another of its kind."""

    phrases: Phrases
    name: str = "exchange"

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        own = self.phrases.split(parents[0])
        place = _draw(len(own), generator)
        other = self.phrases.other(own[place], generator)
        return None if other is None else " ".join([*own[:place], other, *own[place + 1 :]])


@dataclasses.dataclass(frozen=True, eq=False)
class AddPhrase:
    """One more phrase of any kind, at any place."""

    phrases: Phrases
    name: str = "add"

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        own = self.phrases.split(parents[0])
        table = self.phrases.any_table(generator)
        place = _draw(len(own) + 1, generator)
        own.insert(place, table.phrases[_draw(len(table), generator)])
        return " ".join(own)


@dataclasses.dataclass(frozen=True, eq=False)
class DropPhrase:
    """One phrase less."""

    phrases: Phrases
    name: str = "drop"

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        own = self.phrases.split(parents[0])
        if len(own) < 2:
            return None
        del own[_draw(len(own), generator)]
        return " ".join(own)


@dataclasses.dataclass(frozen=True, eq=False)
class Crossover:
    """The beginning of one prompt and the end of another, no phrase twice."""

    phrases: Phrases
    name: str = "cross"

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        if len(parents) < 2:
            return None
        first, second = (
            self.phrases.split(text) for text in (parents[0], parents[1 + _draw(len(parents) - 1, generator)])
        )
        both = [*first, *second]
        places = tuple(range(len(both)))
        child = cross(places[: len(first)], places[len(first) :], "one-point", len(both), generator)
        return " ".join(dict.fromkeys(both[place] for place in child))


@dataclasses.dataclass(frozen=True, eq=False)
class GradientSwap:
    """One token becomes one of those that bring a text tower's features closest to the images', to first order.

    Attributes:
        backend: has the tower, and the tokens.
        target: the images' features in it, a unit vector.
        count: of the tokens that one is drawn from.

    Source: HotFlip, arXiv 1712.06751; the candidates of GCG, arXiv 2307.15043.
    """

    backend: Backend
    target: Float[Tensor, " features"]
    template: PromptTemplate = PromptTemplate()
    count: int = 16
    name: str = "gradient"

    @functools.cached_property
    def _objective(self) -> FeatureSimilarity:
        weights = torch.ones(1, 1, device=self.target.device)
        return FeatureSimilarity(self.backend.text_encoder, self.target[None, None], weights, self.template)

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        words = self.backend.vocabulary
        ids = words.encode(parents[0])
        if not 0 < len(ids) <= self._objective.free_tokens():
            return None
        place = _draw(len(ids), generator)
        embeddings = words.embed_ids(ids)[None].detach().requires_grad_(True)
        groups = torch.zeros(1, dtype=torch.long, device=embeddings.device)
        (gradient,) = torch.autograd.grad(self._objective(embeddings, groups).loss.sum(), embeddings)
        tokens = words.steepest(words.slopes(gradient[0, place]), self.count)
        changed = [*ids[:place], int(tokens[_draw(len(tokens), generator)]), *ids[place + 1 :]]
        return words.decode(changed).strip() or None


class PhraseFeatures:
    """What a model makes of phrases, each read once.

    Attributes:
        every: the phrases of all kinds.
    """

    def __init__(self, phrases: Phrases, backend: Backend) -> None:
        self.backend = backend
        self.every = tuple(dict.fromkeys(phrase for table in phrases.tables for phrase in table.phrases))
        self._known: dict[str, Float[Tensor, " features"]] = {}

    def of(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """The unit features of texts; those of "" are of a space."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            self._known.update(zip(new, self.backend.encode_texts([text or " " for text in new]), strict=True))
        return torch.stack([self._known[text] for text in texts])


@dataclasses.dataclass(frozen=True, eq=False)
class RelatedPhrase:
    """One phrase becomes one of those that a model finds most like it: what another model may call the same thing.

    Attributes:
        features: tell what is alike.
        count: of the phrases of all kinds that one is drawn from.
    """

    phrases: Phrases
    features: PhraseFeatures
    count: int = 12
    name: str = "related"

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        own, texts = self.phrases.split(parents[0]), self.features.every
        place = _draw(len(own), generator)
        bare = own[place].rstrip(SIGNS)
        similar = (self.features.of(texts) @ self.features.of([bare])[0]).cpu()
        near = [texts[i] for i in similar.topk(min(self.count + 1, len(texts))).indices.tolist()]
        others = [text for text in near if text.lower() != bare.lower()][: self.count]
        if not others:
            return None
        own[place] = others[_draw(len(others), generator)] + own[place][len(bare) :]
        return " ".join(own)


@dataclasses.dataclass(frozen=True, eq=False)
class Screened:
    """What another mutation proposes several times, of which one is drawn that a model finds like the images.

    Attributes:
        mutation: proposes.
        backend: compares texts with the images.
        target: the images' features in it, a unit vector.
        proposals: that one is drawn from, by exp(sharpness * similarity).
    """

    mutation: Mutation
    backend: Backend
    target: Float[Tensor, " features"]
    template: PromptTemplate = PromptTemplate()
    proposals: int = 32
    sharpness: float = 100.0

    @property
    def name(self) -> str:
        """That of the other, and that it is screened."""
        return f"{self.mutation.name}, screened"

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        drawn = [self.mutation.mutated(parents, generator) for _ in range(self.proposals)]
        texts = [text for text in dict.fromkeys(drawn) if text and text not in parents]
        if not texts:
            return None
        features = self.backend.encode_texts([self.template.fill(text) for text in texts])
        likely = (self.sharpness * (features @ self.target).float().cpu()).softmax(dim=0)
        return texts[int(torch.multinomial(likely, 1, generator=generator))]
