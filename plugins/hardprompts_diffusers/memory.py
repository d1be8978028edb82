"""How much memory an inversion through a pipeline's denoiser will need."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from hardprompts.errors import BackendError
from hardprompts.noise import Conditioning
from hardprompts.towers.memory import RESERVED, MemoryEstimate, bytes_of, size_text
from hardprompts_diffusers.components import denoiser_of, model_offloaded, modules_of, preserved, text_encoders, working
from hardprompts_diffusers.predictors import noise_predictor


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
    keep for the backward pass is added up. With gradient checkpointing, what the largest block
    keeps is added, which is computed again in the backward pass. Not counted are the allocator's
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
        kept = sum(_kept(pipe, args, kwargs, []).values())
        if gradient_checkpointing:
            blocks = [part for part in denoiser_of(pipe).modules() if getattr(part, "gradient_checkpointing", False)]
            denoiser_of(pipe).disable_gradient_checkpointing()
            by_block = _kept(pipe, args, kwargs, blocks)
            kept += max(size for number, size in by_block.items() if number is not None)
        sizes = {name: _bytes(module.parameters()) for name, module in modules_of(pipe).items()}
        offloaded = model_offloaded(pipe)
        encoders = sum(sizes[f"text_encoder{suffix}"] for suffix in text_encoders(pipe))
        denoiser = _bytes(denoiser_of(pipe).parameters())
        resident = sum(size for name, size in sizes.items() if name not in offloaded)
        weights = resident + (max(encoders, denoiser) if offloaded else 0)
        return MemoryEstimate(weights, 2 * table.numel() * table.element_size(), gradient=kept)


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """How an inversion fits into a memory.

    Attributes:
        batch_size: rows through the denoiser at once.
        gradient_checkpointing: whether the denoiser keeps little and computes the rest again.
        estimate: of it.
    """

    batch_size: int
    gradient_checkpointing: bool
    estimate: MemoryEstimate


def plan_memory(pipe: Any, vram: int | str, **options: Any) -> MemoryPlan:
    """The fastest way of `invert_prompt(match="diffusion")` that fits into a memory.

    Args:
        vram: bytes, or a text such as "8GB", which means what cards are sold as: 8 times 2**30. A tenth of it is left
            for torch itself and what else runs on the card.
        options: `height`, `width` and others; see `estimate_memory`.

    Raises:
        ValueError: no size.
        BackendError: nothing fits; the message has the least that is needed, and what would lower it. See
            `estimate_memory` too.
    """
    size = bytes_of(vram)
    room = int((1 - RESERVED) * size)
    # What autograd keeps grows evenly with the batch, so two passes tell all the others.
    least: MemoryEstimate | None = None
    for leaner in (False, True):
        if leaner and not getattr(denoiser_of(pipe), "_supports_gradient_checkpointing", False):
            continue
        one, two = (estimate_memory(pipe, batch_size=rows, gradient_checkpointing=leaner, **options) for rows in (1, 2))
        each = two.gradient - one.gradient
        least = one if least is None or one.total < least.total else least
        for batch_size in (8, 4, 2, 1):
            estimate = dataclasses.replace(one, gradient=one.gradient + (batch_size - 1) * each)
            if estimate.total <= room:
                return MemoryPlan(batch_size, leaner, estimate)
    assert least is not None
    advice = "" if model_offloaded(pipe) else "; pipe.enable_model_cpu_offload() keeps only the denoiser on the card"
    raise BackendError(
        f"an inversion through this denoiser needs about {least}, and of {size_text(size)} {size_text(room)} can be "
        f'used{advice}; half precision halves the weights, and match="clip" does without the denoiser'
    )


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


def _kept(pipe: Any, args: Any, kwargs: Any, blocks: Sequence[nn.Module]) -> dict[int | None, int]:
    """The bytes that autograd keeps of a pass through the denoiser, without the weights.

    Of each block by its number, if it keeps any, and under None of all that is in none of them.
    """
    denoiser = denoiser_of(pipe)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    sizes: dict[int, tuple[Any, int | None]] = {}
    within: list[int] = []

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
            # It is held, so that no other gets its address.
            sizes.setdefault(storage._cdata, (storage, within[-1] if within else None))
        return value

    def leave(*_: Any) -> None:
        within.pop()

    hooks: list[RemovableHandle] = []
    for number, block in enumerate(blocks):
        hooks.append(block.register_forward_pre_hook(lambda _block, _args, number=number: within.append(number)))
        hooks.append(block.register_forward_hook(leave))

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
    finally:
        for hook in hooks:
            hook.remove()
    del output
    found: dict[int | None, int] = {None: 0}
    for storage, block_number in sizes.values():
        found[block_number] = found.get(block_number, 0) + storage.nbytes()
    return found


def _bytes(parameters: Iterator[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
