"""Where the marks of a plot stand: soft prompts beside natural ones. `plots.svg.jinja` draws them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hardprompts.softprompts.robustness import Curve, Histogram

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 12, 36

#: Shares of an effect beyond these are drawn at the edge.
LEAST, MOST = -0.25, 1.1


class Bar(NamedTuple):
    """A bar of a histogram, of "natural" or "soft" tokens; x and y are its upper left corner."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Mark(NamedTuple):
    """A value written beside its place on an axis."""

    place: float
    label: str


@dataclasses.dataclass(frozen=True)
class HistogramPlot:
    """Two histograms back to back: natural tokens upwards, soft ones downwards, each as high as its tallest bar."""

    bars: tuple[Bar, ...]
    middle: float
    marks: tuple[Mark, ...]

    @classmethod
    def of(cls, histogram: Histogram) -> "HistogramPlot":
        """A histogram in the frame of a plot."""
        low, high = histogram.edges[0], histogram.edges[-1]
        x = _scale(low, high, LEFT, WIDTH - RIGHT)
        bottom = HEIGHT - BOTTOM
        middle = TOP + (bottom - TOP) * 0.56
        bars = []
        for kind, shares, space in (
            ("natural", histogram.natural, middle - TOP),
            ("soft", histogram.soft, middle - bottom),
        ):
            tallest = max(shares) or 1.0
            for left, right, share in zip(histogram.edges, histogram.edges[1:], shares, strict=False):
                if share:
                    height = space * share / tallest
                    width = max(x(right) - x(left) - 1, 1)
                    bars.append(Bar(kind, x(left) + 0.5, middle - max(height, 0.0), width, abs(height)))
        return cls(tuple(bars), middle, tuple(Mark(x(value), f"{value:.4g}") for value in _round_numbers(low, high)))


@dataclasses.dataclass(frozen=True)
class CurvePlot:
    """The share of the effect that is left along a path: the soft prompt as a line, natural ones as a band.

    Lines and the outline of the band are points (x, y).
    """

    soft: tuple[tuple[float, float], ...]
    natural: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float], ...]
    levels: tuple[Mark, ...]
    marks: tuple[Mark, ...]

    @classmethod
    def of(cls, curve: Curve, *, logarithmic: bool = False) -> "CurvePlot":
        """A curve in the frame of a plot, its positions on a logarithmic axis or on a plain one."""
        warp: Callable[[float], float] = math.log if logarithmic else float
        across = _scale(warp(curve.positions[0]), warp(curve.positions[-1]), LEFT, WIDTH - RIGHT)
        down = _scale(LEAST, MOST, HEIGHT - BOTTOM, TOP)
        xs = [across(warp(position)) for position in curve.positions]

        def points(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
            return tuple((x, down(min(max(value, LEAST), MOST))) for x, value in zip(xs, values, strict=True))

        return cls(
            soft=points(curve.soft),
            natural=points(curve.natural_median),
            band=(*points(curve.natural_high), *reversed(points(curve.natural_low))),
            levels=tuple(Mark(down(share), f"{share:.0%}") for share in (0.0, 0.5, 1.0)),
            marks=tuple(Mark(x, f"{value:.4g}") for x, value in zip(xs, curve.positions, strict=True)),
        )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def _round_numbers(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]
