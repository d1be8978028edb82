"""Can a prompt be edited? One word is exchanged, the picture drawn anew from the same noise, and its truth is read.

`python benchmarks/editing.py` writes results/editing.json and the tables of docs/editing.md. The pictures are drawn by
emoji-sd and read by emoji-clip-reference, which no search has followed. Cells that are done are kept.
"""

import argparse
import dataclasses
import functools
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from common import DOCS, Cells, interval, number, percent, pictures, save, write_section
from generation import Setting, draw, open_models
from PIL import Image

from hardprompts import Backend, HardPrompt, PromptInverter, load_backend
from hardprompts.evaluation import (
    EditFigures,
    EditOutcome,
    Exchange,
    Interval,
    edit_outcomes,
    edit_values,
    markdown_table,
    t_interval,
)
from hardprompts_emoji import scenes
from hardprompts_emoji.scenes import BACKGROUNDS, COMMON_OBJECTS, HELD_OUT_SEED, STYLES, Scene, SceneObject

#: First seed of the scenes that decide which settings ship, and of those that are reported.
CHOOSING, REPORTING = HELD_OUT_SEED + 910_000_000, HELD_OUT_SEED + 960_000_000

JUDGE = "emoji:emoji-clip-reference"

#: How pictures are drawn: with fewer steps than elsewhere, after which as many captions are found again.
SETTING = Setting(device="cpu", steps=10)

Statement = tuple[str, str]


# --- exchanges in scenes --------------------------------------------------------------------


def editable_scenes(count: int, first_seed: int) -> list[Scene]:
    """Scenes with one and two objects in turn, no two of whose objects, background and style share a word."""
    found: list[Scene] = []
    seed = first_seed
    while len(found) < count:
        scene = scenes.sample_drawable_scene(seed, 1 + len(found) % 2)
        if all(sum(_named(word, scene).values()) == 1 for name in _names(scene) for word in name.split()):
            found.append(scene)
        seed += 1
    return found


def statements(scene: Scene) -> frozenset[Statement]:
    """What is true of a scene."""
    return frozenset(_names_by_kind(scene))


def exchanges(scene: Scene, seed: int = 0) -> list[Exchange]:
    """For each object, the background and the style of a scene, an exchange for another one, drawn by a seed."""
    generator = random.Random(f"{seed} {scene}")
    truth = _names_by_kind(scene)
    kinds = {"object": COMMON_OBJECTS, "background": tuple(BACKGROUNDS), "style": tuple(STYLES)}
    return [
        Exchange(
            names=functools.partial(_names_it, scene=scene, place=place),
            text=(new := _other(kinds[kind], scene, kind, place, generator)),
            old=(kind, old),
            new=(kind, new),
            others=frozenset(truth) - {(kind, old)},
        )
        for place, (kind, old) in enumerate(truth)
    ]


def _names_by_kind(scene: Scene) -> list[Statement]:
    return [
        *(("object", item.name) for item in scene.objects),
        ("background", scene.background),
        ("style", scene.style),
    ]


def _names(scene: Scene) -> list[str]:
    return [name for _, name in _names_by_kind(scene)]


def _named(word: str, scene: Scene) -> dict[int, bool]:
    """Which part of the scene a word names."""
    truth = scenes.names(word, scene)
    return dict(enumerate([*truth.objects, truth.background, truth.style]))


def _names_it(word: str, scene: Scene, place: int) -> bool:
    return _named(word, scene)[place]


def _other(kind_names: Sequence[str], scene: Scene, kind: str, place: int, generator: random.Random) -> str:
    """Another name of the same kind, with which the scene can be drawn and which shares no word with it."""

    visible = scenes.contrasting_backgrounds()

    def fits(name: str) -> bool:
        if any(any(_named(word, scene).values()) for word in name.split()):
            return False
        objects = [item.name for i, item in enumerate(scene.objects) if kind != "object" or i != place]
        changed = _changed(scene, kind, place, name)
        clear = all(changed.background in visible[item.name] for item in changed.objects)
        return clear and not any(
            scenes.object_words(name) & scenes.object_words(o) for o in objects if kind == "object"
        )

    return generator.choice([name for name in kind_names if fits(name)])


def _changed(scene: Scene, kind: str, place: int, name: str) -> Scene:
    if kind != "object":
        return dataclasses.replace(scene, **{kind: name})
    objects = [dataclasses.replace(o, name=name) if i == place else o for i, o in enumerate(scene.objects)]
    return dataclasses.replace(scene, objects=tuple(objects))


