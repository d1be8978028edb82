"""Networks as people change them: what stands around one, what was changed within it, what stops gradients in it.

Everything is known by the names of classes and attributes, since the SDK imports no model library.
"""

import contextlib
import inspect
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hardprompts.causes.networks import check_weights
from hardprompts.errors import BackendError

#: Wrappers that compute what is inside of them, in another way or place, and the attribute that holds it.
WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "DeepSpeedEngine": "module",
    "AveragedModel": "module",
}

#: The classes of weights that are what they seem; others may be quantized, or spread over devices.
PLAIN_WEIGHTS: tuple[type[Tensor], ...] = (nn.Parameter, Tensor)

_KEPT_HOOKS = ("transformers.utils.output_capturing",)  # only look, and are left behind by a network's first call


# --- what stands around a network ---------------------------------------------------------


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside of wrappers that compute what it does: compiled, on several devices, averaged, PEFT's.

    Adapters that PEFT has put into its layers stay there, and are computed. A network without wrappers is given back.

    Raises:
        BackendError: a wrapper that nothing can be driven inside of, with what to do.
    """
    while True:
        kind, kinds = type(network).__name__, {one.__name__ for one in type(network).__mro__}
        if isinstance(network, torch.jit.ScriptModule):
            raise BackendError(
                f"a {kind} is compiled by TorchScript, which hides its layers; pass the model as it was before "
                "torch.jit.script or torch.jit.trace"
            )
        if kinds & {"FullyShardedDataParallel", "FSDPModule"}:
            raise BackendError(
                f"the weights of a {kind} are spread over several processes, and are together within its own passes "
                "alone; load the model anew without FSDP"
            )
        if "PeftModel" in kinds:
            network = _without_peft(network)
        elif name := next((WRAPPERS[one] for one in WRAPPERS if one in kinds), None):
            network = getattr(network, name)
        else:
            return network


def _without_peft(network: Any) -> nn.Module:
    if network.active_peft_config.is_prompt_learning:
        raise BackendError(
            f"this {type(network).__name__} puts learned vectors before every text "
            f"({network.active_peft_config.peft_type}), which would be lost; pass model.get_base_model() to search "
            "without them. As a soft prompt they can be distilled: SoftPrompt.from_file(the adapter's folder)"
        )
    inside: nn.Module = network.get_base_model()
    return inside


@contextlib.contextmanager
def uncompiled(*networks: nn.Module) -> Iterator[None]:
    """Networks that were compiled in place (`module.compile()`) run as they are written meanwhile.

    A compiled pass does not notice hooks that come later, and by those embeddings are put in.
    """
    changed: list[tuple[nn.Module, str, Any]] = []
    try:
        for part in {id(part): part for network in networks for part in network.modules()}.values():
            own = vars(part)
            if own.get("_compiled_call_impl") is not None:
                changed.append((part, "_compiled_call_impl", own["_compiled_call_impl"]))
                part._compiled_call_impl = None
            written = getattr(own.get("forward"), "_torchdynamo_orig_callable", None)
            if written is not None:
                changed.append((part, "forward", own["forward"]))
                part.forward = written
        yield
    finally:
        for part, name, value in changed:
            setattr(part, name, value)


# --- what was changed within it -----------------------------------------------------------


def is_untouched(part: nn.Module) -> bool:
    """True if a module itself, its parts not counted, computes what its class says, with plain weights.

    Not so with hooks of anybody, a `forward` of its own (accelerate's and diffusers' hooks), or weights of another
    class (quantized, sharded), of one byte, or on the meta device. To be compiled changes nothing.
    """
    forward = vars(part).get("forward")
    written = getattr(forward, "_torchdynamo_orig_callable", forward)
    while written is not forward and not inspect.ismethod(written):
        inner = getattr(written, "__wrapped__", None)  # torch puts a function around some methods
        if inner is None:
            break
        written = inner
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    heard = [hook for own in hooks for hook in own.values()]
    weights = [weight for weight in (*part._parameters.values(), *part._buffers.values()) if weight is not None]
    return (
        all(getattr(hook, "__module__", None) in _KEPT_HOOKS for hook in heard)
        and (written is None or getattr(written, "__func__", None) is type(part).forward)
        and all(type(weight) in PLAIN_WEIGHTS and not weight.is_meta for weight in weights)
        and not any(weight.is_floating_point() and weight.dtype.itemsize < 2 for weight in weights)
    )


def is_plain(network: nn.Module, kinds: Collection[type[nn.Module]]) -> bool:
    """True if every part of a network is of one of these classes, not of a subclass, and untouched.

    What is computed outside of its modules, from their weights, is then what they would compute.
    """
    return all(type(part) in kinds and is_untouched(part) for part in network.modules())


def matrix_dtype(network: nn.Module, default: torch.dtype) -> torch.dtype:
    """The dtype that a network computes in: that of its first matrix that is neither quantized nor stored in one byte.

    Norms and embeddings may be kept in float32. With no such matrix, `default`.
    """
    for part in network.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            dtype = getattr(part.weight, "dtype", torch.uint8)
            if dtype.is_floating_point and dtype.itemsize > 1:
                return dtype
    return default


# --- what stops gradients in it -----------------------------------------------------------


def is_sequentially_offloaded(network: nn.Module) -> bool:
    """True if weights come in for the pass of their own layer alone (accelerate)."""
    return any(getattr(getattr(part, "_hf_hook", None), "offload", None) is True for part in network.modules())


def is_group_offloaded(network: nn.Module) -> bool:
    """True if weights come in for the pass of a group of layers alone (diffusers)."""
    # Before diffusers 0.35 a group itself holds what its config says.
    configs = [getattr(hook, "config", getattr(hook, "group", None)) for _, hook in _diffusers_hooks(network)]
    return any(
        hasattr(config, "offload_device") and config.onload_device != config.offload_device  # type: ignore[union-attr]
        for config in configs
    )


def stored_in_one_byte(network: nn.Module) -> str:
    """Of weights that are floats of one byte, the dtype and an example, as "float8_e4m3fn (fc1.weight)"; else ""."""
    for name, weight in network.named_parameters():
        if weight.is_floating_point() and weight.dtype.itemsize == 1 and type(weight) in PLAIN_WEIGHTS:
            return f"{str(weight.dtype).removeprefix('torch.')} ({name})"
    return ""


def _diffusers_hooks(network: nn.Module) -> Iterator[tuple[str, Any]]:
    for part in network.modules():
        yield from getattr(getattr(part, "_diffusers_hook", None), "hooks", {}).items()


def check_reachable(network: nn.Module, name: str) -> None:
    """Raises unless the weights of a network are there, and such that gradients can be taken through them.

    Raises:
        BackendError: they are not in memory, offloaded layer by layer or in groups, spread over processes, or
            stored in one byte.
    """
    if is_sequentially_offloaded(network):
        raise BackendError(
            f"{name}: weights are offloaded layer by layer, and are not there when gradients are taken; load the "
            "model in full on one device"
        )
    if is_group_offloaded(network):
        raise BackendError(
            f"{name}: weights are offloaded in groups, and are not there when gradients are taken; load the model in "
            "full on one device"
        )
    check_weights(network, name)
    if any(type(weight).__name__ == "DTensor" or hasattr(weight, "ds_id") for weight in network.parameters()):
        raise BackendError(f"{name}: weights are spread over several processes; load the model in full on one device")
    if stored := stored_in_one_byte(network):
        raise BackendError(
            f"{name}: weights are stored as {stored}, through which gradients cannot be taken; load the model in "
            "float16, bfloat16 or float32"
        )


@contextlib.contextmanager
def watched_gradients(network: nn.Module, name: str) -> Iterator[None]:
    """A pass in which every layer with a matrix must hand gradients on, or the pass ends with an error.

    Around such a layer gradients still come through residual connections, and would be wrong without a sign.

    Raises:
        BackendError: a layer whose output has lost the gradient of its input.
    """

    def look(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        given = [one for one in inputs if isinstance(one, Tensor) and one.requires_grad]
        found = output[0] if isinstance(output, tuple) else output
        if given and isinstance(found, Tensor) and not _hands_on(found, given):
            path = next((path for path, part in network.named_modules() if part is layer), "")
            raise BackendError(
                f"{name}: no gradient passes through {path} ({type(layer).__module__}.{type(layer).__name__}), which "
                "is quantized for inference only, or wrapped in no_grad; load the model without that"
            )

    hooks = [part.register_forward_hook(look) for part in network.modules() if _has_matrix(part)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hands_on(output: Tensor, inputs: Sequence[Tensor]) -> bool:
    """True if the gradient of a layer's output reaches its inputs: every operation on the way knows its own."""
    ends = {one.grad_fn for one in inputs if one.grad_fn is not None}
    leaves = {id(one) for one in inputs if one.is_leaf}
    todo, seen, reached = [output.grad_fn], set(), False
    while todo:
        node: Any = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in ends or id(getattr(node, "variable", None)) in leaves:
            reached = True
        elif "NotImplemented" in node.name():  # an operator that torch only knows forward, as those of its quantization
            return False
        else:
            todo += [one for one, _ in node.next_functions]
    return reached


