"""Adafactor with a fixed rate, as language-model prompts are tuned with: one state for each restart."""

import torch
from jaxtyping import Float
from torch import Tensor


class Adafactor:
    """Steps on a batch of soft prompts whose second moments are kept as a row and a column of each.

    The restarts do not see each other: moments, scale and clipping are those of one prompt.

    Args:
        soft: (rows, tokens, dim), changed in place.
        learning_rate: of every step; the root mean square of a step's elements never exceeds it.

    Source: Shazeer & Stern 2018, arXiv 1804.04235, algorithm 4, with the options that PEZ's experiments use:
    no relative step, no scaling by the parameters, no warm-up, no first moment.
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
