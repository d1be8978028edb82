"""Export the checkpoints of ``train_sd_*`` as a diffusers folder: fp16 weights, card, sample pictures.

Run ``python -m hardprompts_emoji.recipe.export_sd``; once more with ``--report`` after ``evaluate_sd``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

import hardprompts_emoji
from hardprompts_emoji.recipe.folders import replacing
from hardprompts_emoji.recipe.sd_card import sd_card
from hardprompts_emoji.recipe.sd_codec import Codec
from hardprompts_emoji.recipe.sd_data import FOLDER
from hardprompts_emoji.recipe.sd_models import (
    NAME,
    TEXT_MODEL,
    UNET_CHANNELS,
    VAE_CHANNELS,
    build_pipeline,
    build_unet,
    build_vae,
    load_average,
    load_text_encoder,
    read_checkpoint,
)
from hardprompts_emoji.recipe.train_sd_decoder import CHECKPOINT as DECODER_CHECKPOINT
from hardprompts_emoji.recipe.train_sd_decoder import Decoder
from hardprompts_emoji.recipe.train_sd_unet import CHECKPOINT

STEPS = 20
GUIDANCE_SCALE = 3.0
GRID_PROMPTS = (
    "a plain fox on a lavender background",
    "a neon guitar on a black background",
    "a sketch of a bicycle on yellow",
    "a pixel art rocket on a gray background",
    "an owl at night, brown background",
    "a butterfly, watercolor, red",
    "hamburger purple comic",
    "a snowy castle and a penguin on brown",
    "octopus lemon red mosaic",
    "a sepia picture of an hourglass and a key on blue",
    "a glitchy pizza on a green background",
    "a blurry sunflower on teal",
    "a dog and a cat on an orange background, flat style",
    "a strawberry, a banana and a carrot on white",
    "turtle teal plain",
    "pixelated dragon crimson",
    "a vintage picture of a violin on an ivory background",
    "a painting of a whale on an azure background",
    "a wintry scene of a snail on pink",
    "luminous crab navy",
    "a starry night with a sailboat on teal",
    "cactus",
    "blue mosaic",
    "",
)
"""Prompts of the sample picture: captions, word lists, parts, and nothing at all."""
_CELL, _COLUMNS, _LINES = 128, 6, 3


@torch.no_grad()
def draw(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], steps: int, guidance_scale: float, seed: int
) -> torch.Tensor:
    """Return (n, 3, 64, 64) pictures in [0, 1] on the CPU, as 8 bits hold them."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for first in range(0, len(prompts), 250):
        batch = pipeline(
            list(prompts[first : first + 250]),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generator,
            output_type="pt",
        )
        drawn.append((batch.images.float().cpu() * 255).round() / 255)
    return torch.cat(drawn)


def grid(pipeline: StableDiffusionPipeline, prompts: Sequence[str] = GRID_PROMPTS) -> Image.Image:
    """Return one picture of what the prompts draw, each with its prompt below."""
    pictures = draw(pipeline, prompts, STEPS, GUIDANCE_SCALE, seed=0)
    font = ImageFont.load_default(11)
    line, gap = 13, 6
    rows = (len(prompts) + _COLUMNS - 1) // _COLUMNS
    height = _CELL + _LINES * line + gap
    sheet = Image.new("RGB", (_COLUMNS * (_CELL + gap) + gap, rows * height + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        left, top = gap + i % _COLUMNS * (_CELL + gap), gap + i // _COLUMNS * height
        pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        sheet.paste(Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.NEAREST), (left, top))
        for number, text in enumerate(_wrap(prompt or "(empty)", font)[:_LINES]):
            pen.text((left, top + _CELL + 1 + number * line), text, fill="black", font=font)
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= _CELL:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def load_trained(folder: Path) -> tuple[StableDiffusionPipeline, dict[str, Any]]:
    """Return the pipeline of the averaged weights in a work folder, and what the card says of it.

    Raises:
        ValueError: Denoiser and decoder were trained on other latents.
    """
    state, decoder_state = read_checkpoint(folder / CHECKPOINT), read_checkpoint(folder / DECODER_CHECKPOINT)
    if any(not torch.equal(state["codec"][name], value) for name, value in decoder_state["codec"].items()):
        raise ValueError(f"{CHECKPOINT} and {DECODER_CHECKPOINT} in {folder} belong to other latents; train one anew")
    unet, decoder, vae = build_unet(load_text_encoder().config.hidden_size), Decoder(), build_vae()
    load_average(unet, state["average"])
    load_average(decoder, decoder_state["average"])
    vae.decoder, vae.post_quant_conv = decoder.decoder, decoder.post_quant_conv
    Codec(**state["codec"]).set_encoder(vae)
    decoder_run = {name: decoder_state[name] for name in ("step", "spent", "batch_size")}
    pipeline = build_pipeline(vae.eval(), unet.eval())
    parts = ("text_encoder", "unet", "vae")
    settings = {
        "parameters": {part: sum(p.numel() for p in getattr(pipeline, part).parameters()) / 1e6 for part in parts},
        "channels": {"unet": UNET_CHANNELS, "vae": VAE_CHANNELS},
        "steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "training": {"decoder": decoder_run, **state["training"]},
    }
    return pipeline, settings


def export(folder: Path, output: Path, device: torch.device, report: dict[str, Any] | None) -> None:
    """Write the folder of the pipeline; it appears at once or not at all."""
    pipeline, settings = load_trained(folder)
    for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        part.half()
    with replacing(output) as temporary:
        pipeline.save_pretrained(temporary)
        # As they are there: saving a loaded tokenizer adds where it was loaded from.
        for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
            shutil.copyfile(hardprompts_emoji.path(TEXT_MODEL) / file, temporary / "tokenizer" / file)
        _load_in_fp32(temporary / "text_encoder" / "config.json")
        # The sample picture comes from what was written, not from the weights in memory.
        written = StableDiffusionPipeline.from_pretrained(temporary).to(device)
        palette = grid(written).quantize(256, dither=Image.Dither.NONE)
        palette.save(temporary / "grid.png", optimize=True)
        (temporary / "README.md").write_text(sd_card(settings, report), encoding="utf-8")
        training = json.dumps(settings["training"], indent=2)
        (temporary / "training.json").write_text(training + "\n", encoding="utf-8")
        if report is not None:
            (temporary / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _load_in_fp32(config: Path) -> None:
    """Make the text encoder load in fp32 by default, as diffusers loads the other parts.

    transformers goes by the type in the configuration, and a mixture of types cannot draw.
    """
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    parser.add_argument("--output", type=Path, default=hardprompts_emoji.path(NAME))
    parser.add_argument("--device", default="cpu", help="where the sample pictures are drawn")
    parser.add_argument("--report", type=Path, help="JSON written by evaluate_sd, for the card")
    arguments = parser.parse_args()
    report = json.loads(arguments.report.read_text(encoding="utf-8")) if arguments.report else None
    export(arguments.work_dir / FOLDER, arguments.output, torch.device(arguments.device), report)
    size = sum(file.stat().st_size for file in arguments.output.rglob("*") if file.is_file())
    print(f"{arguments.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
