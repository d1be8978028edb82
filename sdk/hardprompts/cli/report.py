"""`hardprompts report`: all that is known about a saved prompt as a page; `invert --report` writes the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardprompts.cli.screen import clear_errors, fail, say

if TYPE_CHECKING:
    from PIL.Image import Image

    from hardprompts.prompts import HardPrompt


def report(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The folder of a saved prompt, or user/name.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="What it is of, to be shown beside it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The page to write, such as cat.html.")
    ] = None,
) -> None:
    """Write one page about a saved prompt: its picture, tokens, candidates, history, evidence and settings."""
    with clear_errors():
        if output is None:
            fail("--output is needed: the page to write, such as cat.html")
        check_report("--output", output, images or ())
        from hardprompts.prompts import HardPrompt

        write_report(output, HardPrompt.from_pretrained(prompt), images or ())


def check_report(flag: str, path: Path, images: Sequence[Path]) -> None:
    """Ends the command if a page cannot be written there, or would replace an image."""
    if path.is_dir() or any(path.exists() and image.exists() and path.samefile(image) for image in images):
        fail(f"{flag} writes a file of its own, and cannot be {path}")


def write_report(
    path: Path, prompt: "HardPrompt", images: Sequence[Path], drawn: "Sequence[tuple[Image, str]]" = ()
) -> None:
    """Writes the page about a prompt of images, and of what was drawn of it, whole or not at all, and says where."""
    from hardprompts.applications.report import prompt_page
    from hardprompts.atomic import write_text_atomically

    write_text_atomically(path, prompt_page(prompt, list(images), drawn))
    say(f"wrote {path}", "dim")
