"""A painter whose pictures hold the words of their prompt."""

import random
from collections.abc import Sequence

from PIL import Image

from hardprompts.testing import WORDS, ToyEncoder, toy_backend

BACKEND = toy_backend()


TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)


class Painter:
    """Draws the words of a prompt, and keeps count."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, ...], tuple[int, ...]]] = []

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image]:
        self.calls.append((tuple(prompts), tuple(seeds)))
        return [TOWER.picture(text) for text in prompts]

    @property
    def drawn(self) -> list[tuple[str, int]]:
        return [pair for texts, seeds in self.calls for pair in zip(texts, seeds, strict=True)]


class NoisyPainter(Painter):
    """Draws the words, and one more that the seed decides: pictures of one prompt differ by their seeds."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image]:
        super().__call__(prompts, seeds)
        return [
            TOWER.picture(f"{text} {random.Random(seed).choice(WORDS[1:])}")
            for text, seed in zip(prompts, seeds, strict=True)
        ]
