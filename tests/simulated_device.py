"""An accelerator that is none: torch computes on the CPU, and refuses and counts what a graphics card would.

`torch.device("simulated")` is a device type of torch's Python backend. Its tensors hold CPU tensors, so any model runs on
it, slowly. What CUDA refuses is refused: tensors of two devices in one operation (CPU numbers, tensors without a
dimension, may be mixed in where CUDA takes them, and CPU indices in `x[index]`), `numpy()`, generators of another device.
What costs time on a card is counted, while `counting()` is on:

- launches: operations that compute something; a card launches one kernel for most of them, and more for a few.
- views: operations that only say how memory is read.
- transfers: copies between the host and the device, and their bytes.
- waits: what makes the host wait until the device has done all that it was given: values that the host asks for
  (`item`, `tolist`, `cpu`), shapes that depend on values (`nonzero`, `unique`, a mask as an index), and copies to the
  device that are not `non_blocking`.
- memory: bytes alive now, and at most; of tensors whose storage was made while this was counted.

Import this at the top of a test module: autograd counts devices once, before the first gradient. `available` says whether
this torch can have such a device.

Limits: a single device; no streams, so nothing is ever read before it is there, as on a card a `non_blocking` copy from a
card may be; kernels of one operation are counted as one; a generator of the device is not refused by the CPU.

Source: `torch.utils.backend_registration._setup_privateuseone_for_python_backend` and its test in torch.
"""

import contextlib
import dataclasses
import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing

NAME = "simulated"

#: Whether this torch has device types of its Python backend.
available = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")

aten = torch.ops.aten


def _named(names: str) -> set[Any]:
    """torch's operations of these names; older releases lack some."""
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


#: What makes the host wait, since a shape or a Python value depends on what is computed.
_WAITING = _named(
    "_local_scalar_dense nonzero _unique _unique2 unique_dim unique_consecutive unique_dim_consecutive masked_select "
    "equal allclose bincount _linalg_check_errors"
)

#: What takes memory, or reads it otherwise, and computes nothing.
_MEMORY_ONLY = _named(
    "empty empty_like empty_strided new_empty new_empty_strided empty_permuted set_ resize_ _unsafe_view"
)

#: Where CUDA takes CPU tensors as indices, which it then copies.
_INDEXING = _named("index index_put index_put_ _index_put_impl_ _unsafe_index _unsafe_index_put")

#: Where CUDA takes CPU tensors without a dimension, beside what torch tags as pointwise.
_TAKES_NUMBERS = _named(
    "where masked_fill masked_fill_ fill fill_ lerp lerp_ addcmul addcmul_ addcdiv addcdiv_ clamp index_fill index_fill_"
)


@dataclasses.dataclass
class Counts:
    """What was counted. `operations` has how often each operation was launched, `waited` what made the host wait."""

    launches: int = 0
    views: int = 0
    transfers: int = 0
    bytes_moved: int = 0
    waits: int = 0
    alive: int = 0
    peak: int = 0
    operations: dict[str, int] = dataclasses.field(default_factory=dict)
    waited: list[str] = dataclasses.field(default_factory=list)

    def add_launch(self, name: str) -> None:
        self.launches += 1
        self.operations[name] = self.operations.get(name, 0) + 1

    def add_wait(self, reason: str) -> None:
        self.waits += 1
        self.waited.append(f"{reason} in {_caller()}")

    def add_transfer(self, tensor: Tensor, direction: str, waits: bool) -> None:
        self.transfers += 1
        self.bytes_moved += tensor.numel() * tensor.element_size()
        if waits:
            self.add_wait(direction)

    def add_memory(self, storage: torch.UntypedStorage) -> None:
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.alive -= size


_counts: list[Counts] = []
_seen: "weakref.WeakSet[torch.UntypedStorage]" = weakref.WeakSet()


@contextlib.contextmanager
def counting() -> Iterator[Counts]:
    """Counts what happens on the device from here on; counts may stand within counts."""
    counts = Counts()
    _counts.append(counts)
    try:
        yield counts
    finally:
        _counts.remove(counts)


