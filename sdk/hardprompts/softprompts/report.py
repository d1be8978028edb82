"""The audit of a soft-prompt file as one web page that stands alone; all that comes from the file is data."""

import functools
from collections.abc import Sequence

import jinja2
import torch

from hardprompts.hub.machine import without_machine
from hardprompts.hub.page import page_environment
from hardprompts.softprompts import plots
from hardprompts.softprompts.audit import LONGEST_SHARE, Audit, FileFacts
from hardprompts.softprompts.findings import encoder_widths, median_lengths
from hardprompts.softprompts.geometry import NEAR, GeometryReport
from hardprompts.softprompts.prompt import SoftPrompt
from hardprompts.softprompts.robustness import Spread

#: Rows of a table, entries of metadata and soft prompts of a file that a page shows.
LIMITS = {"max_rows": 80, "max_metadata": 24, "max_prompts": 16}

#: Tokens of a soft prompt that are compared with each other.
MAX_COMPARED = 512


def render_report(file: FileFacts, audits: Sequence[Audit]) -> str:
    """The page about a file, and all soft prompts in it, as HTML.

    Raises:
        ValueError: there is no audit.
    """
    if not audits:
        raise ValueError("a report needs the audit of at least one soft prompt, and there is none")
    return environment().get_template("report.html.jinja").render(file=file, audits=audits, refusal=None)


def render_refusal(file: FileFacts, reason: str) -> str:
    """The page about a file that was not read, and why, as HTML."""
    return environment().get_template("report.html.jinja").render(file=file, audits=(), refusal=without_machine(reason))


@functools.cache
def environment() -> jinja2.Environment:
    """The templates of the page and its plots, which escape every value."""
    made = page_environment("hardprompts.softprompts")
    made.globals |= {**LIMITS, "near_angle": NEAR, "frame": plots}
    made.filters |= {
        "curve_plot": plots.CurvePlot.of,
        "encoders": encoder_widths,
        "histogram_plot": plots.HistogramPlot.of,
        "lengths": _lengths,
        "median_lengths": median_lengths,
        "medians": _medians,
        "rank": lambda rank: "all" if rank >= LONGEST_SHARE else f"{rank:.0%}",
    }
    return made


def _lengths(prompt: SoftPrompt) -> list[tuple[str, str]]:
    """What the embeddings of each encoder show without any words: their lengths, and how alike they are."""
    rows = []
    for encoder, values in prompt.embeddings.items():
        lengths = values.norm(dim=1)
        said = f"lengths from {lengths.min():.3g} to {lengths.max():.3g}"
        some = torch.nn.functional.normalize(values[:MAX_COMPARED], dim=1)
        if len(some) > 1:
            alike = (some @ some.T).fill_diagonal_(-1).max()
            said += f"; the two most alike tokens have a cosine of {alike:.2f}"
        rows.append((encoder, said))
    return rows


def _medians(geometry: GeometryReport, spread: Spread | None) -> dict[str, float]:
    """Of the soft tokens: how many natural ones are shorter, the cosine with the nearest word, how many have one near.

    The natural cosine is the middle of the bin in which the median lies.
    """
    ranks = sorted(token.norm_rank for token in geometry.tokens)
    cosines = sorted(token.by_cosine[0].cosine for token in geometry.tokens)
    return {
        "norm_rank": ranks[len(ranks) // 2],
        "cosine": cosines[len(cosines) // 2],
        "natural_cosine": 0.0 if spread is None else _median_of_bins(spread),
        "near": sum(token.angle <= NEAR for token in geometry.tokens),
    }


def _median_of_bins(spread: Spread) -> float:
    total, edges = 0.0, spread.cosines.edges
    for left, right, share in zip(edges, edges[1:], spread.cosines.natural, strict=False):
        total += share
        if total >= 0.5:
            return (left + right) / 2
    return edges[-1]
