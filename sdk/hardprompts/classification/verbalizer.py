"""Which words stand for which class, and how their likelihood is read from a language model."""

import collections
import dataclasses
import enum
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.encoders import LanguageModel
from hardprompts.errors import BackendError, TemplateError, VocabularyError
from hardprompts.wording import check_text

_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclasses.dataclass(frozen=True)
class Read:
    """One place at which a row is read: the log-probability of each token goes to the word of that number.

    Attributes:
        offset: places behind the first one that is read.
        picks: (token, number of the word).
    """

    offset: int
    picks: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Query:
    """One forward pass over a text, from which the likelihood of some words is read.

    Attributes:
        inserted: ids that stand in the label's place: the words' common beginning, or mask tokens.
        decoded: for a seq2seq model, the common beginning as what the decoder wrote.
        reads: where it is read.
    """

    inserted: tuple[int, ...]
    decoded: tuple[int, ...] | None
    reads: tuple[Read, ...]


@dataclasses.dataclass(frozen=True)
class Verbalizer:
    """The words of each class, in the order of the classes.

    The score of a class is the logarithm of the summed likelihood of its words; the likelihood of a
    word is that of its whole sequence of tokens.

    Attributes:
        classes: the labels, as they were given.
        words: one or more words for each class.

    Raises:
        ValueError: a class without words, an empty word, or a word of two classes.

    Source: several words per class, added up, as in AutoPrompt (arXiv 2010.15980, section 2.1);
    "verbalizer" is the term of PET (arXiv 2001.07676).
    """

    classes: tuple[Any, ...]
    words: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"a classifier needs two classes or more, got {list(self.classes)}")
        owners: dict[str, Any] = {}
        for label, words in zip(self.classes, self.words, strict=True):
            if not words:
                raise ValueError(f"the class {label!r} has no words; give it one or more in the verbalizer")
            for word in words:
                if not isinstance(word, str) or not word or word != word.strip():
                    raise ValueError(
                        f"the class {label!r} has the word {word!r}; a word is text without white space at its ends"
                    )
                check_text(f"a word of the class {label!r}", word)
                if word in owners:
                    raise ValueError(f"the word {word!r} stands for {owners[word]!r} and for {label!r}; use it once")
                owners[word] = label

    @classmethod
    def of(cls, classes: Sequence[Any], given: "GivenWords") -> "Verbalizer":
        """The verbalizer that a user gave, for these classes; None: the names of the classes themselves.

        Args:
            given: a word or several for each class. A list has them in the order of the classes: where all labels are
                among 0, 1, ..., one less than its length, its first word is for 0, even if no text has that label.

        Raises:
            ValueError: a class has no words, or the verbalizer knows a class that the labels lack.
        """
        if isinstance(given, Verbalizer):
            given = dict(zip(given.classes, given.words, strict=True))
        if given is None:
            given = _names(classes)
        elif not isinstance(given, Mapping):
            given = _in_order(classes, given)
        missing = [label for label in classes if label not in given]
        unknown = [label for label in given if label not in set(classes)]
        if missing or unknown:
            raise ValueError(
                f"the verbalizer has words for {list(given)}, and the labels are {list(classes)}: "
                f"{missing} have no words, {unknown} do not occur{_if_numbered(classes, given)}"
            )
        words = [given[label] for label in classes]
        return cls(tuple(classes), tuple((word,) if isinstance(word, str) else tuple(word) for word in words))

    @property
    def all_words(self) -> tuple[str, ...]:
        """The words of all classes, class by class."""
        return tuple(word for words in self.words for word in words)

    def owners(self) -> list[int]:
        """For each of `all_words` the number of its class."""
        return [number for number, words in enumerate(self.words) for _ in words]


#: The words of each class: by its label, or in the order of the classes; None: their names.
GivenWords = Mapping[Any, str | Sequence[str]] | Sequence[str | Sequence[str]] | Verbalizer | None


def _names(classes: Sequence[Any]) -> dict[Any, str]:
    """The names of the classes as words."""
    names = [label.name.lower() if isinstance(label, enum.Enum) else label for label in classes]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"the labels {list(classes)} are not words; pass verbalizer={{label: word, ...}}, one for each"
            f"{_if_numbered(classes, None)}"
        )
    return {label: " ".join(name.replace("_", " ").split()) for label, name in zip(classes, names, strict=True)}