def _caller() -> str:
    """The file, line and function of hardprompts, or of a test, that is at work."""
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and file != __file__ and "<" not in file:
            return f"{file.rsplit('/', 2)[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "autograd"


class SimulatedTensor(Tensor):
    """A tensor of the device, around a CPU tensor."""

    inner: Tensor

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else self, spec)

    @staticmethod
    def __new__(cls, inner: Tensor) -> "SimulatedTensor":
        made: SimulatedTensor = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=torch.device(NAME, 0),
        )  # fmt: skip
        made.inner = inner
        storage = inner.untyped_storage()
        if storage not in _seen:
            _seen.add(storage)
            for counts in _counts:
                counts.add_memory(storage)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _dispatch(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.inner!r} on {self.device}"

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
            "first."
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _moved, (self.detach().cpu(), self.requires_grad)


def _moved(tensor: Tensor, requires_grad: bool) -> Tensor:
    return tensor.to(NAME).requires_grad_(requires_grad)


# --- what is done -------------------------------------------------------------------------


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    packet = func.overloadpacket
    if packet is aten.copy_:
        return _copy(*args, **kwargs)
    if packet is aten._to_copy:
        return _to_copy(*args, **kwargs)
    if packet is aten.is_pinned:
        return False
    flat, spec = pytree.tree_flatten((args, kwargs))
    _check(func, packet, args, flat)
    target = kwargs.get("device")
    on_device = target is None or torch.device(target).type == NAME
    if target is not None:
        args, kwargs = pytree.tree_unflatten(flat, spec)
        kwargs = {**kwargs, "device": "cpu"}
        flat, spec = pytree.tree_flatten((args, kwargs))
    inner_args, inner_kwargs = pytree.tree_unflatten([_inner(value) for value in flat], spec)
    found = (
        _FUSED_KERNELS[packet](*inner_args, **inner_kwargs)
        if packet in _FUSED_KERNELS
        else func(*inner_args, **inner_kwargs)
    )
    _count(func, packet, args, kwargs)
    if torch.Tag.inplace_view in func.tags:
        return return_and_correct_aliasing(func, args, kwargs, found)
    return _returned(func, args, kwargs, found, on_device)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, SimulatedTensor) else value


def _returned(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any, on_device: bool) -> Any:
    """What an operation gives: its own argument where it writes into that, else new tensors of the device."""
    written = [
        kwargs[argument.name] if argument.name in kwargs else args[place]
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and (argument.name in kwargs or place < len(args))
    ]
    returns = func._schema.returns
    if written and returns and all(one.alias_info is not None and one.alias_info.is_write for one in returns):
        return written[0] if len(returns) == 1 else tuple(written)
    if not on_device:
        return found
    made = pytree.tree_map_only(Tensor, SimulatedTensor, found)
    # A view is of the same memory, for whoever asks the tensor instead of counting here.
    return return_and_correct_aliasing(func, args, kwargs, made) if _is_view(func) else made


def _is_view(func: Any) -> bool:
    return any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.arguments) and all(
        one.alias_info is not None for one in func._schema.returns
    )


def _check(func: Any, packet: Any, args: tuple[Any, ...], flat: Sequence[Any]) -> None:
    """Refuses what CUDA refuses, in its words."""
    for value in flat:
        _check_generator(value)
    strangers = [value for value in flat if isinstance(value, Tensor) and not isinstance(value, SimulatedTensor)]
    if not strangers:
        return
    written = args[0] if func._schema.is_mutable and args else None
    if packet in _INDEXING and isinstance(args[0], SimulatedTensor):
        indices = [index for index in args[1] if index is not None]
        values = [value for value in args[2:] if isinstance(value, Tensor)]
        if all(
            any(one is index for index in indices) or (one.ndim == 0 and any(one is v for v in values))
            for one in strangers
        ):
            for one in strangers:
                for counts in _counts:
                    counts.add_transfer(one, "a CPU index", waits=one.ndim > 0)
            return
    takes_numbers = (
        torch.Tag.pointwise in func.tags or packet in _TAKES_NUMBERS or packet.__name__.startswith("_foreach_")
    )
    fine = takes_numbers and not any(one is written for one in strangers) and all(one.ndim == 0 for one in strangers)
    if not fine:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and "
            f"{strangers[0].device}! (when checking arguments of {func}, in {_caller()})"
        )


