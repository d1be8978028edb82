"""Soft prompts from images: in the feature space of a dual encoder, or by textual inversion of a diffusion model."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import Unpack

from hardprompts.allowance import Allowance
from hardprompts.devices import check_gradients
from hardprompts.diffusion.features import backend_of
from hardprompts.diffusion.noise_prediction import NoiseBank, NoisePrediction
from hardprompts.distillation.features import FeatureMatch
from hardprompts.distillation.matching import MeanMatch
from hardprompts.distillation.originals import soft_prompt_of
from hardprompts.encoders import Backend, NoisePredictor, load_backend
from hardprompts.errors import BackendError, NonFiniteError, VocabularyError
from hardprompts.images import ImageInput, load_images
from hardprompts.noise import NoiseWindow
from hardprompts.objectives import Objective, check_length
from hardprompts.prompts import SLOT, PromptTemplate
from hardprompts.search.options import check_names
from hardprompts.search.rows import random_starts
from hardprompts.search.seeds import Stream, checked_seed
from hardprompts.softprompts import SoftPrompt
from hardprompts.vocabulary import Vocabulary

#: Losses on all that an objective has, (batch,), where the objective itself draws at random.
Judge = Callable[[Float[Tensor, "batch tokens dim"], Int[Tensor, " batch"]], Float[Tensor, " batch"]]

#: One in so many parts of the time may go into looking at the images, and so many are looked at together.
LOOKING_SHARE, IMAGES_AT_ONCE = 3, 64


class LearningArguments(TypedDict, total=False):
    """The fields of `LearningOptions` that `learn_soft_prompt` takes as keyword arguments."""

    initial_prompt: str | None
    max_steps: int
    learning_rate: float
    weight_decay: float
    window: NoiseWindow
    num_noises: int
    noises_per_step: int | None
    batch_size: int
    deadline: float | None
    seed: int
    callback: Callable[[int, list[float]], bool | None] | None


class TaskLearningArguments(LearningArguments, total=False):
    """Those, and the two that `learn_soft_prompt` names: for `learn_soft_prompts`."""

    num_tokens: int
    templates: str | Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How a soft prompt is learned by gradient descent; no search, so other limits than those of `SearchOptions`.

    Attributes:
        num_tokens: soft tokens.
        templates: the template in which it is learned, or several: the mean over them.
        initial_prompt: text whose tokens it starts from. Default: random tokens.
        max_steps: of AdamW.
        learning_rate: of AdamW, in units of the root mean square of the model's own embeddings.
        weight_decay: of AdamW.
        window, num_noises, noises_per_step, batch_size: of the denoising error; see `DenoisingOptions`. Here the
            whole range of noise levels and a bank of 64 noises are the default.
        deadline: seconds for the whole call; the best step by then is returned, as after a keyboard interrupt.
        seed: of the first tokens and of all noises.
        callback: called after every step with its number and the losses; returning True ends the training.

    Raises:
        ValueError: a number out of range.
    """

    num_tokens: int = 2
    templates: str | Sequence[str] = SLOT
    initial_prompt: str | None = None
    max_steps: int = 500
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    window: NoiseWindow = NoiseWindow()
    num_noises: int = 64
    noises_per_step: int | None = 4
    batch_size: int = 8
    deadline: float | None = None
    seed: int = 0
    callback: Callable[[int, list[float]], bool | None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", checked_seed(self.seed))
        for name in ("num_tokens", "num_noises", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_steps < 0 or not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                "max_steps and weight_decay must not be negative and learning_rate must be positive, got "
                f"{self.max_steps}, {self.weight_decay}, {self.learning_rate}"
            )
        if self.deadline is not None and not 0 <= self.deadline < math.inf:
            raise ValueError(f"deadline must be finite and not negative, got {self.deadline}")

    @property
    def slots(self) -> tuple[PromptTemplate, ...]:
        given = [self.templates] if isinstance(self.templates, str) else self.templates
        return tuple(PromptTemplate(text) for text in given)


def learn_soft_prompt(
    model: "str | Backend | NoisePredictor",
    images: "ImageInput | Sequence[ImageInput]",
    num_tokens: int = 2,
    templates: str | Sequence[str] = SLOT,
    *,
    name: str = "",
    **options: Unpack[LearningArguments],
) -> SoftPrompt:
    """The soft prompt of one image, or of what several images share.

    A model with a denoiser learns it as textual inversion does, by denoising the images under it; any other
    by the similarity of its text features with the images' features.

    Args:
        model: a dual encoder, a text-to-image model, or the name of either for `load_backend`.
        num_tokens: soft tokens.
        templates: the template in which it is learned, or several: the mean over them.
        name: the word that calls it.
        options: see `LearningOptions`.

    Raises:
        ImageError: an image is unreadable, or there is none.
        BackendError: the model sees no images.
        TemplateError: a template has no slot, or leaves too little room.
        NonFiniteError: every loss was NaN or infinite.

    Source: An image is worth one word, arXiv 2208.01618, section 4.2. Deviations: a fixed bank of noises, and the
    best of the steps on all of it instead of the last one.
    """
    return learn_soft_prompts(model, [images], names=[name], num_tokens=num_tokens, templates=templates, **options)[0]


def learn_soft_prompts(
    model: "str | Backend | NoisePredictor",
    tasks: "Sequence[ImageInput | Sequence[ImageInput]]",
    *,
    names: Sequence[str] | None = None,
    **options: Unpack[TaskLearningArguments],
) -> list[SoftPrompt]:
    """One soft prompt for each image, or each list of images, trained in one batch; see `learn_soft_prompt`."""
    check_names("learn_soft_prompt", options, [field.name for field in dataclasses.fields(LearningOptions)])
    chosen = LearningOptions(**options)
    allowance = Allowance(chosen.deadline)
    opened: Any = load_backend(model) if isinstance(model, str) else model
    backend = opened if isinstance(opened, Backend) else backend_of(opened)
    vocabulary = backend.vocabulary
    objective, judge, room, kind = (_by_features if backend.noise_predictor is None else _by_noise)(
        backend, tasks, chosen, allowance
    )
    check_length(chosen.num_tokens, room, chosen.slots[0], backend.name)
    start = vocabulary.embed(_starts(vocabulary, len(tasks), chosen)).float()
    found, losses = descend(
        objective, start, vocabulary, max_steps=chosen.max_steps, learning_rate=chosen.learning_rate,
        weight_decay=chosen.weight_decay, judge=judge, callback=chosen.callback,
        allowance=allowance,
    )  # fmt: skip
    return [
        soft_prompt_of(
            embeddings, vocabulary, "" if names is None else names[task],
            {"learned_by": kind, "model": backend.name, "loss": losses[task], "seed": chosen.seed, **_told(allowance)},
        )
        for task, embeddings in enumerate(found)
    ]  # fmt: skip


def descend(
    objective: Objective,
    start: Float[Tensor, "batch tokens dim"],
    vocabulary: Vocabulary,
    *,
    max_steps: int = 500,
    learning_rate: float = 0.1,
    weight_decay: float = 0.0,
    judge: Judge | None = None,
    judge_every: int = 25,
    callback: Callable[[int, list[float]], bool | None] | None = None,
    allowance: Allowance | None = None,
) -> tuple[Float[Tensor, "batch tokens dim"], list[float]]:
    """The embeddings of lowest loss that AdamW meets from a start, one task for each row, and their losses.

    Args:
        start: row i is for the objective's task i.
        learning_rate: in units of the root mean square of the vocabulary's embeddings.
        judge: what chooses among the steps, every `judge_every` of them, of an objective that draws at random;
            None: the objective's own loss, at every step.
        callback: see `learn_soft_prompt`.
        allowance: whose time it may take; a keyboard interrupt ends it, too, after the first step.

    Raises:
        NonFiniteError: every loss was NaN or infinite.
    """
    check_gradients()
    left = Allowance() if allowance is None else allowance
    soft = start.detach().float().clone().requires_grad_()
    groups = torch.arange(len(soft), device=soft.device)
    unit = float(vocabulary.allowed_table.square().mean().sqrt())
    optimizer = torch.optim.AdamW([soft], lr=learning_rate * unit, weight_decay=weight_decay)
    best, lowest = soft.detach().clone(), torch.full((len(soft),), math.inf, device=soft.device)
    met = False
    try:
        for step in range(max_steps + 1):
            with torch.enable_grad():
                loss = objective(soft, groups).loss
            if judge is None or step % judge_every == 0 or step == max_steps:
                with torch.no_grad():
                    judged = loss.detach() if judge is None else judge(soft.detach(), groups)
                better = judged < lowest  # never where it is NaN
                best[better], lowest[better] = soft.detach()[better], judged[better].to(lowest)
                met = True
            if step == max_steps or (callback is not None and callback(step, loss.detach().tolist())):
                break
            if left.is_over:
                left.leave_out("steps", step, max_steps)
                break
            (grad,) = torch.autograd.grad(loss.sum(), soft)
            # A row whose gradient is not finite stays where it is; the optimizer must not remember it either.
            finite = grad.isfinite().flatten(1).all(dim=1)
            soft.grad = torch.where(finite[:, None, None], grad, 0.0)
            optimizer.step()
    except KeyboardInterrupt:
        if not met:
            raise
        left.stop("interrupted", grace=0.0)
        left.leave_out("steps", step, max_steps)
    if not bool(lowest.isfinite().all()):
        raise NonFiniteError("the loss of a soft prompt was NaN or infinite at every step; use dtype=torch.float32")
    found: list[float] = lowest.tolist()
    return best, found


def _starts(vocabulary: Vocabulary, tasks: int, options: LearningOptions) -> Int[Tensor, "tasks tokens"]:
    if options.initial_prompt is None:
        return random_starts(vocabulary, tasks, options.num_tokens, options.seed)
    ids = vocabulary.encode(options.initial_prompt)
    if not 0 < len(ids) <= options.num_tokens:
        raise VocabularyError(
            f"initial_prompt {options.initial_prompt!r} has {len(ids)} tokens; it needs 1 to num_tokens = "
            f"{options.num_tokens}"
        )
    repeated = (ids * options.num_tokens)[: options.num_tokens]
    return torch.tensor([repeated] * tasks, device=vocabulary.table.device)


_Built = tuple[Objective, Judge | None, int, str]


def _told(allowance: Allowance) -> dict[str, str]:
    """What there was no time for, as metadata."""
    return {"left_out": "; ".join(allowance.left_out)} if allowance.left_out else {}


def _by_features(backend: Backend, tasks: Sequence[Any], options: LearningOptions, allowance: Allowance) -> _Built:
    if backend.image_encoder is None:
        raise BackendError(
            f"{backend.name} has neither an image tower nor a denoiser, so no soft prompt can be learned from images"
        )
    loaded = [load_images(task) for task in tasks]
    time = allowance.share(LOOKING_SHARE)
    means = []
    for number, images in enumerate(loaded):
        part = time.share(len(loaded) - number)
        seen = [backend.encode_images(some) for some in part.batches(images, IMAGES_AT_ONCE, passes=0, first=1)]
        found = torch.cat(seen or [backend.encode_images(images[:1])])
        allowance.leave_out("images", len(found), len(images))
        means.append(found.mean(dim=0))
    targets = torch.stack(means).unsqueeze(1)
    if not targets.isfinite().all():
        raise NonFiniteError("the image features are NaN or infinite; check the image, or use dtype=torch.float32")
    ones = torch.ones(len(loaded), 1, device=targets.device)
    parts = tuple(FeatureMatch(backend.text_encoder, targets, ones, template) for template in options.slots)
    mean = MeanMatch(parts)
    return mean, None, mean.free_tokens(), "feature similarity"


def _by_noise(backend: Backend, tasks: Sequence[Any], options: LearningOptions, allowance: Allowance) -> _Built:
    assert backend.noise_predictor is not None
    weighted = [[(image, 1.0) for image in load_images(task)] for task in tasks]
    time = allowance.share(LOOKING_SHARE)
    bank = NoiseBank.draw(
        backend.noise_predictor, weighted, items=options.num_noises, window=options.window, seed=options.seed,
        allowance=time,
    )  # fmt: skip
    allowance.left_out += time.left_out
    draws = Stream.NOISES.generator(options.seed)
    parts = tuple(
        NoisePrediction(
            backend.noise_predictor, bank, template, sample_size=options.noises_per_step, generator=draws,
            batch_size=options.batch_size,
        )
        for template in options.slots
    )  # fmt: skip

    def judge(embeddings: Tensor, groups: Tensor) -> Tensor:
        return torch.stack([part.losses(embeddings, groups) for part in parts]).mean(dim=0)

    room = min(part.free_tokens() for part in parts)
    return (parts[0] if len(parts) == 1 else _MeanObjective(parts)), judge, room, "textual inversion"


@dataclasses.dataclass(frozen=True, eq=False)
class _MeanObjective:
    """The mean loss over several templates."""

    parts: tuple[Objective, ...]

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Any:
        found = [part(embeddings, groups) for part in self.parts]
        return found[0]._replace(loss=torch.stack([one.loss for one in found]).mean(dim=0), score=None)
