"""Web pages that stand alone, to read, to print and to send: no scripts, and nothing loaded from anywhere.

What is data in them, a prompt or what a file says, is escaped by the templates; control characters and marks that turn
the writing direction are shown as escapes, and the page's own policy forbids whatever might still slip through.
"""

import jinja2

from hardprompts.errors import printable

#: Letters of one text that a page shows, where it does not say otherwise.
MAX_TEXT = 300


def page_environment(room: str) -> jinja2.Environment:
    """The templates of a room of the SDK, which may extend `page.html.jinja`; they escape every value.

    Args:
        room: the package that they are in, such as "hardprompts.softprompts".
    """
    found = [jinja2.PackageLoader(package, ".") for package in (room, __package__)]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(found), autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    made.globals["max_text"] = MAX_TEXT
    made.filters |= {"place": "{:.1f}".format, "share": "{:.0%}".format, "shown": shown}
    return made


def shown(text: object, limit: int = MAX_TEXT) -> str:
    """A text that is data: without control characters or marks of direction, and not too long."""
    written = printable(str(text))
    return written if len(written) <= limit else f"{written[: limit - 1]}…"
