"""Measure an exported ``emoji-sd`` on captions that training never saw; the judge is emoji-clip-reference.

Run ``python -m hardprompts_emoji.recipe.evaluate_sd --device cuda``; it writes evaluation.json into the folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor

import hardprompts_emoji
from hardprompts_emoji.recipe.curriculum import normalize
from hardprompts_emoji.recipe.evaluate_clip import Judge
from hardprompts_emoji.recipe.export_sd import GUIDANCE_SCALE, STEPS, draw
from hardprompts_emoji.recipe.sd_models import NAME
from hardprompts_emoji.recipe.train_clip import image_features
from hardprompts_emoji.scenes import (
    BACKGROUNDS,
    COMMON_OBJECTS,
    HELD_OUT_SEED,
    STYLES,
    Scene,
    caption,
    render_batch,
    sample_drawable_scene,
)

SCENES = 1000
SWEEP_SCENES = 300
SWEEP = ((10, 3.0), (20, 1.5), (20, 2.0), (20, 3.0), (20, 5.0), (50, 7.5))
"""Pairs of steps and guidance scale; the last is the default of the pipeline."""
FIRST_SEED = HELD_OUT_SEED + 7_000_000
CANDIDATES = 100


class PictureJudge(Judge):
    """Gives unit features of pictures too."""

    @torch.no_grad()
    def pictures(self, pictures: Tensor) -> Tensor:
        """Return (n, width) features of (n, 3, 64, 64) pictures in [0, 1]."""
        return torch.cat([image_features(self.model, normalize(batch)) for batch in pictures.split(200)])


def first_of_candidates(pictures: Tensor, captions: Tensor) -> Tensor:
    """Return (n,) whether each picture's caption is nearest to it among those of its block of 100."""
    found = []
    for start in range(0, len(pictures), CANDIDATES):
        block = slice(start, start + CANDIDATES)
        nearest = (pictures[block] @ captions[block].T).argmax(1)
        found.append(nearest == torch.arange(len(nearest)))
    return torch.cat(found)


def share(flags: Tensor, rows: Sequence[int] | None = None) -> float:
    """Return the share of true flags, of some rows or of all; NaN for none."""
    chosen = flags if rows is None else flags[torch.tensor(list(rows), dtype=torch.long)]
    return float(chosen.float().mean())


def evaluate_vae(vae: AutoencoderKL, own: Tensor, judge: PictureJudge, captions: Tensor) -> dict[str, float]:
    """Return how well (n, 3, 64, 64) pictures in [0, 1] survive the autoencoder."""
    device = vae.device
    restored = []
    with torch.no_grad():
        for batch in own.split(250):
            latents = vae.encode(batch.to(device) * 2 - 1).latent_dist.mode()
            restored.append((vae.decode(latents).sample.cpu() / 2 + 0.5).clamp(0, 1))
    pictures = torch.cat(restored)
    errors = (pictures - own).square().mean((1, 2, 3))
    return {
        "l1": float((pictures - own).abs().mean()),
        "psnr": float((-10 * errors.clamp(min=1e-8).log10()).mean()),
        "caption_first_of_100": share(first_of_candidates(judge.pictures(pictures), captions)),
    }


def attributes(judge: PictureJudge, features: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Return the shares of pictures whose nearest name, color and style are those of the scene."""
    names = list(COMMON_OBJECTS)
    nearest = (features @ judge.texts(names).T).argmax(1).tolist()
    hits = torch.tensor([names[i] in {o.name for o in s.objects} for i, s in zip(nearest, scenes, strict=True)])
    report = {"object_top1": share(hits)}
    report["object_top1_1_object"] = share(hits, [i for i, s in enumerate(scenes) if len(s.objects) == 1])
    for what, words in (("background", list(BACKGROUNDS)), ("style", list(STYLES))):
        nearest = (features @ judge.texts(words).T).argmax(1).tolist()
        flags = [words[i] == getattr(s, what) for i, s in zip(nearest, scenes, strict=True)]
        report[f"{what}_top1"] = share(torch.tensor(flags))
    return report


def evaluate(
    folder: Path, device: torch.device, count: int = SCENES, sweep_count: int = SWEEP_SCENES
) -> dict[str, Any]:
    """Return all measured numbers of a pipeline's folder; ``count`` held-out scenes."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(device)
    judge = PictureJudge(hardprompts_emoji.path("emoji-clip-reference"))
    scenes = [sample_drawable_scene(FIRST_SEED + i) for i in range(count)]
    own = torch.cat([render_batch(scenes[i : i + 200], torch.Generator().manual_seed(i)) for i in range(0, count, 200)])
    texts = [caption(scene) for scene in scenes]
    captions, own_features = judge.texts(texts), judge.pictures(own)

    def drawn(prompts: Sequence[str], steps: int = STEPS, guidance_scale: float = GUIDANCE_SCALE) -> Tensor:
        return judge.pictures(draw(pipeline, prompts, steps, guidance_scale, seed=1))

    by_caption = drawn(texts)
    by_list = drawn([" ".join([*(o.name for o in s.objects), s.background, s.style]) for s in scenes])
    by_nothing = drawn([""] * count)
    first = first_of_candidates(by_caption, captions)
    by_count = {
        f"caption_{n}_objects": share(first, [i for i, s in enumerate(scenes) if len(s.objects) == n]) for n in (1, 2)
    }
    # The neighbor's picture stands for that of another caption: scenes are independent.
    alike = {"true_caption": by_caption, "other_caption": by_caption.roll(1, 0), "empty": by_nothing}
    return {
        "scenes": count,
        "objects": len(COMMON_OBJECTS),
        "steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "caption_first_of_100": {
            "caption": share(first),
            **by_count,
            "word_list": share(first_of_candidates(by_list, captions)),
            "own_picture": share(first_of_candidates(own_features, captions)),
        },
        "caption_first_of_100_by_style": {
            style: share(first, [i for i, s in enumerate(scenes) if s.style == style]) for style in STYLES
        },
        "drawn": attributes(judge, by_caption, scenes),
        "own_picture": attributes(judge, own_features, scenes),
        "similarity_to_scene": {k: float((v * own_features).sum(1).mean()) for k, v in alike.items()},
        "similarity_to_scene_by_style": {
            style: float((by_caption * own_features).sum(1)[[s.style == style for s in scenes]].mean())
            for style in STYLES
        },
        "vae": evaluate_vae(pipeline.vae, own, judge, captions),
        "sweep_scenes": min(sweep_count, count),
        "caption_first_of_100_by_settings": {
            f"{steps} steps at {scale:g}": share(
                first_of_candidates(drawn(texts[:sweep_count], steps, scale), captions[:sweep_count])
            )
            for steps, scale in SWEEP
            if sweep_count
        },
    }


def main() -> None:
    """Parse the command line, measure, write JSON into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="exported pipeline; by default the embedded one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--sweep-scenes", type=int, default=SWEEP_SCENES)
    arguments = parser.parse_args()
    folder = arguments.folder or hardprompts_emoji.path(NAME)
    device = torch.device(arguments.device)
    text = json.dumps(evaluate(folder, device, arguments.scenes, arguments.sweep_scenes), indent=2)
    print(text)
    temporary = folder / ".evaluation.json.new"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / "evaluation.json")


if __name__ == "__main__":
    main()
