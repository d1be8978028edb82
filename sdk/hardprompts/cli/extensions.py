"""Commands that plugins add, by entry points of the group `hardprompts.commands`."""

import functools
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from hardprompts.plugins import PLUGINS_VARIABLE

GROUP = "hardprompts.commands"


class Commands(TyperGroup):
    """Our own commands, and those of plugins, whose modules are imported when they are called or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *sorted(set(entry_points()) - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in entry_points():
            return own
        return command_of(entry_points()[cmd_name])


@functools.cache
def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """The commands of plugins by name; of two with one name, the first that was installed."""
    chosen = os.environ.get(PLUGINS_VARIABLE)
    names = None if chosen is None else {name.strip() for name in chosen.split(",")}
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        if names is None or entry_point.name in names:
            found.setdefault(entry_point.name, entry_point)
    return found


def command_of(entry_point: importlib.metadata.EntryPoint) -> Any:
    """The function or the Typer app of an entry point as a command.

    Of one that cannot be imported it is a command that says why.
    """
    own = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    try:
        function = entry_point.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        reason = (
            f"the command {entry_point.name!r} of a plugin ({entry_point.value}) cannot be imported: {error}; "
            f"mend or uninstall the plugin, or set {PLUGINS_VARIABLE} to those that you want"
        )
        own.command(entry_point.name, help="Cannot be imported: call it to see why.")(_failing(reason))
    else:
        if isinstance(function, typer.Typer):  # several commands under one name
            return typer.main.get_command(function)
        own.command(entry_point.name)(function)
    return typer.main.get_command(own)


def _failing(reason: str) -> Callable[[], None]:
    def command() -> None:
        from hardprompts.cli.screen import fail

        fail(reason)

    return command