def _has_matrix(part: nn.Module) -> bool:
    weight = getattr(part, "weight", None)
    return (isinstance(weight, Tensor) and weight.ndim > 1) or hasattr(part, "in_features")


# --- driving it ---------------------------------------------------------------------------


@contextlib.contextmanager
def replaced_embeddings(
    modules: Sequence[nn.Module], embeddings: Float[Tensor, "batch tokens dim"], start: int
) -> Iterator[None]:
    """A pass whose token embeddings from the place `start` on are these; what else the network does stays its own.

    Args:
        modules: what looks tokens up.
    """

    def put_in(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        stop = start + embeddings.shape[1]
        return torch.cat([output[:, :start], embeddings.to(output.dtype), output[:, stop:]], dim=1)

    handles = [module.register_forward_hook(put_in) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def embedding_modules(network: nn.Module, embedding: Any) -> list[nn.Module]:
    """The modules that look tokens up, the outermost of each: some networks (T5) share one table among several.

    An adapter around an embedding adds to what is looked up, so what it gives is replaced, not what is inside of it.

    Args:
        embedding: the one that the network itself names.
    """
    inside = {id(part) for part in embedding.modules()}
    others = [
        part
        for part in network.modules()
        if isinstance(part, nn.Embedding) and id(part) not in inside and part.weight is embedding.weight
    ]
    return [embedding, *others]
