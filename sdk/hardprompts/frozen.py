"""Products with matrices that need no gradient, fast where a CPU's time goes into reading them."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Rows up to which a packed matrix is faster: by half for ten rows, by a twentieth for three hundred.
PACKED_ROWS = 512

#: Bytes of the largest matrix that is packed, which takes its size twice more: those of ViT-H, not of ViT-bigG.
PACKED_LIMIT = 2**24

#: Bytes of the largest table that is packed, for which memory holds it twice as that is done: those of every CLIP.
PACKED_TABLE_LIMIT = 2**28


class FrozenLinear:
    """`F.linear` with a weight that needs no gradient; gradients flow to its input only.

    In float32 on a CPU the weight is laid out for oneDNN, in both directions, when a gradient is
    first asked for. That nearly halves the time of a step of one prompt, and takes twice the
    weight's memory besides it. Elsewhere it is `F.linear`.
    """

    def __init__(self, weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"]) -> None:
        self.weight = weight.detach()
        self.bias = bias.detach()
        self._packable = _packable(weight, PACKED_LIMIT)
        self._packed: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out"]:
        """`x @ weight.T + bias`."""
        if not self._packable or x[..., 0].numel() > PACKED_ROWS:
            return F.linear(x, self.weight, self.bias)
        if self._packed is None and x.requires_grad:
            self._packed = _packed(self.weight)
            self._packable = self._packed is not None
        if self._packed is None:
            return F.linear(x, self.weight, self.bias)
        output: Tensor = _PackedLinear.apply(x, self._packed, self.bias)
        return output

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


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        ctx.packed = packed
        return _multiply(x, packed[0], bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _multiply(grad.contiguous(), ctx.packed[1], None), None, None


def _packable(weight: Tensor, limit: int) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() * weight.element_size() <= limit
        and torch.backends.mkldnn.is_available()
    )


def _packed(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """The weight and its transpose in oneDNN's own layout; None where this torch cannot do that."""
    forward = _packed_one(weight)
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
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product
