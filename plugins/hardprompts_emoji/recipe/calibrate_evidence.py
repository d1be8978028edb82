"""Calibrate evidence for emoji-clip: ``python -m hardprompts_emoji.recipe.calibrate_evidence --build FOLDER``.

It is calibrated by itself, and with emoji-clip-reference as its judge. Prompts are found for training scenes: a third
as they are, a third turned, cropped, blurred and tinted, and a third of three things, half of these distorted too, so
that pictures that the model does not know well are among them. The prompts are kept in the folder, so that a run that
is interrupted goes on when it is started again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageEnhance, ImageFilter

from hardprompts import PromptInverter
from hardprompts.inversion.evidence.calibration import LabeledFigures, save_calibrations
from hardprompts.inversion.evidence.fitting import WAYS, examples_of, fits, source_of
from hardprompts.inversion.evidence.source import EvidenceSource
from hardprompts.wording import Categories
from hardprompts_emoji import scenes
from hardprompts_emoji.backend import CALIBRATIONS
from hardprompts_emoji.recipe.decoder_texts import FIRST_SEED

SCENES_FROM = FIRST_SEED + 200_000_000
"""First seed of the scenes."""

JUDGE = "emoji:emoji-clip-reference"
"""The second model whose word counts where it is the judge."""

SCENES = 360
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


def picture_of(place: int) -> tuple[scenes.Scene, Image.Image]:
    """The scene of a place, and its picture, which is distorted half of the time."""
    scene = scenes.sample_scene(SCENES_FROM + place, num_objects=3 if place % 3 == 2 else None)
    picture = scenes.render(scene, seed=place)
    return scene, distorted(picture, random.Random(place)) if place % 3 == 1 or place % 6 == 5 else picture


def prompts_of(inverter: PromptInverter, picture: Image.Image, place: int, build: Path) -> list[str]:
    """The prompts that are found for a picture; what the folder has is not searched again."""
    path = build / f"{place}.texts.json"
    if not path.exists():
        ways = WAYS if place % 2 else WAYS[:1]
        found = [inverter.invert(picture, seed=place, progress=False, **way).text for way in ways]
        path.write_text(json.dumps(found), encoding="utf-8")
    return list(json.loads(path.read_text(encoding="utf-8")))


def measured(inverter: PromptInverter, evidence: EvidenceSource, build: Path) -> Iterator[LabeledFigures]:
    """What is measured of the phrases of all prompts, and of words that they lack."""
    for place in range(SCENES):
        scene, picture = picture_of(place)
        texts = prompts_of(inverter, picture, place, build)
        yield from examples_of(texts, inverter, picture, true_words(scene), evidence, place)


def main() -> None:
    """Calibrate from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--build", type=Path, required=True, help="prompts are kept there")
    build = parser.parse_args().build
    build.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    inverter = PromptInverter("emoji", calibrations=())
    judged = PromptInverter("emoji", judge=JUDGE, calibrations=())
    both, alone = (source_of(one, categories()) for one in (judged, inverter))
    found, source = list(measured(inverter, both, build)), f"prompts for {SCENES} scenes of emoji"
    # Those with the judge come first: where there is one, they fit, and the others too.
    fitted = [fits(found, own, source, categories()) for own in (both, alone)]
    print(save_calibrations(CALIBRATIONS, [one for own in fitted for one in own]))


if __name__ == "__main__":
    main()
