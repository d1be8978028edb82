"""Where a search through a denoiser starts: at prompts that a CLIP finds similar to the images."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.diffusion.noise_prediction import NoisePrediction
from hardprompts.diffusion.options import DenoisingOptions
from hardprompts.encoders import Backend, DualEncoderSource, NoisePredictor
from hardprompts.errors import BackendError, VocabularyError, warn_user
from hardprompts.images import augmented_views, image_weights, load_images
from hardprompts.methods.build_refine import BuildRefine
from hardprompts.methods.ph2p_refine import PH2PRefine
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates, Search, SearchProgress
from hardprompts.search.rows import Ids, pack, random_starts
from hardprompts.search.seeds import drawn_seed, generator_of
from hardprompts.vocabulary import Vocabulary

#: What stands for the dual encoder that a model's text encoders come from.
OWN = "own"

#: Prompts of each task that the denoiser is to judge, of those that are most similar.
FOUND = 32

#: Of what is left of a call, one part in so many may go into finding them.
SHARE = 3

#: Views of each image that the similarity is averaged over, and what a token must add to it and to the score, as a
#: share of the spread of random prompts: those of `InversionOptions`.
VIEWS, TOKEN_COST, RANDOM_PROMPTS = 8, 0.15, 32

#: Random prompts by whose scores the spread of the denoising error is told; few, since each costs a pass through the
#: denoiser for every noise; and of what is left of a call, one part in so many may go into that.
JUDGED_PROMPTS, SPREAD_SHARE = 4, 4


#: What a person is told where nothing that was found can be used.
FOREIGN = (
    "none of the texts that {clip} finds similar is read as the same tokens by {model}, so the search explores by the "
    "denoising error alone; give the CLIP that its text encoder comes from, or None"
)


def own_clip(predictor: NoisePredictor) -> Backend | None:
    """The dual encoder that a denoiser's text encoders come from; None, with a warning, where it cannot be opened."""
    if not isinstance(predictor, DualEncoderSource):
        return None
    try:
        return predictor.dual_encoder()
    except BackendError as error:
        warn_user(f"the search explores by the denoising error alone, without similar texts to start from: {error}")
        return None


def similar_texts(
    clip: Backend, tasks: Sequence[Any], options: DenoisingOptions, allowance: Allowance
) -> list[list[str]]:
    """For each task the texts that are most similar to its images by a dual encoder, best first.

    Args:
        tasks: images of one prompt each, as for `DenoisingInverter.invert`.
        options: of the denoiser's search, of which those count here that are about what is to be found.
        allowance: what this may spend.
    """
    template, seed = PromptTemplate(options.template), drawn_seed(options.seed)
    words = clip.vocabulary.narrowed(options.vocabulary, options.banned, words=None)
    objective = _similarity(clip, tasks, options, template, seed)
    tokens = min(options.num_tokens, objective.free_tokens())
    if tokens < 1:
        return [[] for _ in tasks]
    drawn = words.sample((RANDOM_PROMPTS, tokens), generator_of(seed))
    with torch.no_grad():
        spread = (objective.features(words.embed(drawn)) @ objective.mean_targets.T).std(dim=0).mean()
    allowance.spend(RANDOM_PROMPTS)
    callback, nothing = options.callback, SearchProgress(0, None, 0.0, 0, (None,) * len(tasks))
    own = dataclasses.replace(
        options,
        max_steps=None,
        patience=None,
        restarts=1,
        # Its prompts and scores are not yet those of the search; it is only asked whether to stop.
        callback=None if callback is None else lambda _: callback(nothing),
    )
    results = own.run(
        BuildRefine(),
        objective,
        objective,
        words,
        random_starts(words, len(tasks), tokens, seed),
        groups=torch.arange(len(tasks)),
        template=template,
        score_per_token=TOKEN_COST * float(spread),
        top_k=FOUND,
        description="starts",
        allowance=allowance,
    )
    return [[candidate.text for candidate in result.candidates] for result in results]


def _similarity(
    clip: Backend, tasks: Sequence[Any], options: DenoisingOptions, template: PromptTemplate, seed: int
) -> FeatureSimilarity:
    """The similarity with the weighted mean of each task's images, in slight variations, less what it is unlike."""
    generator = generator_of(seed)

    def features(images: Any) -> Tensor:
        views = [view for image in load_images(images) for view in augmented_views(image, VIEWS, generator)]
        return clip.encode_images(views).reshape(-1, VIEWS, clip.feature_width).mean(dim=1)

    away = None if options.unlike is None else options.unlike_weight * features(options.unlike).mean(dim=0)
    means = []
    for task in tasks:
        seen = features(task)
        weights = image_weights(options.weights, len(seen)).to(seen)
        mean = (weights / weights.sum()) @ seen
        means.append(mean if away is None else mean - away)
    targets = torch.stack(means).unsqueeze(1)
    return FeatureSimilarity(clip.text_encoder, targets, torch.ones(targets.shape[:2]).to(targets), template)


