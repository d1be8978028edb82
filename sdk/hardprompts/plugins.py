"""Finds plugins and collects what they add."""

import functools
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pluggy

from hardprompts import hookspecs
from hardprompts.causes.failures import import_cause
from hardprompts.errors import BackendError, PluginError, UnknownName

#: Comma-separated entry-point names; when set, only these plugins are loaded.
PLUGINS_VARIABLE = "HARDPROMPTS_PLUGINS"

#: The entry point of our own search methods, which are always loaded.
OWN_METHODS = "methods"

#: What a plugin may add: the hooks of `hardprompts.hookspecs`.
HOOKS = ("backends", "calibrations", "captioners", "generators", "proposers", "search_methods", "soft_prompt_formats")


@functools.cache
def plugin_manager() -> pluggy.PluginManager:
    """The plugin manager, with our own methods and every installed plugin registered.

    Raises:
        PluginError: a plugin cannot be imported, or implements a hook that does not exist.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    chosen = os.environ.get(PLUGINS_VARIABLE)
    names = None if chosen is None else {OWN_METHODS, *(name.strip() for name in chosen.split(","))}
    for entry_point in importlib.metadata.entry_points(group=hookspecs.PROJECT):
        if manager.has_plugin(entry_point.name) or (names is not None and entry_point.name not in names):
            continue
        try:
            register(entry_point.load(), entry_point.name, manager)
        except (ImportError, AttributeError, SyntaxError) as error:
            found = import_cause(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
            raise PluginError(
                f"the plugin {entry_point.name!r} ({entry_point.value}) cannot be imported: {found}; "
                f"mend or uninstall it, or set {PLUGINS_VARIABLE} to the plugins that you want"
            ) from error
    return manager


def register(plugin: object, name: str, manager: pluggy.PluginManager | None = None) -> None:
    """Adds a plugin by hand: any object with hook implementations.

    Raises:
        PluginError: it misuses a hook, or uses a name that another plugin uses.
    """
    manager = plugin_manager() if manager is None else manager
    try:
        manager.register(plugin, name)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"the plugin {name!r} cannot be registered: {error}") from error
    try:
        manager.check_pending()
        for hook in HOOKS:
            _collect(hook, manager)
    except (pluggy.PluginValidationError, PluginError) as error:
        manager.unregister(name=name)
        raise PluginError(f"the plugin {name!r} cannot be registered: {error}") from error


def unregister(name: str) -> None:
    """Removes a plugin that `register` added."""
    plugin_manager().unregister(name=name)


def plugins() -> dict[str, tuple[str, ...]]:
    """The registered plugins, and the names of what each one adds."""
    manager = plugin_manager()
    found: dict[str, list[str]] = {name: [] for name, _ in manager.list_name_plugin()}
    for hook in HOOKS:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            found[implementation.plugin_name].extend(implementation.function())
    return {name: tuple(dict.fromkeys(things)) for name, things in sorted(found.items())}


def collect(hook: str) -> dict[str, Any]:
    """All that the plugins add through one hook, by name.

    Raises:
        PluginError: two plugins add the same name, or one returns something else than a mapping.
    """
    return _collect(hook, plugin_manager())


def opening_of(hook: str, kind: str, name: str, options: Iterable[str]) -> tuple[Callable[..., Any], str]:
    """What opens `name` with these options, and what of the name it is given: what stands behind "scheme:".

    Args:
        hook: whose schemes are known; see `collect`.
        kind: what is opened, in one word, for messages: "model".
        name: "scheme" or "scheme:name".
        options: the names of further keyword arguments.

    Raises:
        UnknownName: no plugin has this scheme.
        BackendError: an option that the scheme does not have.
    """
    scheme, _, rest = name.partition(":")
    known = collect(hook)
    if scheme not in known:
        a_place = os.path.exists(name) or "/" in name or "\\" in name
        advice = f"a {kind}'s name begins with what opens it, as in 'transformers:{name}'" if a_place else ""
        raise UnknownName(f"{kind} scheme", scheme, known, advice)
    own = inspect.signature(known[scheme]).parameters.values()
    taken = {one.name for one in own if one.kind is one.KEYWORD_ONLY} - {"device", "dtype"}
    if not any(one.kind is one.VAR_KEYWORD for one in own) and (unknown := sorted({*options} - taken)):
        has = f"it has {', '.join(sorted(taken))}" if taken else "it has none"
        raise BackendError(f"{kind}s of {scheme!r} have no option {', '.join(unknown)}; {has}")
    return known[scheme], rest


def _collect(hook: str, manager: pluggy.PluginManager) -> dict[str, Any]:
    found: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        things = implementation.function()
        if not isinstance(things, Mapping):
            raise PluginError(
                f"{hook}: the plugin {implementation.plugin_name!r} must return a mapping from names, got {things!r}"
            )
        for name, thing in things.items():
            if name in found:
                raise PluginError(
                    f"{hook}: the plugins {owners[name]!r} and {implementation.plugin_name!r} both add {name!r}; "
                    f"uninstall one, or set {PLUGINS_VARIABLE} to the plugins that you want"
                )
            found[name] = thing
            owners[name] = implementation.plugin_name
    return found
