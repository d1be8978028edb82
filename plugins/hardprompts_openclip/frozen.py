"""Linear layers whose weights need no gradient, fast where a CPU's time goes into reading them."""

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


class FrozenLinear:
    """`F.linear` with a weight that needs no gradient; gradients flow to its input only.

    In float32 on a CPU the weight is laid out for oneDNN, in both directions, when a gradient is
    first asked for. That nearly halves the time of a step of one prompt, and takes twice the
    weight's memory besides it. Elsewhere it is `F.linear`.
    """

    def __init__(self, weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"]) -> None:
        self.weight = weight.detach()
        self.bias = bias.detach()
        self._packable = (
            weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and weight.numel() * weight.element_size() <= PACKED_LIMIT
            and torch.backends.mkldnn.is_available()
        )
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


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        ctx.packed = packed
        return _multiply(x, packed[0], bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _multiply(grad.contiguous(), ctx.packed[1], None), None, None


def _packed(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """The weight and its transpose in oneDNN's own layout; None where this torch cannot do that."""
    # torch.compile uses these operators on CPUs. They are not public, so what they give is checked.
    try:
        reorder = torch.ops.mkldnn._reorder_linear_weight
        forward, backward = reorder(weight, None), reorder(weight.t().contiguous(), None)
        rows, columns = torch.eye(2, weight.shape[1]), torch.eye(2, weight.shape[0])
        right = torch.allclose(_multiply(rows, forward, None), weight[:, :2].t(), atol=1e-5) and torch.allclose(
            _multiply(columns, backward, None), weight[:2], atol=1e-5
        )
    except (AttributeError, RuntimeError, TypeError):
        return None
    return (forward, backward) if right else None


def _multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product
