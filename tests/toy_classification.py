"""A small task of classification for toy language models."""

import random
from typing import Any

import torch

from hardprompts.classification.rows import LABEL
from hardprompts.encoders import LanguageModel
from hardprompts.testing import WORDS, toy_language_model

LABELS = ("sun", "moon")


def examples(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts whose last word tells the label."""
    draw = random.Random(seed)
    plain = [word for word in WORDS if word not in (*LABELS, "fire", "gold", "night", "silver")]
    labels = [LABELS[i % 2] for i in range(count)]
    clues = {"sun": ["fire", "gold"], "moon": ["night", "silver"]}
    return [" ".join([*draw.sample(plain, 3), draw.choice(clues[label])]) for label in labels], labels


def brute_force_word(model: LanguageModel, row: tuple[int, ...], word: tuple[int, ...]) -> float:
    """log p of a word by one pass for each of its tokens."""
    place, total = row.index(LABEL), 0.0
    vocabulary = model.vocabulary
    for step in range(len(word)):
        decoder = None
        if model.kind == "causal":
            ids, at = [*row[:place], *word[:step]], place + step - 1
        elif model.kind == "masked":
            ids, at = [*row[:place], *[model.mask_id] * len(word), *row[place + 1 :]], place + step
        else:
            ids, at = [*row[:place], *row[place + 1 :]], step
            decoder = torch.tensor([word[:step]], dtype=torch.long)
        embeddings = vocabulary.embed(torch.tensor([ids]))
        states = model.states(embeddings, torch.ones(1, len(ids), dtype=torch.bool), decoder)
        total += float(model.logits(states[0, at]).log_softmax(dim=-1)[word[step]])
    return total


#: Texts whose last word tells the label, in two classes that take turns in threes.
TEXTS = [f"{word} house in the {clue}" for word in ("red", "old", "green") for clue in ("fire", "night") for _ in "abc"]
NAMES = ["sun" if text.endswith("fire") else "moon" for text in TEXTS]

#: A tuner that is fitted in a moment.
QUICK: dict[str, Any] = {
    "template": "{prompt} {text} the {label}", "num_tokens": 2, "method": "pez", "restarts": 1, "max_steps": 1,
    "random_state": 0, "progress": False,
}  # fmt: skip


def quick_tuner(model: Any = None, **options: Any) -> Any:
    """A tuner with a toy model, or with another one, that is fitted in a moment."""
    from hardprompts import ClassifierPromptTuner

    return ClassifierPromptTuner(toy_language_model() if model is None else model).set_params(**{**QUICK, **options})
