"""Pipelines as noise predictors and as backends."""

import contextlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from packaging.version import Version
from safetensors import SafetensorError

from hardprompts.causes.standins import stand_in_inside
from hardprompts.diffusion import ConditioningFeatures
from hardprompts.diffusion.reading import check_reading
from hardprompts.encoders import Backend, NoisePredictor
from hardprompts.errors import BackendError, HardPromptsError
from hardprompts.hub.reasons import loading_cause
from hardprompts.prompts import PromptTemplate
from hardprompts.towers import watched_gradients
from hardprompts_diffusers.components import check_placement, modules_of, preserved, text_encoders
from hardprompts_diffusers.direct import UNetPredictor, is_unet_pipeline
from hardprompts_diffusers.generic import PipelinePredictor

#: The dtype, as `from_pretrained` takes it. Before diffusers 0.40 it passes the other name over in silence, so that its
#: version has to be asked.
DTYPE = "dtype" if Version(diffusers.__version__) >= Version("0.40") else "torch_dtype"


def noise_predictor(
    pipe: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    tokenizer: str | None = None,
    options: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
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
        texts: what text encoders of some kinds read instead of the prompt, of a pipeline with several kinds:
            {"t5": "a long text"} or {"clip": "a few words"}. The tokens of another kind are searched, and predictions
            are those of the whole pipeline with all of its texts.

    Raises:
        BackendError: the pipeline lacks a text encoder, a VAE or a denoiser; its scheduler is not covered;
            its weights are offloaded sequentially or in groups, or stored in one byte; it works in another way; what
            its text encoders give from token embeddings differs from what they give from text; or no gradient passes.
        ValueError: a size that the VAE cannot take, an unknown tokenizer or option, or texts for encoders that the
            pipeline does not have, or for all.
    """
    check_placement(pipe)
    called = name or str(getattr(pipe, "name_or_path", "") or type(pipe).__name__)
    _check_ip_adapter(pipe, options or {})
    predictor: UNetPredictor | PipelinePredictor
    if is_unet_pipeline(pipe) and not options and tokenizer is None and not texts:
        predictor = UNetPredictor.create(pipe, called, height, width)
    else:
        predictor = PipelinePredictor.create(
            pipe, called, height, width, tokenizer=tokenizer, options=options, texts=texts
        )
    with preserved(pipe):  # without dropout
        _check_text_encoders(predictor)
    return predictor


def _check_ip_adapter(pipe: Any, options: Mapping[str, Any]) -> None:
    """Raises BackendError where an IP-Adapter waits for a picture."""
    for name, module in modules_of(pipe).items():
        adapter = type(getattr(module, "encoder_hid_proj", None)).__name__ == "MultiIPAdapterImageProjection"
        if adapter and not any(one.startswith("ip_adapter_image") for one in options):
            raise BackendError(
                f"the {name} has an IP-Adapter, which needs a picture beside every prompt; call "
                "pipe.unload_ip_adapter() first, or give it one: pipeline_kwargs={'ip_adapter_image_embeds': ...}"
            )


def _check_text_encoders(predictor: UNetPredictor | PipelinePredictor) -> None:
    """Compares what a prompt's tokens give with what its text gives, and looks that gradients pass."""
    vocabulary = predictor.vocabulary
    words = vocabulary.sample_that_survives(PromptTemplate())
    if words is None or predictor.max_tokens < 1:
        return
    check_reading(predictor, vocabulary.decode(words))
    with contextlib.ExitStack() as stack:
        for suffix, (_, encoder) in text_encoders(predictor.pipe).items():
            stack.enter_context(watched_gradients(encoder, f"text_encoder{suffix} of {predictor.name}"))
        stack.enter_context(torch.enable_grad())
        predictor.condition(vocabulary.embed_ids(words).unsqueeze(0).requires_grad_())


#: What reading a damaged, foreign or absent pipeline raises, in diffusers and below it.
_FAILURES = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, EOFError, MemoryError,
    SafetensorError, pickle.UnpicklingError,
)  # fmt: skip


def open_backend(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    tokenizer: str | None = None,
    texts: Mapping[str, str] | None = None,
) -> Backend:
    """The pipeline of a local folder or hub id, frozen: its text encoders' features, and its denoiser.

    Args:
        tokenizer, texts: see `noise_predictor`.

    Raises:
        ValueError: the pipeline has no such tokenizer, or texts.
        BackendError: no such folder or hub id, no network, a damaged file, or a pipeline that cannot be
            searched through; see `noise_predictor`.
    """
    pipe = load_pipeline(name, device, dtype)
    predictor = noise_predictor(pipe, name=f"diffusers:{name}", tokenizer=tokenizer, texts=texts)
    features = ConditioningFeatures(predictor)
    return Backend(predictor.name, features, None, device, dtype, noise_predictor=predictor)


def load_pipeline(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The pipeline of a local folder or hub id, frozen, on a device.

    Raises:
        BackendError: no such folder or hub id, no network, or a damaged file.
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
        pipe = diffusers.DiffusionPipeline.from_pretrained(place, **{DTYPE: dtype}).to(device)
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
    return pipe