def rows_of(texts: Sequence[str], vocabulary: Vocabulary, template: PromptTemplate, num_tokens: int) -> list[Ids]:
    """The ids of those texts that a search may use as they are, in its own tokens."""
    found = []
    for text in texts:
        ids = tuple(vocabulary.encode(text))
        fits = 0 < len(ids) <= num_tokens and bool(vocabulary.allowed[list(ids)].all())
        if fits and vocabulary.survives_round_trip(ids, template):
            found.append(ids)
    return found


@dataclasses.dataclass(frozen=True)
class GivenPrompts:
    """A search of one step, which proposes prompts that are known before: what an exploration is replaced by.

    Attributes:
        rows: of each task, in the order of the tasks.
    """

    rows: tuple[tuple[Ids, ...], ...]

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes them all at once."""
        groups = objective.groups.tolist()
        found = [(ids, groups.index(task)) for task, own in enumerate(self.rows) for ids in own]
        device = initial_ids.device
        yield Candidates(
            pack([ids for ids, _ in found], device), rows=torch.tensor([row for _, row in found], device=device)
        )


def begun(
    search: Search,
    rows: Sequence[Sequence[Ids]],
    vocabulary: Vocabulary,
    options: DenoisingOptions,
    seed: int,
    tasks: int,
) -> tuple[Search, Int[Tensor, "rows tokens"]]:
    """The method and what it starts from: where every task has prompts that were found, they stand for exploring.

    Args:
        rows: what was found for each task.
    """
    if not rows or not all(rows):
        if isinstance(search, PH2PRefine) and options.max_steps is not None:
            # What it met is judged when it has explored: of few steps some must be left for that.
            search = dataclasses.replace(search, explore_steps=min(search.explore_steps, options.max_steps // 2))
        return search, initial_ids(vocabulary, options, tasks, seed)
    assert isinstance(search, PH2PRefine)
    given = GivenPrompts(tuple(map(tuple, rows)))
    # A row says by its width how long prompts may become.
    wide = pack([*(own[0] for own in rows), (0,) * options.num_tokens], vocabulary.table.device)[:-1]
    return dataclasses.replace(search, explore=given, explore_steps=1), wide


def initial_ids(vocabulary: Vocabulary, options: DenoisingOptions, tasks: int, seed: int) -> Int[Tensor, "rows tokens"]:
    """The starts that were given, or random ones.

    Raises:
        VocabularyError: one that was given has no tokens, or too many.
    """
    if options.initial_prompts:
        rows = [vocabulary.encode(text) for text in options.initial_prompts]
        if not all(0 < len(row) <= options.num_tokens for row in rows):
            raise VocabularyError(
                f"initial_prompts have {', '.join(str(len(row)) for row in rows)} tokens; each needs 1 to "
                f"num_tokens = {options.num_tokens}"
            )
        return pack(rows).repeat(tasks, 1)
    return random_starts(vocabulary, tasks * options.starts, options.num_tokens, seed, options.initial_prompt)


def token_cost(
    score: NoisePrediction, vocabulary: Vocabulary, options: DenoisingOptions, seed: int, allowance: Allowance
) -> float:
    """The option's share of the spread, in score; the spread is measured only where the share is not 0."""
    if not options.token_cost:
        return 0.0
    tasks = len(score.bank.weights)
    if not allowance.share(SPREAD_SHARE).affords(tasks * JUDGED_PROMPTS):
        allowance.leave_out("random prompts that the cost of tokens is measured by", 0, JUDGED_PROMPTS)
        return 0.0
    allowance.spend(tasks * JUDGED_PROMPTS)
    drawn = vocabulary.sample((JUDGED_PROMPTS, options.num_tokens), generator_of(seed))
    groups = torch.arange(tasks, device=drawn.device).repeat_interleave(JUDGED_PROMPTS)
    scores = score.score(drawn.repeat(tasks, 1), groups).reshape(tasks, JUDGED_PROMPTS)
    return options.token_cost * float(scores.std(dim=1).mean())
