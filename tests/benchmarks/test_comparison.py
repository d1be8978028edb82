"""Comparisons of methods: intervals against their own promise by simulation, pairing, and tables."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

from hardprompts.evaluation import Interval

SPEC = importlib.util.spec_from_file_location("comparison", Path(__file__).parents[2] / "benchmarks" / "comparison.py")
assert SPEC is not None and SPEC.loader is not None
comparison = sys.modules["comparison"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(comparison)
Measurement, comparison_table, ratio_interval = (
    comparison.Measurement, comparison.comparison_table, comparison.ratio_interval
)  # fmt: skip


#: Where the share of 4,000 intervals that hold the truth lies, at 0.95: 4 standard errors of a binomial share.
RUNS, SLACK = 4000, 4 * math.sqrt(0.95 * 0.05 / 4000)


def held(intervals: list[Interval], truth: float) -> float:
    return sum(interval.low <= truth <= interval.high for interval in intervals) / len(intervals)


def test_ratio_intervals_hold_the_ratio_of_the_means_as_often_as_they_say() -> None:
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(RUNS, 10, generator=draw)  # a target that is hard for one is hard for the other
    x = 6 + shared + torch.randn(RUNS, 10, generator=draw)
    y = 8 + shared + 2 * torch.randn(RUNS, 10, generator=draw)
    found = [ratio_interval(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    assert held(found, 6 / 8) == pytest.approx(0.95, abs=SLACK)
    assert all(interval.low < interval.mean < interval.high for interval in found)


def test_a_ratio_to_what_may_be_zero_has_no_bounds() -> None:
    found = ratio_interval([1.0, 2, 3, 2], [-1.0, 1, 2, -1.5])
    assert found.low == -math.inf and found.high == math.inf
    assert math.isnan(ratio_interval([1, 2], [-1, 1]).mean)
    exact = ratio_interval([3, 4, 5], [6, 8, 10])
    assert exact.mean == exact.low == pytest.approx(0.5) and exact.high == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ratio_interval([1.0], [1.0, 2.0]), "1 and 2 values"),
        (lambda: Measurement("a", (1.0,)).minus(Measurement("b", (1.0, 2.0))), "same targets"),
        (lambda: Measurement("a", (1.0,)).relative_to(Measurement("b", (1.0, 2.0))), "same targets"),
        (lambda: Measurement.of_runs("pez", [[1.0], []]), "pez: a target has no runs"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_pairing_takes_out_how_much_the_targets_differ() -> None:
    draw = torch.Generator().manual_seed(0)
    targets = 5 * torch.randn(60, generator=draw)
    a = Measurement("a", tuple((targets + 0.3 + 0.1 * torch.randn(60, generator=draw)).tolist()))
    b = Measurement("b", tuple(targets.tolist()))
    difference = a.minus(b)
    assert difference.low < 0.3 < difference.high and difference.low > 0.2
    assert a.interval().half_width > 20 * difference.half_width
    assert difference.mean == pytest.approx(a.interval().mean - b.interval().mean)
    assert b.minus(a).low == pytest.approx(-difference.high)


def test_shares_of_a_reference_and_of_the_gap_above_a_floor() -> None:
    found, caption, empty = Measurement("found", (0.7, 0.9)), Measurement("caption", (0.8, 1.0)), Measurement("", (0.2, 0.2))  # fmt: skip
    assert found.relative_to(caption).mean == pytest.approx(0.8 / 0.9)
    assert found.relative_to(caption, floor=empty).mean == pytest.approx(0.6 / 0.7)


def test_runs_of_one_target_are_one_value() -> None:
    found = Measurement.of_runs("pez", [[0.1, 0.3], [0.5], [0.2, 0.2, 0.8]])
    assert found.values == pytest.approx((0.2, 0.5, 0.4)) and found.interval().count == 3


def test_tables_are_markdown() -> None:
    pez, ours = Measurement("pez", (0.1, 0.2, 0.3)), Measurement("ours | best", (0.25, 0.3, 0.41))
    assert comparison_table([pez, ours], reference=pez, what="similarity").splitlines() == [
        "| method       | similarity    | over pez       |",
        "|--------------|---------------|----------------|",
        "| pez          | 0.200 ± 0.248 |                |",
        "| ours \\| best | 0.320 ± 0.203 | +0.120 ± 0.066 |",
    ]
    assert str(pez) == "| pez | 0.200 ± 0.248 |"
    assert pez.row(ours)[2] == "-0.120 ± 0.066"
