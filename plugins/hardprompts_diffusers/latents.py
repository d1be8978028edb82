"""Images as latents that a pipeline's denoiser knows."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from hardprompts.errors import BackendError
from hardprompts_diffusers.components import denoiser_of, modules_of, working


def image_size(pipe: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """The (height, width) that images are scaled to: those given, else the pipeline's own default.

    Raises:
        BackendError: the pipeline has no VAE.
        ValueError: a size that the VAE and the denoiser's patches do not divide.
    """
    if getattr(pipe, "vae", None) is None:
        raise BackendError(
            f"{type(pipe).__name__} has no VAE; pipelines that denoise latents are supported: use match='clip'"
        )
    factor = int(pipe.vae_scale_factor)
    config = denoiser_of(pipe).config
    default = getattr(pipe, "default_sample_size", None) or config.get("sample_size", None) or 1024 // factor
    rows, columns = default if isinstance(default, tuple | list) else (default, default)
    chosen = (height or int(rows) * factor, width or int(columns) * factor)
    multiple = factor * _patch(pipe, config)
    if any(side < multiple or side % multiple for side in chosen):
        raise ValueError(
            f"height and width must be multiples of {multiple} for this {type(pipe).__name__}, got {chosen[0]} and "
            f"{chosen[1]}; images of any size are scaled and cropped to them"
        )
    return chosen


def _patch(pipe: Any, config: Any) -> int:
    if hasattr(pipe, "_pack_latents") or hasattr(pipe, "_patchify_latents"):
        return 2
    sizes = config.get("all_patch_size", None) or config.get("patch_size", None) or 1
    return int(max(sizes)) if isinstance(sizes, tuple | list) else int(sizes)


def to_tensor(images: Sequence[Image.Image], height: int, width: int) -> Float[Tensor, "images 3 height width"]:
    """The images scaled to cover height x width, cropped in the middle, in [-1, 1]."""
    fitted = [ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS) for image in images]
    values = np.stack([np.asarray(image, dtype=np.float32) for image in fitted]) / 127.5 - 1
    return torch.from_numpy(values).movedim(-1, 1)


@torch.no_grad()
def clean_latents(pipe: Any, images: Sequence[Image.Image], height: int, width: int) -> Float[Tensor, "images ..."]:
    """The latents of images in the layout and scale that the denoising loop works in, at least in float32.

    The mode of the VAE's distribution, not a sample. A VAE in float16 whose config asks for
    `force_upcast` (SDXL's) works in float32 meanwhile.
    """
    vae: Any = modules_of(pipe)["vae"]
    with working(pipe, ("vae",)) as device:
        dtype = vae.dtype  # as it computes, however its weights are stored
        upcast = dtype == torch.float16 and bool(vae.config.get("force_upcast", False))
        if upcast:
            vae.to(torch.float32)
        try:
            pixels = to_tensor(images, height, width).to(device, torch.float32 if upcast else dtype)
            encoded = vae.encode(pixels.unsqueeze(2) if _has_frames(vae) else pixels)
        finally:
            if upcast:
                vae.to(dtype)
        if hasattr(encoded, "latent_dist"):
            latents = encoded.latent_dist.mode()
        elif hasattr(encoded, "latent"):
            latents = encoded.latent
        else:
            raise BackendError(f"the VAE {type(vae).__name__} gives no latents that are known here; use match='clip'")
        latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
        return _packed(pipe, _scaled(pipe, latents))


def _has_frames(vae: Any) -> bool:
    """True of VAEs for video, whose images are films of one frame."""
    return any(isinstance(module, torch.nn.Conv3d) for module in vae.encoder.modules())


def _scaled(pipe: Any, latents: Tensor) -> Tensor:
    vae, config = pipe.vae, pipe.vae.config
    if hasattr(vae, "bn") and hasattr(pipe, "_patchify_latents"):  # FLUX.2
        patches = pipe._patchify_latents(latents)
        mean, variance = (value.to(patches).view(1, -1, 1, 1) for value in (vae.bn.running_mean, vae.bn.running_var))
        scaled: Tensor = (patches - mean) / (variance + config.batch_norm_eps).sqrt()
        return scaled
    factor = config.get("scaling_factor", None) or 1.0
    if config.get("latents_mean", None) is not None and config.get("latents_std", None) is not None:
        shape = (1, -1, *[1] * (latents.ndim - 2))
        mean, std = (torch.tensor(config[key]).to(latents).view(shape) for key in ("latents_mean", "latents_std"))
        return (latents - mean) * (factor / std)
    return (latents - (config.get("shift_factor", None) or 0.0)) * factor


def _packed(pipe: Any, latents: Tensor) -> Tensor:
    """As rows of patches, for the pipelines whose `latents` argument has them so."""
    pack = getattr(pipe, "_pack_latents", None)
    if pack is None or len(inspect.signature(pack).parameters) < 5:  # FLUX.2 packs by itself
        return latents
    batch, channels, *_, height, width = latents.shape
    packed: Tensor = pack(latents, batch, channels, height, width)
    return packed
