"""Images as models see them: each in several slight variations, opened and encoded a few at a time."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.allowance import Allowance, clock
from hardprompts.encoders import Backend, normalize
from hardprompts.errors import ImageError, NonFiniteError
from hardprompts.images import augmented_views, load_images, load_item
from hardprompts.objectives import FeatureSimilarity
from hardprompts.search.memory import bytes_of_a_prompt
from hardprompts.search.protocol import Search
from hardprompts.search.seeds import generator_of
from hardprompts.search.tables import room_for
from hardprompts.towers.memory import peak_of

#: Pictures that are held at once.
PICTURES = 64

#: How many times as long a view takes as the image as it is, before one was timed: it is cropped and tinted first.
VIEW_COST = 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class ViewFeatures:
    """Images as one or several models see them: loaded once, each view encoded once by each model.

    Attributes:
        of_models: for each model, (images, views, features) unit features; the first view is the image as it is.
        picture: the first of the images; None where features were given, or nobody asked for it.
        unseen: how many more images there are, which there was no time for.
        left_out: what there was no time for, in words.
    """

    of_models: tuple[Float[Tensor, "images views _"], ...]
    picture: Image.Image | None = None
    unseen: int = 0
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        images: Any,
        models: Sequence[Backend],
        *,
        views: int = 1,
        seed: int = 0,
        picture: bool = False,
        allowance: Allowance | None = None,
        batch_size: int = PICTURES,
    ) -> "ViewFeatures":
        """The features of images; or features of the first model, (features,) or (images, features), as they are.

        Args:
            images: see `load_images`.
            views, seed: how many views of each image, which all models see; see `augmented_views`.
            picture: keep the first image too.
            allowance: whose time this may take, and nothing else. Where the time does not suffice
                for all views, an image is seen as it is, which stands for its views too; where it does not suffice
                for that either, the last images are not seen. The first one always is.
            batch_size: views that a model encodes at once.

        Raises:
            ImageError: see `load_images`; or features were given that another of the models cannot have made.
            NonFiniteError: features are NaN or infinite.
        """
        if isinstance(images, Tensor) and images.ndim <= 2 and images.shape[-1] == models[0].feature_width:
            return cls(tuple(_given(images, model, models[0]) for model in models))
        time = Allowance() if allowance is None else allowance
        looking = _Looking(models, views, generator_of(seed), time, picture, batch_size)
        items = range(len(images) if isinstance(images, list | tuple) else 1)
        for places in time.batches(items, max(1, PICTURES // views), passes=0, first=1):
            looking.see([image for at in places for image in load_item(images, at)], len(items) - places[-1] - 1)
        if not looking.found:
            looking.see(load_item(images, 0) if items else load_images(images), len(items) - 1)
        seen = sum(len(part[0]) for part in looking.found)
        time.leave_out("images", seen, seen + looking.waiting)
        time.leave_out("images in all their views", looking.whole, seen)
        features = tuple(torch.cat(parts) for parts in zip(*looking.found, strict=True))
        return cls(features, looking.picture, looking.waiting, tuple(time.left_out))


def pictures_at_once(
    models: Sequence[Backend], search: Search, num_tokens: int, vram: int | str | None, held: Sequence[object]
) -> int:
    """The most pictures, up to `PICTURES`, that each of some models can encode at once in a memory of this size.

    Args:
        vram: the size; None: it is not looked at.
        search: what will be searched with the first, for prompts of `num_tokens` tokens; its tables come on top.
        held: what else is on the device, these models among it.

    Raises:
        BackendError: not even one.
    """
    if vram is None:
        return PICTURES
    found = [PICTURES]
    words, width = models[0].vocabulary.narrowed(None, (), None), models[0].feature_width
    target = normalize(torch.ones(1, 1, width, device=models[0].device))
    objective = FeatureSimilarity(models[0].text_encoder, target, target.new_ones(1, 1))
    prompt = bytes_of_a_prompt(objective, objective, words, num_tokens)
    for model in models:
        if model.image_encoder is not None:
            room = room_for(vram, words, search, width, held)
            one, two = bytes_of_pictures(model)
            least = max(one, prompt)  # so that the message has what will do for all
            found.append(room.at_once(least, least + two - one, "the features of one picture, or one prompt,"))
    return min(found)


def bytes_of_pictures(model: Backend) -> tuple[int, int]:
    """What the features of one picture take on the model's device at the most, and those of two."""
    picture = Image.new("RGB", (224, 224))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a model knows nothing of an empty picture
        model.encode_images([picture])  # what is only made once
        one, two = (peak_of(functools.partial(model.encode_images, [picture] * n), model.device) for n in (1, 2))
    return one, two


