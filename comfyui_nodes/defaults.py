"""What inputs begin with: the SDK's own defaults, and the few that have to be others in a graph."""

import importlib
import logging
from typing import Any

LOG = logging.getLogger(__name__)

#: Where the SDK declares the options of each kind of search.
INVERSION = "hardprompts.inversion.InversionOptions"
DENOISING = "hardprompts.diffusion.DenoisingOptions"
DISTILLATION = "hardprompts.distillation.DistillationOptions"
PICTURES = "hardprompts.applications.black_box.PictureOptions"
WEIGHTS = "hardprompts.applications.weights.WeightOptions"

#: A graph waits for its nodes: a third of the SDK's steps, where the SDK counts on being interrupted.
MAX_STEPS = 300
#: Likewise where every step takes gradients through the graph's own networks.
MAX_STEPS_OF_GRAPH = 100
#: Fewer than the SDK's: the graph's CLIP shares the memory with the graph's other models.
RESTARTS_OF_GRAPH = 8
#: The SDK's default depends on the original, and an input begins with one number.
NUM_TOKENS = 8
#: The SDK draws a seed; ComfyUI keeps the result of a node whose inputs are the same, so the seed is one of them.
SEED = 0


def sdk_default(options: str, name: str) -> Any:
    """The default of an option, as the SDK declares it; None, which is ComfyUI's own, where that cannot be imported.

    Args:
        options: a class of options, by its full name.
        name: a field of it.
    """
    module, _, declared = options.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), declared)
    except ImportError as error:
        LOG.warning("hardprompts cannot be imported, so %s has no default: %s", name, error)
        return None
    value = getattr(found, name)
    return getattr(found, f"DEFAULT_{name.upper()}") if value is None else value


def given(**options: Any) -> dict[str, Any]:
    """The options that are given; for those that are None the SDK has its defaults."""
    return {name: value for name, value in options.items() if value is not None}
