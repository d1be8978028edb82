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
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.targets import similarity_with, spread_of
from hardprompts.inversion.tasks import Tasks
from hardprompts.methods.build_refine import BuildRefine
from hardprompts.methods.ph2p_refine import PH2PRefine
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

#: What a token must add to the similarity, and to the score, as a share of the spread of random prompts.
TOKEN_COST = InversionOptions.TOKEN_COST

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
    asked = InversionOptions(weights=options.weights, unlike=options.unlike, unlike_weight=options.unlike_weight)
    (targets,) = Tasks.of(tasks, [clip], None, asked, seed, allowance).targets(asked)
    objective = similarity_with(clip, targets, template)
    tokens = min(options.num_tokens, objective.free_tokens())
    if tokens < 1:
        return [[] for _ in tasks]
    spread = spread_of(objective, words, tokens, seed, allowance)
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
        score_per_token=TOKEN_COST * spread,
        top_k=FOUND,
        description="starts",
        allowance=allowance,
    )
    return [[candidate.text for candidate in result.candidates] for result in results]


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
