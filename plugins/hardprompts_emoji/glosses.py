"""Definitions of words with their classes: a real task for prompts that turn a language model into a classifier.

WordNet sorts its synsets into lexicographer's classes (animal, food, motion, ...). The definitions here
were never shown to the embedded language models: not the definition, its example sentences or its class.

    >>> examples = load_glosses("train", TASK, per_class=64)
    >>> len(examples), examples[0].label in TASK
    (512, True)
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

Split = Literal["train", "test"]

GLOSSES = Path(__file__).with_name("glosses.jsonl.gz")

LABELS: Mapping[str, str] = MappingProxyType(
    {
        "noun.act": "act",
        "noun.animal": "animal",
        "noun.artifact": "object",
        "noun.attribute": "quality",
        "noun.body": "body",
        "noun.cognition": "idea",
        "noun.communication": "message",
        "noun.event": "event",
        "noun.feeling": "feeling",
        "noun.food": "food",
        "noun.group": "group",
        "noun.location": "place",
        "noun.motive": "motive",
        "noun.object": "landscape",
        "noun.person": "person",
        "noun.phenomenon": "phenomenon",
        "noun.plant": "plant",
        "noun.possession": "property",
        "noun.process": "process",
        "noun.quantity": "amount",
        "noun.relation": "relation",
        "noun.shape": "shape",
        "noun.state": "state",
        "noun.substance": "substance",
        "noun.time": "time",
        "verb.body": "care",
        "verb.change": "change",
        "verb.cognition": "thought",
        "verb.communication": "speech",
        "verb.competition": "contest",
        "verb.consumption": "eating",
        "verb.contact": "touch",
        "verb.creation": "making",
        "verb.emotion": "emotion",
        "verb.motion": "motion",
        "verb.perception": "sense",
        "verb.possession": "trade",
        "verb.social": "society",
        "verb.stative": "being",
        "verb.weather": "weather",
    }
)
"""Lexicographer's class -> the word that names it: one token, with a space before it, of the embedded models."""

TASK: tuple[str, ...] = ("animal", "plant", "food", "person", "object", "place", "body", "substance")
"""Eight label words with at least 64 examples each in either split: the task of the examples and measurements."""


@dataclass(frozen=True)
class Gloss:
    """A definition, and the word for its class: one of the values of ``LABELS``."""

    text: str
    label: str


@cache
def _all_glosses() -> Mapping[str, tuple[Gloss, ...]]:
    """Return every definition of the data file by split, in an order that mixes the classes."""
    splits: dict[str, list[Gloss]] = {"train": [], "test": []}
    with gzip.open(GLOSSES, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            splits[row["split"]].append(Gloss(row["text"], row["label"]))
    return {split: tuple(glosses) for split, glosses in splits.items()}


def load_glosses(split: Split, labels: Iterable[str] = TASK, *, per_class: int | None = None) -> tuple[Gloss, ...]:
    """Return definitions that the embedded language models never saw, with their classes mixed.

    Args:
        split: "train", to find a prompt with, or "test", to measure it on; no definition is in both.
        labels: Words for classes, from the values of ``LABELS``.
        per_class: At most this many of each class, always the same ones; all by default, which
            gives some classes twice as many as others.

    Raises:
        ValueError: There is no such split or label, a label is given twice, or ``per_class`` is below one.
    """
    if split not in ("train", "test"):
        raise ValueError(f'split is {split!r}; there are "train", to find a prompt with, and "test", to measure it')
    chosen = tuple(labels)
    unknown = sorted(set(chosen) - set(LABELS.values()))
    if unknown or len(set(chosen)) < len(chosen):
        wrong = f"unknown labels {unknown}" if unknown else f"a label is given twice in {chosen}"
        raise ValueError(f"{wrong}; labels are a selection of: {', '.join(LABELS.values())}")
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class is {per_class}; it is a number of definitions of each class, from 1, or None")
    taken: Counter[str] = Counter()
    kept: list[Gloss] = []
    for gloss in _all_glosses()[split]:
        if gloss.label in chosen and (per_class is None or taken[gloss.label] < per_class):
            taken[gloss.label] += 1
            kept.append(gloss)
    return tuple(kept)
