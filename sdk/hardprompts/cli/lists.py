"""`hardprompts models`, `methods` and `plugins`: what can be chosen."""

import inspect
import re
from collections.abc import Mapping

from hardprompts.cli.screen import clear_errors, out, say

#: Characters of the first column: the longest scheme, or method, and two spaces.
COLUMN = 23


def models() -> None:
    """List the models that --model and --captioner accept, and the generators of invert-by-pictures."""
    with clear_errors():
        from hardprompts.applications import generators
        from hardprompts.encoders import backends
        from hardprompts.inversion.captioning import captioners

        openers: list[tuple[str, Mapping[str, object]]] = [
            ("--model", backends()), ("--captioner", captioners()), ("--generator", generators()),
        ]  # fmt: skip
        for flag, known in openers:
            for scheme, opener in sorted(known.items()):
                say(f"{scheme:<{COLUMN}}{_first_line(opener)}", console=out)
                for name in _examples(scheme, opener):
                    say(f"{'':<{COLUMN}}{flag} {name}", console=out)


def methods() -> None:
    """List the search methods."""
    with clear_errors():
        from hardprompts.search.registry import DEFAULT_METHOD, search_methods

        for name, method in sorted(search_methods().items()):
            say(f"{name:<{COLUMN}}{_first_line(method)}{' [default]' if name == DEFAULT_METHOD else ''}", console=out)


def plugins() -> None:
    """List the plugins and the models, methods and formats that each adds."""
    with clear_errors():
        from hardprompts.plugins import plugins as registered

        for name, things in registered().items():
            say(f"{name:<{COLUMN}}{', '.join(things)}", console=out)


def model_names() -> list[str]:
    """The names that `hardprompts models` shows: every model that comes along, and examples of the others."""
    from hardprompts.encoders import backends

    return [name for scheme, opener in sorted(backends().items()) for name in _examples(scheme, opener)]


def generator_names() -> list[str]:
    """The names of generators that `hardprompts models` shows."""
    from hardprompts.applications import generators

    return [name for scheme, opener in sorted(generators().items()) for name in _examples(scheme, opener)]


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _examples(scheme: str, opener: object) -> list[str]:
    """The names that the opener's docstring puts in quotes or backticks: "scheme" or "scheme:name"."""
    pattern = rf"[`\"']({re.escape(scheme)}(?::[^`\"'\s]+)?)[`\"']"
    return list(dict.fromkeys(re.findall(pattern, inspect.getdoc(opener) or "")))
