"""`hardprompts edit` and `hardprompts interactions`: a word exchanged, and how words depend on each other."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardprompts.cli import screen
from hardprompts.cli.options import AsJson, Deadline, Device, Dtype, Model, Save, Template, Threads
from hardprompts.cli.screen import clear_errors, fail, say, stdout_kept

if TYPE_CHECKING:
    from hardprompts.applications import Edit
    from hardprompts.prompts import HardPrompt
    from hardprompts.wording import WordInteractions

Prompt = Annotated[str, typer.Argument(help="The prompt, or the folder of a saved one.")]


def edit(
    prompt: Prompt,
    old: Annotated[str, typer.Argument(help="A word of it, or several that stand together.")],
    new: Annotated[str, typer.Argument(help="What is written in its place.")],
    model: Model = None,
    every: Annotated[bool, typer.Option("--every", help="Exchange all occurrences.")] = False,
    template: Template = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    save: Save = None,
) -> None:
    """Exchange a word of a prompt, and say what else that changes for the model that reads it."""
    with clear_errors():
        screen.check_save(save)
        with stdout_kept():
            from hardprompts.applications import edit as edited
            from hardprompts.cli.invert import open_model

            own = _prompt_of(prompt, template)
            screen.use_threads(threads, device)
            found = edited(own, old, new, open_model(model or own.model or None, device, dtype), every=every)
        if as_json:
            typer.echo(json.dumps(found.to_dict(), indent=2))
        else:
            typer.echo(found.prompt.filled)
            _show_edit(found)
        if save is not None:
            screen.show_saved(found.prompt.save_pretrained(save))


def interactions(
    prompt: Prompt,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="What the prompt is for.")],
    model: Model = None,
    template: Template = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Write the table as a picture, in colors.")
    ] = None,
    deadline: Deadline = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    save: Save = None,
) -> None:
    """Show how much the words of a prompt depend on one another: what they add to its score alone and together."""
    with clear_errors():
        screen.check_save(save)
        if picture is not None and picture.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            fail(f"--picture writes a .png, .jpg or .webp file, not {picture.name}")
        with stdout_kept():
            from hardprompts.applications import word_interactions
            from hardprompts.cli.invert import open_model

            own = _prompt_of(prompt, template)
            screen.use_threads(threads, device)
            backend = open_model(model or own.model or None, device, dtype)
            found = word_interactions(own, backend, list(images), deadline=deadline)
        if as_json:
            screen.show_json(found)
        elif found.interactions is not None:
            screen.show_interactions(found.interactions, screen.out)
        screen.show_notes(found)
        if picture is not None and found.interactions is not None:
            say(f"wrote {_draw(found.interactions, picture)}", "dim")
        if save is not None:
            screen.show_saved(found.save_pretrained(save))


def _prompt_of(prompt: str, template: str | None) -> "HardPrompt":
    """A saved prompt, or one that was typed."""
    from hardprompts.prompts import HardPrompt, PromptTemplate

    if Path(prompt).is_dir():
        saved = HardPrompt.from_pretrained(prompt)
        if template is not None and template != saved.template:
            fail(f"the saved prompt is for the template {saved.template!r}; leave out --template")
        return saved
    return HardPrompt(prompt, (), 0.0, PromptTemplate(template or "{}").text)


def _show_edit(found: "Edit") -> None:
    """What the exchange changes, on the other stream than the prompt."""
    say(found.moved, "dim")
    if found.others:
        screen.show_rows(found.rows(), screen.err)
    for warning in found.warnings:
        say(warning, "yellow")


def _draw(found: "WordInteractions", path: Path) -> Path:
    """Writes the picture whole or not at all."""
    import io

    from hardprompts.applications import interaction_picture
    from hardprompts.atomic import write_files_atomically

    held, kind = io.BytesIO(), path.suffix.lower().lstrip(".").replace("jpg", "jpeg")
    interaction_picture(found).save(held, format=kind)
    write_files_atomically({path: held.getvalue()})
    return path
