"""The text of the model cards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hardprompts_emoji.recipe.train_image_tower import MODELS
from hardprompts_emoji.scenes import OBJECTS

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
tags: [clip, emoji, hardprompts]
---

# {name}

A small CLIP that knows scenes of emoji drawings, and nothing else: {objects} drawings, 12 background
colors, 12 styles, one to three drawings to a scene. {role}

It exists so that prompt search can be tried, tested and measured offline, with known truth. It is
of no use for photographs.

## Use

```python
import hardprompts_emoji
from transformers import CLIPModel, CLIPTokenizer

folder = hardprompts_emoji.path("{name}")
model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
```

Pictures are 64 x 64, normalized as `preprocessor_config.json` says; texts hold up to 30 tokens.
Towers: image {vision_width} wide, {vision_layers} layers, patch 16; text {text_width} wide,
{text_layers} layers, causal, pooled at the end token; features {projection}.

## Data and licenses

- Drawings: Noto Color Emoji, (c) Google, SIL Open Font License 1.1 (`sprites.webp` of this package holds them).
- Names and keywords: Unicode CLDR, (c) Unicode, Inc., Unicode License v3.
- Scenes are drawn on the fly by `hardprompts_emoji.scenes`, seeds below `HELD_OUT_SEED`.
- The weights are under the license of this package, Apache-2.0.

## Training

`hardprompts_emoji.recipe`: `train_image_tower` (the image tower as a classifier of drawings, colors
and styles), then `train_clip` (InfoNCE, a softmax over names, and regression of both towers on the
normalized sum of one vector for each thing shown or named and one for how many there are; texts are
captions, word lists, partial, corrupted and random ones, and texts found by gradient against the model),
then `polish_text_tower` (the text tower alone, so that a word list scores what its meaning deserves).
{training}

## Measured

{measured}

## Limits

- It knows the words of the drawings' names and CLDR keywords, colors, styles and a few more; any other
  word is nonsense to it. Which object stands where, and how large, hardly matters to its similarity.
- A scene holds at most three things, one color and one style; texts that name more were trained to fit none.
- It was trained to score what names everything and nothing else highest, against a search by gradient
  too. Real CLIP models were not, so a search that works here may overfit there.
- Similar drawings are mixed up, the more so when they are small or the picture is cropped.
"""

_ROLES = {
    "emoji-clip": "Prompts are searched against this one.",
    "emoji-clip-reference": (
        "It is the neutral judge: other seed, other size than `emoji-clip`. Never search against it."
    ),
}


def model_card(
    name: str, stages: Sequence[tuple[int, int, float]], hardware: str, report: dict[str, Any] | None
) -> str:
    """Return the card of a model; without a report it says that nothing was measured.

    Args:
        name: Name of the model.
        stages: (steps, scenes in a step, minutes) of each stage.
        hardware: What it was trained on.
        report: What ``evaluate_clip`` measured.
    """
    sizes = MODELS[name]
    parts = [f"{steps} steps of {scenes} scenes ({minutes:.1f} minutes)" for steps, scenes, minutes in stages]
    training = f"The stages took {', '.join(parts[:-1])} and {parts[-1]} on {hardware}."
    return _CARD.format(
        name=name,
        objects=len(OBJECTS),
        role=_ROLES[name],
        training=training,
        measured=_measured(report) if report else "Not measured yet.",
        vision_width=sizes.vision_width,
        vision_layers=sizes.vision_layers,
        text_width=sizes.text_width,
        text_layers=sizes.text_layers,
        projection=sizes.projection,
    )


def _measured(report: dict[str, Any]) -> str:
    similarity = report["similarity"]
    styles = ", ".join(f"{style} {share:.0%}" for style, share in report["zero_shot_top1_by_style"].items())
    rows = [
        (
            f"zero-shot top-1 over {report['objects']} names, plain one-object scenes",
            f"{report['zero_shot_top1_plain']:.1%}",
        ),
        ("the same, every drawing once", f"{report['zero_shot_top1_every_drawing']:.1%}"),
        ("recall@1, image to 1,000 unseen captions", f"{report['caption_recall_at_1']:.1%}"),
        *(
            (
                f"of these, scenes with {n} object{'s' if n > 1 else ''}",
                f"{report[f'caption_recall_at_1_{n}_objects']:.1%}",
            )
            for n in (1, 2, 3)
        ),
        ("background, top-1 of 12, all scenes", f"{report['background_top1']:.1%}"),
        ("style, top-1 of 12, all scenes", f"{report['style_top1']:.1%}"),
        ("similarity of the true caption", f"{similarity['true_caption']:.3f}"),
        ("of the true words as a list", f"{similarity['true_word_list']:.3f}"),
        ("of a caption with one part exchanged", f"{similarity['corrupted_caption']:.3f}"),
        ("of six random words", f"{similarity['nonsense']:.3f}"),
        ("true caption above the one with a part exchanged", f"{report['true_caption_beats_corrupted']:.1%}"),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    return (
        "On scenes from held-out seeds, with `hardprompts_emoji.recipe.evaluate_clip` (also `evaluation.json`):\n\n"
        f"| what | value |\n|---|---|\n{table}\n\nZero-shot top-1 by style, one object: {styles}."
    )
