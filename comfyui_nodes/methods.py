"""The search methods that a node offers: ours in front, then those that plugins add."""

import logging
from collections.abc import Sequence

from comfy_api.latest import io

LOG = logging.getLogger(__name__)

#: For images and texts, the default first; also what is offered where the SDK cannot be asked.
FOR_FEATURES = ("build+refine", "pez+refine", "pez", "refine", "beam", "phrase-bank", "evolution")
#: For a denoiser, likewise.
FOR_DENOISERS = ("ph2p+refine", "ph2p", "ph2p-code", "ph2p-lbfgs", "pez+refine", "pez", "evolution")


def method_input(first: Sequence[str], tooltip: str, optional: bool = False) -> io.Input:
    """Which search method; the default is the first one of the list."""
    names = method_names(first)
    return io.Combo.Input("method", options=names, default=names[0], optional=optional, tooltip=tooltip)


def method_names(first: Sequence[str]) -> list[str]:
    """The names of all search methods that are installed, plugins included; those of `first` are in front.

    Where the SDK or a plugin cannot be imported, the log says why and the list is `first`: ComfyUI can then load the
    pack and old workflows, and a node that runs fails with the same message.
    """
    # Before a node runs, the SDK is imported for this list and for `defaults` alone, which belong to the schema.
    # ComfyUI has imported torch by then, and the rest takes a quarter of a second.
    try:
        from hardprompts import PluginError, search_methods
    except ImportError as error:
        LOG.warning("hardprompts cannot be imported, so the methods of plugins are not listed: %s", error)
        return list(first)
    try:
        known = search_methods()
    except PluginError as error:
        LOG.warning("the methods of plugins are not listed: %s", error)
        return list(first)
    return [*(name for name in first if name in known), *sorted(set(known) - set(first))] or list(first)
