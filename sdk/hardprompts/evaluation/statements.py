"""What a prompt says of a picture against what is true of it: precision, recall, and their harmonic mean."""

import dataclasses
from collections.abc import Hashable, Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Match:
    """How much of what was found is right, and how much of what is right was found.

    Attributes:
        precision: share of what was found that is right, in [0, 1]; 0 where nothing was found and something is right.
        recall: share of what is right that was found, in [0, 1]; 1 where nothing is to be found.
    """

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean of both; 0 if both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


def statement_match(found: Iterable[Hashable], true: Iterable[Hashable]) -> Match:
    """How statements compare with those that are true; each counts once, however often it is made.

    Args:
        found, true: statements in any form that can be compared: ("object", "fox"), "background: blue".
    """
    said, right = set(found), set(true)
    common = len(said & right)
    return Match(
        precision=common / len(said) if said else float(not right), recall=common / len(right) if right else 1.0
    )


def mean_match(matches: Sequence[Match]) -> Match:
    """The mean precision and recall of several prompts (macro average).

    Raises:
        ValueError: there are none.
    """
    if not matches:
        raise ValueError("there are no matches to average; give at least one")
    count = len(matches)
    return Match(sum(one.precision for one in matches) / count, sum(one.recall for one in matches) / count)
