"""Which kind of change to try next: a bandit over mutations."""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass
class _Arm:
    pulls: int = 0
    wins: int = 0


class UpperConfidence:
    """Chooses what has the highest upper bound of its share of successes: UCB1.

    Each is tried once, in order; then the one with the largest wins / pulls + sqrt(exploration * ln(all) / pulls),
    where what was chosen and has no outcome yet counts as a pull without success, so that several that are chosen
    together differ.

    Args:
        names: of what there is to choose from.
        exploration: 2 in the theorem; less is greedier, which few pulls want.

    Source: Auer, Cesa-Bianchi and Fischer 2002, "Finite-time Analysis of the Multiarmed Bandit Problem", figure 1.
    """

    def __init__(self, names: Sequence[str], exploration: float = 0.5) -> None:
        self.exploration = exploration
        self.arms = {name: _Arm() for name in names}

    def choose(self, among: Sequence[str] | None = None) -> str:
        """The next to try; the first of equals.

        Args:
            among: default: all.
        """
        every = math.log(max(1, sum(arm.pulls for arm in self.arms.values())))

        def bound(name: str) -> float:
            arm = self.arms[name]
            return math.inf if not arm.pulls else arm.wins / arm.pulls + math.sqrt(self.exploration * every / arm.pulls)

        return max(self.arms if among is None else among, key=bound)

    def pull(self, name: str) -> None:
        """Counts a try."""
        self.arms[name].pulls += 1

    def reward(self, name: str) -> None:
        """Counts a success of a try that was counted."""
        self.arms[name].wins += 1
