"""The parts of a pipeline: which it has, where they are, and how to leave them as they were."""

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardprompts.causes.networks import check_weights
from hardprompts.errors import BackendError
from hardprompts.towers import uncompiled, unwrapped, watched_gradients
from hardprompts.towers.networks import is_group_offloaded, is_sequentially_offloaded, stored_in_one_byte

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
    return unwrapped(getattr(pipe, found[0]))


def text_encoders(pipe: Any) -> dict[str, tuple[Any, nn.Module]]:
    """The tokenizer and the text encoder of each place, in order: {"": (tokenizer, text_encoder), "_2": ...}.

    Without what was put around them (torch.compile, PEFT, `DataParallel`); see `bare`.

    Raises:
        BackendError: the pipeline has no text encoder.
    """
    found = {}
    for suffix in ("", "_2", "_3", "_4"):
        tokenizer, encoder = (getattr(pipe, f"{kind}{suffix}", None) for kind in ("tokenizer", "text_encoder"))
        if isinstance(encoder, nn.Module) and tokenizer is not None:
            found[suffix] = (tokenizer, unwrapped(encoder))
    if not found:
        raise BackendError(
            f"this {type(pipe).__name__} has no text encoder, so there is no prompt to look for; load it with its "
            "text encoder and tokenizer"
        )
    return found


#: What people call the kinds of text encoders, by the type in their config.
KINDS = {"clip_text_model": "clip", "t5": "t5", "umt5": "t5"}


def text_kinds(pipe: Any) -> dict[str, str]:
    """The kind of each text encoder by its place: {"": "clip", "_2": "clip", "_3": "t5"} of Stable Diffusion 3.

    Raises:
        BackendError: the pipeline has no text encoder.
    """
    types = {
        suffix: str(getattr(encoder.config, "model_type", "") or type(encoder).__name__)
        for suffix, (_, encoder) in text_encoders(pipe).items()
    }
    return {suffix: KINDS.get(kind, kind) for suffix, kind in types.items()}


def prompt_argument(pipe: Any, suffix: str) -> str:
    """The argument of the pipeline's call that is the prompt of a text encoder."""
    return f"prompt{suffix}" if f"prompt{suffix}" in inspect.signature(type(pipe).__call__).parameters else "prompt"


def own_texts(pipe: Any, texts: Mapping[str, str]) -> dict[str, str]:
    """Texts of some kinds of text encoders ("clip", "t5") by the place of each.

    Raises:
        ValueError: the pipeline has no such kind, or all of its kinds have one, so that none is left to search for.
    """
    kinds = text_kinds(pipe)
    known = ", ".join(dict.fromkeys(kinds.values()))
    for kind, text in texts.items():
        if kind not in kinds.values():
            raise ValueError(f"texts has {kind!r}, and the text encoders of this {type(pipe).__name__} are {known}")
        if not isinstance(text, str):
            raise ValueError(f"texts[{kind!r}] must be a text, got {text!r}")
    if set(texts) == set(kinds.values()):
        raise ValueError(
            f"texts has a text for every text encoder of this {type(pipe).__name__} ({known}), so that there is none "
            "to search for; leave one out"
        )
    return {suffix: texts[kind] for suffix, kind in kinds.items() if kind in texts}


def added_tokens(pipe: Any) -> list[str]:
    """What the pipeline's tokenizers read as tokens of their own: of textual inversions, and special ones.

    A model with another tokenizer reads the same letters as words.
    """
    known: list[dict[str, int]] = [
        getattr(tokenizer, "get_added_vocab", dict)() for tokenizer, _ in text_encoders(pipe).values()
    ]
    return sorted({token for own in known for token in own if token.strip()})


def modules_of(pipe: Any) -> dict[str, nn.Module]:
    """The networks of a pipeline by name, without what was put around them."""
    return {name: unwrapped(part) for name, part in pipe.components.items() if isinstance(part, nn.Module)}


@contextlib.contextmanager
def bare(pipe: Any) -> Iterator[None]:
    """The pipeline with its networks as they are without wrappers, not compiled; afterwards it has them again.

    A compiled network does not notice the hooks that put embeddings in, and a `DataParallel` has no `config`. What is
    computed stays the same.
    """
    inside = modules_of(pipe)
    wrapped = {name: getattr(pipe, name) for name, part in inside.items() if getattr(pipe, name) is not part}
    with uncompiled(*inside.values()):
        try:
            pipe.__dict__.update({name: inside[name] for name in wrapped})
            yield
        finally:
            pipe.__dict__.update(wrapped)


def execution_device(pipe: Any) -> torch.device:
    """The device that the pipeline works on."""
    with bare(pipe):
        return torch.device(pipe._execution_device)


# --- offloading ---------------------------------------------------------------------------


def check_placement(pipe: Any) -> None:
    """Raises unless gradients can be taken where the pipeline's weights are, and as they are.

    Supported are pipelines on one device, and model CPU offload. Sequential offload keeps the
    weights on the meta device between calls; group offload and layerwise casting change them while
    autograd still needs them. A VAE, of which no gradients are taken, may be offloaded in any way
    but sequentially.

    Raises:
        BackendError: another kind of offload or storage, an IP-Adapter, or a wrapper that nothing can be driven inside
            of, with what to do.
    """
    for name, module in modules_of(pipe).items():
        if is_sequentially_offloaded(module):
            raise BackendError(
                f"the {name} is offloaded sequentially: its weights are not there between two calls. Use "
                "pipe.remove_all_hooks(), then pipe.to(device) or pipe.enable_model_cpu_offload(), which needs "
                "no more memory for gradients than its largest network"
            )
        if not is_group_offloaded(module):
            check_weights(module, f"the {name} of the {type(pipe).__name__}")
        if name == "vae":
            continue
        if is_group_offloaded(module):
            raise BackendError(
                f"the {name} is offloaded in groups, which takes weights away that its gradients still need; use "
                "pipe.enable_model_cpu_offload() on a pipeline without group offloading"
            )
        if stored := stored_in_one_byte(module):
            raise BackendError(
                f"the {name} has weights stored as {stored}, through which gradients cannot be taken (layerwise "
                "casting, or a file in float8); load the pipeline with dtype=torch.bfloat16 and without that"
            )


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
    device = execution_device(pipe)
    offloaded = model_offloaded(pipe)
    for name, module in offloaded.items():
        if name not in names:
            module.to("cpu")
    for name in names:
        if name in offloaded:
            offloaded[name].to(device)
    # Of a network that was compiled first, the hook is on what was put around it, which `bare` takes off.
    hooked = {name: vars(module)["forward"] for name, module in offloaded.items() if "forward" in vars(module)}
    for name in hooked:
        offloaded[name].forward = offloaded[name]._old_forward
    try:
        with bare(pipe):
            yield device
    finally:
        for name, forward in hooked.items():
            offloaded[name].forward = forward


@contextlib.contextmanager
def watched_once(predictor: Any, network: nn.Module) -> Iterator[None]:
    """A predictor's pass through its denoiser, whose first with gradients must not lose them in any layer.

    Raises:
        BackendError: see `watched_gradients`.
    """
    if not torch.is_grad_enabled() or vars(predictor).get("_watched"):
        yield
        return
    with watched_gradients(network, f"the {type(network).__name__} of {predictor.name}"):
        yield
    vars(predictor)["_watched"] = True


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
