"""What draws, by name: generators of plugins, and functions of the user's own."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image

from hardprompts import plugins
from hardprompts.applications.pictures import Generate
from hardprompts.devices import checked_device, checked_dtype
from hardprompts.errors import BackendError, UnknownName

#: The scheme of the user's own functions.
OWN = "python"


@runtime_checkable
class OpenGenerator(Protocol):
    """How a plugin opens the generators of its scheme."""

    def __call__(self, name: str, *, device: torch.device, dtype: torch.dtype) -> Generate:
        """The generator `name` (what stands behind "scheme:").

        Raises:
            BackendError: it is unknown, missing or damaged, or draws nothing.
        """
        ...


def generators() -> dict[str, OpenGenerator]:
    """The ways to open a generator, by scheme."""
    return plugins.collect("generators")


@dataclasses.dataclass(frozen=True, eq=False)
class NamedGenerator:
    """A generator with a name, by which folders of runs know it; its options are part of the name."""

    name: str
    generate: Generate

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image | None]:
        return self.generate(prompts, seeds)


def load_generator(
    name: str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None, **options: Any
) -> NamedGenerator:
    """The generator that `name` stands for: `generate(prompts, seeds)` draws a picture for each.

    Args:
        name: "scheme:name", for example "diffusers:FOLDER", or "python:MODULE:FUNCTION" for a function of one's own,
            such as one that asks a service on the web; its module is imported.
        device, dtype: as for `hardprompts.load_backend`.
        options: of the scheme's own, such as `steps=20, guidance_scale=7.5` for "diffusers:".

    Raises:
        UnknownName: no plugin has this scheme.
        BackendError: the plugin cannot open the generator, or has no such option; there is no such module or function.
    """
    if name.partition(":")[0] == OWN:
        return NamedGenerator(name, _function(name.partition(":")[2]))
    if name.partition(":")[0] not in generators():
        advice = f"a function of your own is {OWN}:MODULE:FUNCTION"
        raise UnknownName("generator scheme", name.partition(":")[0], [*generators(), OWN], advice)
    opening, rest = plugins.opening_of("generators", "generator", name, options)
    chosen = checked_device(device)
    opened = opening(rest, device=chosen, dtype=checked_dtype(dtype, chosen), **options)
    told = ", ".join(f"{key}={value}" for key, value in sorted(options.items()) if value is not None)
    return NamedGenerator(f"{name} ({told})" if told else name, opened)


def _function(name: str) -> Generate:
    module, _, attribute = name.rpartition(":")
    if not module or not attribute:
        raise BackendError(f"{OWN}:{name} names no function; write {OWN}:MODULE:FUNCTION")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise BackendError(
            f"there is no module {error.name!r}, which {OWN}:{name} needs; run in its folder with PYTHONPATH=."
        ) from error
    except AttributeError as error:
        raise BackendError(f"the module {module!r} has no function {attribute!r}: {error}") from error
    if not callable(found):
        raise BackendError(f"{OWN}:{name} is a {type(found).__name__}; it must be a function of prompts and seeds")
    function: Generate = found
    return function
