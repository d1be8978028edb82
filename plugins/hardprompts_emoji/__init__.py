"""The embedded world: scenes of emoji drawings with known truth, and small models that know them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from hardprompts.encoders import Backend, OpenBackend

# The marker of `hardprompts.hookimpl`, without the torch that comes with it: `path` and `scenes` need none.
_hookimpl = pluggy.HookimplMarker("hardprompts")

_MODELS = Path(__file__).resolve().parent / "models"


def path(name: str) -> Path:
    """Return the folder of an embedded model, for anybody's ``from_pretrained``.

    Raises:
        ValueError: There is no embedded model of that name; the message lists those there are.
    """
    existing = sorted(
        folder.name for folder in _MODELS.glob("*") if folder.is_dir() and not folder.name.startswith(".")
    )
    if name not in existing:
        raise ValueError(f"no embedded model named {name!r}; there are: {', '.join(existing) or 'none'}")
    return _MODELS / name


def _open_backend(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
    """The embedded models, which know scenes of emoji or definitions of words, and need no download.

    `emoji` is the one to search with; `emoji:emoji-clip-reference` is the judge that no search follows.
    `emoji:emoji-lm` and `emoji:emoji-lm-large` are language models, for `hardprompts tune`.
    """
    from hardprompts_emoji import backend

    return backend.open_backend(name, device=device, dtype=dtype)


@_hookimpl
def backends() -> Mapping[str, OpenBackend]:
    """Return the scheme "emoji"; see `hardprompts_emoji.backend.open_backend`."""
    return {"emoji": _open_backend}
