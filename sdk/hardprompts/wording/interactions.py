"""How much the phrases of a prompt depend on one another."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class WordInteractions:
    """What each phrase of a prompt adds to its score, alone and together with each other one.

    The interaction of two phrases is s(all) - s(without one) - s(without the other) + s(without both): above 0 they say
    more together than each by itself; below 0 they say the same, so that each adds less beside the other.

    Attributes:
        phrases: as they stand in the text, in their order; a phrase that occurs twice stands here once.
        contributions: of each phrase, the score that is lost when it is left out.
        values: (phrases, phrases) symmetric, with 0 for a phrase and itself.
        unit: of the score.
    """

    phrases: tuple[str, ...]
    contributions: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    unit: str = "cosine similarity"

    def __post_init__(self) -> None:
        count = len(self.phrases)
        if len(self.contributions) != count or [len(row) for row in self.values] != [count] * count:
            raise ValueError(f"{count} phrases need as many contributions, and as many rows of as many interactions")
        numbers = (*self.contributions, *itertools.chain.from_iterable(self.values))
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a contribution or an interaction is not a finite number")

    @property
    def dependence(self) -> float:
        """The mean size of the interactions of two phrases; 0 where there are no two."""
        pairs = [abs(value) for _, _, value in self._pairs()]
        return math.fsum(pairs) / len(pairs) if pairs else 0.0

    def strongest(self, count: int = 5) -> tuple[tuple[str, str, float], ...]:
        """The pairs that depend on each other most, with their interactions."""
        return tuple(sorted(self._pairs(), key=lambda pair: -abs(pair[2]))[:count])

    def rows(self) -> list[list[str]]:
        """The cells of a table: what each phrase contributes, and its interactions with the others."""
        head = ["phrase", "contributes", *self.phrases]
        own = zip(self.phrases, self.contributions, self.values, strict=True)
        return [
            head,
            *(
                [phrase, f"{gain:+.3f}", *("" if i == j else f"{value:+.3f}" for j, value in enumerate(row))]
                for i, (phrase, gain, row) in enumerate(own)
            ),
        ]

    def _pairs(self) -> list[tuple[str, str, float]]:
        places = itertools.combinations(range(len(self.phrases)), 2)
        return [(self.phrases[i], self.phrases[j], self.values[i][j]) for i, j in places]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WordInteractions":
        """The interactions that `dataclasses.asdict` described.

        Raises:
            KeyError, TypeError, ValueError: fields are missing, of the wrong kind or of another length.
        """
        return cls(
            tuple(map(str, values["phrases"])),
            tuple(map(float, values["contributions"])),
            tuple(tuple(map(float, row)) for row in values["values"]),
            str(values["unit"]),
        )
