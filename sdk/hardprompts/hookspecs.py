"""All that a plugin may add to hardprompts.

A plugin is a module that implements some of these hooks with `hardprompts.hookimpl`, found
through the entry-point group "hardprompts". It must import without its model library: that
is imported when a model is opened.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:  # so that a plugin which imports `hookimpl` does not wait for torch
    from hardprompts.encoders import OpenBackend
    from hardprompts.files import SoftPromptFormat
    from hardprompts.search import Search

PROJECT = "hardprompts"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def backends() -> "Mapping[str, OpenBackend]":  # type: ignore[empty-body]
    """Ways to open a model, by scheme: {"open_clip": open_backend}."""


@hookspec
def search_methods() -> "Mapping[str, Callable[[], Search]]":  # type: ignore[empty-body]
    """Search methods, by the name that people select them with: {"pez": PEZ}; called without arguments."""


@hookspec
def soft_prompt_formats() -> "Mapping[str, SoftPromptFormat]":  # type: ignore[empty-body]
    """Formats of soft-prompt files, by the name that people save them with: {"diffusers": Diffusers()}."""
