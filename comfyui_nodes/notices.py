"""What a run should not keep to itself: what its limits left no room for, and what somebody is warned of."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from comfy_api.latest import io

from .bridge import show_text


@contextlib.contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """What users are warned of while the block runs, each once; the log has it, too.

    Other packs may have switched warnings off for the whole process: ours are on in the block.
    """
    kept: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=UserWarning, module=r".*(hardprompts|comfyui_nodes)")
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            said = " ".join(str(message).split())
            if issubclass(category, UserWarning | RuntimeWarning) and said not in kept:
                kept.append(said)
            usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield kept


@contextlib.contextmanager
def warnings_shown(node_id: Any) -> Iterator[None]:
    """Shows in the node what users were warned of in the block."""
    with warnings_kept() as kept:
        yield
    if kept:
        show_text("\n".join(kept), node_id)


def notices_of(prompts: Iterable[Any], warned: Iterable[str] = ()) -> list[str]:
    """What is to be known of the prompts, see `notes_on`, and a line for each warning."""
    from hardprompts.prompts import notes_on

    return [*notes_on(prompts), *warned]


def deadline_input() -> io.Input:
    """How long a node may take."""
    return io.Float.Input(
        "deadline",
        default=0.0,
        min=0.0,
        max=86_400.0,
        step=1.0,
        optional=True,
        tooltip="The most seconds that the search and all that is measured of its result may take. 0: no limit. What "
        "there is no room for then is named in the node.",
    )
