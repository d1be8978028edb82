"""The search methods that come with hardprompts: one published method, one file."""

from collections.abc import Callable, Mapping

from hardprompts.hookspecs import hookimpl
from hardprompts.methods.evolution import Evolution
from hardprompts.methods.pez import PEZ
from hardprompts.methods.pez_refine import PEZRefine
from hardprompts.methods.ph2p import PH2P
from hardprompts.methods.refine import Refine
from hardprompts.search import Search

__all__ = ["PEZ", "PH2P", "Evolution", "PEZRefine", "Refine"]


@hookimpl
def search_methods() -> Mapping[str, Callable[[], Search]]:
    """PEZ, coordinate refinement, the one after the other, PH2P in three readings, and evolution."""
    return {
        "pez": PEZ,
        "refine": Refine,
        "pez+refine": PEZRefine,
        "evolution": Evolution,
        "ph2p": PH2P,
        "ph2p-code": PH2P.code,
        "ph2p-lbfgs": PH2P.lbfgs,
    }
