"""Tables of figures, in Markdown."""

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head.

    Raises:
        ValueError: there is no row, or they differ in length.
    """
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"a table needs rows of one length, got {sorted({len(row) for row in rows})}")
    widths = [max(3, *(len(_cell(row[i])) for row in rows)) for i in range(len(rows[0]))]
    lines = [markdown_row(row, widths) for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def markdown_row(cells: Sequence[str], widths: Sequence[int] | None = None) -> str:
    """The row of a Markdown table, padded to `widths`."""
    padded = [_cell(cell).ljust(width) for cell, width in zip(cells, widths or [0] * len(cells), strict=True)]
    return f"| {' | '.join(padded)} |"


def _cell(text: str) -> str:
    # A bar in a prompt would end the cell.
    return " ".join(text.replace("|", "\\|").split())
