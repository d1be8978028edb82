"""The text of emoji-sd's model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardprompts_emoji.recipe.sd_models import NAME
from hardprompts_emoji.scenes import COMMON_OBJECTS, OBJECTS

_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion, emoji, hardprompts]
---

# {name}

A small `StableDiffusionPipeline` that draws scenes of emoji, and nothing else: {objects} drawings
(`hardprompts_emoji.scenes.COMMON_OBJECTS`, of the {all_objects} that emoji-clip knows), 12
background colors, 12 styles, one large drawing in the middle or two small ones, 64 x 64 pixels.

It exists so that searching prompts for a text-to-image model can be tried, tested and measured
offline, with known truth. It is of no use for photographs.

![What it draws](grid.png)

## Use

```python
import hardprompts_emoji
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained(hardprompts_emoji.path("{name}"))
picture = pipe("a plain fox on a lavender background", num_inference_steps={steps}, guidance_scale={guidance}).images[0]
```

| part | what | parameters |
|---|---|---|
| `text_encoder`, `tokenizer` | exactly emoji-clip's text tower, frozen; 30 tokens of text | {text_encoder:.1f} M |
| `unet` | `UNet2DConditionModel`, {unet_channels} channels, attention at 4 x 4 and 2 x 2 | {unet:.1f} M |
| `vae` | `AutoencoderKL`, {vae_channels} channels; to 8 x 8 x 32; the encoder in closed form | {vae:.1f} M |
| `scheduler` | `DDIMScheduler`, v-prediction, Stable Diffusion's betas rescaled to end in pure noise | |

Weights are stored in fp16 and load in fp32 unless `dtype` says otherwise.

## Data and licenses

- Drawings: Noto Color Emoji, (c) Google, SIL Open Font License 1.1 (`sprites.webp` of this package holds them).
- Names and keywords: Unicode CLDR, (c) Unicode, Inc., Unicode License v3.
- Scenes are drawn by `hardprompts_emoji.scenes`, seeds below `HELD_OUT_SEED`.
- The weights are under the license of this package, Apache-2.0.

## Training

`hardprompts_emoji.recipe`: `sd_data` (scenes with four texts each: captions, word lists in any order with
synonyms, words for a part of the scene, words among meaningless tokens), `sd_codec` (the latents are the first 32
principal components of 8 x 8 patches, set as the encoder's weights), `train_sd_decoder` (absolute and squared
error, error of neighboring differences) and, beside it, `train_sd_unet` (velocity prediction, a tenth of the
texts empty). {training}

## Measured

{measured}

## Limits

- It knows the words that emoji-clip knows, and draws of them what is listed above. Of two objects it draws which
  stands where as it likes.
- Drawings are those of the training pictures: held out are combinations of objects, colors and styles, not objects.
- Texts that name more than two objects, two colors or two styles are outside of what it saw.
- Small details of drawings get lost in the latents, the more so in small drawings.
"""


def sd_card(settings: Mapping[str, Any], report: Mapping[str, Any] | None) -> str:
    """Return the card; without a report it says that nothing was measured.

    Args:
        settings: What ``export_sd`` knows: "parameters" in millions by part, "channels" by part,
            "steps" and "guidance_scale" to draw with, "training" by stage.
        report: What ``evaluate_sd`` measured.
    """
    decoder, runs = settings["training"]["decoder"], settings["training"]["unet"]
    denoiser = ", then ".join(
        f"{run['step']:,} steps of {run['batch_size']} latents of {run['scenes']:,} scenes of {run['objects']} "
        f"drawings{run.get('note', '')} in {run['spent'] / 60:.1f} minutes"
        for run in runs
    )
    training = (
        f"The published run: {decoder['step']:,} steps of {decoder['batch_size']} pictures in "
        f"{decoder['spent'] / 60:.1f} minutes for the decoder; for the denoiser {denoiser}. The weights are moving "
        "averages."
    )
    return _CARD.format(
        name=NAME,
        objects=len(COMMON_OBJECTS),
        all_objects=len(OBJECTS),
        steps=settings["steps"],
        guidance=settings["guidance_scale"],
        unet_channels=", ".join(map(str, settings["channels"]["unet"])),
        vae_channels=", ".join(map(str, settings["channels"]["vae"])),
        training=training,
        measured=_measured(report) if report else "Not measured yet.",
        **settings["parameters"],
    )


def _measured(report: Mapping[str, Any]) -> str:
    drawn, vae, alike = report["drawn"], report["vae"], report["similarity_to_scene"]
    first = report["caption_first_of_100"]
    rows = [
        ("true caption ranked first of 100, picture drawn from it", f"{first['caption']:.1%}"),
        *(
            (f"of these, scenes with {n} object{'s' if n > 1 else ''}", f"{first[f'caption_{n}_objects']:.1%}")
            for n in (1, 2)
        ),
        ("the same, drawn from a word list", f"{first['word_list']:.1%}"),
        ("the same, the scene's own picture", f"{first['own_picture']:.1%}"),
        (f"nearest of {report['objects']} names is in the scene", f"{drawn['object_top1']:.1%}"),
        ("the same, one object", f"{drawn['object_top1_1_object']:.1%}"),
        ("background, top-1 of 12", f"{drawn['background_top1']:.1%}"),
        ("style, top-1 of 12", f"{drawn['style_top1']:.1%}"),
        ("similarity to the scene's own picture, true caption", f"{alike['true_caption']:.3f}"),
        ("of a picture drawn for another caption", f"{alike['other_caption']:.3f}"),
        ("of a picture drawn for no text", f"{alike['empty']:.3f}"),
        ("autoencoder: mean absolute error of pixels in [0, 1]", f"{vae['l1']:.4f}"),
        ("autoencoder: signal-to-noise ratio", f"{vae['psnr']:.1f} dB"),
        ("autoencoder: true caption first of 100", f"{vae['caption_first_of_100']:.1%}"),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    styles = ", ".join(f"{style} {share:.0%}" for style, share in report["caption_first_of_100_by_style"].items())
    sweep = ", ".join(f"{name} {share:.0%}" for name, share in report["caption_first_of_100_by_settings"].items())
    return (
        f"On {report['scenes']:,} held-out scenes, {report['steps']} steps, guidance {report['guidance_scale']}, "
        "judged by emoji-clip-reference, with `hardprompts_emoji.recipe.evaluate_sd` (also `evaluation.json`):\n\n"
        f"| what | value |\n|---|---|\n{table}\n\n"
        f"Caption first of 100 by style: {styles}.\n\nBy steps and guidance, {report['sweep_scenes']} scenes: {sweep}."
    )
