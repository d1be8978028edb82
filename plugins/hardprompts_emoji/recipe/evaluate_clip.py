"""Measure an exported model on scenes that training never saw.

Run ``python -m hardprompts_emoji.recipe.evaluate_clip --model emoji-clip --output report.json``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

import hardprompts_emoji
from hardprompts_emoji.recipe.curriculum import normalize
from hardprompts_emoji.recipe.train_clip import image_features, text_features
from hardprompts_emoji.scenes import (
    BACKGROUNDS,
    HELD_OUT_SEED,
    OBJECTS,
    STYLES,
    Scene,
    SceneObject,
    caption,
    render_batch,
    sample_scene,
)

ONE_OBJECT_SCENES = 1000
CAPTION_SCENES = 1000
STYLED_SCENES = 200


class Judge:
    """A model with its tokenizer; gives unit features of texts and scenes."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder, attn_implementation="eager").float().eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return (n, width) features."""
        batch = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        return torch.cat([text_features(self.model, ids) for ids in batch.input_ids.split(256)])

    @torch.no_grad()
    def scenes(self, scenes: Sequence[Scene]) -> Tensor:
        """Return (n, width) features of the drawn scenes."""
        features = []
        for start in range(0, len(scenes), 200):
            generator = torch.Generator().manual_seed(start)
            pictures = normalize(render_batch(scenes[start : start + 200], generator))
            features.append(image_features(self.model, pictures))
        return torch.cat(features)


def one_object_scenes(count: int, style: str, first_seed: int) -> list[Scene]:
    """Return centered one-object scenes, medium or large, of a style, from held-out seeds."""
    found: list[Scene] = []
    seed = first_seed
    while len(found) < count:
        scene = sample_scene(seed, num_objects=1, style=style)
        if scene.objects[0].size != "small":
            found.append(scene)
        seed += 1
    return found


def every_object_scenes() -> list[Scene]:
    """Return one plain scene of every drawing, on a background on which it can be seen."""
    wanted = set(OBJECTS)
    found: list[Scene] = []
    seed = HELD_OUT_SEED + 5_000_000
    while wanted:
        scene = sample_scene(seed, num_objects=1, style="flat")
        item = scene.objects[0]
        if item.name in wanted:
            wanted.remove(item.name)
            found.append(Scene((SceneObject(item.name, "large", "center"),), scene.background, "flat"))
        seed += 1
    return found


def top1(images: Tensor, texts: Tensor, names: Sequence[str], truth: Sequence[str]) -> float:
    """Return the share of images nearest to the text of their truth."""
    found: list[int] = (images @ texts.T).argmax(1).tolist()
    return sum(names[i] == name for i, name in zip(found, truth, strict=True)) / len(truth)


def corrupt(scene: Scene, generator: random.Random) -> str:
    """Return the canonical caption with one object, the color or the style exchanged."""
    kind = generator.choice(("object", "color", "style"))
    if kind == "object":
        other = generator.choice([name for name in OBJECTS if name not in {item.name for item in scene.objects}])
        return caption(
            Scene((SceneObject(other, "small", "center"), *scene.objects[1:]), scene.background, scene.style)
        )
    if kind == "color":
        color = generator.choice([name for name in BACKGROUNDS if name != scene.background])
        return caption(Scene(scene.objects, color, scene.style))
    return caption(Scene(scene.objects, scene.background, generator.choice([s for s in STYLES if s != scene.style])))


def evaluate(folder: Path) -> dict[str, object]:
    """Return all measured numbers of a model folder."""
    judge = Judge(folder)
    names = list(OBJECTS)
    name_features = judge.texts(names)
    report: dict[str, object] = {"objects": len(names)}
    plain = one_object_scenes(ONE_OBJECT_SCENES, "flat", HELD_OUT_SEED)
    report["zero_shot_top1_plain"] = top1(judge.scenes(plain), name_features, names, [s.objects[0].name for s in plain])
    every = every_object_scenes()
    report["zero_shot_top1_every_drawing"] = top1(
        judge.scenes(every), name_features, names, [s.objects[0].name for s in every]
    )
    styled = {}
    for number, style in enumerate(STYLES):
        scenes = one_object_scenes(STYLED_SCENES, style, HELD_OUT_SEED + 100_000 * (number + 1))
        styled[style] = top1(judge.scenes(scenes), name_features, names, [s.objects[0].name for s in scenes])
    report["zero_shot_top1_by_style"] = styled
    scenes = [sample_scene(HELD_OUT_SEED + 3_000_000 + i) for i in range(CAPTION_SCENES)]
    images, truths = judge.scenes(scenes), [caption(scene) for scene in scenes]
    features = judge.texts(truths)
    report["caption_recall_at_1"] = top1(images, features, truths, truths)
    for count in (1, 2, 3):
        rows = [i for i, scene in enumerate(scenes) if len(scene.objects) == count]
        report[f"caption_recall_at_1_{count}_objects"] = top1(images[rows], features, truths, [truths[i] for i in rows])
    report["background_top1"] = top1(
        images, judge.texts(list(BACKGROUNDS)), list(BACKGROUNDS), [s.background for s in scenes]
    )
    report["style_top1"] = top1(images, judge.texts(list(STYLES)), list(STYLES), [s.style for s in scenes])
    generator = random.Random(0)
    corrupted = judge.texts([corrupt(scene, generator) for scene in scenes])
    words = [word for name, keywords in OBJECTS.items() for word in (name, *keywords)]
    nonsense = judge.texts([" ".join(generator.sample(words, 6)) for _ in scenes])
    listed = judge.texts([" ".join([*(o.name for o in s.objects), s.background, s.style]) for s in scenes])
    true = (images * features).sum(1)
    report["similarity"] = {
        "true_caption": true.mean().item(),
        "true_word_list": (images * listed).sum(1).mean().item(),
        "corrupted_caption": (images * corrupted).sum(1).mean().item(),
        "nonsense": (images * nonsense).sum(1).mean().item(),
    }
    report["true_caption_beats_corrupted"] = (true > (images * corrupted).sum(1)).float().mean().item()
    return report


def main() -> None:
    """Parse the command line, measure, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="name of an embedded model, or a folder")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.model) if Path(arguments.model).is_dir() else hardprompts_emoji.path(arguments.model)
    text = json.dumps(evaluate(folder), indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
