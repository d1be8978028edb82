"""The denoising error as Objective and Score: what a diffusion model itself says of a prompt."""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.diffusion.reading import check_reading
from hardprompts.encoders import NoisePredictor, SeparateTexts
from hardprompts.errors import BackendError, NonFiniteError
from hardprompts.noise import Conditioning, NoiseWindow
from hardprompts.objectives import Evaluation
from hardprompts.prompts import PromptTemplate
from hardprompts.search.seeds import generator_of
from hardprompts.vocabulary import EmbeddedTemplate

#: Images of one task with their weights, and images that it should not fit.
Weighted = Sequence[tuple[Image.Image, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseBank:
    """Noised latents, drawn once, on which every prompt is judged (common random numbers).

    Two prompts then differ by what they say and not by the noise that each happened to get. The
    tasks of one run share noises and steps.

    Attributes:
        noisy: (tasks, items, *latent) what the denoiser sees.
        target: (tasks, items, *latent) what it should predict.
        timesteps: (items,) what it is called with.
        weights: (tasks, items) of an item's error; below 0 where it should be large. Those above 0
            add up to 1 for each task.
        pairs: items come in this many pieces of equal length that share noises and steps: 2 if
            there are images to be unlike, else 1. A mini-batch takes the same places of each.
    """

    noisy: Float[Tensor, "tasks items ..."]
    target: Float[Tensor, "tasks items ..."]
    timesteps: Float[Tensor, " items"]
    weights: Float[Tensor, "tasks items"]
    pairs: int = 1

    @classmethod
    def draw(
        cls,
        predictor: NoisePredictor,
        tasks: Sequence[Weighted],
        *,
        unlike: Sequence[Image.Image] = (),
        unlike_weight: float = 0.5,
        items: int = 16,
        window: NoiseWindow = NoiseWindow(),
        crop: tuple[float, float] = (1.0, 1.0),
        seed: int = 0,
        allowance: Allowance | None = None,
    ) -> "NoiseBank":
        """A bank of `items` noised latents for each task, and as many of what it should be unlike.

        Args:
            tasks: for each task its images with positive weights. They take turns, so there are at
                least as many items as images.
            unlike_weight: of the error on `unlike`, which is subtracted.
            window: the noise levels; see `NoiseWindow.draw`.
            crop: the side of an item's random square crop, as a share of the image's shorter side;
                (1, 1) takes the whole image, once. PH2P's reference draws from (0.5, 1).
            seed: of noises, steps and crops, the same on every device.
            allowance: whose time this may take; of a task for which it does not suffice, the first images, or crops,
                stand for all, at least one of them, and it is noted.

        Raises:
            ValueError: no items, a bad range of crops, or a window without steps.
            NonFiniteError: the latents are NaN or infinite.
        """
        if items < 1:
            raise ValueError(f"items must be at least 1, got {items}")
        if not 0 < crop[0] <= crop[1] <= 1:
            raise ValueError(f"crop needs 0 < low <= high <= 1, got {crop}")
        items = max(items, len(unlike), *(len(task) for task in tasks))
        generator = generator_of(seed)
        steps = window.draw(predictor.schedule, items, generator)
        places = torch.rand(items, 3, generator=generator).tolist()  # of the crops
        sources: list[Weighted] = [*tasks, *([[(image, 1.0) for image in unlike]] if unlike else [])]
        latents, weights = [], []
        time = Allowance() if allowance is None else allowance
        for number, source in enumerate(sources):
            left = time.share(len(sources) - number)
            found, turns = _latents(predictor, [image for image, _ in source], places, crop, left)
            time.left_out += left.left_out[len(time.left_out) :]
            latents.append(found)
            counts = collections.Counter(turns)
            shares = torch.tensor([source[turn][1] / counts[turn] for turn in turns])
            weights.append(shares / shares.sum())
        noise = torch.randn(latents[0].shape, generator=generator).to(latents[0])
        noisy, target = zip(*(predictor.schedule.noised(x, noise, steps) for x in latents), strict=True)
        timesteps = predictor.schedule.timesteps[steps].float().to(latents[0].device)  # MPS has no float64
        if not unlike:
            stacked = torch.stack(weights).to(latents[0].device)
            return cls(torch.stack(noisy), torch.stack(target), timesteps, stacked)
        away = -unlike_weight * weights[-1]
        return cls(
            torch.stack([torch.cat([one, noisy[-1]]) for one in noisy[:-1]]),
            torch.stack([torch.cat([one, target[-1]]) for one in target[:-1]]),
            timesteps.repeat(2),
            torch.stack([torch.cat([one, away]) for one in weights[:-1]]).to(latents[0].device),
            pairs=2,
        )

    def __len__(self) -> int:
        return len(self.timesteps)

    def sample(self, count: int, generator: torch.Generator | None) -> Int[Tensor, " drawn"]:
        """The places of `count` items drawn without repetition, and of their partners in each piece."""
        length = len(self) // self.pairs
        drawn = torch.randperm(length, generator=generator)[:count].sort().values
        return torch.cat([drawn + piece * length for piece in range(self.pairs)])


@dataclasses.dataclass(frozen=True, eq=False)
class NoisePrediction:
    """The denoiser's mean squared error under the prompt, over a fixed bank: Objective and Score at once.

    The loss is the weighted mean of the squared error of the items (with `sample_size`, of a
    mini-batch of them, as an unbiased estimate), less the weighted error on what the prompt should
    be unlike. The score is the share of the empty prompt's error that the prompt removes:
    1 - loss / (the empty prompt's loss), 0 where the prompt says no more than no prompt, 1 where
    nothing is left. The empty prompt is empty for all text encoders, also where some have a text of
    their own (see `SeparateTexts`), which then counts for the prompt. Much of the error is noise that
    no text can tell, so a few hundredths are a lot for a large model; the order of prompts is that of
    their losses on the whole bank.

    The gradient is taken in two stages, equal to one: of the loss with respect to the
    conditioning, part by part of the bank, then through the text encoders. The text encoders
    run a second time for it. So the peak of memory is the larger of both, however many items
    there are, and a predictor may take each network off the device while the other works.
    It has no second derivatives.

    Attributes:
        predictor: the model that is searched through.
        bank: what every prompt is judged on.
        template: where the prompt is judged.
        sample_size: items of each piece of the bank that a call draws for the loss; None for all.
            The score always takes all.
        generator: for that draw.
        batch_size: rows (one prompt with one item) through the denoiser at once.
        drawn: the places of the items that every call takes for the loss; None: each call draws.

    Raises:
        NonFiniteError: the error of every prompt, or its gradient, is NaN or infinite.

    Source: PH2P, arXiv 2312.12416, equation 3; the loss is DDPM's, arXiv 2006.11239, equation 14. Deviation:
    a bank of noises drawn once instead of one new noise at every step.
    """

    predictor: NoisePredictor
    bank: NoiseBank
    template: PromptTemplate = PromptTemplate()
    sample_size: int | None = None
    generator: torch.Generator | None = None
    batch_size: int = 8
    drawn: Int[Tensor, " drawn"] | None = None

    unit = "share of the empty prompt's denoising error removed"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        items = self._draw() if self.drawn is None else self.drawn
        loss: Tensor = _TwoStages.apply(embeddings, self, groups, items)
        return Evaluation(loss, self._relative(loss.detach(), groups) if items is None else None)

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        embeddings = self.predictor.vocabulary.embed(ids)
        return self._relative(self.losses(embeddings, groups), groups)

    @property
    def items(self) -> int:
        """The noises of the bank, each of which is an item that prompts can be compared on."""
        return len(self.bank) // self.bank.pairs

    def item_scores(
        self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"], items: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "batch chosen"]:
        """What each of these noises adds to the scores of prompts: all prompts are judged on the same ones."""
        places = torch.cat([items.cpu() + piece * self.items for piece in range(self.bank.pairs)])
        with torch.no_grad():
            conditioning = self._condition(self.predictor.vocabulary.embed(ids))
            errors = self._errors(conditioning, groups, self._rows(len(groups), places))
        errors, weights = errors.to(groups.device), self.bank.weights[groups.to(self.bank.weights.device)]
        empty, fitted = self._empty_errors, self._empty[1]
        gains = (empty[groups] - errors) * weights.to(errors)
        parts = gains[:, places.to(gains.device)].reshape(len(gains), self.bank.pairs, len(items)).sum(dim=1)
        return parts / fitted[groups].unsqueeze(1)

    def held(self) -> "NoisePrediction":
        """The same with one draw of items for the loss of all its calls."""
        drawn = self._draw() if self.drawn is None else None
        return self if drawn is None else dataclasses.replace(self, drawn=drawn)

    def losses(
        self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The losses on the whole bank of prompts given as embeddings, without gradients."""
        with torch.no_grad():
            return self._loss(self._condition(embeddings), groups, None)

    def scores_of(self, conditioning: Conditioning, groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The scores of a conditioning, whatever text or soft prompt it comes from."""
        with torch.no_grad():
            return self._relative(self._loss(conditioning, groups, None), groups)

    def check_text(self, prompt: str) -> None:
        """Raises unless a prompt's text gives the same conditioning as its tokens, within the template.

        Raises:
            BackendError: see `check_reading`.
        """
        check_reading(self.predictor, self.template.fill(prompt))

    def imitating(self, conditioning: Conditioning) -> "NoisePrediction":
        """The same, where the target is what the denoiser predicts under another conditioning, of one row.

        The score is then the share of the other's effect that the prompt has: 0 for the empty
        prompt, 1 for one that makes the denoiser do the same.
        """
        targets = []
        with torch.no_grad():
            for noisy in self.bank.noisy:
                parts = []
                for part in torch.arange(len(self.bank)).split(self.batch_size):
                    rows = conditioning.rows(torch.zeros(len(part), dtype=torch.long))
                    parts.append(self.predictor.predict(noisy[part], self.bank.timesteps[part], rows))
                targets.append(torch.cat(parts).to(self.bank.target))
        if not torch.stack(targets).isfinite().all():
            raise NonFiniteError(_non_finite("the prediction to imitate", self.predictor))
        return dataclasses.replace(self, bank=dataclasses.replace(self.bank, target=torch.stack(targets)))

    @functools.cached_property
    def _empty_errors(self) -> Float[Tensor, "tasks items"]:
        """The error of the empty prompt on each item of the bank."""
        tasks = len(self.bank.weights)
        table = self.predictor.vocabulary.table
        nothing = table.new_zeros(1, 0, table.shape[1])
        with torch.no_grad():
            own = self.predictor if isinstance(self.predictor, SeparateTexts) and self.predictor.texts else None
            empty = self.predictor.condition(nothing) if own is None else own.condition_whole("")
            conditioning = empty.rows(torch.zeros(tasks, dtype=torch.long))
            # Item by item, since the score's unit is the error on what the prompt should fit alone.
            return self._errors(conditioning, torch.arange(tasks, device=table.device), self._rows(tasks, None))

    @functools.cached_property
    def _empty(self) -> tuple[Tensor, Tensor]:
        """The empty prompt's loss for each task, and the part of it on what the prompt should fit.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        errors = self._empty_errors
        total, fitted = (errors * self.bank.weights).sum(dim=1), (errors * self.bank.weights.clamp_min(0)).sum(dim=1)
        if not bool(total.isfinite().all()):
            raise NonFiniteError(_non_finite("the denoising error of the empty prompt", self.predictor))
        return total, fitted.clamp_min(torch.finfo(fitted.dtype).tiny)

    def _relative(self, losses: Tensor, groups: Tensor) -> Float[Tensor, " batch"]:
        total, fitted = self._empty
        return (total[groups] - losses) / fitted[groups]

    def _draw(self) -> Int[Tensor, " drawn"] | None:
        """The places of a mini-batch; None where all are taken."""
        if self.sample_size is None or self.sample_size * self.bank.pairs >= len(self.bank):
            return None
        return self.bank.sample(self.sample_size, self.generator)

    # --- the two stages -------------------------------------------------------------------

    @functools.cached_property
    def _fixed(self) -> EmbeddedTemplate:
        return EmbeddedTemplate.of(self.predictor.vocabulary, self.template)

    def free_tokens(self) -> int:
        """Tokens that the model's context leaves for the prompt."""
        return self._fixed.room(self.predictor.max_tokens)

    def _condition(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Conditioning:
        """What the denoiser is given for prompts in the template."""
        filled = self._fixed.around(embeddings)
        return Conditioning.join([self.predictor.condition(part) for part in filled.split(self.batch_size)])

    def _rows(self, prompts: int, items: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The places (of prompts, of items) that go through the denoiser together, item by item."""
        taken = torch.arange(len(self.bank)) if items is None else items
        grid = torch.cartesian_prod(taken, torch.arange(prompts)).reshape(-1, 2)
        for part in grid.split(self.batch_size):
            yield part[:, 1], part[:, 0]

    def _row_errors(
        self, conditioning: Conditioning, groups: Tensor, prompts: Tensor, items: Tensor
    ) -> Float[Tensor, " rows"]:
        """The mean squared error of each row, at least in float32."""
        bank = self.bank
        device = bank.noisy.device
        tasks, places = groups[prompts.to(groups.device)].to(device), items.to(device)
        predicted = self.predictor.predict(
            bank.noisy[tasks, places], bank.timesteps[places], conditioning.rows(prompts)
        )
        target = bank.target[tasks, places]
        wide = torch.promote_types(predicted.dtype, torch.float32)
        return (predicted.to(wide) - target.to(wide)).square().flatten(1).mean(dim=1)

    def _errors(
        self, conditioning: Conditioning, groups: Tensor, rows: Iterator[tuple[Tensor, Tensor]]
    ) -> Float[Tensor, "batch items"]:
        """The error of each prompt on each item of the bank."""
        errors = torch.zeros(len(groups), len(self.bank), device=self.bank.noisy.device)
        for prompts, items in rows:
            found = self._row_errors(conditioning, groups, prompts, items)
            errors = errors.to(found.dtype)
            errors[prompts.to(errors.device), items.to(errors.device)] = found
        return errors

    def _item_weights(self, groups: Tensor, items: Tensor | None) -> Float[Tensor, "batch items"]:
        """The weight of each item of the bank in the loss: 0 outside of a mini-batch."""
        weights = self.bank.weights[groups.to(self.bank.weights.device)]
        if items is None:
            return weights
        chosen = torch.zeros_like(weights)
        places = items.to(weights.device)
        chosen[:, places] = weights[:, places] * (len(self.bank) / len(items))
        return chosen

    def _loss(self, conditioning: Conditioning, groups: Tensor, items: Tensor | None) -> Float[Tensor, " batch"]:
        errors = self._errors(conditioning, groups, self._rows(len(groups), items))
        loss = (errors * self._item_weights(groups, items)).sum(dim=1)
        if not bool(loss.isfinite().any()):
            raise NonFiniteError(_non_finite("the denoising error of every prompt", self.predictor))
        return loss.to(groups.device)

    def _loss_and_gradient(
        self, embeddings: Tensor, groups: Tensor, items: Tensor | None
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch tokens dim"]]:
        """The loss of each prompt, and its gradient with respect to the embeddings, in two stages."""
        with torch.no_grad():
            conditioning = self._condition(embeddings)
        loss, sums = self.loss_and_gradient(conditioning, groups, items)
        parts = []
        for part in torch.arange(len(embeddings)).split(self.batch_size):
            span = slice(int(part[0]), int(part[-1]) + 1)
            with torch.enable_grad():
                leaf = embeddings[span].detach().requires_grad_()
                outputs = [
                    t for t in self.predictor.condition(self._fixed.around(leaf)).tensors if t.is_floating_point()
                ]
                # Some say nothing of the embeddings: those of an encoder that reads the prompt's text instead.
                reached = [(out, total[span]) for out, total in zip(outputs, sums, strict=True) if out.requires_grad]
                if not reached:
                    raise BackendError(
                        f"no gradient reaches the tokens of {self.predictor.name}: its text encoder runs without "
                        "gradients (quantised for inference only, or wrapped in no_grad); use match='clip'"
                    )
                (gradient,) = torch.autograd.grad(
                    [out for out, _ in reached], leaf, [total.to(out) for out, total in reached]
                )
            parts.append(gradient)
            del outputs, reached
        # The mean over a latent's many values makes gradients too small for float16; they are those of the sum so far.
        found = torch.cat(parts) / float(self.bank.noisy[0, 0].numel())
        if not bool(found.flatten(1).isfinite().all(dim=1).any()):
            raise NonFiniteError(_non_finite("the gradient of every prompt", self.predictor))
        return loss.to(embeddings.device), found

    def loss_and_gradient(
        self, conditioning: Conditioning, groups: Int[Tensor, " batch"], items: Int[Tensor, " drawn"] | None = None
    ) -> tuple[Float[Tensor, " batch"], list[Tensor]]:
        """The loss of each conditioning on the bank, or some items of it, and the gradients of its tensors.

        The gradients are those of the loss times the number of values of a latent, one for each tensor of floating
        point, in the order of `conditioning.tensors`. They are taken batch by batch, so that memory holds one batch.

        Raises:
            NonFiniteError: every loss is NaN or infinite.
        """
        conditioning = dataclasses.replace(conditioning, tensors=tuple(t.detach() for t in conditioning.tensors))
        leaves = [tensor.requires_grad_() for tensor in conditioning.tensors if tensor.is_floating_point()]
        sums = [torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32)) for leaf in leaves]
        scale = float(self.bank.noisy[0, 0].numel())
        weights = self._item_weights(groups, items)
        loss = torch.zeros(
            len(conditioning), dtype=torch.promote_types(weights.dtype, sums[0].dtype), device=weights.device
        )
        for prompts, places in self._rows(len(conditioning), items):
            with torch.enable_grad():
                errors = self._row_errors(conditioning, groups, prompts, places)
                own = errors * weights[prompts.to(weights.device), places.to(weights.device)]
                gradients = torch.autograd.grad(own.sum() * scale, leaves, allow_unused=True)
            loss.index_add_(0, prompts.to(loss.device), own.detach().to(loss.dtype))
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient)
            del errors, own, gradients
        if not bool(loss.isfinite().any()):
            raise NonFiniteError(_non_finite("the denoising error of every prompt", self.predictor))
        return loss, sums


class _TwoStages(torch.autograd.Function):
    """The loss, whose gradient is already there when it is asked for."""

    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, objective: NoisePrediction, groups: Tensor, items: Tensor | None
    ) -> Tensor:
        if not ctx.needs_input_grad[0]:
            return objective._loss(objective._condition(embeddings), groups, items)
        loss, gradient = objective._loss_and_gradient(embeddings, groups, items)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer.to(gradient).reshape(-1, 1, 1), None, None, None


def _latents(
    predictor: NoisePredictor,
    images: Sequence[Image.Image],
    places: Sequence[Sequence[float]],
    crop: tuple[float, float],
    allowance: Allowance,
) -> tuple[Float[Tensor, "items ..."], list[int]]:
    """The clean latents of the items, of whole images, each encoded once, or of an item's own crop; and its image."""
    turns = [item % len(images) for item in range(len(places))]
    whole = crop == (1.0, 1.0)
    wanted = range(len(images)) if whole else range(len(places))

    def encoded(place: int) -> Tensor:
        image = images[place] if whole else _crop(images[turns[place]], places[place], crop)
        return predictor.encode_images([image])

    found = [encoded(place) for part in allowance.batches(wanted, 1, passes=0) for place in part] or [encoded(0)]
    allowance.leave_out("images" if whole else "crops", len(found), len(wanted))
    latents = torch.cat(found)
    if not latents.isfinite().all():
        raise NonFiniteError(_non_finite("the latents of an image", predictor))
    taken = [item % len(found) for item in range(len(places))]
    return latents[taken], taken if whole else [turns[place] for place in taken]


def _crop(image: Image.Image, place: Sequence[float], shares: tuple[float, float]) -> Image.Image:
    """A square crop whose side is a share of the shorter side; `place` is three numbers in [0, 1)."""
    side = max(1, round(min(image.size) * (shares[0] + place[0] * (shares[1] - shares[0]))))
    left, top = round(place[1] * (image.width - side)), round(place[2] * (image.height - side))
    return image.crop((left, top, left + side, top + side))


def _non_finite(what: str, predictor: NoisePredictor) -> str:
    return (
        f"{what} is NaN or infinite with {predictor.name}; float16 overflows in many models: load it with "
        "dtype=torch.bfloat16 or torch.float32, and keep the VAE in float32 (vae.to(torch.float32))"
    )
