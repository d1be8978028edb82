"""The words that a model knows, by category: what a phrase is measured against, and what a prompt may lack."""

import dataclasses
import functools
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend, TextEncoder
from hardprompts.inversion.evidence.statements import SILENT
from hardprompts.methods.word_table import WordTable
from hardprompts.vocabulary import Vocabulary
from hardprompts.wording import OTHER, Categories

#: Words of a category that stand in the place of a phrase, or that a judge reads, at most; and at least.
MOST, FEWEST = 64, 4

#: Words that a category needs for a phrase to be measured against them alone; of smaller ones, against all words.
GROUP = 30

#: The share of the time that is left which reading the words of a model may take, if nobody read them before.
READING_SHARE = 0.25


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast:
    """What some words mean to one model.

    Attributes:
        features: unit features of each word.
        groups: places of the words of each category that has enough of them.
    """

    features: Float[Tensor, "words features"]
    groups: Mapping[str, Int[Tensor, " own"]]

    @functools.cached_property
    def mean(self) -> Float[Tensor, " features"]:
        """The mean features of all words."""
        return self.features.mean(dim=0)

    def places(self, categories: Sequence[str]) -> Int[Tensor, " phrases"]:
        """For phrases of some categories, which of the groups they are measured against; behind the last: all words."""
        names = {name: place for place, name in enumerate(self.groups)}
        return torch.tensor([names.get(category, len(names)) for category in categories], dtype=torch.long)


class KnownWords:
    """Words by category that a model has as they are; what they mean is read once for each model.

    Args:
        vocabulary: whose real words they are.
        categories: what divides them.

    Attributes:
        texts: in lower case, each once.
        units: their ids.
        categories: of each.
    """

    def __init__(self, vocabulary: Vocabulary, categories: Categories) -> None:
        words = vocabulary.words() if vocabulary.has_words_enough else vocabulary
        found: dict[str, tuple[int, ...]] = {}
        for unit in words.units:
            text = vocabulary.decode(unit).strip().lower()
            if len(text) > 1 and text not in SILENT:
                found.setdefault(text, unit)
        self.texts, self.units = tuple(found), list(found.values())
        self.categories = tuple(map(categories.category, self.texts))
        own: dict[str, list[str]] = {}
        for text, category in zip(self.texts, self.categories, strict=True):
            own.setdefault(category, []).append(text)
        self._words = {category: _spread(texts, MOST) for category, texts in own.items()}
        self._read: weakref.WeakKeyDictionary[TextEncoder, dict[bool, Contrast]] = weakref.WeakKeyDictionary()

    def of(self, category: str) -> tuple[str, ...]:
        """Words of a category, evenly spaced over the vocabulary; none where the model has too few."""
        found = self._words.get(category, ())
        return found if category != OTHER and len(found) >= FEWEST else ()

    def beside(self, category: str) -> tuple[str, ...]:
        """What may stand in the place of a phrase: words of its category, or, where there are too few, all others."""
        every = [word for words in self._words.values() for word in words]
        return self.of(category) or self._words.get(OTHER, ()) or _spread(every, MOST)

    def contrast(self, model: Backend, whole: bool, allowance: Allowance) -> Contrast | None:
        """What words mean to a model; None, with a note, where there is no time to read them, or too few words.

        Args:
            whole: all words, as searches read them, for the model whose words they are; else some of each category.
        """
        known = self._read.setdefault(model.text_encoder, {})
        if whole not in known:
            found = self._all(model, allowance) if whole else self._some(model, allowance)
            if found is None or (whole and allowance.seconds_left is not None):
                return found  # within a deadline some words may be predicted, which must not last
            known[whole] = found
        return known[whole]

    def _all(self, model: Backend, allowance: Allowance) -> Contrast | None:
        allowance.leave_out("known words", len(self.texts), FEWEST)
        if len(self.texts) < FEWEST:
            return None
        seconds = allowance.seconds_left
        share = None if seconds is None else READING_SHARE * seconds
        return _contrast(
            WordTable.of(model.text_encoder).features(self.units, seconds=share, progress=False), self.categories
        )

    def _some(self, model: Backend, allowance: Allowance) -> Contrast | None:
        words = [(text, category) for category, texts in self._words.items() for text in texts]
        read: list[Tensor] = []
        for part in allowance.batches([text for text, _ in words], passes=0):
            read += model.encode_texts(part)
        allowance.leave_out("known words", len(read), len(words))
        if len(read) < max(FEWEST, len(words)):
            return None
        return _contrast(torch.stack(read), [category for _, category in words])


def _contrast(features: Float[Tensor, "words features"], categories: Sequence[str]) -> Contrast:
    counts = Counter(categories)
    groups = {
        name: torch.tensor([place for place, own in enumerate(categories) if own == name])
        for name, count in counts.items()
        if name != OTHER and count >= GROUP
    }
    return Contrast(features, groups)


def _spread(words: list[str], count: int) -> tuple[str, ...]:
    if len(words) <= count:
        return tuple(words)
    return tuple(words[len(words) * place // count] for place in range(count))


def known_words(vocabulary: Vocabulary, categories: Categories) -> KnownWords:
    """The words of a vocabulary, found once for each."""
    known = _KNOWN.setdefault(vocabulary, {})
    key = id(categories)
    if key not in known:
        known[key] = (categories, KnownWords(vocabulary, categories))
    return known[key][1]


_KNOWN: "weakref.WeakKeyDictionary[Vocabulary, dict[int, tuple[Categories, KnownWords]]]" = weakref.WeakKeyDictionary()
