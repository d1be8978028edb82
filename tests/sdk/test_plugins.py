"""How plugins are found, and what stops one that is wrong."""

import importlib.metadata
import types
from collections.abc import Iterator

import pluggy
import pytest
import torch

from hardprompts import (
    Backend,
    BackendError,
    PluginError,
    UnknownName,
    backends,
    hookimpl,
    hookspecs,
    load_backend,
    methods,
    search_methods,
)
from hardprompts.encoders import default_model, is_installed
from hardprompts.methods import PEZ
from hardprompts.plugins import PLUGINS_VARIABLE, plugin_manager, plugins, register, unregister
from hardprompts.search.registry import search_method
from hardprompts.testing import toy_backend


def plugin(**hooks: object) -> types.SimpleNamespace:
    """A plugin whose hooks return these mappings."""

    def implementation(things: object) -> object:
        return hookimpl(lambda: things)

    return types.SimpleNamespace(**{name: implementation(things) for name, things in hooks.items()})


@pytest.fixture
def manager() -> pluggy.PluginManager:
    """A plugin manager with our methods, and nothing that is installed."""
    found = pluggy.PluginManager(hookspecs.PROJECT)
    found.add_hookspecs(hookspecs)
    found.register(methods, "hardprompts")
    return found


@pytest.fixture
def fresh() -> Iterator[None]:
    """The next question finds the plugins anew, and so does the first one after the test."""
    plugin_manager.cache_clear()
    yield
    plugin_manager.cache_clear()


def test_a_third_party_plugin_is_found_by_its_names() -> None:
    register(plugin(backends={"mine": toy_backend}, search_methods={"my-pez": PEZ}), "third-party")
    try:
        assert load_backend("mine:whatever").name == "toy"
        assert isinstance(search_method("my-pez"), PEZ)
        assert plugins()["third-party"] == ("mine", "my-pez")
    finally:
        unregister("third-party")
    assert "mine" not in backends() and "my-pez" not in search_methods()


def test_options_of_a_scheme_are_passed_on_and_others_refused() -> None:
    given: dict[str, object] = {}

    def opened(name: str, *, device: torch.device, dtype: torch.dtype, thrifty: bool = False) -> Backend:
        given.update(name=name, thrifty=thrifty)
        return toy_backend(name, device=device, dtype=dtype)

    register(plugin(backends={"mine": opened, "plain": toy_backend}), "third-party")
    try:
        load_backend("mine:large", thrifty=True)
        assert given == {"name": "large", "thrifty": True}
        with pytest.raises(BackendError, match="models of 'mine' have no option hasty; it has thrifty"):
            load_backend("mine:large", hasty=True)
        with pytest.raises(BackendError, match="models of 'plain' have no option thrifty; it has none"):
            load_backend("plain", thrifty=True)
    finally:
        unregister("third-party")


def test_our_own_methods_come_by_the_same_hooks() -> None:
    assert set(plugins()["methods"]) >= {"pez", "refine", "pez+refine", "ph2p"}


@pytest.mark.parametrize("hook, thing", [("backends", toy_backend), ("captioners", len), ("search_methods", PEZ)])
def test_a_name_that_two_plugins_use_names_both(hook: str, thing: object, manager: pluggy.PluginManager) -> None:
    register(plugin(**{hook: {"twice": thing}}), "first", manager)
    with pytest.raises(PluginError, match="twice") as caught:
        register(plugin(**{hook: {"twice": thing}}), "second", manager)
    assert "'first'" in str(caught.value) and "'second'" in str(caught.value)
    assert not manager.has_plugin("second"), "the rest goes on without it"


def test_a_plugin_cannot_replace_one_of_our_methods(manager: pluggy.PluginManager) -> None:
    with pytest.raises(PluginError, match="'hardprompts' and 'intruder' both add 'pez'"):
        register(plugin(search_methods={"pez": PEZ}), "intruder", manager)


def test_a_misspelled_hook_is_refused(manager: pluggy.PluginManager) -> None:
    with pytest.raises(PluginError, match="backend_s"):
        register(plugin(backend_s={"x": toy_backend}), "misspelled", manager)
    assert not manager.has_plugin("misspelled")


def test_a_hook_with_arguments_that_do_not_exist_is_refused(manager: pluggy.PluginManager) -> None:
    wrong = types.SimpleNamespace(backends=hookimpl(lambda device: {}))
    with pytest.raises(PluginError, match="device"):
        register(wrong, "wrong", manager)


def test_a_plugin_name_is_taken_once(manager: pluggy.PluginManager) -> None:
    register(plugin(backends={}), "same", manager)
    with pytest.raises(PluginError, match="same"):
        register(plugin(backends={}), "same", manager)
    assert manager.has_plugin("same"), "the first one stays"


@pytest.mark.parametrize("result", [None, [("x", 1)], "x"])
def test_a_hook_that_returns_no_mapping_is_refused(result: object, manager: pluggy.PluginManager) -> None:
    with pytest.raises(PluginError, match="mapping"):
        register(plugin(backends=result), "empty-handed", manager)
    assert not manager.has_plugin("empty-handed")


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(UnknownName, match=r"unknown model scheme 'opencv'; available: .*emoji"):
        load_backend("opencv:ViT-L-14")
    with pytest.raises(UnknownName, match=r"unknown search method 'pezz'; available: .*pez, .*pez\+refine, .*refine"):
        search_method("pezz")


def test_a_method_is_taken_as_it_is() -> None:
    chosen = PEZ(learning_rate=0.5)
    assert search_method(chosen) is chosen


def entry_point(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, hookspecs.PROJECT)


def test_a_plugin_that_cannot_be_imported_says_what_to_do(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [entry_point("gone", "no_such_module_of_ours")]
    )
    with pytest.raises(PluginError, match=r"'gone'.*no_such_module_of_ours") as caught:
        plugin_manager()
    assert PLUGINS_VARIABLE in str(caught.value)


def test_the_variable_chooses_plugins(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group: [entry_point("gone", "no_such_module_of_ours"), entry_point("methods", "hardprompts.methods")],
    )
    monkeypatch.setenv(PLUGINS_VARIABLE, "emoji, other")
    assert set(plugins()) == {"methods"}  # our own are always there


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("there, expected", [(True, "photo"), (False, "emoji"), (None, "emoji")])
def test_the_default_model_is_photo_where_it_is_installed(
    there: bool | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "emoji")
    if there is not None:
        photo = plugin(backends={"photo": toy_backend})
        photo.installed = lambda: there
        register(photo, "photo")
    assert is_installed("emoji") and not is_installed("nothing")  # a plugin that says nothing is taken for granted
    assert is_installed("photo") is bool(there)
    assert default_model() == expected
