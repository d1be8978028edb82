"""Calibrate evidence for emoji-clip: ``python -m hardprompts_emoji.recipe.calibrate_evidence --build FOLDER``.

Prompts are found for training scenes, without the decoder; a third of the scenes are turned, cropped, blurred and
tinted, so that pictures that the model does not know well are among them. What was measured of their phrases is kept in
the folder, so that a run that is interrupted goes on when it is started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageEnhance, ImageFilter

from hardprompts import PromptInverter
from hardprompts.inversion.evidence.calibration import LabeledFigures, save_calibrations
from hardprompts.inversion.evidence.fitting import WAYS, examples, fits, source_of
from hardprompts.inversion.evidence.source import EvidenceSource
from hardprompts.wording import Categories
from hardprompts_emoji import scenes
from hardprompts_emoji.backend import CALIBRATIONS
from hardprompts_emoji.recipe.decoder_texts import FIRST_SEED

SCENES_FROM = FIRST_SEED + 200_000_000
"""First seed of the scenes."""

SCENES = 140
"""How many scenes are searched."""


def categories() -> Categories:
    """The lists that come with the package, with the colors and styles of the world."""
    found = Categories.default()
    for name, lists in (("style", scenes.STYLES), ("color", scenes.BACKGROUNDS)):
        found = found.with_words(name, [word for key, words in lists.items() for word in (key, *words)])
    return found


def true_words(scene: scenes.Scene) -> set[str]:
    """All words that are true of a scene."""
    found = {scene.background, scene.style, *scenes.BACKGROUNDS[scene.background], *scenes.STYLES[scene.style]}
    for item in scene.objects:
        found |= {item.name, item.size, item.position, *scenes.OBJECTS[item.name]}
    return found


def distorted(picture: Image.Image, generator: random.Random) -> Image.Image:
    """A picture turned by up to 25 degrees and cropped, half of the time in other colors, or blurred."""
    ground = picture.getpixel((1, 1))
    found = picture.resize((128, 128), Image.Resampling.BICUBIC)
    found = found.rotate(generator.uniform(-25, 25), Image.Resampling.BICUBIC, fillcolor=ground)
    side = int(128 * generator.uniform(0.7, 1.0))
    left, top = (generator.randrange(128 - side + 1) for _ in range(2))
    found = found.crop((left, top, left + side, top + side))
    if generator.random() < 0.5:
        found = ImageEnhance.Color(found).enhance(generator.uniform(0.3, 1.6))
    if generator.random() < 0.5:
        found = ImageEnhance.Contrast(found).enhance(generator.uniform(0.5, 1.6))
    if generator.random() < 0.4:
        found = found.filter(ImageFilter.GaussianBlur(generator.uniform(0.5, 2.5)))
    return found


def measured(inverter: PromptInverter, evidence: EvidenceSource, build: Path) -> Iterator[LabeledFigures]:
    """What was measured of the phrases of all scenes; what the folder has is not measured again."""
    for place in range(SCENES):
        path = build / f"{place}.json"
        if not path.exists():
            scene, generator = scenes.sample_scene(SCENES_FROM + place), random.Random(place)
            picture = scenes.render(scene, seed=place)
            if place % 3 == 2:
                picture = distorted(picture, generator)
            ways = WAYS if place % 2 else WAYS[:1]
            found = examples(inverter, picture, true_words(scene), evidence, ways, place)
            path.write_text(json.dumps([dataclasses.asdict(one) for one in found]), encoding="utf-8")
        yield from (LabeledFigures(**one) for one in json.loads(path.read_text(encoding="utf-8")))


def main() -> None:
    """Calibrate from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--build", type=Path, required=True, help="what was measured is kept there")
    build = parser.parse_args().build
    build.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    inverter = PromptInverter("emoji", calibrations=(), proposers=())
    evidence = source_of(inverter, categories())
    found = list(measured(inverter, evidence, build))
    print(save_calibrations(CALIBRATIONS, fits(found, evidence, f"prompts for {SCENES} scenes of emoji", categories())))


if __name__ == "__main__":
    main()
