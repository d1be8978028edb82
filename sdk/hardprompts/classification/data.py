"""Labeled texts from whatever holds them, and a holdout that shares nothing with the rest."""

import dataclasses
import enum
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hardprompts.wording import check_text


def as_texts(X: Iterable[Any]) -> list[str]:
    """The texts of a list, an array, a Series, or a table of one column.

    Raises:
        ValueError: one of them is not a text, or has half of a character in it, or there is a single text instead of
            several.
    """
    if isinstance(X, str | bytes):
        raise ValueError(f"X must be a sequence of texts, got one text {X[:40]!r}; put it into a list")
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) > 1:
        if len(shape) > 2 or shape[1] != 1:
            raise ValueError(f"X has the shape {tuple(shape)}; it takes one column of texts, X[:, 0] or X['text'], say")
        X = np.asarray(X, dtype=object)[:, 0]
    texts = list(np.asarray(X, dtype=object)) if shape is not None else list(X)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"X[{place}] is {text!r}, which is not a text; fill in what is missing, or leave the example out"
            )
    check_text("X", texts)
    return [str(text) for text in texts]


def as_labels(y: Iterable[Any], count: int) -> list[Hashable]:
    """The labels of a list, an array or a Series, as plain Python values; enums stay as they are.

    Raises:
        ValueError: there are not `count`, one is missing, or a text has several.
    """
    shape = getattr(y, "shape", None)
    if shape is not None and len(shape) == 2 and shape[1] == 1:
        y = np.asarray(y)[:, 0]
    elif y is None:
        raise ValueError("ClassifierPromptTuner requires y to be passed, but the target y is None; give a label each")
    elif shape is not None and len(shape) != 1:
        raise ValueError(
            f"y has the shape {tuple(shape)}; it takes one label for each text. For several labels at once use "
            "MultiOutputClassifier of scikit-learn"
        )
    labels = [label.item() if isinstance(label, np.generic) else label for label in y]
    if len(labels) != count:
        raise ValueError(f"{count} texts need as many labels, got {len(labels)}")
    for place, label in enumerate(labels):
        if not isinstance(label, Hashable):
            raise ValueError(
                f"y[{place}] is {label!r}; it takes one label for each text. For several labels at once use "
                "MultiOutputClassifier of scikit-learn"
            )
        if _is_missing(label):
            raise ValueError(f"y[{place}] is {label!r}, which is not a label; leave the example out")
    check_text("y", labels)
    return labels


def _is_missing(label: Hashable) -> bool:
    """Whether a table marks with it that there is no label: None, NaN, and what pandas has for them."""
    if label is None:
        return True
    try:
        return bool(label != label)  # noqa: PLR0124 - NaN is told by that
    except TypeError:  # pandas.NA, which is neither equal to itself nor different
        return True


def sorted_classes(labels: Iterable[Hashable]) -> list[Any]:
    """The distinct labels in order; as they first occur, where they have no order (enums)."""
    distinct = list(dict.fromkeys(labels))
    try:
        return sorted(distinct)
    except TypeError:
        order = {
            member: place
            for label in distinct
            if isinstance(label, enum.Enum)
            for place, member in enumerate(type(label))
        }
        return sorted(distinct, key=lambda label: order.get(label, len(order))) if order else distinct


def as_array(labels: Sequence[Any]) -> npt.NDArray[Any]:
    """The labels as numpy has them: numbers and strings in their own kind, all else as objects."""
    if all(isinstance(label, enum.Enum) or not isinstance(label, str | int | float) for label in labels):
        array = np.empty(len(labels), dtype=object)
        array[:] = labels
        return array
    return np.asarray(labels)


def holdout_split(
    texts: Sequence[str],
    targets: Sequence[int],
    share: float,
    generator: torch.Generator,
    groups: Sequence[Hashable] | None = None,
) -> tuple[list[int], list[int]]:
    """The places of the examples to learn from and of those to choose by: about `share` of each class.

    Texts that differ in case and white space only stay on one side, and so do those of one group.
    Each class keeps at least one example on the learning side, and gives one where it has two groups.

    Args:
        share: in [0, 1); with 0 nothing is held out.

    Raises:
        ValueError: `share` is out of range, or there are not as many groups as texts.
    """
    if not 0 <= share < 1:
        raise ValueError(f"holdout must be in [0, 1), got {share}")
    if groups is not None and len(groups) != len(texts):
        raise ValueError(f"{len(texts)} texts need as many groups, got {len(groups)}")
    clusters = _clusters([" ".join(text.casefold().split()) for text in texts], groups)
    held: list[int] = []
    for number in sorted(set(targets)):
        # A cluster belongs to the class of its first text.
        own = [cluster for cluster in clusters if targets[cluster[0]] == number]
        wanted = share * sum(map(len, own))
        taken = 0
        order = torch.randperm(len(own), generator=generator).tolist()
        for place in order[:-1] if len(own) > 1 else []:
            if taken >= wanted:
                break
            held.extend(own[place])
            taken += len(own[place])
    chosen = set(held)
    return [i for i in range(len(texts)) if i not in chosen], sorted(held)


def _clusters(keys: Sequence[str], groups: Sequence[Hashable] | None) -> list[list[int]]:
    """The places that belong together, because they have a key or a group in common, however indirectly."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for values in (keys, groups or ()):
        first: dict[Hashable, int] = {}
        for i, value in enumerate(values):
            parent[root(i)] = root(first.setdefault(value, i))
    found: dict[int, list[int]] = {}
    for i in range(len(keys)):
        found.setdefault(root(i), []).append(i)
    return list(found.values())


def stratified(targets: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    """`count` places, or all if there are fewer, drawn in turn from each class."""
    if count >= len(targets):
        return list(range(len(targets)))
    queues = []
    for number in sorted(set(targets)):
        own = [i for i, target in enumerate(targets) if target == number]
        queues.append([own[j] for j in torch.randperm(len(own), generator=generator).tolist()])
    chosen: list[int] = []
    while len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return sorted(chosen)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labeled texts: which of them to learn from, and which to choose by.

    Attributes:
        targets: for each text the place of its label among the classes.
        learn, held: the places of the texts that searches see, and of those held out, which may be none.
    """

    texts: list[str]
    classes: list[Any]
    targets: list[int]
    learn: list[int]
    held: list[int]

    @classmethod
    def of(
        cls,
        X: Iterable[Any],
        y: Iterable[Any],
        groups: Iterable[Hashable] | None,
        holdout: float,
        generator: torch.Generator,
    ) -> "Examples":
        """The examples of `fit`, divided by `holdout_split`.

        Raises:
            ValueError: what is given are not texts and as many labels, or there is a single class.
        """
        texts = as_texts(X)
        labels = as_labels(y, len(texts))
        classes = sorted_classes(labels)
        if len(classes) < 2:
            raise ValueError(f"a classifier needs two classes or more, got {classes} alone in {len(labels)} labels")
        targets = [classes.index(label) for label in labels]
        together = None if groups is None else list(groups)
        return cls(texts, classes, targets, *holdout_split(texts, targets, holdout, generator, together))

    @property
    def learned(self) -> tuple[list[str], list[int]]:
        """The texts that are learned from, and their targets."""
        return self._at(self.learn)

    @property
    def judged(self) -> tuple[list[str], list[int]]:
        """The texts that prompts are chosen by, and their targets: those held out, or else those learned from."""
        return self._at(self.held or self.learn)

    def _at(self, places: Sequence[int]) -> tuple[list[str], list[int]]:
        return [self.texts[i] for i in places], [self.targets[i] for i in places]
