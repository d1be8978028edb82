"""Pictures as the models that bear witness see them: whole, in slight variations, and part by part."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend, ClassifyingEncoder
from hardprompts.images import load_images
from hardprompts.inversion.views import ViewFeatures
from hardprompts.wording import Region

#: The parts of a picture that are looked at by themselves: windows of half its width and height, and the whole height
#: or width.
PARTS: tuple[Region, ...] = tuple(
    (left, top, left + 0.5, top + 0.5) for top in (0.0, 0.25, 0.5) for left in (0.0, 0.25, 0.5)
)

#: The similarity of a text with the name of a class up to which it names something else, and from which on the same.
FOREIGN, SAME = 0.4, 0.8

#: Classes that are less likely in the whole of a picture and in all of its parts are not in it.
LEAST_LIKELY = 0.001

#: Views of each picture that the mean is taken over.
VIEWS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Looks:
    """Pictures as each model sees them, the searched model first.

    Attributes:
        models: who looks.
        whole: for each model (pictures, views, features), the first view the picture as it is.
        parts: for each model (pictures, parts, features); None where features were given instead of pictures.
        classes: for each model that is a classifier, how likely something of each class is in (pictures, 1 + parts):
            the whole, then each part; None for others.
        left_out: what there was no time for, in words.
    """

    models: tuple[Backend, ...]
    whole: tuple[Float[Tensor, "pictures views _"], ...]
    parts: tuple[Float[Tensor, "pictures parts _"], ...] | None
    classes: tuple[Float[Tensor, "pictures looks _"] | None, ...] = ()
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        images: Any,
        models: Sequence[Backend],
        seed: int,
        allowance: Allowance,
        known: ViewFeatures | None = None,
    ) -> "Looks":
        """Looks at pictures; where the time does not suffice, at fewer views, and not at their parts.

        Args:
            known: what these models saw of the pictures before, perhaps in fewer views, or with others behind them.

        Raises:
            ImageError, NonFiniteError: see `ViewFeatures.of`.
        """
        own = allowance.share(2)
        if known is not None and known.of_models[0].shape[1] >= VIEWS:
            seen = dataclasses.replace(known, of_models=known.of_models[: len(models)])
        else:
            seen = ViewFeatures.of(images, models, views=VIEWS, seed=seed, allowance=own)
        left_out = list(seen.left_out)
        if isinstance(images, Tensor) and images.ndim <= 2 and images.shape[-1] == models[0].feature_width:
            return cls(tuple(models), seen.of_models, None, left_out=(*left_out, "regions: features have none"))
        if allowance.is_over or seen.unseen:
            left_out.append(f"parts of the pictures: 0 of {len(PARTS)}")
            return cls(tuple(models), seen.of_models, None, left_out=tuple(left_out))
        pictures = load_images(images)
        crops = [crop(picture, region) for picture in pictures for region in PARTS]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a model knows nothing of a part of a picture
            parts = tuple(model.encode_images(crops).unflatten(0, (len(pictures), len(PARTS))) for model in models)
            classes = tuple(_classes(model, pictures, crops) for model in models)
        return cls(tuple(models), seen.of_models, parts, classes, tuple(left_out))

    @property
    def pictures(self) -> int:
        """How many pictures there are."""
        return len(self.whole[0])

    def recognized(
        self, model: int, picture: int, texts: Float[Tensor, "texts features"]
    ) -> Float[Tensor, "looks texts"] | None:
        """How likely something is in a picture, and in each part of it, that texts name; None if it is unknown."""
        probabilities = self.classes[model] if self.classes else None
        encoder = self.models[model].image_encoder
        if probabilities is None or not isinstance(encoder, ClassifyingEncoder):
            return None
        own = probabilities[picture]
        there = own.amax(dim=0) >= LEAST_LIKELY
        nearness = (encoder.class_features[there] @ texts.T - FOREIGN) / (SAME - FOREIGN)
        return (own[:, there] @ nearness.clamp(0, 1)).clamp(max=1)


def _classes(
    model: Backend, pictures: Sequence[Image.Image], crops: Sequence[Image.Image]
) -> Float[Tensor, "pictures looks classes"] | None:
    if not isinstance(model.image_encoder, ClassifyingEncoder):
        return None
    found = model.image_encoder.class_probabilities([*pictures, *crops])
    whole, parts = found[: len(pictures)], found[len(pictures) :].unflatten(0, (len(pictures), len(PARTS)))
    return torch.cat([whole.unsqueeze(1), parts], dim=1)


def crop(picture: Image.Image, region: Region) -> Image.Image:
    """A part of a picture, of at least one pixel."""
    left, top, right, bottom = region
    x, y = int(left * picture.width), int(top * picture.height)
    box = (x, y, max(x + 1, round(right * picture.width)), max(y + 1, round(bottom * picture.height)))
    return picture.crop(box)
