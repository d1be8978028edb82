"""What a search by pictures begins with: the user's texts, prompts of another model, captions, or phrases."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from hardprompts.applications.black_box.mutations import Phrases
from hardprompts.inversion.captioning import Captioner, captions_of
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.prompts import HardPrompt
from hardprompts.search.markup import read_markup


def starting_texts(
    images: Sequence[Image.Image],
    given: Sequence[str | HardPrompt],
    inverter: PromptInverter | None,
    captioner: Captioner | None,
    phrases: Phrases,
    options: dict[str, Any],
    count: int,
    generator: torch.Generator,
) -> list[str]:
    """Texts to begin with, the most promising first, without repeats.

    What the user gave comes first; then the prompt that was searched for, and the captions; then its other
    candidates, but for those that have the words of an earlier text in another order: their pictures tell little that
    is new. Where there are none of all these, phrases by chance, one of each kind, `count` texts.

    Args:
        options: of the inverter's search.
    """
    texts = [read_markup(one).text if isinstance(one, str) else one.text for one in given]
    others: list[str] = []
    if inverter is not None:
        found = inverter.invert(list(images), **options)
        texts.append(found.text)
        others = [candidate.text for candidate in found.candidates]
    if captioner is not None:
        texts += captions_of(captioner, images)
    if not texts:
        texts = [_by_chance(phrases, generator) for _ in range(count)]
    known = {frozenset(text.split()) for text in texts}
    for text in others:
        if frozenset(text.split()) not in known:
            texts.append(text)
            known.add(frozenset(text.split()))
    tidy = (" ".join(text.split()) for text in texts)
    return [text for text in dict.fromkeys(tidy) if text]


def _by_chance(phrases: Phrases, generator: torch.Generator) -> str:
    """One phrase of each of up to four kinds."""
    kinds = torch.randperm(len(phrases.tables), generator=generator)[:4].sort().values.tolist()
    tables = [phrases.tables[kind] for kind in kinds]
    return " ".join(table.phrases[int(torch.randint(len(table), (), generator=generator))] for table in tables)
