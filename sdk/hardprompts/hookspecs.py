"""All that a plugin may add to hardprompts.

A plugin is a module that implements some of these hooks with `hardprompts.hookimpl`, found
through the entry-point group "hardprompts". It must import without its model library: that
is imported when a model is opened.
"""

from collections.abc import Mapping
from typing import Any

import pluggy

PROJECT = "hardprompts"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def backends() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Ways to open a model, by scheme: {"open_clip": open_backend}; each is a `hardprompts.encoders.OpenBackend`."""


@hookspec
def calibrations() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Ways to find what evidence for words is calibrated by, by the scheme of the models: {"emoji": find}.

    Each is a `hardprompts.inversion.OpenCalibrations`.
    """


@hookspec
def captioners() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Ways to open what describes images in words, by scheme: {"transformers": open_captioner}.

    Each is a `hardprompts.inversion.OpenCaptioner`.
    """


@hookspec
def generators() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Ways to open what draws pictures of prompts, by scheme: {"diffusers": open_generator}.

    Each is a `hardprompts.applications.OpenGenerator`.
    """


@hookspec
def proposers() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Ways to open what writes whole texts for features, by scheme: {"decoder": open_proposer}.

    Each is a `hardprompts.inversion.OpenProposer`.
    """


@hookspec
def search_methods() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Search methods, by the name that people select them with: {"pez": PEZ}.

    Each is called without arguments and returns a `hardprompts.search.Search`.
    """


@hookspec
def soft_prompt_formats() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Formats of soft-prompt files, by the name that people save them with: {"diffusers": Diffusers()}.

    Each is a `hardprompts.softprompts.SoftPromptFormat`.
    """
