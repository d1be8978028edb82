"""Calibrate evidence for the model `photo`: ``python -m hardprompts_photo.recipe.calibrate_evidence --build FOLDER``.

Pictures are put together from stamps of Tux Paint, cut-out photographs with a sentence each: of the half that may be
learned from, those of things that ImageNet has, for of others the model cannot be right. One to three stand on a ground
that is not plain, so that they are read as photographs are. A word is true of
one if a sentence has it, or if it names by WordNet the same thing, a kind of it or what it is a kind of. What was
measured of their phrases is kept in the folder, so that a run that is interrupted goes on when it is started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import random
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from hardprompts import PromptInverter
from hardprompts.inversion.evidence.calibration import LabeledFigures, save_calibrations
from hardprompts.inversion.evidence.fitting import examples, fits, source_of
from hardprompts.wording import words_in
from hardprompts_photo.backend import CALIBRATIONS, UnfamiliarPicture
from hardprompts_photo.recipe.class_words import class_names, synsets
from hardprompts_photo.recipe.pictures import Picture, download, stamps

PICTURES = 40
"""How many are searched."""

SIDE = 300
"""Of a picture, in pixels."""

PASSES = 300
"""Of each search: prompts are nearly those of a longer one, and have somewhat more false words."""

GENERAL = frozenset(
    "entity object whole thing artifact matter substance unit abstraction attribute group causal agent organism being "
    "instrumentality relation part physical living unit".split()
)
"""Words above all things, which say nothing."""

SENSES = 1
"""Of a word, those that count."""

LEVELS = 5
"""How far above a thing its names count."""


class Names:
    """What else a thing may be called.

    Args:
        wordnet: the folder of WordNet's index.noun and data.noun.
    """

    def __init__(self, wordnet: Path) -> None:
        self._synsets = synsets(wordnet / "data.noun")
        self._below: dict[str, list[str]] = {}
        for offset, (_, above) in self._synsets.items():
            for parent in above:
                self._below.setdefault(parent, []).append(offset)
        self._senses: dict[str, list[str]] = {}
        for line in (wordnet / "index.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                fields = line.split()
                self._senses[fields[0]] = fields[-int(fields[2]) :][:SENSES]

    @functools.cache  # noqa: B019
    def of(self, word: str) -> frozenset[str]:
        """A noun with its synonyms, what it is a kind of and its kinds; nothing for other words."""
        own = self._senses.get(word) or self._senses.get(word.removesuffix("s"), [])
        found: set[str] = set()
        for offset in own:
            level = [offset]
            for _ in range(LEVELS):
                found.update(name for one in level for name in self._synsets[one][0])
                level = [parent for one in level for parent in self._synsets[one][1]]
            todo = [offset]
            while todo:
                one = todo.pop()
                found.update(self._synsets[one][0])
                todo += self._below.get(one, [])
        return frozenset(name.lower() for name in found if not set(name.lower().split()) & GENERAL)

    def true_words(self, sentence: str) -> set[str]:
        """All words that are true of a picture with this sentence."""
        words = [word for word in words_in(sentence.lower()) if len(word) > 2]
        return {*words, *(name for word in words for name in self.of(word))}


def composed(chosen: list[Picture], others: list[Picture], generator: random.Random) -> Image.Image:
    """Stamps side by side or over one another on a ground of other stamps, blurred beyond recognition, and noise."""
    ground = Image.new("RGB", (SIDE, SIDE), tuple(generator.randrange(40, 216) for _ in range(3)))
    for other in others:
        with Image.open(other.file) as opened:
            blurred = opened.convert("RGBA").resize((SIDE, SIDE)).filter(ImageFilter.GaussianBlur(30))
        ground.paste(blurred, (0, 0), blurred)
    noise = np.random.default_rng(generator.randrange(2**32)).normal(0, 6, (SIDE, SIDE, 1))
    picture = Image.fromarray((np.asarray(ground) + noise).clip(0, 255).astype(np.uint8))
    share = generator.uniform(0.7, 1.0) if len(chosen) == 1 else generator.uniform(0.4, 0.6)
    for stamp in chosen:
        with Image.open(stamp.file) as opened:
            cut = opened.convert("RGBA")
        scale = share * SIDE / max(cut.size)
        cut = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))))
        picture.paste(cut, (generator.randrange(SIDE - cut.width + 1), generator.randrange(SIDE - cut.height + 1)), cut)
    return picture


def main() -> None:
    """Calibrate from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--build", type=Path, default=Path("build/photo"), help="where downloads are kept")
    build = parser.parse_args().build
    tree = download(build)
    names = Names(tree / "usr/share/wordnet")
    things = {word for name in class_names() for word in (name.lower(), name.lower().split()[-1])}
    known = [one for one in stamps(tree) if names.true_words(" ".join(one.words)) & things]
    own = [one for one in known if not one.held_out]
    folder = build / "evidence of words"
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UnfamiliarPicture)
    inverter = PromptInverter("photo", calibrations=())
    evidence, found = source_of(inverter), list[LabeledFigures]()
    for place in range(PICTURES):
        path = folder / f"{place}.json"
        if not path.exists():
            generator = random.Random(place)
            chosen = generator.sample(own, generator.choice((1, 1, 1, 2, 3)))
            picture = composed(chosen, generator.sample(own, 2), generator)
            true = set().union(*(names.true_words(" ".join(one.words)) for one in chosen))
            ways = [{"max_evaluations": PASSES}] if place % 2 else [{"max_evaluations": PASSES, "token_cost": 0.05}]
            labeled = examples(inverter, picture, true, evidence, ways, place)
            path.write_text(json.dumps([dataclasses.asdict(one) for one in labeled]), encoding="utf-8")
        found += [LabeledFigures(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
    print(save_calibrations(CALIBRATIONS, fits(found, evidence, f"prompts for {PICTURES} pictures of stamps")))


if __name__ == "__main__":
    main()
