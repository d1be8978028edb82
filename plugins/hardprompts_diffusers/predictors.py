"""Pipelines as noise predictors and as backends."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError

from hardprompts.causes.standins import stand_in_inside
from hardprompts.diffusion import ConditioningFeatures
from hardprompts.encoders import Backend, NoisePredictor
from hardprompts.errors import BackendError, HardPromptsError
from hardprompts.hub.reasons import loading_cause
from hardprompts_diffusers.components import check_placement, modules_of
from hardprompts_diffusers.direct import UNetPredictor, is_unet_pipeline
from hardprompts_diffusers.generic import PipelinePredictor


def noise_predictor(
    pipe: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    tokenizer: str | None = None,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> NoisePredictor:
    """A pipeline's text encoders and denoiser, as a search drives them.

    Stable Diffusion 1.x and 2.x and SDXL have an adapter that takes many noise levels in one call.
    All others run through their own `__call__`. The pipeline is not changed, but its networks must
    be frozen while gradients are taken: see `hardprompts_diffusers.components.preserved`.

    Args:
        pipe: a text-to-image pipeline with text encoders and a VAE, on one device or with
            `enable_model_cpu_offload()`.
        height, width: of the pictures, in pixels; default: the pipeline's own.
        tokenizer: whose tokens are searched ("tokenizer_2"), of a pipeline with several kinds.
        options: further arguments of the pipeline's call, such as max_sequence_length. They select the
            adapter that runs through it.

    Raises:
        BackendError: the pipeline lacks a text encoder, a VAE or a denoiser; its scheduler is not covered;
            its weights are offloaded sequentially or in groups; or it works in another way.
        ValueError: a size that the VAE cannot take, or an unknown tokenizer or option.
    """
    check_placement(pipe)
    called = name or str(getattr(pipe, "name_or_path", "") or type(pipe).__name__)
    if is_unet_pipeline(pipe) and not options and tokenizer is None:
        return UNetPredictor.create(pipe, called, height, width)
    return PipelinePredictor.create(pipe, called, height, width, tokenizer=tokenizer, options=options)


#: What reading a damaged, foreign or absent pipeline raises, in diffusers and below it.
_FAILURES = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, EOFError, MemoryError,
    SafetensorError, pickle.UnpicklingError,
)  # fmt: skip


def open_backend(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
    """The pipeline of a local folder or hub id, frozen: its text encoders' features, and its denoiser.

    Raises:
        BackendError: no such folder or hub id, no network, a damaged file, or a pipeline that cannot be
            searched through; see `noise_predictor`.
    """
    if not name:
        raise BackendError(
            "diffusers: needs a model: a folder that save_pretrained wrote, or a hub id as in "
            "diffusers:stabilityai/stable-diffusion-xl-base-1.0"
        )
    place = os.fspath(Path(name).expanduser()) if Path(name).expanduser().exists() else name
    if found := stand_in_inside(place, configurations_only=True):  # which diffusers may take for an empty one
        raise BackendError(f"cannot load the pipeline {name!r}: {found}")
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(place, dtype=dtype).to(device)
    except HardPromptsError:
        raise
    except _FAILURES as error:
        if found := loading_cause(error, place):
            raise BackendError(f"cannot load the pipeline {name!r}: {found}") from error
        reason = " ".join(str(error).split())[:300]
        raise BackendError(
            f"cannot load the pipeline {name!r}: {type(error).__name__}: {reason}. Next: check the spelling, or pass a "
            "local folder with a model_index.json"
        ) from error
    for module in modules_of(pipe).values():
        module.eval().requires_grad_(False)
    predictor = noise_predictor(pipe, name=f"diffusers:{name}")
    features = ConditioningFeatures(predictor)
    return Backend(predictor.name, features, None, device, dtype, noise_predictor=predictor)
