"""The README.md that a prompt carries on the Hub: metadata that the Hub reads, and text that stays text.

Whatever came from a prompt, a file or a search is data. It stands in code spans and fences that are longer than any
row of backticks in it, with control characters as escapes, so that it is shown and never read as Markdown or HTML.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from hardprompts.errors import printable
from hardprompts.wording import check_text

#: Stands in the cards written here: only those are written anew when a prompt is pushed again.
MARK = "<!-- Written by hardprompts. Remove this line to keep what you change here. -->"

#: Letters of a text from a prompt that a card shows; the rest is in the files.
MAX_SHOWN = 4000

#: The task of a repository whose parts say nothing more special.
DEFAULT_TASK = "text-to-image"


@dataclasses.dataclass(frozen=True)
class CardPart:
    """What one value says in the card of its repository.

    Attributes:
        text: its section, in Markdown.
        tags: of the Hub.
        task: the Hub's "pipeline tag".
        base_model: "user/name" of the model that it is for, or "".
    """

    text: str
    tags: tuple[str, ...] = ()
    task: str = DEFAULT_TASK
    base_model: str = ""


def render_card(repo_id: str, parts: Sequence[CardPart], license: str | None = None) -> str:
    """The README.md of a repository that holds these parts, the most telling one first.

    Args:
        repo_id: "user/name"; its second half is the heading.
        license: an identifier of the Hub ("cc0-1.0", say), or None to name none.
    """
    from huggingface_hub import ModelCardData

    check_text("license", license)
    tags = dict.fromkeys(["hardprompts", *(tag for part in parts for tag in part.tags)])
    metadata = ModelCardData(
        base_model=next((part.base_model for part in parts if part.base_model), None),
        library_name="hardprompts",
        license=license,
        pipeline_tag=next((part.task for part in parts if part.task != DEFAULT_TASK), DEFAULT_TASK),
        tags=list(tags),
    ).to_yaml()
    sections = [f"# {repo_id.rpartition('/')[2]}", *(part.text for part in parts)]
    return f"---\n{metadata}\n---\n{MARK}\n\n" + "\n\n".join(sections) + "\n"


def code_span(text: object) -> str:
    """A text as inline code of Markdown that nothing in it can end."""
    shown = _shown(str(text))
    fence = "`" * (_longest_run(shown) + 1)
    # Spaces keep backticks at either end apart from the fence, and are not shown themselves.
    space = " " if not shown.strip() or shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{space}{shown}{space}{fence}" if shown.strip() else "(nothing)"


def code_fence(text: str, language: str = "text") -> str:
    """A text as a block of code of Markdown that nothing in it can end; line breaks in it are shown as escapes."""
    shown = _shown(text)
    fence = "`" * max(3, _longest_run(shown) + 1)
    return f"{fence}{language}\n{shown}\n{fence}"


def _shown(text: str) -> str:
    written = printable(text)
    return written if len(written) <= MAX_SHOWN else f"{written[:MAX_SHOWN]}... ({len(written)} letters in all)"


def _longest_run(text: str) -> int:
    return max((len(list(run)) for letter, run in itertools.groupby(text) if letter == "`"), default=0)


def facts_list(facts: Sequence[tuple[str, object]]) -> str:
    """Named values as a list in Markdown, without those that say nothing."""
    return "\n".join(f"- {name}: {code_span(value)}" for name, value in facts if value not in ("", None, ()))


def python_block(*lines: str) -> str:
    """Lines of our own, as a block of code."""
    return "\n".join(("```python", *lines, "```"))
