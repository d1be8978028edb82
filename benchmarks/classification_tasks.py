"""What the benchmarks of language models share: labeled data sets, and how figures are told."""

import csv
import dataclasses
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardprompts.classification import ClassificationTemplate, PromptedModel, Verbalizer, language_model
from hardprompts.encoders import Backend
from hardprompts.evaluation import Interval, t_interval
from hardprompts_emoji.glosses import TASK, load_glosses

Examples = tuple[list[str], list[str]]

#: Definitions of each class that the embedded task is measured on: all that the smallest class has, or nearly.
TESTED_PER_CLASS = 64


@dataclasses.dataclass(frozen=True)
class Task:
    """A labeled data set with its template and label words.

    Attributes:
        words: of each label; the labels of the data are its keys.
        train: examples to draw from; nothing of `test` is in it.
    """

    name: str
    template: str
    words: Mapping[str, str]
    train: Examples
    test: Examples

    def draw(self, per_class: int, seed: int) -> Examples:
        """As many examples of each class, mixed; other ones for another seed."""
        generator = random.Random(seed)
        chosen: list[tuple[str, str]] = []
        for label in self.words:
            own = [text for text, given in zip(*self.train, strict=True) if given == label]
            chosen += [(text, label) for text in generator.sample(own, min(per_class, len(own)))]
        generator.shuffle(chosen)
        return [text for text, _ in chosen], [label for _, label in chosen]

    def tested(self, count: int | None) -> Examples:
        """The test examples, or the first so many of an order that mixes the classes."""
        order = list(range(len(self.test[0])))
        random.Random(0).shuffle(order)
        kept = sorted(order[:count])
        return [self.test[0][i] for i in kept], [self.test[1][i] for i in kept]

    def prompted(self, backend: Backend, num_tokens: int, template: str | None = None) -> PromptedModel:
        """A model with the task's template and words."""
        return PromptedModel.create(
            language_model(backend), ClassificationTemplate(template or self.template),
            Verbalizer.of(list(self.words), self.words), prompt_tokens=num_tokens,
        )  # fmt: skip

    def targets(self, labels: Sequence[str]) -> list[int]:
        """The numbers of the labels, in the order of `words`."""
        numbers = {label: number for number, label in enumerate(self.words)}
        return [numbers[label] for label in labels]


def open_task(name: str) -> Task:
    """A task by name: "emoji", which is always there; "sst2" and "agnews" from the folder of data sets.

    Raises:
        FileNotFoundError: HARDPROMPTS_SHARED_DATA does not name a folder with that data set.
    """
    if name == "emoji":
        # The classes of definitions of words; the embedded models have read neither part.
        # As many of each class to measure on, so that a constant answer is right one time in eight.
        parts = [load_glosses("train", TASK), load_glosses("test", TASK, per_class=TESTED_PER_CLASS)]
        train, test = (([g.text for g in part], [g.label for g in part]) for part in parts)
        return Task(name, "{prompt} {text}. It was {label}", {label: label for label in TASK}, train, test)
    if name == "sst2":
        words = {"0": "bad", "1": "good"}
        train, test = (_columns(_file("sst2", f"{part}.tsv"), head=True) for part in ("train", "test"))
        return Task(name, "{prompt} {text} It was {label}", words, train, test)
    if name == "agnews":
        words = {"World": "world", "Sports": "sport", "Business": "business", "Sci/Tech": "science"}
        train, test = (_columns(_file("agnews", f"alps_{part}.tsv")) for part in ("dev", "test"))
        return Task(name, "{prompt} {text} It was about {label}", words, train, test)
    raise ValueError(f"unknown data set {name!r}; there are emoji, sst2 and agnews")


def _file(*parts: str) -> Path:
    root = os.environ.get("HARDPROMPTS_SHARED_DATA")
    path = Path(root or "", *parts)
    if not root or not path.exists():
        raise FileNotFoundError(f"HARDPROMPTS_SHARED_DATA must name a folder with {'/'.join(parts)}")
    return path


def _columns(path: Path, head: bool = False) -> Examples:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1 if head else 0 :]
    rows = [row for row in rows if len(row) == 2 and "{}" not in row[0]]
    return [row[0].strip() for row in rows], [row[1].strip() for row in rows]


def told(figures: Mapping[str, Any]) -> str:
    """What is printed of a new cell."""
    accuracy, seconds = figures.get("accuracy", float("nan")), figures.get("seconds", 0)
    return f"accuracy {accuracy:.3f}, {seconds:.0f} s, {figures.get('prompt', '')!r}"


def spread(values: Sequence[float]) -> Interval:
    """The mean over the seeds, with its 95 % interval."""
    return t_interval([float(value) for value in values])


def with_error(values: Sequence[float], scale: float = 100.0) -> str:
    """The mean and its standard error, in per cent."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{scale * mean:.2f}"
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return f"{scale * mean:.2f} ± {scale * (variance / len(values)) ** 0.5:.2f}"
