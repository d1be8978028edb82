"""Random views of a scene."""

import math

import torch
from PIL import Image, ImageEnhance


def augmented_views(image: Image.Image, count: int, generator: torch.Generator) -> list[Image.Image]:
    """The RGB image itself, and `count - 1` random views of the same scene.

    A view is a crop of 85 to 100 % of the area with nearly the image's own aspect ratio, with
    brightness, contrast and color changed by at most 10 %: little enough that everything in the
    image is still there. It is not mirrored, which would exchange left and right. The views are
    determined by the generator.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return [image, *(_view(image, generator) for _ in range(count - 1))]


def _view(image: Image.Image, generator: torch.Generator) -> Image.Image:
    area, stretch, left, top, *tints = torch.rand(7, generator=generator, device=generator.device).tolist()
    side = math.sqrt(0.85 + 0.15 * area)
    shape = math.exp((2 * stretch - 1) * math.log(1.05) / 2)  # aspect ratios 5 % either way
    width = max(1, round(image.width * min(1.0, side * shape)))
    height = max(1, round(image.height * min(1.0, side / shape)))
    x, y = round(left * (image.width - width)), round(top * (image.height - height))
    view = image.crop((x, y, x + width, y + height))
    for enhance, tint in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), tints, strict=True):
        view = enhance(view).enhance(1 + 0.1 * (2 * tint - 1))
    return view