# --- pictures -------------------------------------------------------------------------------


def drawn(texts: Sequence[str], targets: Sequence[int], setting: Setting = SETTING) -> list[Image.Image]:
    """A picture of each text by emoji-sd; those of one target begin with the same noise."""
    return draw(open_models(setting), texts, [31 * 1009 * target for target in targets], setting)


#: Names of objects that a picture is looked at for once more, in captions.
NEAREST = 8


def read(
    images: Sequence[Image.Image], targets: Sequence[int], of: Sequence[Scene], judge: Backend
) -> list[set[Statement]]:
    """What a dual encoder takes pictures to show: the parts of the nearest caption, of as many objects as in the scene.

    The nearest names are looked up first; then captions that differ in the objects are compared, then in the style.
    """
    features = [judge.encode_images(list(images[i : i + 64])) for i in range(0, len(images), 64)]
    rows = torch.cat(features) if features else torch.zeros(0, 1)
    counts = [len(of[target].objects) for target in targets]
    return [_shown(picture, count, judge) for picture, count in zip(rows, counts, strict=True)]


def _shown(picture: torch.Tensor, count: int, judge: Backend) -> set[Statement]:
    names = _names_and_features(judge)

    def nearest(kind: str, most: int) -> list[str]:
        own, features = names[kind]
        return [own[i] for i in (features @ picture).topk(most).indices.tolist()]

    def best(options: Sequence[Scene]) -> Scene:
        texts = [scenes.caption(option) for option in options]
        return options[int((judge.encode_texts(texts) @ picture).argmax())]

    background, style = nearest("background", 1)[0], nearest("style", 1)[0]
    groups = itertools.combinations(nearest("object", NEAREST), count)
    placed = [tuple(SceneObject(name, "large", "center") for name in group) for group in groups]
    found = best([Scene(objects, background, style) for objects in placed])
    return {*_names_by_kind(best([dataclasses.replace(found, style=style) for style in STYLES]))}


@functools.cache
def _names_and_features(judge: Backend) -> dict[str, tuple[tuple[str, ...], torch.Tensor]]:
    kinds = {"object": COMMON_OBJECTS, "background": tuple(BACKGROUNDS), "style": tuple(STYLES)}
    texts = {k: [name if k == "object" else f"{name} {k}" for name in own] for k, own in kinds.items()}
    return {kind: (own, judge.encode_texts(texts[kind])) for kind, own in kinds.items()}


def outcomes(prompts: Sequence[HardPrompt | str], of: Sequence[Scene]) -> tuple[tuple[EditOutcome, ...], ...]:
    """What becomes of each part of each scene where its word in the prompt is exchanged."""
    judge = load_backend(JUDGE)
    reader = functools.partial(read, of=of, judge=judge)
    return edit_outcomes(prompts, [exchanges(scene) for scene in of], drawn, reader)


def accuracy(images: Sequence[Image.Image], of: Sequence[Scene]) -> dict[str, tuple[float, float]]:
    """The share of what is true of each scene, by kind, that is read from its picture."""
    shown = read(images, range(len(of)), of, load_backend(JUDGE))
    found: dict[str, list[bool]] = {}
    for scene, own in zip(of, shown, strict=True):
        for statement in _names_by_kind(scene):
            found.setdefault(statement[0], []).append(statement in own)
    return {kind: interval(values) for kind, values in found.items()}


# --- ways to a prompt -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Way:
    """How prompts are found: with which proposers, method, passes for each, and options of `invert_each`.

    Attributes:
        scenes: the first of all, where it takes long.
    """

    proposers: str | None = None
    method: str | None = None
    passes: int | None = None
    scenes: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


#: Ways to a prompt; None: the true caption.
WAYS: Mapping[str, Way | None] = {
    "true captions": None,
    "search without a decoder": Way("none"),
    "the same, editable=True": Way("none", options={"editable": True}),
    "default": Way(),
    "default, editable=True": Way(options={"editable": True}),
    "captions of the decoder": Way("auto", options={"style": "caption", "num_tokens": 12, "fast": True}, scenes=20),
    "PEZ, 1,000 passes": Way(method="pez", passes=1000, scenes=20),
    "beam, 1,000 passes": Way(method="beam", passes=1000, scenes=20),
    "GCG, 4 restarts, 1,000 passes": Way(method="gcg", passes=1000, options={"restarts": 4}, scenes=20),
}

