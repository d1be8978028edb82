"""Methods compared on the same targets, with intervals.

Differences are paired: targets differ more from each other than methods do, and pairing takes that out.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch

from hardprompts.evaluation import Interval, markdown_row, markdown_table, t_interval, t_quantile


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one method reached on each of some targets, in the same order as any that it is compared with.

    Attributes:
        name: of the method, for tables.
        values: one for each target.
    """

    name: str
    values: tuple[float, ...]

    @classmethod
    def of_runs(cls, name: str, runs: Sequence[Sequence[float]]) -> "Measurement":
        """From several runs (seeds) of each target: their mean, since runs of one target are not independent.

        Raises:
            ValueError: a target has no run.
        """
        if not all(len(run) for run in runs):
            raise ValueError(f"{name}: a target has no runs; leave it out of every method that is compared")
        return cls(name, tuple(math.fsum(run) / len(run) for run in runs))

    def interval(self, confidence: float = 0.95) -> Interval:
        """The mean over the targets, with Student's interval."""
        return t_interval(self.values, confidence)

    def minus(self, reference: "Measurement", confidence: float = 0.95) -> Interval:
        """The mean paired difference with another method, with Student's interval.

        Raises:
            ValueError: it was measured on another number of targets.
        """
        _check_pairs(len(self.values), len(reference.values))
        return t_interval([a - b for a, b in zip(self.values, reference.values, strict=True)], confidence)

    def relative_to(
        self, reference: "Measurement", floor: "Measurement | None" = None, confidence: float = 0.95
    ) -> Interval:
        """What share of another method's mean this one reaches, with Fieller's interval.

        Args:
            floor: what counts as nothing (the empty prompt, say), and is taken from both.

        Raises:
            ValueError: they were measured on another number of targets.
        """
        zero = (0.0,) * len(self.values) if floor is None else floor.values
        _check_pairs(len(self.values), len(reference.values))
        _check_pairs(len(self.values), len(zero))
        return ratio_interval(
            [a - z for a, z in zip(self.values, zero, strict=True)],
            [b - z for b, z in zip(reference.values, zero, strict=True)],
            confidence,
        )

    def row(self, reference: "Measurement | None" = None) -> tuple[str, ...]:
        """The cells of a table: name, mean, and the paired difference with `reference` if there is one."""
        cells = (self.name, str(self.interval()))
        if reference is None:
            return cells
        return (*cells, "" if reference is self else _signed(self.minus(reference)))

    def __str__(self) -> str:
        """The row of a Markdown table."""
        return markdown_row(self.row())


def _signed(interval: Interval) -> str:
    text = str(interval)
    return text if text.startswith("-") else f"+{text}"


def comparison_table(
    measurements: Sequence[Measurement], reference: Measurement | None = None, what: str = "mean"
) -> str:
    """A Markdown table of methods: each one's mean and its paired difference with `reference`, with 95 % intervals."""
    head = ["method", what] + ([] if reference is None else [f"over {reference.name}"])
    return markdown_table([head, *(measurement.row(reference) for measurement in measurements)])


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], confidence: float = 0.95) -> Interval:
    """The ratio of the means of paired values, with Fieller's interval.

    It is unbounded where the mean of the denominators may be zero at this confidence.

    Raises:
        ValueError: as `t_interval`; the values are not pairs.

    Source: Fieller 1954, Some problems in interval estimation.
    """
    _check_pairs(len(numerators), len(denominators))
    mean_x, mean_y = t_interval(numerators, confidence).mean, t_interval(denominators, confidence).mean
    count = len(numerators)
    ratio = mean_x / mean_y if mean_y else math.nan
    if count == 1:
        return Interval(ratio, -math.inf, math.inf, 1)
    k = t_quantile(confidence, count - 1) ** 2 / count
    covariance = torch.cov(torch.tensor([numerators, denominators], dtype=torch.float64)).tolist()
    # The ratios r at which the mean of x - r y does not differ from zero: a r^2 - 2 b r + c <= 0.
    a = mean_y**2 - k * covariance[1][1]
    b = mean_x * mean_y - k * covariance[0][1]
    c = mean_x**2 - k * covariance[0][0]
    if a <= 0:
        return Interval(ratio, -math.inf, math.inf, count)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return Interval(ratio, (b - root) / a, (b + root) / a, count)


def _check_pairs(count: int, other: int) -> None:
    if count != other:
        raise ValueError(f"paired figures need the same targets in the same order, got {count} and {other} values")
