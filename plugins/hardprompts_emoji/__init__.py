"""The embedded world: scenes of emoji drawings with known truth, and small models that know them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from hardprompts.applications import Generate, OpenGenerator
    from hardprompts.encoders import Backend, OpenBackend
    from hardprompts.inversion import EvidenceCalibration, OpenCalibrations, OpenProposer, Proposer

# The marker of `hardprompts.hookimpl`, without the torch that comes with it: `path` and `scenes` need none.
_hookimpl = pluggy.HookimplMarker("hardprompts")

#: The models of this package, and those of a distribution of their own, which keeps this one small.
_MODELS = Path(__file__).resolve().parent / "models"
_SMALL = ("emoji-clip", "emoji-clip-decoder", "emoji-clip-reference", "emoji-lm", "emoji-mlm")
_LARGE = ("emoji-lm-large", "emoji-sd")


def path(name: str) -> Path:
    """Return the folder of an embedded model, for anybody's ``from_pretrained``.

    "emoji-clip", "emoji-clip-decoder" (a decoder, see `hardprompts_decoder`), "emoji-clip-reference", "emoji-lm" and
    "emoji-mlm" are part of this package; "emoji-lm-large" and "emoji-sd" are in the package hardprompts-emoji-models,
    which the extra `emoji-models` installs.

    Raises:
        ValueError: There is no embedded model of that name; the message lists those there are.
        MissingExtra: The package with the larger models is not installed.
        FileNotFoundError: The model's folder is missing where it was installed.
    """
    if name not in (*_SMALL, *_LARGE):
        raise ValueError(f"no embedded model named {name!r}; there are: {', '.join(sorted((*_SMALL, *_LARGE)))}")
    folder = (_large_models(name) if name in _LARGE else _MODELS) / name
    if not folder.is_dir():
        raise FileNotFoundError(f"the embedded model {name!r} is missing at {folder}; install its package again")
    return folder


def _large_models(name: str) -> Path:
    """The folder with the larger models."""
    try:
        from hardprompts_emoji_models import MODELS
    except ModuleNotFoundError as error:
        if error.name != "hardprompts_emoji_models":
            raise
        from hardprompts.errors import MissingExtra

        raise MissingExtra(f"the embedded model {name!r}", "emoji-models", error) from error
    return MODELS


def _open_backend(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
    """The embedded models, which know scenes of emoji or definitions of words, and need no download.

    `emoji` is the one to search with; `emoji:emoji-clip-reference` is the judge that no search follows.
    `emoji:emoji-lm` and `emoji:emoji-lm-large` are language models, for `hardprompts tune`; `emoji:emoji-mlm` fills in
    masks, for the proposer `mlm:emoji:emoji-mlm`.
    """
    from hardprompts_emoji import backend

    return backend.open_backend(name, device=device, dtype=dtype)


def _open_proposer(name: str, *, backend: Backend) -> Proposer | None:
    """The decoder of emoji-clip, which writes captions of scenes: `emoji:`."""
    from hardprompts_emoji.backend import open_proposer

    return open_proposer(name, backend=backend)


def _find_calibrations(backend: Backend) -> tuple[EvidenceCalibration, ...]:
    from hardprompts_emoji.backend import calibrations

    return calibrations(backend)


@_hookimpl
def calibrations() -> Mapping[str, OpenCalibrations]:
    """Return the scheme "emoji"; see `hardprompts_emoji.backend.calibrations`."""
    return {"emoji": _find_calibrations}


def _open_generator(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> Generate:
    """The embedded diffusion model, which draws emoji scenes: `emoji:emoji-sd`."""
    from hardprompts_emoji.backend import open_generator

    return open_generator(name, device=device, dtype=dtype, steps=steps, guidance_scale=guidance_scale)


@_hookimpl
def generators() -> Mapping[str, OpenGenerator]:
    """Return the scheme "emoji"; see `hardprompts_emoji.backend.open_generator`."""
    return {"emoji": _open_generator}


@_hookimpl
def proposers() -> Mapping[str, OpenProposer]:
    """Return the scheme "emoji"; see `hardprompts_emoji.backend.open_proposer`."""
    return {"emoji": _open_proposer}


@_hookimpl
def backends() -> Mapping[str, OpenBackend]:
    """Return the scheme "emoji"; see `hardprompts_emoji.backend.open_backend`."""
    return {"emoji": _open_backend}
