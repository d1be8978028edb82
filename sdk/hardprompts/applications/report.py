"""All that is known about a prompt as one web page that stands alone, with the pictures that it is of."""

import dataclasses
import functools
import itertools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from PIL import Image

from hardprompts.applications.evidence import FIGURES, HEADINGS, MEANING, columns, evidence_rows, truth_note
from hardprompts.applications.interactions import DEPENDENCE, interaction_levels, interaction_notes, level_colors
from hardprompts.hub.machine import shown_model
from hardprompts.hub.page import page_environment
from hardprompts.images import ImageInput, load_images
from hardprompts.images.showing import jpeg_address, picture_with_regions
from hardprompts.prompts import HardPrompt, HistoryPoint, PromptTemplate, fluency_note, notes_on, ranking_note
from hardprompts.search.protocol import StopReason

#: Rows of a table, and pictures, that a page shows.
LIMITS = {"max_rows": 80, "max_pictures": 40, "max_places": 12}

#: The longer side of a picture in pixels, where there are at most so many.
SIDES = {1: 640, 4: 360, 12: 240}
SMALLEST_SIDE = 160
PLACES_SIDE = 200

#: Points of a curve that are drawn.
MAX_POINTS = 400


class Picture(NamedTuple):
    """A small picture as an address that holds it, and what the picture is called."""

    address: str
    name: str


def prompt_page(
    prompt: HardPrompt,
    images: "ImageInput | Sequence[ImageInput]" = (),
    drawn: Sequence[tuple[Image.Image, str]] = (),
) -> str:
    """A web page about a prompt as HTML: its pictures, tokens, candidates, history and settings, in one file.

    It has no scripts and loads nothing. Folders of this machine do not stand in it; words that people wrote do.

    Args:
        images: what the prompt is of; see `load_images`. Those that are files go by their names.
        drawn: what a generator drew of it, with what stands below each picture.

    Raises:
        ImageError: an image cannot be read.
    """
    named, more = _named(images)
    shown = [*named, *drawn]
    side = next((side for count, side in SIDES.items() if len(shown) <= count), SMALLEST_SIDE)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            prompt=prompt.cleared()[0],
            model=shown_model(prompt.model),
            pictures=[Picture(jpeg_address(image, side), name) for image, name in shown],
            more_pictures=more,
            places=_places(prompt, named[0][0]) if named else [],
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    made = page_environment("hardprompts.applications")
    made.globals |= {
        **LIMITS, "figures": FIGURES, "headings": HEADINGS, "meaning": MEANING, "dependence": DEPENDENCE,
        "colors": {level: color for level, color in level_colors().items() if level},
    }  # fmt: skip
    made.filters |= {
        "columns": columns,
        "curve": Curve.of,
        "drawn_for": _drawn_for,
        "evidence_rows": evidence_rows,
        "fluency_note": fluency_note,
        "interaction_levels": interaction_levels,
        "interaction_notes": interaction_notes,
        "notes_on": notes_on,
        "pasted": _pasted,
        "ranking_note": ranking_note,
        "settings": _settings,
        "stopped": _stopped,
        "template": lambda prompt: PromptTemplate(prompt.template),
        "token_rows": _token_rows,
        "truth_note": truth_note,
    }
    return made


def _named(images: "ImageInput | Sequence[ImageInput]") -> tuple[list[tuple[Image.Image, str]], int]:
    """The images that are shown, with their names, and how many more there are."""
    given = list(images) if isinstance(images, list | tuple) else [images]
    found = [(image, _name(one)) for one in given[: LIMITS["max_pictures"]] for image in load_images(one)]
    shown = found[: LIMITS["max_pictures"]]
    return shown, len(found) - len(shown) + max(0, len(given) - LIMITS["max_pictures"])


def _places(prompt: HardPrompt, image: Image.Image) -> list[Picture]:
    """For each phrase that has regions, a small picture of these; they are of the first image."""
    return [
        Picture(jpeg_address(picture_with_regions(image, [one], PLACES_SIDE), PLACES_SIDE), one.phrase)
        for one in prompt.evidence[: LIMITS["max_places"]]
        if one.regions
    ]


