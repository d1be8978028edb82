"""The `hardprompts` command: images become prompts in a terminal.

The SDK, and with it torch, is imported inside the commands: `hardprompts --help` answers at once.
"""

import io
import os
import sys
from typing import Annotated

import typer

from hardprompts.cli import (
    batch,
    black_box,
    classify,
    comfyui,
    distill,
    edit,
    extensions,
    hub,
    inspect,
    invert,
    lists,
    report,
    screen,
    weight,
)

app = typer.Typer(
    cls=extensions.Commands,
    help="Turn images into hard prompts: plain text for any model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    invert.invert, batch.invert_folder, batch.batch, black_box.invert_by_pictures, invert.score, report.report,
    inspect.inspect, distill.distill, weight.weight, hub.push, hub.pull, classify.tune, classify.classify, lists.models,
    lists.methods, lists.plugins, edit.edit, edit.interactions,
):  # fmt: skip
    app.command()(command)
app.add_typer(comfyui.app, name="comfyui")


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show:
        from hardprompts import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The `hardprompts` command."""
    for stream in (sys.stdout, sys.stderr):
        # In a pipe, Windows would write its code page, which has no letters for many prompts.
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    # Before torch is imported: threads that wait for each other sleep. As is usual they try all the time, and where
    # another process has one of their processors, a step takes many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    screen.show_warnings()
    app()
