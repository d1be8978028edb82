"""A toy model whose passes take time on a clock of their own, are counted, and may be interrupted."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hardprompts import allowance
from hardprompts.encoders import Backend
from hardprompts.testing import ToyEncoder

#: Seconds that a pass of one text takes.
SECONDS = 0.01


class SlowTower(ToyEncoder):
    """The toy encoder, each pass of which moves the clock and is counted.

    Attributes:
        now: what the clock says.
        passes: texts that were encoded, those of pictures among them.
        calls: of `encode`; at the call `interrupt_at` a keyboard interrupt comes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.passes, self.calls = 0.0, 0, 0
        self.interrupt_at: int | None = None

    def encode(self, embeddings: torch.Tensor) -> torch.Tensor:
        self.now += SECONDS * len(embeddings)
        self.passes += len(embeddings)
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        return super().encode(embeddings)

    def reset(self) -> None:
        """Nothing was done."""
        self.now, self.passes, self.calls, self.interrupt_at = 0.0, 0, 0, None

    @property
    def backend(self) -> Backend:
        """The model."""
        return Backend("slow", self, self, torch.device("cpu"), torch.float32)


def on_its_clock(tower: SlowTower, patch: pytest.MonkeyPatch) -> None:
    """From now on all of hardprompts looks at the tower's clock."""
    ours: Callable[[], float] = allowance.clock

    def clock() -> float:
        return tower.now

    for name, module in list(sys.modules.items()):
        loaded: Any = module
        if name.startswith("hardprompts") and getattr(loaded, "clock", None) is ours:
            patch.setattr(loaded, "clock", clock)
