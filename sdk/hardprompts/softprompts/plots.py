"""Plots of soft prompts beside natural ones, as SVG text: for pages without scripts, on light and on dark paper.

The colours come from the page: the classes `soft`, `natural`, `band`, `grid` and `label` (see `report.STYLE`).
"""

import math
from collections.abc import Callable, Sequence

from hardprompts.softprompts.robustness import Curve, Histogram

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 12, 36

#: Shares of an effect beyond these are drawn at the edge.
LEAST, MOST = -0.25, 1.1


def histogram_svg(histogram: Histogram, title: str, x_label: str) -> str:
    """Two histograms back to back: natural tokens upwards, soft ones downwards, each as high as its tallest bar."""
    low, high = histogram.edges[0], histogram.edges[-1]
    x = _scale(low, high, LEFT, WIDTH - RIGHT)
    bottom = HEIGHT - BOTTOM
    middle = TOP + (bottom - TOP) * 0.56
    parts = []
    for name, shares, space in (
        ("natural", histogram.natural, middle - TOP),
        ("soft", histogram.soft, middle - bottom),
    ):
        tallest = max(shares) or 1.0
        for left, right, share in zip(histogram.edges, histogram.edges[1:], shares, strict=False):
            if share:
                height = space * share / tallest
                top = middle - max(height, 0.0)
                width = max(x(right) - x(left) - 1, 1)
                parts.append(_rect(name, x(left) + 0.5, top, width, abs(height)))
    parts.append(_line(LEFT, middle, WIDTH - RIGHT, middle))
    parts += [_tick(x(value), value, bottom) for value in _ticks(low, high)]
    return _svg(title, x_label, parts)


def curve_svg(curve: Curve, title: str, x_label: str, *, logarithmic: bool = False) -> str:
    """The share of the effect that is left along a path: the soft prompt as a line, natural ones as a band."""
    warp: Callable[[float], float] = math.log if logarithmic else float
    across = _scale(warp(curve.positions[0]), warp(curve.positions[-1]), LEFT, WIDTH - RIGHT)
    down = _scale(LEAST, MOST, HEIGHT - BOTTOM, TOP)
    xs = [across(warp(position)) for position in curve.positions]

    def points(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(x, down(min(max(value, LEAST), MOST))) for x, value in zip(xs, values, strict=True)]

    parts = []
    for share in (0.0, 0.5, 1.0):
        parts += [
            _line(LEFT, down(share), WIDTH - RIGHT, down(share)),
            _text(LEFT - 5, down(share) + 4, f"{share:.0%}", "label end"),
        ]
    band = [*points(curve.natural_high), *reversed(points(curve.natural_low))]
    parts.append(f'<polygon class="band" points="{_joined(band)}"/>')
    parts.append(f'<polyline class="natural line" points="{_joined(points(curve.natural_median))}"/>')
    parts.append(f'<polyline class="soft line" points="{_joined(points(curve.soft))}"/>')
    parts += [f'<circle class="soft" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points(curve.soft)]
    parts += [_tick(x, position, HEIGHT - BOTTOM) for x, position in zip(xs, curve.positions, strict=True)]
    return _svg(title, x_label, parts)


def _svg(title: str, x_label: str, parts: Sequence[str]) -> str:
    """Titles and labels are our own words, and stand as they are."""
    label = _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label, "label middle")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
        f"{''.join(parts)}{label}</svg>"
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(x: float, value: float, bottom: float) -> str:
    return _line(x, bottom, x, bottom + 3) + _text(x, bottom + 14, f"{value:.4g}", "label middle")


def _rect(name: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, name: str) -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}">{text}</text>'


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