def of_occurring(classes: Sequence[Any], given: GivenWords) -> tuple[GivenWords, list[Any]]:
    """The words without those of labels that no text has, and which labels those are.

    A part of the examples, as in a cross-validation, may lack a rare label.
    """
    if isinstance(given, Verbalizer):
        given = dict(zip(given.classes, given.words, strict=True))
    if not isinstance(given, Mapping) or any(label not in given for label in classes):
        return given, []
    return {label: given[label] for label in classes}, [label for label in given if label not in set(classes)]


def _in_order(classes: Sequence[Any], words: Sequence[str | Sequence[str]]) -> dict[Any, str | Sequence[str]]:
    """The words of a list by label."""
    if isinstance(words, str):
        raise ValueError(f"the verbalizer is the text {words!r}; give a word for each of the labels {list(classes)}")
    if _are_numbers(classes) and max(classes) < len(words):
        return {label: words[label] for label in classes}
    if len(words) != len(classes):
        raise ValueError(
            f"the verbalizer is a list of {len(words)}, and the labels are {list(classes)}; give as many words, in "
            "this order, or {label: word, ...}"
        )
    return dict(zip(classes, words, strict=True))


def _are_numbers(classes: Sequence[Any]) -> bool:
    """Whether the labels may be places in a list; truth values count, as 0 and 1."""
    return all(isinstance(label, int) and label >= 0 for label in classes)


