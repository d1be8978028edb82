"""False words to measure a phrase against: words of its category that the model knows."""

import weakref
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend, TextEncoder
from hardprompts.inversion.evidence.statements import SILENT
from hardprompts.vocabulary import Vocabulary
from hardprompts.wording import OTHER, Categories

#: Words of a category that a phrase is measured against, at most, and at least.
MOST, FEWEST = 64, 4


class FalseWords:
    """Words by category that a model has as they are, evenly spaced over its vocabulary; read once for each model.

    Args:
        vocabulary: whose real words they are.
        categories: what divides them.
    """

    def __init__(self, vocabulary: Vocabulary, categories: Categories) -> None:
        words = vocabulary.words() if vocabulary.has_words_enough else vocabulary
        known: dict[str, list[str]] = {}
        for unit in words.units:
            text = vocabulary.decode(unit).strip().lower()
            if len(text) > 1 and text not in SILENT:
                known.setdefault(categories.category(text), []).append(text)
        self._words = {name: _spread(list(dict.fromkeys(texts)), MOST) for name, texts in known.items()}
        self._features: weakref.WeakKeyDictionary[TextEncoder, dict[str, Tensor]] = weakref.WeakKeyDictionary()

    def of(self, category: str) -> tuple[str, ...]:
        """The words of a category; none where the model has too few."""
        found = self._words.get(category, ())
        return found if category != OTHER and len(found) >= FEWEST else ()

    def beside(self, category: str) -> tuple[str, ...]:
        """What a phrase is ranked among: the words of its category, or, where there are too few, all others."""
        every = [word for words in self._words.values() for word in words]
        return self.of(category) or self._words.get(OTHER, ()) or _spread(every, MOST)

    def read(self, words: Sequence[str], model: Backend, allowance: Allowance) -> bool:
        """Reads words that the model has not read yet, which costs time alone; False where there is too little."""
        known = self._features.setdefault(model.text_encoder, {})
        new = [word for word in dict.fromkeys(words) if word not in known]
        for part in allowance.batches(new, passes=0):
            known.update(zip(part, model.encode_texts(part), strict=True))
        allowance.leave_out("false words", sum(word in known for word in new), len(new))
        return all(word in known for word in new)

    def features(self, words: Sequence[str], model: Backend) -> Float[Tensor, "words features"]:
        """The unit features of words that were read."""
        known = self._features[model.text_encoder]
        return torch.stack([known[word] for word in words])


def _spread(words: list[str], count: int) -> tuple[str, ...]:
    if len(words) <= count:
        return tuple(words)
    return tuple(words[len(words) * place // count] for place in range(count))


def false_words(vocabulary: Vocabulary, categories: Categories) -> FalseWords:
    """The false words of a vocabulary, found once for each."""
    known = _KNOWN.setdefault(vocabulary, {})
    key = id(categories)
    if key not in known:
        known[key] = (categories, FalseWords(vocabulary, categories))
    return known[key][1]


_KNOWN: "weakref.WeakKeyDictionary[Vocabulary, dict[int, tuple[Categories, FalseWords]]]" = weakref.WeakKeyDictionary()
