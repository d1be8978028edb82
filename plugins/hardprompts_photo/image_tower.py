"""EfficientNet-Lite: what ImageNet's thousand classes have to say of pictures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

#: TensorFlow's EfficientNet-Lite takes pixels in [-1, 1].
MEAN = 0.5
DEVIATION = 0.5
#: The centre that is read, as a share of the shorter side.
CROP = 0.875


@dataclasses.dataclass(frozen=True, eq=False)
class EfficientNetLite:
    """A frozen classifier of ImageNet's 1,000 classes, read at its pooled features and at its classes.

    Attributes:
        network: timm's, in evaluation mode, with its memory in the order that convolutions like.
        size: side of the square that it reads, in pixels.
    """

    network: Any
    size: int

    def pixels(self, images: Sequence[Image.Image]) -> Float[Tensor, "images 3 side side"]:
        """The centres of RGB images of any size, scaled as the network knows them.

        The square is cut out of the picture before it is scaled, so that a picture 20,000 pixels wide costs no more.
        """
        parameter = next(self.network.parameters())
        squares = np.stack([np.asarray(_square(image, self.size), dtype=np.float32) for image in images])
        values = torch.from_numpy(squares).to(parameter.device) / 255
        values = (values - MEAN) / DEVIATION
        return values.permute(0, 3, 1, 2).to(parameter.dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def pooled(self, images: Sequence[Image.Image]) -> Float[Tensor, "images width"]:
        """The features behind the last convolution, averaged over the picture."""
        states = self.network.forward_features(self.pixels(images))
        pooled: Tensor = self.network.forward_head(states, pre_logits=True)
        return pooled

    @torch.no_grad()
    def logits(self, pooled: Float[Tensor, "images width"]) -> Float[Tensor, "images classes"]:
        """What the classifier makes of pooled features, before the softmax."""
        logits: Tensor = self.network.classifier(pooled)
        return logits


def _square(image: Image.Image, side: int) -> Image.Image:
    cut = CROP * min(image.size)
    left, top = (image.width - cut) / 2, (image.height - cut) / 2
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + cut, top + cut))