def each_alone(images: Sequence[Any], models: Sequence[Backend]) -> list[ViewFeatures] | None:
    """Images one by one, each in one view, but encoded together; None where one of them is not one image."""
    if any(isinstance(image, list | tuple | Tensor) for image in images):
        return None
    whole = ViewFeatures.of(list(images), models)
    if len(whole.of_models[0]) != len(images):
        return None
    return [ViewFeatures(own) for own in zip(*(features.split(1) for features in whole.of_models), strict=True)]


class _Looking:
    """What was seen of the images so far, and how long that took."""

    def __init__(
        self,
        models: Sequence[Backend],
        views: int,
        generator: torch.Generator,
        time: Allowance,
        keep: bool,
        batch_size: int,
    ) -> None:
        self.batch_size = batch_size
        self.models, self.views, self.generator, self.time, self.keep = models, views, generator, time, keep
        self.found: list[tuple[Tensor, ...]] = []
        self.picture: Image.Image | None = None
        self.whole = self.waiting = 0
        self._view_seconds: float | None = None

    def see(self, images: Sequence[Image.Image], waiting: int) -> None:
        """Encodes images in all their views; if time is short, as they are.

        Args:
            waiting: how many more there are.
        """
        if not images:
            return
        self.waiting = waiting
        self.picture = images[0] if self.keep and self.picture is None else self.picture
        seconds = self.time.seconds_left
        if seconds is None or self.views == 1:
            self._keep(self._encoded([v for one in images for v in augmented_views(one, self.views, self.generator)]))
            self.whole += len(images)
            return
        began = clock()
        plain = self._encoded(images, views=1)
        each = (clock() - began) / len(images)
        view = VIEW_COST * each if self._view_seconds is None else self._view_seconds
        further = (self.views - 1) * len(images)
        if (self.time.seconds_left or 0.0) < waiting * each + further * view:
            self._keep([features.expand(-1, self.views, -1) for features in plain])
            return
        began = clock()
        others = self._encoded(
            [v for one in images for v in augmented_views(one, self.views, self.generator)[1:]], views=self.views - 1
        )
        self._view_seconds = (clock() - began) / further
        self._keep([torch.cat(pair, dim=1) for pair in zip(plain, others, strict=True)])
        self.whole += len(images)

    def _encoded(self, pictures: Sequence[Image.Image], views: int | None = None) -> list[Tensor]:
        count = self.views if views is None else views
        return [model.encode_images(pictures, self.batch_size).unflatten(0, (-1, count)) for model in self.models]

    def _keep(self, features: Sequence[Tensor]) -> None:
        self.found.append(tuple(map(_finite, features)))


def _given(features: Tensor, model: Backend, first: Backend) -> Float[Tensor, "images 1 features"]:
    if features.shape[-1] != model.feature_width:
        raise ImageError(
            f"the given features have {features.shape[-1]} numbers, as those of {first.name}, but {model.name} has "
            f"{model.feature_width}; pass images, which every model can look at"
        )
    rows = features.detach().reshape(-1, 1, features.shape[-1])
    return _finite(normalize(rows.to(model.device)))


def _finite(features: Float[Tensor, "images views features"]) -> Float[Tensor, "images views features"]:
    if not features.isfinite().all():
        raise NonFiniteError("the image features are NaN or infinite; check the image, or use dtype=torch.float32")
    return features