def _count(func: Any, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not _counts or packet in _MEMORY_ONLY:
        return
    is_view = _is_view(func)
    masks = packet in _INDEXING and any(
        index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )
    if masks and packet not in (aten.index, aten._unsafe_index):
        value = args[2]  # one number from the host is put in without a look at where
        masks = not (value.numel() == 1 and value.device.type == "cpu")
    depends = packet is aten.repeat_interleave and func._overloadname == "Tensor" and kwargs.get("output_size") is None
    for counts in _counts:
        if is_view or torch.Tag.inplace_view in func.tags:
            counts.views += 1
            continue
        if packet is not aten._local_scalar_dense:
            counts.add_launch(str(func))
        else:
            counts.transfers += 1
            counts.bytes_moved += args[0].element_size()
        if packet in _WAITING or masks or depends:
            counts.add_wait(str(func))


# --- copies -------------------------------------------------------------------------------


def _copy(to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """`copy_`, between devices or on one."""
    target, given = _inner(to), _inner(source)
    target.copy_(given)
    here, there = isinstance(to, SimulatedTensor), isinstance(source, SimulatedTensor)
    for counts in _counts:
        if here and there:
            counts.add_launch("aten.copy_.default")
        elif here:
            counts.add_transfer(source, "a copy to the device", waits=not non_blocking)
        else:
            counts.add_transfer(source, "a copy to the host", waits=not non_blocking)
    return to


def _to_copy(
    source: Tensor, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
    non_blocking: bool = False, memory_format: Any = None,
) -> Tensor:  # fmt: skip
    """`to`, where something changes."""
    target = source.device if device is None else torch.device(device)
    options = {} if memory_format is None else {"memory_format": memory_format}
    given = _inner(source)
    changed = aten._to_copy.default(given, dtype=dtype, layout=layout, device="cpu", **options)
    here, there = target.type == NAME, isinstance(source, SimulatedTensor)
    for counts in _counts:
        if here and there:
            counts.add_launch("aten._to_copy.default")
            continue
        if changed.dtype != given.dtype:
            counts.add_launch("aten._to_copy.default")
        counts.add_transfer(source, "a copy to the host" if there else "a copy to the device", waits=not non_blocking)
    return SimulatedTensor(changed) if here else changed


# --- attention ----------------------------------------------------------------------------


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """`scaled_dot_product_attention`: one kernel forward and one back, as cards have them, where shapes allow it."""
    parts = (query, key, value)
    fusable = all(part.ndim == 4 for part in parts) and len({(*part.shape[:2], part.shape[3]) for part in parts}) == 1
    masked = attn_mask is not None
    if not fusable or enable_gqa or (masked and (attn_mask.ndim not in (2, 4) or attn_mask.requires_grad)):
        plain: Tensor = aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]
        return plain
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    found: Tensor = aten._scaled_dot_product_fused_attention_overrideable(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale
    )[0]
    return found


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, return_debug_mask: bool = False, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    out, sums = aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, key, value, dropout_p, is_causal, attn_mask=attn_bias, scale=scale
    )
    nothing = torch.zeros((), dtype=torch.long)
    return out, sums, nothing, nothing, query.shape[2], key.shape[2], nothing, nothing, nothing


def _attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, mask: Sequence[bool], out: Tensor,
    sums: Tensor, _starts: Tensor, _key_starts: Tensor, _most: int, _most_keys: int, dropout_p: float, is_causal: bool,
    _seed: Tensor, _offset: Tensor, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    assert not mask[3], "no gradient of the mask"
    found = aten._scaled_dot_product_flash_attention_for_cpu_backward.default(
        grad, query, key, value, out, sums, dropout_p, is_causal, attn_mask=bias, scale=scale
    )
    return *found, None


