"""Muon for hidden matrices and convolutions, in fp32 and batched over matrices of one shape.

Source: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/. ``torch.optim.Muon`` orthogonalises in bfloat16 and one
matrix at a time, which took longer than the whole training step on CPUs without bfloat16
instructions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return (n, rows, columns) matrices with the same singular vectors and singular values near 1.

    Every step multiplies from the short side by a polynomial of the Gram matrix, so all steps are
    taken on that and the long side is touched twice: a third of the work for convolutions.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if flip else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    product: Tensor | None = None
    for _ in range(steps):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        gram = polynomial @ gram @ polynomial
    x = x if product is None else product @ x
    result: Tensor = x.mT if flip else x
    return result


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for matrices and for convolutions, whose kernels count as columns."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float | Tensor, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[len(parameter), parameter[0].numel()].append(parameter)
            for (rows, columns), parameters in shapes.items():
                updates = [self._nesterov(p, group["momentum"]).reshape(rows, columns) for p in parameters]
                step = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, update in zip(parameters, orthogonalize(torch.stack(updates)), strict=True):
                    # Products, not `alpha=`: the rate may be a tensor, which a recorded graph follows.
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view_as(parameter) * step)

    def _nesterov(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum"]
        buffer.lerp_(parameter.grad, 1 - momentum)
        update: Tensor = parameter.grad.lerp(buffer, momentum)
        return update


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return (matrices of the transformer layers, everything else) of a module."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (hidden if parameter.ndim == 2 and ".layers." in f".{name}" else rest).append(parameter)
    return hidden, rest
