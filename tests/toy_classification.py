"""A small task of classification for toy language models."""

import random

import torch

from hardprompts.classification.rows import LABEL
from hardprompts.encoders import LanguageModel
from hardprompts.testing import WORDS

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
