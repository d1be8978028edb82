"""Text-to-image pipelines of diffusers: `pipe.invert_prompt(image)`, and their denoisers as something to search with.

    pipe = enable_prompt_inversion(StableDiffusionPipeline.from_pretrained(...))
    pipe.invert_prompt(image).prompts[0]

Importing this package imports neither diffusers nor transformers.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from hardprompts.encoders import Backend, OpenBackend
from hardprompts.errors import MissingExtra
from hardprompts.hookspecs import hookimpl

if TYPE_CHECKING:
    from hardprompts.applications import Generate, OpenGenerator

#: Public names, and the modules that they are imported from on first use. They do not show up in `dir()`,
#: which plugin managers walk through.
_LAZY = {
    "MemoryEstimate": "memory",
    "MemoryPlan": "memory",
    "PipelineGenerator": "drawing",
    "PromptInversionMixin": "mixin",
    "PromptInversionOutput": "mixin",
    "enable_prompt_inversion": "mixin",
    "estimate_memory": "memory",
    "noise_predictor": "predictors",
    "plan_memory": "memory",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def open_backend(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    tokenizer: str | None = None,
    texts: Mapping[str, str] | None = None,
) -> Backend:
    """A text-to-image pipeline of diffusers, by local folder or hub id: text features, and its denoiser.

    For example `diffusers:stabilityai/stable-diffusion-xl-base-1.0` or `diffusers:/models/sd15`.

    Raises:
        MissingExtra: diffusers is not installed.
        BackendError: see `hardprompts_diffusers.predictors.open_backend`.
    """
    _check_diffusers()
    from hardprompts_diffusers import predictors

    return predictors.open_backend(name, device=device, dtype=dtype, tokenizer=tokenizer, texts=texts)


def open_generator(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> "Generate":
    """Text-to-image pipelines of diffusers, by local folder or hub id, as `diffusers:/models/sd15`.

    Raises:
        MissingExtra: diffusers is not installed.
        BackendError: see `hardprompts_diffusers.drawing.open_generator`.
    """
    _check_diffusers()
    from hardprompts_diffusers import drawing

    return drawing.open_generator(name, device=device, dtype=dtype, steps=steps, guidance_scale=guidance_scale)


def _check_diffusers() -> None:
    """Raises MissingExtra where diffusers is not installed."""
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise MissingExtra("a diffusers pipeline", "diffusers", error) from error


@hookimpl
def generators() -> "Mapping[str, OpenGenerator]":
    """The scheme "diffusers"."""
    return {"diffusers": open_generator}


@hookimpl
def backends() -> Mapping[str, OpenBackend]:
    """The scheme "diffusers"."""
    return {"diffusers": open_backend}
