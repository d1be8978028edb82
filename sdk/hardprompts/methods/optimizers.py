"""Optimizers whose rows do not see each other: AdamW, Adafactor with a fixed rate, and L-BFGS."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import adamw as functional

#: Steps whose curvature L-BFGS remembers, and by how much a step that is refused is shortened.
MEMORY, SHORTENED = 10, 0.25


def adamw(soft: Float[Tensor, "..."], learning_rate: float, weight_decay: float) -> Callable[[Tensor], None]:
    """The function that applies a gradient to `soft`, in place, by a step of `torch.optim.AdamW`.

    Args:
        soft: float32 and contiguous.
        learning_rate: of every step.
        weight_decay: per step, as a share of the learning rate.

    Source: Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2.
    """
    fused = soft.device.type != "mps"  # there only since torch 2.5
    mean, mean_square = torch.zeros_like(soft), torch.zeros_like(soft)
    steps = torch.zeros((), device=soft.device if fused else "cpu")

    def step(grad: Tensor) -> None:
        # As a function: in a small tower, what the class does around it takes as long as the step's attention. The
        # fused kernel reads memory in order whatever the strides: a transposed gradient would go to other elements.
        functional.adamw(
            [soft], [grad.to(soft.dtype).contiguous()], [mean], [mean_square], [], [steps], foreach=False, fused=fused,
            lr=learning_rate, weight_decay=weight_decay, beta1=0.9, beta2=0.999, eps=1e-8, amsgrad=False,
            maximize=False,
        )  # fmt: skip

    return step


class Adafactor:
    """Steps on a batch of soft prompts whose second moments are kept as a row and a column of each.

    The restarts do not see each other: moments, scale and clipping are those of one prompt.

    Args:
        soft: (rows, tokens, dim), changed in place.
        learning_rate: of every step; the root mean square of a step's elements never exceeds it.

    Source: Shazeer & Stern 2018, arXiv 1804.04235, algorithm 4, with the options that PEZ's experiments use:
    no relative step, no scaling by the parameters, no warm-up, no first moment. `torch.optim.Adafactor` (torch 2.5)
    is not used, since it takes the batch for one parameter: it clips the step by the root mean square of all rows,
    so that a restart would depend on the others.
    """

    def __init__(self, soft: Float[Tensor, "rows tokens dim"], learning_rate: float) -> None:
        self.soft, self.learning_rate = soft, learning_rate
        self._by_token = torch.zeros_like(soft[:, :, 0])  # (rows, tokens)
        self._by_element = torch.zeros_like(soft[:, 0])  # (rows, dim)
        self._step = 0

    def step(self, grad: Float[Tensor, "rows tokens dim"]) -> None:
        """Applies one gradient."""
        self._step += 1
        decay = 1 - self._step**-0.8
        squared = grad.square() + 1e-30
        self._by_token.lerp_(squared.mean(dim=2), 1 - decay)
        self._by_element.lerp_(squared.mean(dim=1), 1 - decay)
        by_token = (self._by_token / self._by_token.mean(dim=1, keepdim=True)).rsqrt().unsqueeze(2)
        update = grad * by_token * self._by_element.rsqrt().unsqueeze(1)
        size = update.square().mean(dim=(1, 2), keepdim=True).sqrt()
        self.soft.sub_(self.learning_rate * update / size.clamp_min(1.0))


def minimize(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Float[Tensor, "rows numbers"],
    steps: int,
    learning_rate: float = 1.0,
    first_step: float | None = None,
) -> Float[Tensor, "rows numbers"]:
    """The best points of as many functions as there are rows, after `steps` iterations of L-BFGS.

    Each row is a minimization of its own, with its own curvature and step length, and all are
    evaluated in one batch: once at the start and once in each iteration. A step that does not lower
    its row's loss enough (Armijo), or leads to NaN or infinity, is refused, and tried again shorter.

    Args:
        evaluate: (rows, numbers) to the losses, (rows,), and their gradients, (rows, numbers).
        learning_rate: the length that a step is first tried with.
        first_step: how far a row without curvature moves at a rate of 1; None: by its gradient, but no
            farther than 1 in the sum of all numbers, as `torch.optim.LBFGS` does.

    Source: Nocedal & Wright, Numerical Optimization, algorithm 7.4. Where no step is refused, each
    row takes the steps of `torch.optim.LBFGS`. That one is not used itself, since
    its inner products and its line search would run over all rows together, so that a restart would
    depend on the others.
    """
    point = start
    loss, grad = evaluate(point)
    curved: Bool[Tensor, "rows 1"] = torch.zeros_like(loss, dtype=torch.bool).unsqueeze(1)
    taken = ~curved
    gamma, length = torch.ones_like(loss).unsqueeze(1), torch.ones_like(loss).unsqueeze(1)
    direction = torch.zeros_like(point)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # of moves, changes of the gradient, 1 / (their product) or 0
    for _ in range(steps):
        direction = torch.where(taken, _newton(grad, pairs, gamma), direction)
        if first_step is None:
            first = (1 / grad.abs().sum(dim=1, keepdim=True)).clamp(max=1)
        else:
            first = first_step / grad.norm(dim=1, keepdim=True).clamp_min(1e-30)
        length = torch.where(taken, learning_rate * torch.where(curved, 1.0, first), SHORTENED * length)
        trial = point + length * direction
        trial_loss, trial_grad = evaluate(trial)
        enough = loss + 1e-4 * (length * direction * grad).sum(dim=1)
        finite = trial_loss.isfinite() & trial_grad.isfinite().all(dim=1)
        taken = (finite & (trial_loss <= enough)).unsqueeze(1)
        move, change = trial - point, trial_grad - grad
        product = (move * change).sum(dim=1, keepdim=True)
        usable = taken & (product > 1e-10 * move.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True))
        kept = [torch.where(usable, values, 0.0) for values in (move, change, 1 / product)]
        pairs.append((kept[0], kept[1], kept[2]))
        del pairs[:-MEMORY]
        gamma = torch.where(usable, product / change.square().sum(dim=1, keepdim=True), gamma)
        curved = curved | usable
        point, grad = torch.where(taken, trial, point), torch.where(taken, trial_grad, grad)
        loss = torch.where(taken.squeeze(1), trial_loss, loss)
    return point


def _newton(grad: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], gamma: Tensor) -> Tensor:
    """The quasi-Newton direction of each row, by the two-loop recursion; pairs with a 0 take no part."""
    result, weights = -grad, []
    for move, change, inverse in reversed(pairs):
        weights.append(inverse * (move * result).sum(dim=1, keepdim=True))
        result = result - weights[-1] * change
    result = result * gamma
    for (move, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
        result = result + move * (weight - inverse * (change * result).sum(dim=1, keepdim=True))
    return result