BATCH = 64


def found_by(way: Way | None, of: Sequence[Scene]) -> tuple[list[HardPrompt | str], float]:
    """The prompts of scenes, and seconds of one processor for each."""
    if way is None:
        return [scenes.caption(scene) for scene in of], 0.0
    images = pictures(of)
    method: dict[str, Any] = {} if way.method is None else {"method": way.method}
    inverter = PromptInverter("emoji", proposers=way.proposers, **method)
    began = time.process_time()
    found: list[HardPrompt] = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        limit: dict[str, Any] = {} if way.passes is None else {"max_evaluations": way.passes * len(part)}
        found += inverter.invert_each(part, batch_size=BATCH, seed=0, progress=False, **limit, **way.options)
    return [*found], (time.process_time() - began) / len(of)


def cell(name: str, count: int, first_seed: int, ways: Mapping[str, Way | None] = WAYS) -> dict[str, Any]:
    """The figures of one way, scene by scene."""
    of = editable_scenes(count, first_seed)
    prompts, seconds = found_by(ways[name], of)
    judge = load_backend(JUDGE)
    texts = [prompt if isinstance(prompt, str) else prompt.filled for prompt in prompts]
    similarity = (judge.encode_texts(texts) * judge.encode_images(pictures(of))).sum(dim=1).tolist()
    ended = outcomes(texts, of)
    return {
        "seconds": seconds,
        "prompts": texts,
        "judge": similarity,
        **{figure: edit_values(ended, figure) for figure in EditFigures.HEAD},
    }


# --- the table ------------------------------------------------------------------------------

#: What ways are compared with: in what can be edited, and in how well they fit the picture.
CAPTIONS, SEARCH = "true captions", "search without a decoder"


def differences(one: Sequence[float | None], other: Sequence[float | None]) -> Interval:
    """The mean difference of two ways, scene by scene, of those scenes that both have a figure of."""
    return t_interval([a - b for a, b in zip(one, other, strict=False) if a is not None and b is not None])


def signed(value: Interval) -> str:
    """A difference with its interval."""
    return f"{value.mean:+.3f} ± {value.half_width:.3f}"


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of all ways as a table in Markdown; the differences are paired."""
    names = ("scenes", "named", "success", "locality", "minus captions'", "clean", "judge", "minus search's")
    rows = [["", *names]]
    for way, own in found.items():
        figures = {name: _mean(own[name]) for name in EditFigures.HEAD}
        local = "" if way == CAPTIONS else signed(differences(own["locality"], found[CAPTIONS]["locality"]))
        better = "" if way == SEARCH else signed(differences(own["judge"], found[SEARCH]["judge"]))
        shares = {name: percent((value.mean, value.half_width)) for name, value in figures.items()}
        judge = number(interval(own["judge"]))
        named, success, locality, clean = (shares[name] for name in EditFigures.HEAD)
        rows.append([way, str(len(own["judge"])), named, success, locality, local, clean, judge, better])
    return markdown_table(rows)


def _mean(values: Sequence[float | None]) -> Interval:
    return t_interval([value for value in values if value is not None])


def scenes_of(way: str, most: int) -> int:
    """How many scenes a way is measured on."""
    own = WAYS[way]
    return most if own is None or own.scenes is None else min(most, own.scenes)


def main() -> None:
    """Measures and writes the page's tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--choosing", action="store_true", help="the scenes that settings are chosen by")
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--only-read", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first_seed = CHOOSING if arguments.choosing else REPORTING
    cells = Cells("editing", arguments.only_read, lambda told: str(_mean(told.get("clean", [0.0]))))
    found: dict[str, Any] = {}
    for way in arguments.ways:
        place = {"scenes": scenes_of(way, arguments.scenes), "seed": first_seed}
        try:
            found[way] = cells.get({"way": way, **place}, functools.partial(cell, way, place["scenes"], first_seed))
        except LookupError as error:
            print(error)
    of = editable_scenes(arguments.scenes, first_seed)
    read = accuracy(pictures(of), of)
    told = ", ".join(f"{kind} {percent(share)}" for kind, share in read.items())
    written = f"{table(found)}\n\nOf the scenes themselves the reader reads what is true in so many cases: {told}."
    print(written)
    if not arguments.choosing:
        save("editing", {"scenes": arguments.scenes, "reading": read, "ways": found})
        write_section(DOCS / "editing.md", "editing", written)


if __name__ == "__main__":
    main()
