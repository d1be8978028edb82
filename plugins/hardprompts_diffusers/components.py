"""The parts of a pipeline: which it has, where they are, and how to leave them as they were."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from hardprompts.errors import BackendError

#: The names that diffusers gives to the network that removes noise.
DENOISERS = ("unet", "transformer")


def denoiser_of(pipe: Any) -> Any:
    """The network that removes noise.

    Raises:
        BackendError: the pipeline has none, or several.
    """
    found = [name for name in DENOISERS if isinstance(getattr(pipe, name, None), nn.Module)]
    if len(found) != 1 or any(isinstance(getattr(pipe, f"{name}_2", None), nn.Module) for name in found):
        raise BackendError(
            f"{type(pipe).__name__} has {len(found) or 'no'} denoising network(s) under the names "
            f"{' or '.join(DENOISERS)}; pipelines with exactly one are supported: use match='clip'"
        )
    return getattr(pipe, found[0])


def text_encoders(pipe: Any) -> dict[str, tuple[Any, nn.Module]]:
    """The tokenizer and the text encoder of each place, in order: {"": (tokenizer, text_encoder), "_2": ...}.

    Raises:
        BackendError: the pipeline has no text encoder.
    """
    found = {}
    for suffix in ("", "_2", "_3", "_4"):
        tokenizer, encoder = (getattr(pipe, f"{kind}{suffix}", None) for kind in ("tokenizer", "text_encoder"))
        if isinstance(encoder, nn.Module) and tokenizer is not None:
            found[suffix] = (tokenizer, encoder)
    if not found:
        raise BackendError(
            f"this {type(pipe).__name__} has no text encoder, so there is no prompt to look for; load it with its "
            "text encoder and tokenizer"
        )
    return found


def modules_of(pipe: Any) -> dict[str, nn.Module]:
    """The networks of a pipeline, by name."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


# --- offloading ---------------------------------------------------------------------------


def check_placement(pipe: Any) -> None:
    """Raises unless gradients can be taken where the pipeline's weights are.

    Supported are pipelines on one device, and model CPU offload. Sequential offload keeps the
    weights on the meta device between calls; group offload moves them while autograd still
    needs them. A VAE, of which no gradients are taken, may be offloaded in any way but sequentially.

    Raises:
        BackendError: another kind of offload, with what to do.
    """
    for name, module in modules_of(pipe).items():
        if any(parameter.is_meta for parameter in module.parameters()) or _is_sequential(module):
            raise BackendError(
                f"the {name} is offloaded sequentially: its weights are not there between two calls. Use "
                "pipe.remove_all_hooks(), then pipe.to(device) or pipe.enable_model_cpu_offload(), which needs "
                "no more memory for gradients than its largest network"
            )
        if name != "vae" and _is_group_offloaded(module):
            raise BackendError(
                f"the {name} is offloaded in groups, which takes weights away that its gradients still need; use "
                "pipe.enable_model_cpu_offload() on a pipeline without group offloading"
            )


def _is_sequential(module: nn.Module) -> bool:
    return any(getattr(getattr(part, "_hf_hook", None), "offload", None) is True for part in module.modules())


def _is_group_offloaded(module: nn.Module) -> bool:
    for part in module.modules():
        registry = getattr(part, "_diffusers_hook", None)
        for hook in getattr(registry, "hooks", {}).values():
            config = getattr(hook, "config", None)
            if (
                config is not None
                and hasattr(config, "offload_device")
                and config.onload_device != config.offload_device
            ):
                return True
    return False


def model_offloaded(pipe: Any) -> dict[str, Any]:
    """The networks that `enable_model_cpu_offload` keeps on the CPU between calls."""
    return {
        name: module
        for name, module in modules_of(pipe).items()
        if type(getattr(module, "_hf_hook", None)).__name__ == "CpuOffload"
    }


@contextlib.contextmanager
def working(pipe: Any, names: Sequence[str]) -> Iterator[torch.device]:
    """The device to work on, with the named networks there and all others that are offloaded away from it.

    The hooks of `enable_model_cpu_offload` stand aside meanwhile: they bring in a network for its
    forward pass and take it away at the next one's, when its backward pass is still to come. The
    networks stay where they are at the end, for that backward pass.
    """
    device = torch.device(pipe._execution_device)
    offloaded = model_offloaded(pipe)
    for name, module in offloaded.items():
        if name not in names:
            module.to("cpu")
    for name in names:
        if name in offloaded:
            offloaded[name].to(device)
    hooked = {name: vars(module).get("forward") for name, module in offloaded.items()}
    for module in offloaded.values():
        module.forward = module._old_forward
    try:
        yield device
    finally:
        for name, module in offloaded.items():
            if hooked[name] is None:
                del module.forward
            else:
                module.forward = hooked[name]


# --- leaving things as they were ----------------------------------------------------------


@contextlib.contextmanager
def preserved(pipe: Any, *, gradient_checkpointing: bool = False) -> Iterator[None]:
    """The pipeline frozen and in evaluation mode; afterwards everything is exactly as it was.

    That is: scheduler, dtypes, hooks, gradient flags, training flags, checkpointing flags, and where
    offloaded networks are. Whatever ends the block, an exception or a keyboard interrupt too.

    Args:
        gradient_checkpointing: trades time for memory in the denoiser, which then keeps only the
            borders of its blocks for the backward pass.
    """
    scheduler = pipe.scheduler
    parts = [part for module in modules_of(pipe).values() for part in module.modules()]
    modes = [(part, part.training) for part in parts]
    flags = [(p, p.requires_grad) for module in modules_of(pipe).values() for p in module.parameters()]
    checkpointing = [
        (part, key, copy.copy(vars(part)[key]))
        for part in parts
        for key in ("gradient_checkpointing", "_gradient_checkpointing_func")
        if key in vars(part)
    ]
    try:
        for module in modules_of(pipe).values():
            module.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        if gradient_checkpointing:
            denoiser = denoiser_of(pipe)
            if not getattr(denoiser, "_supports_gradient_checkpointing", False):
                raise BackendError(f"{type(denoiser).__name__} has no gradient checkpointing; leave it out")
            denoiser.enable_gradient_checkpointing()
        yield
    finally:
        pipe.__dict__["scheduler"] = scheduler
        for part in parts:
            for key in ("gradient_checkpointing", "_gradient_checkpointing_func"):
                vars(part).pop(key, None)
        for part, key, value in checkpointing:
            vars(part)[key] = value
        for part, mode in modes:
            part.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module in model_offloaded(pipe).values():
            module.to("cpu")
