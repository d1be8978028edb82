"""Random numbers for methods that run on a GPU, which is not to wait for any of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hardprompts.devices import to_device


class Draws:
    """The random numbers of a method's steps: drawn on the CPU, where a seed gives the same everywhere.

    They come to a GPU for several steps at once, and are those that would be drawn step by step, as long as nothing
    else draws from the generator meanwhile.

    Args:
        draw: what draws the numbers of one step, on the CPU.
        device: where they are wanted.
        ahead: steps that are drawn for at once; see `BoundObjective.look_every`.
    """

    def __init__(self, draw: Callable[[], Sequence[Tensor]], device: torch.device, ahead: int) -> None:
        self._draw, self._device, self._ahead = draw, device, ahead
        self._coming: list[Sequence[Tensor]] = []

    def next(self) -> Sequence[Tensor]:
        """Those of the next step."""
        if not self._coming:
            steps = [self._draw() for _ in range(self._ahead)]
            arrived = iter(to_device(self._device, *(numbers for step in steps for numbers in step)))
            self._coming = [[next(arrived) for _ in step] for step in steps]
        return self._coming.pop(0)
