"""What an inversion compares prompts with: the features of images, texts and their opposites."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.encoders import Backend, normalize
from hardprompts.errors import NonFiniteError
from hardprompts.images import augmented_views, load_images


@dataclasses.dataclass(frozen=True, eq=False)
class _Target:
    """Unit features that one prompt is to resemble (weights add up to 1) or to avoid (below 0)."""

    features: Float[Tensor, "targets features"]
    weights: Float[Tensor, " targets"]

    @property
    def mean(self) -> Float[Tensor, " features"]:
        return self.weights @ self.features

    @property
    def opposite(self) -> "_Target":
        """What a prompt is to avoid that this one is to resemble."""
        return _Target(self.features, -self.weights)


def _features(backend: Backend, images: Any, views: int, seed: int | None) -> Float[Tensor, "images features"]:
    """Features of images, the mean over their views; or unit features, as they were given.

    Raises:
        ImageError: see `load_images`.
        NonFiniteError: features are NaN or infinite.
    """
    width = backend.encode_texts(["a"]).shape[1]
    if isinstance(images, Tensor) and images.ndim <= 2 and images.shape[-1] == width:
        features = normalize(images.detach().reshape(-1, width).to(backend.device))
    else:
        loaded = load_images(images)
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        pictures = [view for image in loaded for view in augmented_views(image, views, generator)]
        features = backend.encode_images(pictures).reshape(len(loaded), views, -1).mean(dim=1)
    if not features.isfinite().all():
        raise NonFiniteError("the image features are NaN or infinite; check the image, or use dtype=torch.float32")
    return features


def _checked_weights(weights: Sequence[float] | None, count: int) -> Tensor:
    checked = torch.ones(count) if weights is None else torch.tensor(list(weights), dtype=torch.float32)
    if len(checked) != count or not bool((checked > 0).all()) or not bool(checked.isfinite().all()):
        raise ValueError(f"weights must be {count} positive numbers, one for each image, got {weights}")
    return checked
