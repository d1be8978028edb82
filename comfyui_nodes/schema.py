"""What newer versions of ComfyUI show of a node, where the running one has it.

An older schema has no such fields, and is left as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io


def shown(
    found_as: Sequence[str], advanced: Sequence[str] = ()
) -> Callable[[Callable[[Any], io.Schema]], Callable[[Any], io.Schema]]:
    """Decorates `define_schema` with what the running ComfyUI can show.

    Args:
        found_as: other words that people look for the node by.
        advanced: inputs that are folded away until somebody asks for them.
    """

    def decorated(define: Callable[[Any], io.Schema]) -> Callable[[Any], io.Schema]:
        def define_schema(cls: Any) -> io.Schema:
            schema = define(cls)
            if hasattr(schema, "search_aliases"):
                schema.search_aliases = list(found_as)
            for port in schema.inputs:
                if port.id in advanced and hasattr(port, "advanced"):
                    port.advanced = True
            return schema

        return define_schema

    return decorated


def seed_control() -> Any:
    """What the browser does with a seed after a run: it leaves it, where a node can ask for that."""
    # Of a new seed nothing is in the cache, and the prompt that was found is gone with the next run.
    choices = getattr(io, "ControlAfterGenerate", None)
    return True if choices is None else choices.fixed