#: Attention as a backend may bring it along, computed by the CPU's kernel.
_FUSED_KERNELS: dict[Any, Callable[..., Any]] = {
    getattr(aten, name, None): kernel
    for name, kernel in (
        ("_scaled_dot_product_fused_attention_overrideable", _attention),
        ("_scaled_dot_product_fused_attention_overrideable_backward", _attention_backward),
    )
}


# --- what makes tensors -------------------------------------------------------------------


class SimulatedGenerator(torch.Generator):
    """A generator of the device. `torch.Generator(device="simulated")` is one while `simulated()` is on."""

    def __init__(self) -> None:
        super().__init__()
        _generators.add(self)


_generators: "weakref.WeakSet[SimulatedGenerator]" = weakref.WeakSet()


def _check_generator(value: Any) -> None:
    # Kernels are given another Python object around the same generator.
    if isinstance(value, _Generator) and not any(one._cdata == value._cdata for one in _generators):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{value.device.type}'")


class _GeneratorType(type):
    """Gives generators of the device beside torch's own, under whose name it stands."""

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        return SimulatedGenerator() if torch.device(device).type == NAME else _Generator(device)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Generator)


_Generator = torch.Generator


class _AnyGenerator(metaclass=_GeneratorType):
    pass


def _factories() -> Iterator[tuple[str, Any]]:
    """The operations that make tensors out of none."""
    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith("aten::"):
            continue
        packet, _, overload = name.removeprefix("aten::").partition(".")
        try:
            operation = getattr(getattr(aten, packet), overload or "default")
        except (AttributeError, RuntimeError):
            continue
        arguments = [(one.name, str(one.type)) for one in operation._schema.arguments]
        if any(one == "device" for one, _ in arguments) and not any("Tensor" in kind for _, kind in arguments):
            yield name, operation


def _factory(operation: Any) -> Callable[..., Tensor]:
    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        _check_generator(kwargs.get("generator"))
        kwargs = {**kwargs, "device": "cpu"}
        kwargs.pop("pin_memory", None)
        made = SimulatedTensor(operation(*args, **kwargs))
        if operation.overloadpacket not in _MEMORY_ONLY:
            for counts in _counts:
                counts.add_launch(str(operation))
        return made

    return kernel


def _copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    """What `torch.tensor(data, device=...)` and indexing by a list call, past `__torch_dispatch__`."""
    return _copy(to, source, non_blocking)


class _Module:
    """`torch.simulated`, as torch wants it."""

    is_on = False

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return self.is_on

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def device_count(self) -> int:
        return int(self.is_on)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, device: Any = None) -> None:
        for counts in _counts:
            counts.add_wait("synchronize")

    def empty_cache(self) -> None:
        pass


_module = _Module()


def _register() -> Any:
    """Makes the device known; the library that is returned must live as long as it is used."""

    class Hook(torch._C._acc.PrivateUse1Hooks):  # type: ignore[misc]
        def is_available(self) -> bool:
            return _module.is_on

        def has_primary_context(self, index: int) -> bool:
            return True

        def is_built(self) -> bool:
            return True

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_module, hook=Hook())
    library = torch.library.Library("aten", "IMPL")
    for name, operation in _factories():
        library.impl(name, _factory(operation), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    library.impl("scaled_dot_product_attention", _attend, "AutogradPrivateUse1")
    return library


_library = _register() if available else None


@contextlib.contextmanager
def simulated() -> Iterator[torch.device]:
    """Turns the device on: other code asks torch whether it is there, and models may be moved to it."""
    from hardprompts.towers import networks

    before = torch.__future__.get_swap_module_params_on_conversion()
    plain = networks.PLAIN_WEIGHTS
    torch.Generator, _module.is_on = _AnyGenerator, True  # type: ignore[misc,assignment]
    # Otherwise torch gives each module a weight of its own, where several share one.
    torch.__future__.set_swap_module_params_on_conversion(True)
    networks.PLAIN_WEIGHTS = (*plain, SimulatedTensor)
    try:
        yield torch.device(NAME)
    finally:
        torch.Generator, _module.is_on = _Generator, False  # type: ignore[misc]
        torch.__future__.set_swap_module_params_on_conversion(before)
        networks.PLAIN_WEIGHTS = plain
