"""How much memory an inversion through a pipeline's denoiser will need."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from hardprompts.errors import BackendError
from hardprompts.noise import Conditioning
from hardprompts_diffusers.components import denoiser_of, model_offloaded, modules_of, preserved, text_encoders, working
from hardprompts_diffusers.predictors import noise_predictor


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device that does the work.

    Attributes:
        weights: all networks that stay there; with model CPU offload only the larger of denoiser and
            text encoders.
        activations: what autograd keeps of one pass of `batch_size` latents through the denoiser.
        table: the token embeddings, in float32, once for the search and once for the projection.
    """

    weights: int
    activations: int
    table: int

    @property
    def total(self) -> int:
        """All of it together: the peak, without what the allocator wastes."""
        return self.weights + self.activations + self.table

    def __str__(self) -> str:
        parts = {"weights": self.weights, "activations": self.activations, "token tables": self.table}
        listed = ", ".join(f"{name} {_size(value)}" for name, value in parts.items())
        return f"{_size(self.total)} ({listed})"


def estimate_memory(
    pipe: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 8,
    gradient_checkpointing: bool = False,
    **options: Any,
) -> MemoryEstimate:
    """An estimate of the peak memory of `invert_prompt(match="diffusion")`, without running the denoiser.

    The denoiser's pass is traced with tensors that have shapes and no data, and what autograd would
    keep for the backward pass is added up. With gradient checkpointing, the share of one block
    of all is added, which is computed again in the backward pass. Not counted are the allocator's
    waste, workspaces of kernels, the VAE and the text encoders' own activations, which are smaller
    for all families here. Where the attention kernel keeps less than it says, the estimate is high.

    Args:
        batch_size, height, width, gradient_checkpointing: as for `invert_prompt`.
        options: `tokenizer`, `options`; see `noise_predictor`.

    Raises:
        BackendError, ValueError: see `noise_predictor`; BackendError too if the denoiser cannot be traced.
    """
    with preserved(pipe, gradient_checkpointing=gradient_checkpointing):
        predictor = noise_predictor(pipe, height=height, width=width, **options)
        with torch.no_grad():
            table = predictor.vocabulary.table
            word = predictor.vocabulary.embed(predictor.vocabulary.allowed_ids[:1])
            told = predictor.condition(word.expand(1, 1, -1))
            latents = predictor.encode_images([Image.new("RGB", (64, 64))])
        rows = torch.zeros(batch_size, dtype=torch.long)
        args, kwargs = _inputs(predictor, denoiser_of(pipe), latents[rows.to(latents.device)], told.rows(rows))
        kept = _kept(pipe, args, kwargs)
        if gradient_checkpointing:
            blocks = sum(1 for part in denoiser_of(pipe).modules() if getattr(part, "gradient_checkpointing", False))
            denoiser_of(pipe).disable_gradient_checkpointing()
            kept += _kept(pipe, args, kwargs) // max(1, blocks)
        sizes = {name: _bytes(module.parameters()) for name, module in modules_of(pipe).items()}
        offloaded = model_offloaded(pipe)
        encoders = sum(sizes[f"text_encoder{suffix}"] for suffix in text_encoders(pipe))
        denoiser = _bytes(denoiser_of(pipe).parameters())
        resident = sum(size for name, size in sizes.items() if name not in offloaded)
        weights = resident + (max(encoders, denoiser) if offloaded else 0)
        return MemoryEstimate(weights, kept, 2 * table.numel() * table.element_size())


class _Reached(Exception):
    """Ends the call where the denoiser would begin."""


def _inputs(predictor: Any, denoiser: nn.Module, latents: Tensor, told: Conditioning) -> tuple[Any, Any]:
    """The arguments that the denoiser is called with."""
    found: list[tuple[Any, Any]] = []

    def take(module: Any, args: Any, kwargs: Any) -> None:
        found.append((args, kwargs))
        raise _Reached

    hook = denoiser.register_forward_pre_hook(take, with_kwargs=True)
    timesteps = predictor.schedule.timesteps[-1:].to(latents.device).expand(len(latents))
    try:
        predictor.predict(latents, timesteps, told)
    except _Reached:
        pass
    finally:
        hook.remove()
    return found[0]


def _kept(pipe: Any, args: Any, kwargs: Any) -> int:
    """The bytes that autograd keeps of a pass through the denoiser, without the weights."""
    denoiser = denoiser_of(pipe)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    sizes: dict[int, tuple[Any, int]] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        made = mode.from_tensor(value.detach())
        return made.requires_grad_(True) if value.is_floating_point() else made

    weights: dict[str, Tensor] = {name: mode.from_tensor(p.detach()) for name, p in denoiser.named_parameters()}
    weights |= {name: mode.from_tensor(value.detach()) for name, value in denoiser.named_buffers()}
    own = {value.untyped_storage()._cdata for value in weights.values()}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = (storage, storage.nbytes())  # held, so that no other gets its address
        return value

    try:
        with (
            working(pipe, ()),  # without the hooks of offloading, which would move the weights
            mode,
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
        ):
            output = torch.func.functional_call(denoiser, weights, tree_map(fake, args), tree_map(fake, kwargs))
    except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
        raise BackendError(
            f"{type(denoiser).__name__} cannot be traced without data, so its memory cannot be estimated: {error}"
        ) from error
    del output
    return sum(size for _, size in sizes.values())


def _bytes(parameters: Iterator[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}"
