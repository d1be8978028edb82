"""Search methods by name, from every plugin."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from hardprompts import plugins
from hardprompts.errors import UnknownName
from hardprompts.hub.machine import without_machine
from hardprompts.search.protocol import Search

#: The method of front doors that are not told another; see `hardprompts.methods.BuildRefine`.
DEFAULT_METHOD = "build+refine"


def search_methods() -> dict[str, Callable[[], Search]]:
    """The search methods, by name."""
    return plugins.collect("search_methods")


def search_method(method: "str | Search") -> Search:
    """A method by its name, with its default hyperparameters; a method is returned as it is.

    Raises:
        UnknownName: no plugin registered that name.
    """
    if not isinstance(method, str):
        return method
    known = search_methods()
    if method not in known:
        raise UnknownName("search method", method, known)
    return known[method]()


def language_model_search(method: Search) -> Search:
    """A method with its own settings for language models, where it has any."""
    settings = getattr(method, "for_language_models", None)
    return method if settings is None else settings()


def method_name(method: str | Search) -> str:
    """What a method is called in results: the name its class is registered under, or its class's own name."""
    if isinstance(method, str):
        return method
    return next((name for name, make in search_methods().items() if make is type(method)), type(method).__name__)


def method_settings(method: str | Search) -> dict[str, Any]:
    """The hyperparameters of a method, as JSON values without paths, which mean nothing on another machine.

    Fields that hold a path are left out, and so are those that a method's own repr leaves out; a named method has
    its defaults, and nothing is said of it.
    """
    if isinstance(method, str) or not dataclasses.is_dataclass(method):
        return {}
    told = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.repr}
    return {name: _json_value(value) for name, value in told.items() if not isinstance(value, os.PathLike)}


def _json_value(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_json_value(one) for one in value]
    return without_machine(value if isinstance(value, str) else repr(value))
