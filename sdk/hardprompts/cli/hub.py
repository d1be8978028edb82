"""`hardprompts push` and `hardprompts pull`: prompts to the Hub and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardprompts.cli.options import EmbeddingName, Rename
from hardprompts.cli.screen import clear_errors, fail, out, say, show_saved, soft_prompt_at

if TYPE_CHECKING:
    from hardprompts.prompts import HardPrompt
    from hardprompts.softprompts import SoftPrompt

Repository = Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository on the Hub.")]
Revision = Annotated[str | None, typer.Option(help="A branch, or for pull a tag or commit too (default: main).")]


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where prompt.json or a soft prompt is; or a soft-prompt file.")
    ],
    repo_id: Repository,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who may see a new repository (default: everybody).")
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="What the commit says.")] = "Upload with hardprompts",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose it as a pull request.")] = False,
    revision: Revision = None,
    name: EmbeddingName = "",
    rename: Rename = None,
    license: Annotated[str | None, typer.Option(help="Its license on the card, as the Hub writes it: cc0-1.0.")] = None,
) -> None:
    """Put a prompt on the Hub, in one commit: the prompt and a card.

    The token is the one that `hf auth login` stored, or HF_TOKEN.
    """
    with clear_errors():
        from hardprompts import sharing as hub

        hard, soft = _prompts_in(folder, name, rename or ())
        pushed = hub.push(
            repo_id,
            hard,
            soft,
            private=private,
            commit_message=message,
            create_pr=create_pr,
            revision=revision,
            license=license,
        )
        if not pushed.changed:
            say("it is there already, and nothing was committed", "dim")
        say(pushed.url, console=out)


def pull(
    repo_id: Repository,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the prompt's files here.")] = None,
    revision: Revision = None,
    offline: Annotated[bool, typer.Option("--offline", help="Read what was downloaded before.")] = False,
) -> None:
    """Print the prompt of a repository: the text of a hard prompt, or what a soft prompt is."""
    with clear_errors():
        from hardprompts import sharing as hub

        hard, soft = hub.pull(repo_id, revision=revision, local_files_only=offline)
        if hard is not None:
            say(hard.__rich__() if out.is_terminal else hard.filled, console=out)
        if soft is not None:
            say(repr(soft), console=out)
        if save is not None:
            if hard is not None:
                show_saved(hard.save_pretrained(save))
            for path in () if soft is None else soft.save_pretrained(save):
                say(f"saved {path}", "dim")


def _prompts_in(place: Path, name: str, rename: Sequence[str]) -> "tuple[HardPrompt | None, SoftPrompt | None]":
    """The prompts in a folder, or the soft prompt in a file.

    Raises:
        FileFormatError: there is none, or it is damaged.
    """
    from hardprompts.sharing import prompts_in

    if not place.is_dir():
        return None, soft_prompt_at(place, name, rename)
    if name or rename:
        fail(f"--name and --rename are for a soft-prompt file, and {place} is a folder")
    return prompts_in(place)
