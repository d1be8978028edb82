"""`hardprompts distill`: a long prompt, or a soft prompt's file, becomes a short prompt."""

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hardprompts.cli import screen
from hardprompts.cli.screen import clear_errors, err, fail, say
from hardprompts.errors import printable

if TYPE_CHECKING:
    from hardprompts.distillation.distiller import PromptDistiller
    from hardprompts.distillation.faithfulness import DistilledPrompt
    from hardprompts.softprompts.prompt import SoftPrompt

DEFAULT_MODEL = "emoji"

#: What a file of a soft prompt ends in: text that ends so and names no file is most likely a misspelt path.
SUFFIXES = (".safetensors", ".pt", ".bin", ".png", ".webp")


def distill(
    what: Annotated[
        str, typer.Argument(metavar="PROMPT|FILE", help="A long prompt, or the file (or folder) of a soft prompt.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="SCHEME:NAME", help="The model; see `hardprompts models`."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", "-n", help="The most tokens of the prompt (default: 8 or so).")
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="The same as a share of the original's tokens.")] = None,
    inside: Annotated[
        list[str] | None,
        typer.Option(help="The text in which both stand, with one {}; may be repeated: the mean over all."),
    ] = None,
    match: Annotated[
        Literal["auto", "features", "hidden_states", "noise", "outputs"], typer.Option(help="What is to be the same.")
    ] = "auto",
    name: Annotated[str, typer.Option(help="Which one, of a file with several soft prompts.")] = "",
    method: Annotated[
        str | None,
        typer.Option(help="The search method (see `hardprompts methods`), nearest, nearest-l2 or selection."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the method, at most.")] = None,
    restarts: Annotated[int | None, typer.Option(help="Starts, searched in one batch.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds for the search, at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the result repeatable (default: drawn, and shown).")] = None,
    banned: Annotated[
        list[str] | None,
        typer.Option(help="A string that must not occur; may be repeated. none: lifts the list of swear words."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps (default: the best there is).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything about the prompt as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write DIR/prompt.json.")] = None,
) -> None:
    """Find the short prompt that does what a long or a soft prompt does, and how faithfully.

    Nothing in a file is run. Ctrl-C ends the search with the best prompt so far.
    """
    with clear_errors():
        if save is not None and save.exists() and not save.is_dir():
            fail(f"--save needs a folder, and {save} is a file")
        given = {
            "num_tokens": tokens, "ratio": ratio, "inside": inside or None, "max_steps": steps, "restarts": restarts,
            "deadline": deadline, "seed": seed, "banned": banned or None,
        }  # fmt: skip
        options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        with contextlib.redirect_stdout(sys.stderr):  # stdout is the result's alone
            original = _original(what, name)
            distiller = _open(model, method, device)
            if deadline is None:
                screen.read_words(distiller.search, distiller.backend)
            with screen.LiveSearch() as live:
                prompt = distiller.distill(original, match=match, callback=live, progress=False, **options)
        if as_json:
            typer.echo(json.dumps(prompt.to_dict(), indent=2))
        else:
            _show(prompt)
        if save is not None:
            say(f"saved {prompt.save_pretrained(save)}", "dim")
    if prompt.stop_reason == "interrupted":
        raise typer.Exit(screen.INTERRUPTED)


def _original(what: str, name: str) -> "str | SoftPrompt":
    """The prompt, or the soft prompt of the file that it names."""
    path = Path(what)
    try:
        is_file = path.exists()
    except (OSError, ValueError):  # too long for a path, or with a zero byte: a prompt
        is_file = False
    if not is_file:
        if what.lower().endswith(SUFFIXES) and len(what.split()) == 1:
            fail(f"there is no file {what!r}; check the path (a prompt would not end so)")
        if name:
            fail(f"--name chooses from a file, and {what!r} names none")
        return what
    from hardprompts.softprompts import SoftPrompt

    return SoftPrompt.from_file(path, name=name)


def _open(model: str | None, method: str | None, device: str | None) -> "PromptDistiller":
    """The distiller; without a model's name that of the embedded one, and what it is good for."""
    from hardprompts.distillation.distiller import PromptDistiller

    chosen = DEFAULT_MODEL if model is None else model
    with err.status(f"opening {chosen}") if err.is_terminal else contextlib.nullcontext():
        if method is None:
            distiller = PromptDistiller(chosen, device=device)
        else:
            distiller = PromptDistiller(chosen, method, device=device)
    if model is None and distiller.backend.note:
        say(" ".join(distiller.backend.note.split()), "dim")
    return distiller


def _show(prompt: "DistilledPrompt") -> None:
    """The prompt on stdout; on stderr how faithful it is, and what was lost."""
    screen.show_prompt(prompt)
    found = prompt.faithfulness
    if found is not None:
        say(str(found), "dim")
    for phrase in prompt.lost[:5]:
        say(f"lost: {printable(phrase.text)}", "yellow")
