"""Evidence as people read it: a row of plain words for each phrase of a prompt, and what a probability means."""

from collections.abc import Sequence
from typing import NamedTuple

from hardprompts.hub.machine import model_label
from hardprompts.hub.page import shown
from hardprompts.images.showing import percent
from hardprompts.prompts import HardPrompt
from hardprompts.wording import Region, WordEvidence

#: What the columns are called.
HEADINGS = ("word", "kind", "true of the picture", "lost without it", "lost with a wrong word", "where")

#: The columns that have figures.
FIGURES = (2, 3, 4)

#: The same where there is little room.
SHORT_HEADINGS = ("word", "kind", "true", "without it", "wrong word", "where")

#: What they mean, but for the third; see `truth_note`.
MEANING = (
    "Lost without it: how much of the score is gone when the word is left out; below 0, the prompt is better without "
    "it. Lost with a wrong word: the same when other words of its kind, such as other colors, stand in its place."
)

#: Letters of a phrase in a table of plain text.
MOST_LETTERS = 32


class EvidenceRow(NamedTuple):
    """What is known of one phrase, in words and figures; empty where it was not measured."""

    phrase: str
    category: str
    truth: str
    contribution: str
    exchange: str
    place: str


def evidence_rows(prompt: HardPrompt) -> list[EvidenceRow]:
    """A row for each phrase of a prompt, in its order."""
    return [
        EvidenceRow(
            one.phrase,
            one.category,
            "" if one.probability is None else percent(one.probability),
            f"{one.contribution:+.3f}",
            "" if one.exchange is None else f"{one.exchange:+.3f}",
            place_in_words(one.regions),
        )
        for one in prompt.evidence
    ]


def columns(rows: Sequence[EvidenceRow]) -> list[int]:
    """The columns in which anything stands."""
    return [place for place in range(len(HEADINGS)) if any(row[place] for row in rows)]


def truth_note(prompt: HardPrompt) -> str:
    """What the probabilities of a prompt's phrases mean, or why there are none."""
    told = prompt.provenance.get("evidence")
    calibration = told.get("calibration") if isinstance(told, dict) else None
    if all(one.probability is None for one in prompt.evidence):
        return (
            f"No figure says how likely a word is true of the picture: this is not calibrated for "
            f"{model_label(prompt.model) or 'this model'}, that is, nobody has counted how often such words are true. "
            "Compare them by what is lost."
        )
    source = f", calibrated on {calibration}" if calibration else ""
    return (
        f"True of the picture: the probability that the word is true of the picture{source}. "
        "Of all words with 90%, about nine in ten are true of such pictures, and one is not."
    )


def evidence_table(prompt: HardPrompt) -> str:
    """The evidence of a prompt as lines of plain text, with what the columns mean."""
    rows, kept = evidence_rows(prompt), columns(evidence_rows(prompt))
    lines = text_table([[row[place] for place in kept] for row in (SHORT_HEADINGS, *rows)])
    return "\n".join([*lines, "", truth_note(prompt), MEANING])


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of plain text, with the columns below each other."""
    cells = [[shown(cell, MOST_LETTERS) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def place_in_words(regions: Sequence[Region]) -> str:
    """Where regions are, such as "top left"; "" for none, and "all over" where they leave little out."""
    if not regions:
        return ""
    left, top = min(one[0] for one in regions), min(one[1] for one in regions)
    right, bottom = max(one[2] for one in regions), max(one[3] for one in regions)
    across, down = _third(left, right, ("left", "right")), _third(top, bottom, ("top", "bottom"))
    if not across and not down:
        return "all over" if right - left > 0.9 and bottom - top > 0.9 else "middle"
    return " ".join(filter(None, (down, across)))


def _third(low: float, high: float, names: tuple[str, str]) -> str:
    """The half that an interval of [0, 1] lies in, or most of it; "" for the middle."""
    middle = (low + high) / 2
    return names[0] if middle < 0.45 else names[1] if middle > 0.55 else ""


def kept_phrases(prompt: HardPrompt, least: float) -> list[WordEvidence]:
    """The phrases that are true of the picture with at least this probability.

    Where there are no probabilities, those without which something is lost.
    """

    def kept(one: WordEvidence) -> bool:
        return one.contribution > 0 if one.probability is None else one.probability >= least

    return list(filter(kept, prompt.evidence))
