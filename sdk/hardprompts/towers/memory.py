"""Bytes on a device: what a model holds, what a piece of work takes at the most, and how both are written."""

import dataclasses
import functools
import re
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

#: Share of a card that torch, its kernels and what else runs on it take before anything is loaded.
RESERVED = 0.1


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device that does the work.

    Attributes:
        weights: all networks that stay there.
        table: the token embeddings, as the model has them and as a search looks tokens up.
        gradient: what one gradient takes at the most: what the pass forward keeps, and what comes back.
        scoring: what scoring prompts without a gradient takes at the most.
        looking: what the images' own tower takes at the most.
    """

    weights: int
    table: int
    gradient: int = 0
    scoring: int = 0
    looking: int = 0

    @property
    def activations(self) -> int:
        """The largest of what comes and goes: gradients, scores and images take turns."""
        return max(self.gradient, self.scoring, self.looking)

    @property
    def total(self) -> int:
        """All of it together: the peak, without what the allocator wastes."""
        return self.weights + self.table + self.activations

    def __str__(self) -> str:
        parts = {"weights": self.weights, "token tables": self.table, "activations": self.activations}
        listed = ", ".join(f"{name} {size_text(value)}" for name, value in parts.items())
        return f"{size_text(self.total)} ({listed})"


# --- sizes --------------------------------------------------------------------------------


def bytes_of(size: int | str) -> int:
    """The bytes of a size such as "8GB", which means what cards are sold as: 8 times 2**30.

    Raises:
        ValueError: this is not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?b?|b?)\s*", str(size), re.IGNORECASE)
    if isinstance(size, bool) or found is None or float(found[1]) == 0:
        raise ValueError(f'vram must be a size such as "8GB", or bytes, got {size!r}')
    return int(float(found[1]) * 2 ** {"": 0, "b": 0, "k": 10, "m": 20, "g": 30}[found[2][:1].lower()])


def size_text(count: int) -> str:
    """Bytes as people read them: "1.5 GiB"."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}"


# --- what is held -------------------------------------------------------------------------

#: What holds no tensors, or leads out of what was asked about.
_CLOSED = (str, bytes, int, float, type, types.ModuleType, weakref.ref, torch.device, torch.dtype)


def held_tensors(*things: object) -> Iterator[Tensor]:
    """The tensors that things hold in their attributes, elements and closures, each once."""
    todo, seen = list(things), set[int]()
    while todo:
        thing = todo.pop()
        if isinstance(thing, _CLOSED) or id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            yield thing
        else:
            todo += _parts(thing)


def _parts(thing: Any) -> list[Any]:
    """What a thing is made of."""
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, types.MethodType):
        return [thing.__self__]
    if isinstance(thing, types.FunctionType):
        return [cell.cell_contents for cell in thing.__closure__ or () if not _is_empty(cell)]
    return list(getattr(thing, "__dict__", {}).values())


def _is_empty(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is None
    except ValueError:  # it was never filled
        return True


def held_bytes(tensors: Iterable[Tensor], device: torch.device) -> dict[int, int]:
    """The bytes of the memory that tensors lie in on a device, by what tells one piece of memory from another."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        if tensor.device.type != device.type:
            continue
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
        else:  # laid out for a CPU's products
            sizes[id(tensor)] = tensor.numel() * tensor.element_size()
    return sizes


# --- what is taken ------------------------------------------------------------------------


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """The bytes that a piece of work takes on a device at the most, beside what was there before it.

    It is done once. Every tensor is counted as long as it lives; what a kernel needs within itself, and what the
    allocator rounds up, is not seen.
    """
    counting = _Counting(device)
    with counting:
        result = work()
    del result
    return counting.peak


class _Counting(TorchDispatchMode):
    """Counts the memory that is made and not freed yet."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.alive, self.peak = device.type, 0, 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, kinds: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # What goes in was there before, or was counted when it was made.
        for tensor in pytree.tree_leaves((args, kwargs)):
            self._take(tensor, 0)
        found = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(found):
            self._take(tensor, 1)
        return found

    def _take(self, tensor: Any, share: int) -> None:
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or tensor.device.type != self.device:
            return
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        if share:
            size = storage.nbytes()
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.alive -= size
