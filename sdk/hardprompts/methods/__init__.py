"""The search methods that come with hardprompts: one published method, one file."""

from collections.abc import Mapping

from hardprompts.hookspecs import hookimpl
from hardprompts.methods.pez import PEZ
from hardprompts.methods.pez_refine import PEZRefine
from hardprompts.methods.refine import Refine
from hardprompts.search import Search

__all__ = ["PEZ", "PEZRefine", "Refine"]


@hookimpl
def search_methods() -> Mapping[str, type[Search]]:
    """PEZ, coordinate refinement, and the one after the other."""
    return {"pez": PEZ, "refine": Refine, "pez+refine": PEZRefine}