def _name(image: object) -> str:
    return Path(image).name if isinstance(image, str | os.PathLike) else "picture"


# --- what the page says of a prompt -------------------------------------------------------


class TokenRow(NamedTuple):
    """A token, what it contributes, and that as a share of the most that one contributes, in [0, 1]."""

    token: str
    contribution: float
    share: float


def _token_rows(prompt: HardPrompt) -> list[TokenRow]:
    values = prompt.attributions
    if len(values) != len(prompt.tokens) or not all(map(math.isfinite, values)):
        return []
    most = max(map(abs, values), default=0.0) or 1.0
    return [TokenRow(token, value, abs(value) / most) for token, value in zip(prompt.tokens, values, strict=True)]


def _pasted(prompt: HardPrompt) -> list[tuple[str, str]]:
    """What is pasted into UIs that read weights in a prompt, where it is another text than the prompt's own."""
    texts = [("ComfyUI", prompt.escaped("comfyui")), ("A1111", prompt.escaped("a1111"))]
    if prompt.weights is not None:
        texts.append(("with weights", prompt.weighted()))
    return [(ui, text) for ui, text in texts if text != prompt.filled]


def _stopped(prompt: HardPrompt) -> str:
    """Why the search ended; "" where that is not known."""
    known = {reason.value: reason.sentence for reason in StopReason}
    return known.get(prompt.stop_reason, prompt.stop_reason)


def _settings(prompt: HardPrompt) -> list[tuple[str, str]]:
    """All that the provenance says, in texts."""
    return [
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in prompt.provenance.items()
    ]


@dataclasses.dataclass(frozen=True)
class Curve:
    """The best score against what it cost, as a line of (x, y) in a frame of `WIDTH` by `HEIGHT`.

    Attributes:
        spent: passes, or pictures, in all.
        unit: which of them.
    """

    points: tuple[tuple[float, float], ...]
    low: float
    high: float
    spent: int
    unit: str

    WIDTH, HEIGHT = 420, 150
    LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 28

    @classmethod
    def of(cls, prompt: HardPrompt) -> "Curve | None":
        """The curve of a prompt's search; None where there is none."""
        known = _best_so_far([point for point in prompt.history if math.isfinite(point.score)])
        if len(known) < 2:
            return None
        low, high = min(point.score for point in known), max(point.score for point in known)
        unit = "pictures" if _drawn_for(prompt) else "passes"
        last = max(_drawn_for(prompt) or prompt.evaluations, _cost(known[-1], unit), 1)
        across = (cls.WIDTH - cls.LEFT - cls.RIGHT) / last
        down = (cls.HEIGHT - cls.TOP - cls.BOTTOM) / ((high - low) or 1.0)

        def place(cost: int, score: float) -> tuple[float, float]:
            return cls.LEFT + across * cost, cls.TOP + down * (high - score)

        steps = [place(_cost(known[0], unit), known[0].score)]
        before = known[0]
        for point in _thinned(known[1:]):
            steps += [place(_cost(point, unit), before.score), place(_cost(point, unit), point.score)]
            before = point
        return cls((*steps, place(last, before.score)), low, high, last, unit)


def _drawn_for(prompt: HardPrompt) -> int:
    """The pictures that a generator drew to find a prompt; 0 where it was found without one."""
    drawn = prompt.provenance.get("pictures")
    return drawn if isinstance(drawn, int) and not prompt.evaluations else 0


def _cost(point: HistoryPoint, unit: str) -> int:
    return point.step if unit == "pictures" else point.evaluations


def _best_so_far(points: Sequence[HistoryPoint]) -> list[HistoryPoint]:
    """The points with the best score up to each: what several searches made one after the other begins anew."""
    best = itertools.accumulate((point.score for point in points), max)
    return [dataclasses.replace(point, score=score) for point, score in zip(points, best, strict=True)]


def _thinned(points: Sequence[HistoryPoint]) -> Sequence[HistoryPoint]:
    """At most `MAX_POINTS` points, evenly spaced, the last among them."""
    step = -(-len(points) // MAX_POINTS) or 1
    return points[::-1][::step][::-1]
