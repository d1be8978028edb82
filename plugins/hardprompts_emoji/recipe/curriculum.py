"""Which scenes are shown when, and how their pictures are varied."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.nn import functional

from hardprompts_emoji.scenes import HELD_OUT_SEED, Scene, sample_scene

MEAN = (0.5, 0.5, 0.5)
STD = (0.3, 0.3, 0.3)


def curriculum_scene(progress: float, generator: random.Random) -> Scene:
    """Return a training scene: lone flat drawings first, the whole world from 70 % of the time on."""
    share = min(1.0, max(0.0, progress / 0.7))
    many = generator.random() < 0.5 * max(0.0, share - 0.25) / 0.75
    styled = generator.random() < 0.1 + 0.82 * share
    count = (2 if generator.random() < 0.6 else 3) if many else 1
    seed = generator.randrange(HELD_OUT_SEED)
    return sample_scene(seed, num_objects=count, style=None if styled else "flat")


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return normalized (n, 3, 64, 64) pictures, some slightly cropped, mirrored, shifted in color."""
    count = len(pictures)
    gain = 1 + 0.16 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    offset = 0.08 * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    pictures = (pictures * gain + offset).clamp(0, 1)
    order = torch.randperm(count, generator=generator)
    mirrored, cropped = order[: count // 8], order[count // 8 : count * 3 // 8]
    pictures[mirrored] = pictures[mirrored].flip(-1)
    side = int(torch.randint(54, 64, (), generator=generator))
    top, left = (int(torch.randint(0, 65 - side, (), generator=generator)) for _ in range(2))
    crop = pictures[cropped, :, top : top + side, left : left + side]
    pictures[cropped] = functional.interpolate(crop, size=(64, 64), mode="bilinear", align_corners=False)
    return normalize(pictures)


def normalize(pictures: Tensor) -> Tensor:
    """Return pictures from [0, 1] as the tower sees them."""
    return (pictures - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
