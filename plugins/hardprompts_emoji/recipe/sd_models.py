"""The parts of ``emoji-sd``: sizes, schedule, and how a checkpoint becomes a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging

import hardprompts_emoji
from hardprompts_emoji.recipe.build_tokenizer import CONTEXT_LENGTH
from hardprompts_emoji.scenes import IMAGE_SIZE

NAME = "emoji-sd"
TEXT_MODEL = "emoji-clip"
LATENT_CHANNELS = 32
LATENT_SIZE = IMAGE_SIZE // 8
"""Few and wide: a position of the denoiser costs the same with 32 channels as with 4."""
VAE_CHANNELS = (16, 48, 96, 112)
VAE_NORM_GROUPS = 8
UNET_CHANNELS = (80, 160, 224)
HEAD_SIZE = 32
NORM_GROUPS = 16


def build_vae() -> AutoencoderKL:
    """Return an untrained autoencoder: (n, 3, 64, 64) in [-1, 1] to (n, 32, 8, 8) and back."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(VAE_CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(VAE_CHANNELS),
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=VAE_NORM_GROUPS,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0,  # the codec makes the latents' mean square 1
        mid_block_add_attention=False,
    )


def build_unet(text_width: int) -> UNet2DConditionModel:
    """Return an untrained denoiser of (n, 32, 8, 8) latents that attends to (n, tokens, text_width).

    The finest level has no attention: there it would cost most and add least (SDXL leaves it out too).
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=UNET_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        # diffusers reads the number of heads from this field.
        attention_head_dim=tuple(max(1, channels // HEAD_SIZE) for channels in UNET_CHANNELS),
        norm_num_groups=NORM_GROUPS,
    )


def build_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's schedule, moved so that the last step is pure noise, with v-prediction.

    Without a last step of pure noise the sampler starts from what training never saw, and plain
    backgrounds come out in wrong colors.

    Source: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # of no effect with trailing steps; the pipeline warns of any other value
    )


def load_text_encoder() -> CLIPTextModel:
    """Return emoji-clip's text tower, frozen, in fp32."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or it lists all weights of the image tower, which are of no use here
    tower = CLIPTextModel.from_pretrained(hardprompts_emoji.path(TEXT_MODEL)).float()
    logging.set_verbosity(verbosity)
    return tower.requires_grad_(False).eval()


def load_tokenizer() -> CLIPTokenizer:
    """Return emoji-clip's tokenizer."""
    return CLIPTokenizer.from_pretrained(hardprompts_emoji.path(TEXT_MODEL))


def empty_ids(tokenizer: CLIPTokenizer) -> Tensor:
    """Return the (CONTEXT_LENGTH,) token ids of the empty text, as the pipeline pads it."""
    padded = tokenizer("", padding="max_length", max_length=CONTEXT_LENGTH, return_tensors="pt")
    ids: Tensor = padded.input_ids[0]
    return ids


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint of a training stage, on the CPU.

    Raises:
        FileNotFoundError: The stage that writes it has not run.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}; run the training stage that writes it, see train_sd_*.py")
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def load_average(model: nn.Module, average: list[Tensor]) -> None:
    """Copy averaged weights, in the order of ``model.parameters()``, into a model."""
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), average, strict=True):
            parameter.copy_(value)


def build_pipeline(vae: AutoencoderKL, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """Return the pipeline of the trained parts and emoji-clip's text tower."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=load_text_encoder(),
        tokenizer=load_tokenizer(),
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
