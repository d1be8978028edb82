"""EfficientNet-Lite: what ImageNet's thousand classes have to say of pictures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

#: TensorFlow's EfficientNet-Lite takes pixels in [-1, 1].
MEAN = 0.5
DEVIATION = 0.5
#: The center of a photograph that is read, as a share of its shorter side.
CROP = 0.875
#: How much longer than wide a photograph is whose ends are read too.
LONG = 1.15
#: Room around a thing on a plain ground, as a share of its longer side.
MARGIN = 0.08
#: Values of 255 by which a plain ground may vary; JPEG makes them differ a little.
GROUND_TOLERANCE = 12
#: Of the pixels at the edge, those of the ground, at the least.
GROUND_SHARE = 0.5
#: Of the pixels in the box of a thing, those of the ground, at the least.
GROUND_INSIDE = 0.1
#: Pixels of a longer side that are enough to look for the ground.
LOOK = 512


@dataclasses.dataclass(frozen=True, eq=False)
class EfficientNetLite:
    """A frozen classifier of ImageNet's 1,000 classes, read at its pooled features and at its classes.

    Attributes:
        network: timm's, in evaluation mode, with its memory in the order that convolutions like.
        size: side of the square that it reads, in pixels.
    """

    network: Any
    size: int

    def pooled_parts(self, images: Sequence[Image.Image]) -> list[Float[Tensor, "parts width"]]:
        """The features of the parts of each RGB image: see `parts_of`."""
        squares = [parts_of(image, self.size) for image in images]
        pooled = self.pooled_squares([square for parts in squares for square in parts])
        return list(pooled.split([len(parts) for parts in squares]))

    def pooled(self, images: Sequence[Image.Image]) -> Float[Tensor, "images width"]:
        """The features behind the last convolution, averaged over the square that is read of each RGB image.

        Of a photograph that is the center; of a thing on a plain ground the whole thing, whatever its shape.
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
    """The box of the thing on a plain ground; None for a photograph, or if there is nothing but the ground.

    A ground is plain if the corners have one color, and `GROUND_SHARE` of the edge too: a thing may touch the edge.
    """
    step = max(1, max(image.size) // LOOK)
    small = (max(1, image.width // step), max(1, image.height // step))
    pixels = np.asarray(image.resize(small, Image.Resampling.NEAREST) if step > 1 else image)
    ground = pixels[0, 0].astype(np.int16)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    like_ground = (abs(edge - ground) <= GROUND_TOLERANCE).all(axis=-1)
    corners = abs(pixels[[0, 0, -1, -1], [0, -1, 0, -1]] - ground) <= GROUND_TOLERANCE
    if not corners.all() or like_ground.mean() < GROUND_SHARE:
        return None
    box = _box_of(abs(pixels - ground).max(axis=-1) > GROUND_TOLERANCE)
    if box is None or _framed(pixels[box[1] : box[3], box[0] : box[2]], ground):
        return None
    across, down = image.width / small[0], image.height / small[1]
    return round(box[0] * across), round(box[1] * down), round(box[2] * across), round(box[3] * down)


def _box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what is True."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _framed(box: NDArray[np.uint8], ground: NDArray[np.int16]) -> bool:
    """Whether the box shows no ground around anything: then it is a photograph in a frame."""
    like_ground = abs(box - ground).max(axis=-1) <= GROUND_TOLERANCE
    return bool(like_ground.mean() < GROUND_INSIDE)


def square_of(image: Image.Image, side: int) -> Image.Image:
    """The square of `side` pixels that is read of an RGB image of any size."""
    thing = thing_on_ground(image)
    if thing is None:
        return center_of(image, side)
    width, height = thing[2] - thing[0], thing[3] - thing[1]
    scale = side / (max(width, height) * (1 + 2 * MARGIN))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = Image.new("RGB", (side, side), image.getpixel((0, 0)))
    square.paste(
        image.resize(size, Image.Resampling.BICUBIC, box=thing), ((side - size[0]) // 2, (side - size[1]) // 2)
    )
    return square


def parts_of(image: Image.Image, side: int) -> list[Image.Image]:
    """The squares that are read of an RGB image: the one of `square_of`, and of a photograph that is not nearly square
    its two ends as well, of which that one has but a part."""
    first = square_of(image, side)
    short, long = sorted(image.size)
    if long < LONG * short or thing_on_ground(image) is not None:
        return [first]
    boxes = [(0, 0, short, short), (image.width - short, image.height - short, image.width, image.height)]
    return [first, *(image.resize((side, side), Image.Resampling.BICUBIC, box=box) for box in boxes)]


def center_of(image: Image.Image, side: int) -> Image.Image:
    """The center; it is cut out before it is scaled, so that a picture 20,000 pixels wide costs no more."""
    cut = CROP * min(image.size)
    left, top = (image.width - cut) / 2, (image.height - cut) / 2
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + cut, top + cut))