def _if_numbered(classes: Sequence[Any], given: Mapping[Any, str | Sequence[str]] | None) -> str:
    """What to do where the labels are numbers that a meta-estimator has put in the place of names."""
    if not _are_numbers(classes):
        return ""
    words = "[word of 0, word of 1, ...]"
    if given and all(isinstance(label, str) for label in given):
        words = str([given[label] for label in sorted(given)])
    return (
        ". VotingClassifier, other meta-estimators and cross_val_predict of probabilities number the labels, in sorted "
        f"order, before they fit; if it was one of those, give the words in that order, as a list: verbalizer={words}"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class LabelTokens:
    """The words of a verbalizer as tokens of one model, and how to read their likelihood.

    Attributes:
        ids: of each of `verbalizer.all_words`.
        queries: the forward passes that are needed; one, where every word is one token.
        shared: words that begin with the same token as a word of another class: those are distinguished
            by what follows, since words are scored as whole sequences.
    """

    verbalizer: Verbalizer
    ids: tuple[tuple[int, ...], ...]
    queries: tuple[Query, ...]
    shared: tuple[str, ...]

    @classmethod
    def create(
        cls, verbalizer: Verbalizer, model: LanguageModel, before: str, space: str, *, sentinel: bool = False
    ) -> "LabelTokens":
        """The tokens of the words where they stand: behind `before` and `space`.

        Args:
            sentinel: a seq2seq model is to fill in its first sentinel token, not to go on behind the input.

        Raises:
            TemplateError: a word merges with what stands before it, so that it has no tokens of its own.
            VocabularyError: a word has no tokens, or two words have the same.
            BackendError: a masked model without a mask token.
        """
        found = [label_ids(model, before, space, word) for word in verbalizer.all_words]
        seen: dict[tuple[int, ...], str] = {}
        for word, ids in zip(verbalizer.all_words, found, strict=True):
            if ids in seen:
                raise VocabularyError(
                    f"the label words {seen[ids]!r} and {word!r} have the same tokens in {model.name}; change one"
                )
            seen[ids] = word
        owners = verbalizer.owners()
        starts = collections.defaultdict(set)
        for ids, owner in zip(found, owners, strict=True):
            starts[ids[0]].add(owner)
        shared = tuple(w for w, ids in zip(verbalizer.all_words, found, strict=True) if len(starts[ids[0]]) > 1)
        return cls(verbalizer, tuple(found), _queries(found, model, sentinel), shared)

    @property
    def first_ids(self) -> tuple[int, ...]:
        """The tokens that a label can begin with."""
        return tuple(dict.fromkeys(ids[0] for ids in self.ids))

    @property
    def longest(self) -> int:
        """Tokens of the longest word."""
        return max(map(len, self.ids))

    def class_scores(
        self, words: Float[Tensor, "*batch words"], *, length_normalized: bool = False
    ) -> Float[Tensor, "*batch classes"]:
        """log p of each class from log p of each word: the logarithm of the sum over its words.

        Args:
            length_normalized: divides log p of a word by its number of tokens first, so that long
                words are not at a disadvantage.
        """
        if length_normalized:
            words = words / torch.tensor([len(ids) for ids in self.ids], device=words.device, dtype=words.dtype)
        parts = words.split([len(own) for own in self.verbalizer.words], dim=-1)
        return torch.stack([part.logsumexp(dim=-1) for part in parts], dim=-1)


def label_ids(model: LanguageModel, before: str, space: str, word: str) -> tuple[int, ...]:
    """The ids of a label's word behind some text.

    Raises:
        TemplateError, VocabularyError: it has none of its own.
    """
    encode = model.vocabulary.encode
    if model.kind == "seq2seq":  # the decoder begins anew
        ids = encode(word)
    else:
        start, whole = encode(before), encode(f"{before}{space}{word}")
        ids = whole[len(start) :]
        if whole[: len(start)] != start:
            raise TemplateError(
                f"the label word {word!r} merges with {before[-20:]!r} before it; put a space before {{label}}"
            )
    if not ids:
        raise VocabularyError(f"the label word {word!r} has no tokens in {model.name}; use another word")
    return tuple(ids)


def _queries(ids: Sequence[tuple[int, ...]], model: LanguageModel, sentinel: bool) -> tuple[Query, ...]:
    """The fewest forward passes that give the likelihood of every word."""
    if model.kind == "masked":
        if model.mask_id is None:
            raise BackendError(f"{model.name} fills in masks, but its tokenizer has no mask token")
        by_length: dict[int, list[int]] = {}
        for number, word in enumerate(ids):
            by_length.setdefault(len(word), []).append(number)
        return tuple(
            Query(
                (model.mask_id,) * length,
                None,
                tuple(Read(place, tuple((ids[n][place], n) for n in numbers)) for place in range(length)),
            )
            for length, numbers in sorted(by_length.items())
        )
    # What words have in common is read once: a pass for each proper beginning of a word.
    by_start: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for number, word in enumerate(ids):
        for place, token in enumerate(word):
            by_start.setdefault(word[:place], []).append((token, number))
    decoder = model.kind == "seq2seq"
    mark = (model.mask_id,) if sentinel and model.mask_id is not None else ()
    return tuple(
        Query(mark if decoder else start, (*mark, *start) if decoder else None, (Read(0, tuple(picks)),))
        for start, picks in sorted(by_start.items(), key=lambda item: (len(item[0]), item[0]))
    )


def suggest_verbalizer(
    texts: Sequence[str], labels: Sequence[Hashable], model: LanguageModel, *, top_k: int = 3, smoothing: float = 1.0
) -> dict[Any, tuple[str, ...]]:
    """Words for each class from labeled texts: those that its texts use more often than the others'.

    Only words that are one token of the model behind another word. What is suggested is no more than
    a start: `ClassifierPromptTuner(verbalizer="suggest")` keeps it only if it does better on held-out texts
    than the classes' own names.

    Args:
        top_k: words for each class, at most.
        smoothing: added to all counts; more of it prefers frequent words.

    Raises:
        ValueError: as many labels as texts are needed, and words in them.

    Source: stands in for the label search of AutoPrompt (arXiv 2010.15980, appendix), which fits a
    classifier on a masked model's states; log-odds of word counts (Monroe et al. 2008) work for any model.
    """
    if len(texts) != len(labels):
        raise ValueError(f"{len(texts)} texts need as many labels, got {len(labels)}")
    classes = list(dict.fromkeys(labels))
    counts: dict[Any, collections.Counter[str]] = {label: collections.Counter() for label in classes}
    for text, label in zip(texts, labels, strict=True):
        counts[label].update({word.lower() for word in _WORD.findall(text)})
    total: collections.Counter[str] = collections.Counter()
    for own in counts.values():
        total.update(own)
    sizes = collections.Counter(labels)
    encode = model.vocabulary.encode
    start = len(encode("a"))
    single = [word for word in total if len(encode(f"a {word}")) == start + 1]
    odds: dict[str, tuple[float, Any]] = {}
    for word in single:
        ranked = []
        for label in classes:
            share = (counts[label][word] + smoothing) / (sizes[label] + 2 * smoothing)
            others = (total[word] - counts[label][word] + smoothing) / (len(labels) - sizes[label] + 2 * smoothing)
            # Weighted by how often the class uses it, so that a word that occurs once is not the best.
            ranked.append((share * math.log(share / others), classes.index(label)))
        best = max(ranked)
        odds[word] = (best[0], classes[best[1]])
    suggested = {
        label: tuple(
            sorted(
                (word for word, (value, owner) in odds.items() if owner == label and value > 0),
                key=lambda word: (-odds[word][0], word),
            )[:top_k]
        )
        for label in classes
    }
    if not all(suggested.values()):
        empty = [label for label, words in suggested.items() if not words]
        raise ValueError(f"the texts of {empty} use no word more often than the others do; give the words yourself")
    return suggested
