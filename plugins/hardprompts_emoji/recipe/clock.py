"""A training budget in wall-clock time."""

from __future__ import annotations

import time


class Clock:
    """Progress through a budget of wall-clock seconds; survives a restart through ``spent``."""

    def __init__(self, seconds: float, spent: float = 0.0) -> None:
        self.seconds = seconds
        self._start = time.monotonic() - spent

    @property
    def spent(self) -> float:
        return time.monotonic() - self._start

    @property
    def progress(self) -> float:
        return min(1.0, self.spent / self.seconds)
