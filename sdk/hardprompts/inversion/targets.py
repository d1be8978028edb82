"""What an inversion compares prompts with: the features of images, texts and their opposites."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.encoders import Backend, normalize
from hardprompts.errors import ImageError, NonFiniteError
from hardprompts.images import augmented_views, image_weights, load_images
from hardprompts.inversion.options import InversionOptions
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate
from hardprompts.search.seeds import generator_of
from hardprompts.vocabulary import Vocabulary

#: Random prompts whose scores tell the spread.
RANDOM_PROMPTS = 32


@dataclasses.dataclass(frozen=True, eq=False)
class ViewFeatures:
    """Images as one or several models see them: loaded once, each view encoded once by each model.

    Attributes:
        of_models: for each model, (images, views, features) unit features; the first view is the image as it is.
        picture: the first of the images; None where features were given, or nobody asked for it.
    """

    of_models: tuple[Float[Tensor, "images views _"], ...]
    picture: Image.Image | None = None

    @classmethod
    def of(
        cls, images: Any, models: Sequence[Backend], *, views: int = 1, seed: int = 0, picture: bool = False
    ) -> "ViewFeatures":
        """The features of images; or features of the first model, (features,) or (images, features), as they are.

        Args:
            images: see `load_images`.
            views, seed: how many views of each image, which all models see; see `augmented_views`.
            picture: keep the first image too.

        Raises:
            ImageError: see `load_images`; or features were given that another of the models cannot have made.
            NonFiniteError: features are NaN or infinite.
        """
        if isinstance(images, Tensor) and images.ndim <= 2 and images.shape[-1] == models[0].feature_width:
            return cls(tuple(_given(images, model, models[0]) for model in models))
        loaded = load_images(images)
        generator = generator_of(seed)
        pictures = [view for image in loaded for view in augmented_views(image, views, generator)]
        encoded = tuple(model.encode_images(pictures).reshape(len(loaded), views, -1) for model in models)
        return cls(tuple(map(_finite, encoded)), loaded[0] if picture else None)


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


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """Unit features that one prompt is to resemble (weights add up to 1) or to avoid (below 0).

    Attributes:
        features: of images the means over their views.
        plain: the same of the images as they are.
    """

    features: Float[Tensor, "targets features"]
    plain: Float[Tensor, "targets features"]
    weights: Float[Tensor, " targets"]

    @property
    def mean(self) -> Float[Tensor, " features"]:
        """What a search follows: the similarity with it is the weighted mean similarity."""
        return self.weights @ self.features

    @property
    def plain_mean(self) -> Float[Tensor, " features"]:
        """What a result is scored by: the same for the images as they are."""
        return self.weights @ self.plain

    @property
    def opposite(self) -> "Target":
        """What a prompt is to avoid that this one is to resemble."""
        return dataclasses.replace(self, weights=-self.weights)


def targets_of(
    models: Sequence[Backend], tasks: Sequence[ViewFeatures], unlike: ViewFeatures | None, options: InversionOptions
) -> list[list[Target]]:
    """For each model, what the prompt of each task is to resemble in its eyes."""
    return [
        _targets(
            model,
            [task.of_models[place] for task in tasks],
            None if unlike is None else unlike.of_models[place],
            options,
        )
        for place, model in enumerate(models)
    ]


def _targets(
    model: Backend,
    tasks: Sequence[Float[Tensor, "_ views features"]],
    unlike: Float[Tensor, "_ views features"] | None,
    options: InversionOptions,
) -> list[Target]:
    extra: list[tuple[Tensor, float]] = []
    share = 1.0
    if options.text is not None:
        extra.append((model.encode_texts([options.text]).unsqueeze(1), options.text_weight))
        share -= options.text_weight
    if unlike is not None:
        extra.append((unlike, -options.unlike_weight))
    targets = []
    for own in tasks:
        weights = image_weights(options.weights, len(own))
        parts = [share * weights / weights.sum(), *(torch.full((len(f),), w / len(f)) for f, w in extra)]
        views = (own, *(features for features, _ in extra))
        targets.append(
            Target(
                torch.cat([features.mean(dim=1) for features in views]),
                torch.cat([features[:, 0] for features in views]),
                torch.cat(parts).to(own.device),
            )
        )
    return targets


def similarity_with(backend: Backend, targets: Sequence[Target], template: PromptTemplate) -> FeatureSimilarity:
    """The similarity with each task's weighted mean target, which equals the weighted mean similarity."""
    means = torch.stack([target.mean for target in targets]).unsqueeze(1)  # (tasks, 1, features)
    ones = torch.ones(means.shape[:2], device=means.device)
    return FeatureSimilarity(backend.text_encoder, means, ones, template)


def spread_of(objective: FeatureSimilarity, vocabulary: Vocabulary, num_tokens: int, seed: int) -> float:
    """The standard deviation of the score of random prompts, the mean over the tasks: the model's own unit."""
    ids = vocabulary.sample((RANDOM_PROMPTS, num_tokens), generator_of(seed))
    with torch.no_grad():
        features = objective.features(vocabulary.embed(ids))
    scores = [(features @ target).std() for target in objective.mean_targets]
    return float(torch.stack(scores).mean())
