"""EfficientNet-Lite: what ImageNet's thousand classes have to say of pictures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageChops
from torch import Tensor

#: TensorFlow's EfficientNet-Lite takes pixels in [-1, 1].
MEAN = 0.5
DEVIATION = 0.5
#: The centre of a photograph that is read, as a share of its shorter side.
CROP = 0.875
#: Room around a thing on a plain ground, as a share of its longer side.
MARGIN = 0.08
#: Values of 255 by which a plain ground may vary; JPEG makes them differ a little.
GROUND_TOLERANCE = 12


@dataclasses.dataclass(frozen=True, eq=False)
class EfficientNetLite:
    """A frozen classifier of ImageNet's 1,000 classes, read at its pooled features and at its classes.

    Attributes:
        network: timm's, in evaluation mode, with its memory in the order that convolutions like.
        size: side of the square that it reads, in pixels.
    """

    network: Any
    size: int

    def pooled(self, images: Sequence[Image.Image]) -> Float[Tensor, "images width"]:
        """The features behind the last convolution, averaged over the square that is read of each RGB image.

        Of a photograph that is the centre; of a thing on a plain ground the whole thing, whatever its shape.
        """
        return self.pooled_squares([square_of(image, self.size) for image in images])

    @torch.no_grad()
    def pooled_squares(self, squares: Sequence[Image.Image]) -> Float[Tensor, "images width"]:
        """The same of RGB images that are squares of `size` pixels already."""
        parameter = next(self.network.parameters())
        pixels = torch.from_numpy(np.stack([np.asarray(square, dtype=np.float32) for square in squares]))
        values = (pixels.to(parameter.device) / 255 - MEAN) / DEVIATION
        values = values.permute(0, 3, 1, 2).to(parameter.dtype, memory_format=torch.channels_last)
        states = self.network.forward_features(values)
        pooled: Tensor = self.network.forward_head(states, pre_logits=True)
        return pooled

    @torch.no_grad()
    def logits(self, pooled: Float[Tensor, "images width"]) -> Float[Tensor, "images classes"]:
        """What the classifier makes of pooled features, before the softmax."""
        logits: Tensor = self.network.classifier(pooled)
        return logits


def on_plain_ground(images: Sequence[Image.Image]) -> Bool[Tensor, " images"]:
    """Which of the RGB images show a thing on a ground of one color: drawings and cut-outs."""
    return torch.tensor([thing_on_ground(image) is not None for image in images], dtype=torch.bool)


def thing_on_ground(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The box of the thing on a plain ground; None if the edge of the image is not of one color, or all of it is."""
    edges = (
        image.crop((0, 0, image.width, 1)), image.crop((0, image.height - 1, image.width, image.height)),
        image.crop((0, 0, 1, image.height)), image.crop((image.width - 1, 0, image.width, image.height)),
    )  # fmt: skip
    extrema = [channel for edge in edges for channel in edge.getextrema()]
    for channel in range(3):
        lows, highs = zip(*extrema[channel::3], strict=True)
        if max(highs) - min(lows) > GROUND_TOLERANCE:
            return None
    difference = ImageChops.difference(image, Image.new("RGB", image.size, image.getpixel((0, 0))))
    return difference.point(lambda value: 255 * (value > GROUND_TOLERANCE)).getbbox()


def square_of(image: Image.Image, side: int) -> Image.Image:
    """The square of `side` pixels that is read of an RGB image of any size."""
    thing = thing_on_ground(image)
    if thing is None:
        return centre_of(image, side)
    width, height = thing[2] - thing[0], thing[3] - thing[1]
    scale = side / (max(width, height) * (1 + 2 * MARGIN))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = Image.new("RGB", (side, side), image.getpixel((0, 0)))
    square.paste(
        image.resize(size, Image.Resampling.BICUBIC, box=thing), ((side - size[0]) // 2, (side - size[1]) // 2)
    )
    return square


def centre_of(image: Image.Image, side: int) -> Image.Image:
    """The centre; it is cut out before it is scaled, so that a picture 20,000 pixels wide costs no more."""
    cut = CROP * min(image.size)
    left, top = (image.width - cut) / 2, (image.height - cut) / 2
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + cut, top + cut))
