"""Features of pictures on colored grounds, kept so that they are computed once.

The pooled features say everything: the classifier is a linear layer behind them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hardprompts_photo.image_tower import EfficientNetLite, center_of
from hardprompts_photo.recipe.pictures import Picture

#: The grounds that cut-outs are laid on, with the words for them; white is the commonest in pictures of things.
GROUNDS = {
    "white": (255, 255, 255), "black": (12, 12, 14), "gray": (128, 128, 128), "red": (200, 40, 40),
    "orange": (235, 140, 40), "yellow": (245, 215, 70), "green": (60, 150, 70), "blue": (50, 90, 190),
    "sky": (150, 200, 240), "purple": (120, 60, 160), "pink": (240, 170, 200), "brown": (120, 80, 50),
    "beige": (230, 215, 185),
}  # fmt: skip
WHITE_SHARE = 0.4
SIDE = 320


def composed(picture: Picture, seed: int) -> tuple[Image.Image, str]:
    """The picture on a ground that follows from its name and `seed`, in RGB, and the ground's color."""
    digest = hashlib.sha256(f"{picture.source}/{picture.file.name}/{seed}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    names = list(GROUNDS)
    color = "white" if generator.random() < WHITE_SHARE else names[generator.integers(len(names))]
    canvas = Image.new("RGB", (SIDE, SIDE), GROUNDS[color])
    with Image.open(picture.file) as opened:
        cut_out = opened.convert("RGBA")
    cut_out = cut_out.crop(cut_out.getchannel("A").getbbox() or (0, 0, *cut_out.size))
    scale = SIDE * generator.uniform(0.6, 0.95) / max(cut_out.size)
    size = tuple(max(1, round(side * scale)) for side in cut_out.size)
    cut_out = cut_out.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    if generator.random() < 0.5 and picture.source != "stamps":
        cut_out = cut_out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    at = tuple(int(generator.integers(0, SIDE - side + 1)) if picture.source != "stamps" else (SIDE - side) // 2
               for side in size)  # fmt: skip
    canvas.paste(cut_out, (at[0], at[1]), cut_out)
    return canvas, color


def pooled_features(tower: EfficientNetLite, pictures: Sequence[Picture], file: Path, seed: int = 0) -> Tensor:
    """(pictures, width) features in the order of `pictures`, from `file` where it has them, in parts that are kept.

    In bfloat16, which is three times as fast on processors that know it, and near enough to learn from.
    """
    known: dict[str, Tensor] = torch.load(file, weights_only=True) if file.exists() else {}
    keys = [f"{picture.source}/{picture.file.parent.name}/{picture.file.name}" for picture in pictures]
    missing = [i for i, key in enumerate(keys) if key not in known]
    for start in range(0, len(missing), 256):
        part = missing[start : start + 256]
        images = [composed(pictures[i], seed)[0] for i in part]
        pooled = torch.cat([_pooled(tower, images[at : at + 16]) for at in range(0, len(images), 16)])
        known.update({keys[i]: row.half().clone() for i, row in zip(part, pooled, strict=True)})
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(known, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)
        print(f"{file.name}: {len(known)} of {len(keys)}", flush=True)
    return torch.stack([known[key] for key in keys]).float()


def _pooled(tower: EfficientNetLite, images: Sequence[Image.Image]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return tower.pooled_squares([center_of(image, tower.size) for image in images]).float()
