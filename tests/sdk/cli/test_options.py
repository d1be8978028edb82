"""The options of the commands: declared once, with the SDK's defaults."""

import inspect
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from typer.models import OptionInfo

from hardprompts.cli import app, options

ALIASES = {name: alias for name, alias in vars(options).items() if typing.get_origin(alias) is typing.Annotated}


def flags(alias: Any) -> tuple[str, ...]:
    """The flags of an option that names them."""
    (info,) = [part for part in typing.get_args(alias) if isinstance(part, OptionInfo)]
    # Typer takes the first flag for the default until it reads a command.
    return tuple(word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str))


def parameters() -> list[tuple[str, inspect.Parameter]]:
    """The options of all commands, each with the command's name."""
    return [
        (command.callback.__name__, parameter)
        for command in app.registered_commands
        if command.callback is not None
        for parameter in inspect.signature(command.callback).parameters.values()
    ]


def test_an_option_of_several_commands_is_declared_in_one_place() -> None:
    shared = {flag for alias in ALIASES.values() for flag in flags(alias) if flag.startswith("--")}
    assert {"--model", "--tokens", "--steps"} <= shared
    known = {id(alias) for alias in ALIASES.values()}
    for command, parameter in parameters():
        own = typing.get_origin(parameter.annotation) is typing.Annotated and id(parameter.annotation) not in known
        if own and any(isinstance(part, OptionInfo) for part in typing.get_args(parameter.annotation)):
            assert not set(flags(parameter.annotation)) & (shared - {"--save"}), f"{command} declares {parameter} again"


@pytest.mark.parametrize(
    "name", ["num_tokens", "max_steps", "restarts", "seed", "banned", "template", "method", "dtype"]
)
def test_the_commands_have_no_defaults_of_their_own(name: str) -> None:
    found = [parameter.default for _, parameter in parameters() if parameter.name == name]
    assert len(found) > 1 and set(found) == {None}


def test_the_defaults_in_the_help_are_those_of_the_sdk() -> None:
    from hardprompts import ClassifierPromptTuner, PromptInverter
    from hardprompts.batch import invert_many

    def shown(alias: Any) -> str:
        (info,) = [part for part in typing.get_args(alias) if isinstance(part, OptionInfo)]
        found = re.search(r"\(default: ([^)]*)\)", info.help or "")
        assert found is not None
        return found[1]

    def default(function: Any, name: str) -> str:
        return str(inspect.signature(function).parameters[name].default)

    assert shown(options.Tokens) == default(PromptInverter.invert, "num_tokens")
    assert shown(options.BatchSize) == default(invert_many, "batch_size")
    assert shown(options.FixedSeed) == default(invert_many, "seed")
    assert shown(options.ClassificationTokens) == default(ClassifierPromptTuner, "num_tokens")
    assert shown(options.Holdout) == default(ClassifierPromptTuner, "holdout")


def test_messages_name_options_as_the_commands_do() -> None:
    assert options.as_flags("max_steps must be finite, got -1") == "--steps must be finite, got -1"
    assert options.as_flags("prior_weight must not be negative") == "--prior-weight must not be negative"
    assert options.as_flags("a folder must be named") == "a folder must be named"


def test_what_is_not_given_is_left_out() -> None:
    assert options.given({"a": None, "b": 0, "c": [], "d": False, "e": Path("x")}, but=("e",)) == {"b": 0, "d": False}
