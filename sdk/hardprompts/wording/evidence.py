"""What speaks for a phrase of a prompt: what it contributes, whether it is true of the picture, and where."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

#: A part of a picture: left, top, right and bottom as shares of its width and height.
Region: TypeAlias = tuple[float, float, float, float]


#: Stands in what a prompt says was left out, where the reason is no limit: no probabilities were to be had.
UNCALIBRATED = "nothing is calibrated for"

#: What that means for a bound.
NOTHING_DROPPED = "so no word was dropped as unlikely"


@dataclasses.dataclass(frozen=True)
class WordEvidence:
    """What speaks for one phrase of a prompt; a phrase that occurs twice has one, for all of its occurrences.

    Attributes:
        phrase: as it stands in the text where it occurs first.
        category: of `Categories`, or "other".
        contribution: the score that is lost when it is left out; may be below 0.
        exchange: the score that is lost on average when false words of its category stand in its place; None where the
            category has none, or they were not measured.
        probability: that it is true of the picture, in [0, 1]; None where nothing is calibrated for the model.
        regions: the parts of the picture in which it holds; none where that was not measured, or it holds in no part
            more than in others.
    """

    phrase: str
    category: str
    contribution: float
    exchange: float | None = None
    probability: float | None = None
    regions: tuple[Region, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WordEvidence":
        """The evidence that `dataclasses.asdict` described.

        Raises:
            KeyError, TypeError, ValueError: fields are missing or out of range.
        """
        probability = _number("probability", values.get("probability"))
        if probability is not None and not 0 <= probability <= 1:
            raise ValueError(f"the probability of {values['phrase']!r} is {probability}, which is not in [0, 1]")
        contribution = _number("contribution", values["contribution"])
        if contribution is None:
            raise ValueError(f"what {values['phrase']!r} contributes is missing")
        return cls(
            str(values["phrase"]),
            str(values["category"]),
            contribution,
            _number("exchange", values.get("exchange")),
            probability,
            tuple(_region(sides) for sides in values.get("regions", ())),
        )


def _number(name: str, value: Any) -> float | None:
    number = None if value is None else float(value)
    if number is not None and not math.isfinite(number):
        raise ValueError(f"the {name} is {number}, which is not finite")
    return number


def _region(sides: Any) -> Region:
    left, top, right, bottom = map(float, sides)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"the region {(left, top, right, bottom)} is not within the picture")
    return left, top, right, bottom
