"""A word of a prompt exchanged on the page, how words depend on each other, and what the page shows of both."""

import html
from collections.abc import Sequence

from hardprompts.applications import Edit, edit, word_interactions
from hardprompts.applications.interactions import DEPENDENCE, interaction_levels, interaction_notes, level_colors
from hardprompts.prompts import HardPrompt
from hardprompts.wording import WordInteractions
from hardprompts_app.display import list_html, notices_html
from hardprompts_app.image import Found
from hardprompts_app.work import Models

#: Letters of an earlier prompt on a button.
MOST_LETTERS = 60


def exchanged(models: Models, found: Found, index: int, text: str, old: str, new: str, every: bool) -> Edit:
    """The prompt of an image with another text, in which a word is exchanged.

    Raises: what `hardprompts.applications.edit` raises.
    """
    return edit(_typed(found, index, text), old, new, models.open(found.model), every=every)


def dependent(models: Models, found: Found, index: int, text: str) -> HardPrompt:
    """The prompt of an image with another text, and with how much its words depend on each other.

    Raises: what `hardprompts.applications.word_interactions` raises.
    """
    return word_interactions(_typed(found, index, text), models.open(found.model), found.targets[index])


def _typed(found: Found, index: int, text: str) -> HardPrompt:
    return HardPrompt(text, (), 0.0, found.prompts[index].template)


def back_to(text: str) -> str:
    """What stands on the button that brings an earlier prompt back."""
    line = " ".join(text.split())
    return f"Back to: {line if len(line) <= MOST_LETTERS else f'{line[: MOST_LETTERS - 1]}…'}"


def exchange_html(found: Edit) -> str:
    """What an exchange changed."""
    sentence = found.moved[:1].upper() + found.moved[1:]
    exchange = f"{html.escape(found.before)} <b>became</b> {html.escape(found.prompt.filled)}"
    return (
        f'<div class="hp-evidence" role="status"><p>{exchange}</p><p>{html.escape(sentence)}.</p>'
        f"{_table(found.rows()) if found.others else ''}{list_html(found.warnings)}</div>"
    )


def dependence_html(prompt: HardPrompt) -> str:
    """How much words depend on each other, as a table in colors, with sentences for those that do most."""
    found = prompt.interactions
    if found is None:
        return notices_html([prompt])
    notes = list_html(interaction_notes(found)) or "<p>Its words do not depend on each other.</p>"
    return (
        f'<div class="hp-evidence">{notes}{_table(found.rows(), _colors(found))}<p>{DEPENDENCE}</p>'
        f"{notices_html([prompt])}</div>"
    )


def _colors(found: WordInteractions) -> list[list[str]]:
    """The color of each cell of the table; "" for none. The first two are the phrase and what it contributes."""
    colors = {level: color if level else "" for level, color in level_colors().items()}
    return [["", "", *(colors[level] for level in row)] for row in interaction_levels(found)]


def _table(rows: Sequence[Sequence[str]], colors: Sequence[Sequence[str]] = ()) -> str:
    """A table of a head and rows, whose first cells are texts and the others figures."""

    def line(cells: Sequence[str], tag: str, own: Sequence[str]) -> str:
        written = []
        for place, cell in enumerate(cells):
            color = own[place] if own else ""
            style = f' style="background:{color};color:#111"' if color else ""
            written.append(f"<{tag}{' class=hp-figure' if place else ''}{style}>{html.escape(cell)}</{tag}>")
        return f"<tr>{''.join(written)}</tr>"

    body = [line(row, "td", colors[place] if colors else ()) for place, row in enumerate(rows[1:])]
    return f"<table>{line(rows[0], 'th', ())}{''.join(body)}</table>"
