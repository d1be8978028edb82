"""Products with matrices that need no gradient, fast where a CPU's time goes into reading them."""

import contextlib
import functools
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Products of a packed matrix and rows take longer than plain ones below so many multiplications.
PACKED_LEAST = 100_000

#: Bytes of the largest matrix that is packed, which takes its size twice more: those of ViT-H, not of ViT-bigG.
PACKED_LIMIT = 2**24

#: Bytes of the largest table that is packed, for which memory holds it twice as that is done: those of every CLIP.
PACKED_TABLE_LIMIT = 2**28

#: Elements from which on a matrix is multiplied as it was laid out within a compiled graph too. Smaller ones torch's
#: compiler lays out by itself: a call from within its graph takes as long as they do.
CALLED_LEAST = 2**18

#: Whether what is computed is being traced for torch's compiler; see `traced_products`.
_traced: ContextVar[bool] = ContextVar("traced_products", default=False)


@contextlib.contextmanager
def traced_products() -> Iterator[None]:
    """Meanwhile products are such as torch's compiler can read: plain ones and, of large matrices, one call each."""
    token = _traced.set(True)
    try:
        yield
    finally:
        _traced.reset(token)


def are_traced() -> bool:
    """Whether `traced_products` are asked for."""
    return _traced.get()


class FrozenLinear:
    """`F.linear` with a weight and a bias that need no gradient.

    `pack` lays the weight out for oneDNN, in both directions, where that pays: in float32 on a CPU. It takes twice the
    weight's memory besides it, and half of the time or less: oneDNN knows instructions of processors that torch's
    other products do without.
    """

    def __init__(self, weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"] | None = None) -> None:
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self._packable = _packable(weight, PACKED_LIMIT)
        self._packed: tuple[Tensor, Tensor] | None = None

    def rows(self, start: int, stop: int) -> "FrozenLinear":
        """The part that gives the outputs from `start` to `stop`."""
        return FrozenLinear(self.weight[start:stop], None if self.bias is None else self.bias[start:stop])

    def pack(self) -> None:
        """Lays the weight out for many products; where that is not possible, they stay plain."""
        if self._packable and self._packed is None:
            self._packed = _packed(self.weight)
            self._packable = self._packed is not None

    def __call__(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out"]:
        """`x @ weight.T + bias`."""
        if self._packed is not None and self._pays(x):
            return _product(x, self._packed[0], self.bias)
        return F.linear(x, self.weight, self.bias)

    def gradient(self, grad: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch dim"]:
        """With respect to the input, `grad @ weight`."""
        if self._packed is not None and self._pays(grad):
            return _product(grad, self._packed[1], None)
        return grad @ self.weight

    def _pays(self, rows: Tensor) -> bool:
        size = self.weight.numel()
        return rows.shape[:-1].numel() * size >= PACKED_LEAST and not (_traced.get() and size < CALLED_LEAST)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_packed": None}  # see `FrozenTable`


class FrozenTable:
    """Products of rows with all rows of a table, without gradients.

    In float32 on a CPU the table is laid out for oneDNN: that takes half of the time for a few rows, two thirds for
    hundreds, and is done at the first product, behind which only what is laid out is held here.
    """

    def __init__(self, table: Float[Tensor, "entries dim"]) -> None:
        self._table: Tensor | None = table.detach()
        self._packable = _packable(table, PACKED_TABLE_LIMIT)
        self._packed: Tensor | None = None

    def products(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows entries"]:
        """`rows @ table.T`."""
        if self._packable and self._packed is None and self._table is not None:
            self._packed = _packed_one(self._table)
            self._packable = self._packed is not None
            self._table = self._table if self._packed is None else None
        if self._packed is not None:
            return _multiply(rows.detach(), self._packed, None)
        assert self._table is not None
        # The table stands on the left: for a few rows, CPUs multiply so in two thirds of the time.
        return (self._table @ rows.detach().T).T

    def __getstate__(self) -> dict[str, Any]:
        # What was laid out cannot be copied or pickled; a copy lays it out again.
        table = self._table if self._packed is None else self._packed.to_dense()
        return {"_table": table, "_packable": self._packable, "_packed": None}


def _packable(weight: Tensor, limit: int) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() * weight.element_size() <= limit
        and torch.backends.mkldnn.is_available()
    )


def _packed(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """The weight and its transpose in oneDNN's own layout; None where this torch cannot do that."""
    forward = _packed_one(weight.contiguous())
    backward = None if forward is None else _packed_one(weight.t().contiguous())
    return None if forward is None or backward is None else (forward, backward)


def _packed_one(weight: Tensor) -> Tensor | None:
    # torch.compile uses these operators on CPUs. They are not public, so what they give is checked.
    try:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        rows = torch.eye(2, weight.shape[1])
        right = torch.allclose(_multiply(rows, packed, None), weight[:, :2].t(), atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return packed if right else None


def _multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    # By the name of its overload: to find that by the arguments takes a tenth of the time of a small tower's products.
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
    return product


# --- products within a graph of torch's compiler ------------------------------------------

#: What was laid out, by its id: a graph cannot hold it. It lives as long as its tower does, and so does the graph.
_LAID_OUT: "weakref.WeakValueDictionary[int, Tensor]" = weakref.WeakValueDictionary()


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """`_multiply`, which a graph that is being traced gets as one call."""
    if not _traced.get():
        return _multiply(x, packed, bias)
    _LAID_OUT[id(packed)] = packed
    product: Tensor = _call()(x, bias, id(packed), packed.shape[0])
    return product


@functools.cache
def _call() -> Any:
    """`_multiply` as an operation of torch."""
    _library.define("packed_product(Tensor x, Tensor? bias, int packed, int outputs) -> Tensor")
    _library.impl("packed_product", lambda x, bias, packed, outputs: _multiply(x, _LAID_OUT[packed], bias), "CPU")
    torch.library.register_fake(
        "hardprompts::packed_product", lambda x, bias, packed, outputs: x.new_empty(*x.shape[:-1], outputs)
    )
    return torch.ops.hardprompts.packed_product.default


_library = torch.library.Library("hardprompts", "FRAGMENT")
