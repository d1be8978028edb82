"""Decoders: small networks that write texts with given features, for any model with a text tower.

`network` is the network, `training` makes one from texts alone, `files` keeps it, `proposing` lets a search begin with
what it writes, and `command` is `hardprompts decoder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hardprompts.encoders import Backend
    from hardprompts.inversion import OpenProposer, Proposer

_hookimpl = pluggy.HookimplMarker("hardprompts")


def _open_proposer(name: str, *, backend: Backend) -> Proposer | None:
    """A decoder that `hardprompts decoder train` wrote: `decoder:FOLDER`; no model comes with one by this name."""
    from hardprompts_decoder import proposing

    return proposing.open_proposer(name, backend=backend)


@_hookimpl(optionalhook=True)  # an SDK without proposers has no use for it, and is not disturbed
def proposers() -> Mapping[str, OpenProposer]:
    """Return the scheme "decoder"; see `hardprompts_decoder.proposing.open_proposer`."""
    return {"decoder": _open_proposer}
