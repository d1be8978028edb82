"""What an inversion compares prompts with: the features of images, texts and their opposites."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.images import image_weights
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.views import ViewFeatures
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate
from hardprompts.search.memory import BatchMemory, Room
from hardprompts.search.seeds import generator_of
from hardprompts.vocabulary import Vocabulary

#: Random prompts whose scores tell the spread.
RANDOM_PROMPTS = 32

#: Of what is left of a call, one part in so many may go into that.
SPREAD_SHARE = 8


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
            [(task.of_models[place], task.unseen) for task in tasks],
            None if unlike is None else unlike.of_models[place],
            options,
        )
        for place, model in enumerate(models)
    ]


def _targets(
    model: Backend,
    tasks: Sequence[tuple[Float[Tensor, "_ views features"], int]],
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
    for own, unseen in tasks:
        weights = image_weights(options.weights, len(own) + unseen)[: len(own)]
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


def scores_of_texts(backend: Backend, texts: Sequence[str], mean: Float[Tensor, " features"]) -> list[float]:
    """The similarity of whole texts with features."""
    try:
        features = backend.encode_texts(texts)
    except ValueError:
        if "" not in texts:
            raise
        # A model that adds no tokens of its own sees nothing in an empty text.
        if len(texts) == 1:
            return [0.0]
        return [score for text in texts for score in scores_of_texts(backend, [text], mean)]
    scores: list[float] = (features @ mean).tolist()
    return scores


def spread_of(
    objective: FeatureSimilarity,
    vocabulary: Vocabulary,
    num_tokens: int,
    seed: int,
    allowance: Allowance,
    room: Room | None = None,
) -> float:
    """The standard deviation of the score of random prompts, the mean over the tasks: the model's own unit.

    Of fewer prompts where little is left of the allowance; 0, with a note, where it does not suffice for two.
    """
    ids = vocabulary.sample((RANDOM_PROMPTS, num_tokens), generator_of(seed))
    memory, groups = BatchMemory(room), torch.zeros(len(ids), dtype=torch.long, device=ids.device)

    def read_some(own: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return (objective.features(vocabulary.embed(own)),)

    with torch.no_grad():
        read = [
            memory.in_parts(read_some, ids[part[0] : part[-1] + 1], groups[part[0] : part[-1] + 1], "score")[0]
            for part in allowance.share(SPREAD_SHARE).batches(range(RANDOM_PROMPTS))
        ]
    if sum(map(len, read)) < 2:
        allowance.leave_out("random prompts that the cost of tokens is measured by", 0, RANDOM_PROMPTS)
        return 0.0
    features = torch.cat(read)
    scores = [(features @ target).std() for target in objective.mean_targets]
    return float(torch.stack(scores).mean())
