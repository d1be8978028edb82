"""A harder world with known truth: several things, how many, how large, made of what, where, by more than one artist.

    HARDPROMPTS_EMOJI_DRAWINGS=FOLDER python benchmarks/harder_world.py

A scene holds one to three kinds of things (three by default) on a colored background in a style of the emoji world.
One kind may be there two or three times, one may be of wood, gold, glass or marble, each has a size and a place, and
each is drawn by one of four artists: Noto, which the embedded models were trained on, and Twemoji, OpenMoji and Fluent,
which they never saw. Those three are read from a folder (emoji_drawings.py says how to make it); without it all is
drawn by Noto, and the report says so. What is in a scene does not depend on the folder, only who drew it.

    scene = sample(REPORTING_SEED)
    picture = render(scene, size=64)
    match(text, scene)           # precision and recall of what the text states
    statements(scene)            # all that is true: ("object", "fox"), ("count", "fox", 2), ("left of", "fox", "bear")
    stated(text, scene)          # what a text states, in the same form

Run as a program it measures how much of this world emoji-clip and its judge can see at all, and writes the table of
docs/neutral.md.
"""

import argparse
import dataclasses
import functools
import itertools
import os
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from common import DOCS, interval, percent, save, write_section
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hardprompts import Backend, load_backend
from hardprompts.evaluation import Match, markdown_table, statement_match
from hardprompts_emoji import scenes
from hardprompts_emoji.scenes import BACKGROUNDS, COMMON_OBJECTS, HELD_OUT_SEED, OBJECTS, STYLES

DRAWINGS = "HARDPROMPTS_EMOJI_DRAWINGS"

ARTISTS = ("noto", "twemoji", "openmoji", "fluent")

#: Who draws by default, one chosen for each kind of thing: Noto, the only one that the embedded models know, twice as
#: often as each other.
DRAWN_BY = ("noto", "noto", "twemoji", "openmoji", "fluent")

#: Scenes to choose settings by, and scenes to report: none is in both, and training saw neither.
CHOOSING_SEED, REPORTING_SEED = HELD_OUT_SEED + 500_000_000, HELD_OUT_SEED + 600_000_000

Size = Literal["small", "medium", "large"]

#: Longer side of a drawing in pixels of a picture of 64.
SIDES: Mapping[Size, int] = {"small": 24, "medium": 28, "large": 32}

#: Words for a size, a material, a number; the first is the usual one.
SIZE_WORDS: Mapping[Size, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium",),
    "large": ("large", "big", "huge"),
}
MATERIALS: Mapping[str, tuple[str, ...]] = {
    "wood": ("wooden", "timber"),
    "gold": ("gold", "gilded"),
    "glass": ("glassy", "transparent"),
    "marble": ("marble", "granite"),
}
NUMBERS: Mapping[int, tuple[str, ...]] = {
    1: ("one", "single", "1"),
    2: ("two", "pair", "couple", "2"),
    3: ("three", "trio", "3"),
    4: ("four", "4"),
    5: ("five", "5"),
}

#: Words between two things that say where the first is from the second.
RELATIONS: Mapping[str, tuple[str, ...]] = {
    "left of": ("left of",),
    "right of": ("right of",),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath", "underneath"),
}
_CONVERSE = {"right of": "left of", "below": "above"}

#: Something that a text says of a scene: ("object", "fox"), ("count", "fox", 2), ("size", "fox", "small"),
#: ("material", "fox", "wood"), ("at", "fox", "left"), ("left of", "fox", "bear"), ("above", "fox", "bear"),
#: ("background", "red"), ("style", "neon").
Statement = tuple[str | int, ...]

#: Centers that are less far apart, in pixels of 64, are neither left nor right, neither above nor below.
_APART = 10


@dataclasses.dataclass(frozen=True)
class Group:
    """Some drawings of one thing.

    Attributes:
        name: a key of `hardprompts_emoji.scenes.OBJECTS`.
        centers: (x, y) of each drawing's middle, in pixels of a picture of 64.
        material: a key of `MATERIALS`, or None for the thing as it is.
        artist: who draws it where the artist's drawings are there; otherwise Noto does.
    """

    name: str
    centers: tuple[tuple[int, int], ...]
    size: Size
    material: str | None
    artist: str

    @property
    def count(self) -> int:
        """How many drawings there are."""
        return len(self.centers)

    @property
    def center(self) -> tuple[float, float]:
        """The middle of all drawings."""
        return tuple(sum(axis) / self.count for axis in zip(*self.centers, strict=True))  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class HarderScene:
    """Groups of drawings in no order, a background (`BACKGROUNDS`), a style (`STYLES`)."""

    groups: tuple[Group, ...]
    background: str
    style: str


# --- sampling -----------------------------------------------------------------------------


def sample(
    seed: int, kinds: int = 3, objects: Sequence[str] = COMMON_OBJECTS, artists: Sequence[str] = DRAWN_BY
) -> HarderScene:
    """The scene of a seed: always the same for the same arguments.

    Args:
        kinds: different things, 1 to 3; one of them may be there two or three times.
        objects: keys of `OBJECTS` to choose from.
        artists: of `ARTISTS`, who draw, the same one several times to have it draw more; the rest of the scene does not
            depend on them.

    Raises:
        ValueError: no such number, things or artists.
    """
    if kinds not in (1, 2, 3) or not set(objects) <= set(OBJECTS) or not artists or not set(artists) <= set(ARTISTS):
        raise ValueError(
            f"a scene has 1 to 3 kinds of things of the emoji world drawn by some of {', '.join(ARTISTS)}; got {kinds} "
            f"kinds, {len(objects)} things, artists {list(artists)}"
        )
    generator, artist = random.Random(seed), random.Random(f"artist {seed}")
    names = generator.sample(list(objects), kinds)
    cells = _cells(generator.choice(_COUNTS[kinds]), generator)
    made = generator.randrange(kinds) if generator.random() < 0.35 else None
    groups = []
    for i, (name, places) in enumerate(zip(names, cells, strict=True)):
        size = generator.choice(tuple(SIDES))
        room = (32 - SIDES[size]) // 2
        centers = tuple((x + generator.randint(-room, room), y + generator.randint(-room, room)) for x, y in places)
        material = generator.choice(tuple(MATERIALS)) if i == made else None
        groups.append(Group(name, centers, size, material, artist.choice(list(artists))))
    seen_on = scenes.contrasting_backgrounds()
    allowed = [color for color in BACKGROUNDS if all(color in seen_on[name] for name in names)] or list(BACKGROUNDS)
    return HarderScene(tuple(groups), generator.choice(allowed), generator.choice(tuple(STYLES)))


#: How many there are of each kind, for each number of kinds; there is room for four drawings.
_COUNTS: Mapping[int, tuple[tuple[int, ...], ...]] = {
    1: ((1,), (2,), (3,)),
    2: ((1, 1), (2, 1), (2, 2), (3, 1)),
    3: ((1, 1, 1), (2, 1, 1)),
}
#: Middles of drawings, by how many there are; one layout of each is chosen and turned.
_LAYOUTS: Mapping[int, tuple[tuple[int, int], ...]] = {
    1: ((32, 32),),
    2: ((16, 32), (48, 32)),
    3: ((16, 16), (48, 16), (32, 48)),
    4: ((16, 16), (48, 16), (16, 48), (48, 48)),
}


def _cells(counts: Sequence[int], generator: random.Random) -> list[list[tuple[int, int]]]:
    """For each kind the middles of its drawings; those of one kind lie side by side."""
    layout = list(_LAYOUTS[sum(counts)])
    for mirrored in (lambda x, y: (64 - x, y), lambda x, y: (x, 64 - y), lambda x, y: (y, x)):
        if generator.random() < 0.5:
            layout = [mirrored(*place) for place in layout]
    # Kinds of several come first in `layout`, so that they are neighbors; single ones take turns.
    found, used = [], 0
    for count in counts:
        found.append(layout[used : used + count])
        used += count
    singles = [i for i, count in enumerate(counts) if count == 1]
    places = [found[i] for i in singles]
    generator.shuffle(places)
    for i, place in zip(singles, places, strict=True):
        found[i] = place
    return found


def choosing(count: int, **options: object) -> list[HarderScene]:
    """Scenes to choose settings by. `options` are those of `sample`."""
    return [sample(CHOOSING_SEED + i, **options) for i in range(count)]  # type: ignore[arg-type]


def reporting(count: int, **options: object) -> list[HarderScene]:
    """Scenes to report; nothing may be chosen by them. `options` are those of `sample`."""
    return [sample(REPORTING_SEED + i, **options) for i in range(count)]  # type: ignore[arg-type]


# --- truth --------------------------------------------------------------------------------


def statements(scene: HarderScene) -> frozenset[Statement]:
    """All that is true of a scene, as far as `stated` can read it from a text."""
    found: set[Statement] = {("background", scene.background), ("style", scene.style)}
    for group in scene.groups:
        x, y = group.center
        found |= {("object", group.name), ("count", group.name, group.count), ("size", group.name, group.size)}
        if group.material is not None:
            found.add(("material", group.name, group.material))
        places = {"left": x <= 26, "right": x >= 38, "top": y <= 26, "bottom": y >= 38}
        found |= {("at", group.name, place) for place, there in places.items() if there}
        for other in scene.groups:
            if other.center[0] - x >= _APART:
                found.add(("left of", group.name, other.name))
            if other.center[1] - y >= _APART:
                found.add(("above", group.name, other.name))
    return frozenset(found)


def caption(scene: HarderScene, parts: Iterable[str] = ("count", "size", "material", "relation")) -> str:
    """A true caption: every kind of thing, background and style, and of the other parts those that are named."""
    wanted = set(parts)
    groups = scene.groups
    listed = _described(groups[0], wanted)
    for i, (one, other) in enumerate(itertools.pairwise(groups)):
        relation = _relation(one, other) if "relation" in wanted else None
        listed += f" {relation} " if relation else (" and " if i == len(groups) - 2 else ", ")
        listed += _described(other, wanted)
    article = "an" if scene.background[0] in "aeiou" else "a"
    return f"a {scene.style} picture of {listed} on {article} {scene.background} background"


def _described(group: Group, wanted: set[str]) -> str:
    words = [SIZE_WORDS[group.size][0]] if "size" in wanted else []
    words += [MATERIALS[group.material][0]] if "material" in wanted and group.material else []
    if "count" in wanted and group.count > 1:
        return " ".join([NUMBERS[group.count][0], *words, plural(group.name)])
    text = " ".join([*words, group.name])
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def plural(name: str) -> str:
    """The name of more than one thing."""
    if name.endswith("knife"):
        return f"{name[:-2]}ves"
    if name.endswith(("s", "x", "ch", "sh", "o")):
        return name if name in ("scissors", "fries", "grapes", "cherries", "dice") else f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2] not in "aeiou" else f"{name}s"


def _relation(one: Group, other: Group) -> str | None:
    across, down = other.center[0] - one.center[0], other.center[1] - one.center[1]
    if max(abs(across), abs(down)) < _APART:
        return None
    if abs(across) >= abs(down):
        return "left of" if across > 0 else "right of"
    return "above" if down > 0 else "below"


# --- what a text states -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Mention:
    """Words of a text, from `start` to `end`, that name things."""

    start: int
    end: int
    names: tuple[str, ...]


def stated(text: str, scene: HarderScene | None = None) -> frozenset[Statement]:
    """What a text states, by the words that people use.

    A word names a thing as in the emoji world: any word of its name or of its keywords, singular or plural. A number, a
    size or a material counts for the next thing that is named, at most three words later; a relation for the things
    before and behind it; a place ("at the left", "in the top corner") for the thing before it. Colors and styles count
    for the background and the picture wherever they stand. Other words state nothing.

    Args:
        scene: a word that can name several things ("bird") names those of them that are in this scene; without one, or
            if none is, the one that has it as its name, or else the first.
    """
    words = re.findall(r"[a-z0-9]+", text.lower())
    there = {group.name for group in scene.groups} if scene is not None else set()
    mentions = _mentions(words, there)
    found: set[Statement] = {("object", name) for mention in mentions for name in mention.names}
    for word in words:
        for kind, known in (("background", _COLOR_OF), ("style", _STYLE_OF)):
            if word in known:
                found.add((kind, known[word]))
    previous = 0
    for i, mention in enumerate(mentions):
        before = words[max(previous, mention.start - 3) : mention.start]
        following = mentions[i + 1] if i + 1 < len(mentions) else None
        after = words[mention.end : following.start if following else len(words)]
        found |= _attributes(mention, before) | _places(mention, after)
        if following is not None:
            found |= _relations(mention, following, after)
        previous = mention.end
    return frozenset(found)


def match(text: str, scene: HarderScene) -> Match:
    """Precision: the share of what a text states that is true; recall: the share of the full caption that it states."""
    said = stated(text, scene)
    told = stated(caption(scene), scene)
    return Match(
        statement_match(said, statements(scene)).precision if said else 0.0, statement_match(said, told).recall
    )


def _mentions(words: Sequence[str], there: set[str]) -> list[_Mention]:
    stems, found, at = [_stem(word) for word in words], [], 0
    while at < len(words):
        pair = _NAME_OF_TWO.get(tuple(stems[at : at + 2]))
        length = 2 if pair else 1
        possible = (pair,) if pair else _NAMED_BY.get(stems[at], ())
        if possible and not (length == 1 and words[at] in _READ_OTHERWISE):
            present = tuple(name for name in possible if name in there)
            found.append(_Mention(at, at + length, present or possible[:1]))
        at += length
    return found


def _attributes(mention: _Mention, before: Sequence[str]) -> set[Statement]:
    found: set[Statement] = set()
    for kind, known in (("count", _NUMBER_OF), ("size", _SIZE_OF), ("material", _MATERIAL_OF)):
        # The last one counts: "two small foxes" after "one" is two.
        values = [known[word] for word in before if word in known]
        found |= {(kind, name, values[-1]) for name in mention.names if values}
    return found


def _places(mention: _Mention, after: Sequence[str]) -> set[Statement]:
    place = re.match(
        r"(?:is )?(?:at|in|on) (?:the )?((?:(?:top|bottom|left|right|upper|lower) ?)+)(?!.*\bof\b)", " ".join(after)
    )
    sides = place.group(1).split() if place else ()
    return {
        ("at", name, {"upper": "top", "lower": "bottom"}.get(side, side)) for name in mention.names for side in sides
    }


def _relations(one: _Mention, other: _Mention, between: Sequence[str]) -> set[Statement]:
    text, found = f" {' '.join(between)} ", set[Statement]()
    for relation, ways in RELATIONS.items():
        if any(f" {way} " in text for way in ways):
            for first in one.names:
                for second in other.names:
                    if first != second:
                        turned = relation in _CONVERSE
                        pair = (second, first) if turned else (first, second)
                        found.add((_CONVERSE.get(relation, relation), *pair))
    return found


_stem = scenes.stem
_COLOR_OF: Mapping[str, str] = {word: color for color, words in BACKGROUNDS.items() for word in words}
_STYLE_OF: Mapping[str, str] = {word: style for style, words in STYLES.items() for word in words}
_SIZE_OF: Mapping[str, str] = {word: size for size, words in SIZE_WORDS.items() for word in words}
_MATERIAL_OF: Mapping[str, str] = {word: material for material, words in MATERIALS.items() for word in words}
_NUMBER_OF: Mapping[str, int] = {word: number for number, words in NUMBERS.items() for word in words}
_PLACE_WORDS = {"top", "bottom", "left", "right", "upper", "lower", "corner", "side"}
#: Words for pictures as such ("a picture of"); a framed picture is named by both words.
_PICTURE_WORDS = {"picture", "image", "style", "art", "background"}
_READ_OTHERWISE = {*_COLOR_OF, *_STYLE_OF, *_SIZE_OF, *_MATERIAL_OF, *_NUMBER_OF, *_PLACE_WORDS, *_PICTURE_WORDS}
_NAME_OF_TWO = {tuple(_stem(word) for word in name.split()): name for name in OBJECTS if len(name.split()) == 2}


def _named_by() -> dict[str, tuple[str, ...]]:
    """Stem of a word -> the things that it can name: that of this name first, then those with it in their name."""
    found: dict[str, list[str]] = {}
    for name in OBJECTS:
        for word in scenes.object_words(name):
            found.setdefault(word, []).append(name)
    return {
        word: tuple(sorted(names, key=lambda name: (_stem(name) != word, word not in map(_stem, name.split()))))
        for word, names in found.items()
    }


_NAMED_BY = _named_by()


# --- drawing ------------------------------------------------------------------------------


@functools.cache
def _drawings(artist: str, folder: str | None) -> Mapping[str, Tensor]:
    """Name of a thing -> (4, side, side) in [0, 1], premultiplied; empty if the artist is not there."""
    if artist == "noto":
        return dict(zip(OBJECTS, scenes.sprites(), strict=True))
    path = Path(folder) / f"{artist}.npz" if folder else None
    if path is None or not path.exists():
        return {}
    with np.load(path) as found:
        straight = torch.from_numpy(found["drawings"]).permute(0, 3, 1, 2).float() / 255
        drawn = torch.cat([straight[:, :3] * straight[:, 3:], straight[:, 3:]], 1)
        return dict(zip(found["names"].tolist(), drawn, strict=True))


def available_artists() -> tuple[str, ...]:
    """The artists whose drawings are there: Noto always, others by the environment variable of `DRAWINGS`."""
    return tuple(artist for artist in ARTISTS if _drawings(artist, os.environ.get(DRAWINGS)))


def who_draws() -> str:
    """One sentence for reports: whose drawings are there."""
    missing = [artist for artist in ARTISTS if artist not in available_artists()]
    if not missing:
        return "Drawn by Noto, Twemoji, OpenMoji and Fluent."
    return (
        f"Without drawings of {', '.join(missing)} ({DRAWINGS} is not set to a folder that has them): Noto drew theirs."
    )


def render(scene: HarderScene, size: int = 64, seed: int = 0) -> Image.Image:
    """The picture of a scene, RGB, `size` pixels wide and high (16 or more).

    Args:
        seed: of the styles' random parts and a small change of the background's color.
    """
    generator = torch.Generator().manual_seed(seed)
    shade = torch.rand(1, 1, generator=generator) * 0.08 - 0.04
    layer = torch.zeros(1, 4, size, size)
    for group in scene.groups:
        drawn, side = _drawn(group), SIDES[group.size]
        for x, y in group.centers:
            _put(layer[0], drawn, x - side / 2, y - side / 2, side)
    pixels = scenes.paint(layer, [scene.background], [scene.style], generator, shade)[0]
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def _drawn(group: Group) -> Tensor:
    folder = os.environ.get(DRAWINGS)
    found = _drawings(group.artist, folder).get(group.name)
    drawing = _drawings("noto", folder)[group.name] if found is None else found
    return drawing if group.material is None else _MADE_OF[group.material](drawing)


def _put(layer: Tensor, drawing: Tensor, left: float, top: float, side: float) -> None:
    """Lays a drawing over a layer, (4, size, size), at a place in pixels of 64."""
    scale = layer.shape[-1] / 64
    x, y, across = round(left * scale), round(top * scale), max(1, round(side * scale))
    small = functional.interpolate(drawing[None], size=(across, across), mode="bilinear", antialias=True)[0]
    place = layer[:, y : y + across, x : x + across]
    place.copy_(
        small[:, : place.shape[1], : place.shape[2]] + place * (1 - small[3:, : place.shape[1], : place.shape[2]])
    )


def _tone(drawing: Tensor) -> Tensor:
    """Lightness of a drawing, (1, side, side) in [0, 1], where it is not transparent."""
    weights = drawing.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    return ((drawing[:3] * weights).sum(0, keepdim=True) / drawing[3:].clamp(min=1e-3)).clamp(0, 1)


def _toned(drawing: Tensor, tone: Tensor, dark: Sequence[float], light: Sequence[float]) -> Tensor:
    low, high = (drawing.new_tensor(color)[:, None, None] for color in (dark, light))
    return torch.cat([(low + (high - low) * tone) * drawing[3:], drawing[3:]])


def _axes(drawing: Tensor) -> tuple[Tensor, Tensor]:
    line = torch.linspace(0, 1, drawing.shape[-1])
    return line[None, None, :], line[None, :, None]


def _wood(drawing: Tensor) -> Tensor:
    x, y = _axes(drawing)
    grain = 0.5 + 0.5 * torch.sin(38 * (y + 0.06 * torch.sin(7 * x)))
    return _toned(drawing, 0.6 * _tone(drawing) + 0.4 * grain, (0.24, 0.12, 0.04), (0.80, 0.56, 0.32))


def _gold(drawing: Tensor) -> Tensor:
    x, y = _axes(drawing)
    shine = torch.exp(-(((x + y - 0.8) / 0.12) ** 2))
    return _toned(drawing, (0.75 * _tone(drawing) + 0.5 * shine).clamp(0, 1), (0.42, 0.26, 0.02), (1.0, 0.93, 0.50))


def _glass(drawing: Tensor) -> Tensor:
    clear = _toned(drawing, _tone(drawing), (0.55, 0.75, 0.85), (0.97, 1.0, 1.0))
    return clear * 0.45


def _marble(drawing: Tensor) -> Tensor:
    x, y = _axes(drawing)
    veins = (torch.sin(17 * x + 9 * y + 3 * torch.sin(11 * y - 5 * x)).abs() < 0.18).float()
    return _toned(
        drawing, (0.55 * _tone(drawing) + 0.45 - 0.4 * veins).clamp(0, 1), (0.35, 0.36, 0.40), (0.96, 0.96, 0.94)
    )


_MADE_OF: Mapping[str, Callable[[Tensor], Tensor]] = {"wood": _wood, "gold": _gold, "glass": _glass, "marble": _marble}


# --- what a model can see -----------------------------------------------------------------


def alternatives(scene: HarderScene, seed: int) -> dict[str, tuple[str, list[str]]]:
    """For each part of a scene that it has: a true caption, and captions that are false in that part alone."""
    generator = random.Random(seed)
    group = scene.groups[0]
    plain = caption(scene, ())
    there = {other.name for other in scene.groups}
    found: dict[str, tuple[str, list[str]]] = {}
    for other in scene.groups:
        false = generator.sample([name for name in COMMON_OBJECTS if name not in there], 15)
        found[f"thing by {other.artist}"] = (plain, [caption(_changed(scene, other, name=name), ()) for name in false])
    others = [group.centers[:1] * count for count in (1, 2, 3) if count != group.count]
    counts = [caption(_changed(scene, group, centers=centers), ("count",)) for centers in others]
    found[f"count ({group.count})"] = caption(scene, ("count",)), counts
    sizes = [caption(_changed(scene, group, size=size), ("size",)) for size in SIDES if size != group.size]
    found["size"] = caption(scene, ("size",)), sizes
    for made in (other for other in scene.groups if other.material is not None):
        false = [caption(_changed(scene, made, material=of), ("material",)) for of in MATERIALS if of != made.material]
        found["material"] = caption(scene, ("material",)), false
    if len(scene.groups) > 1 and (relation := _relation(*scene.groups[:2])):
        one, other = scene.groups[:2]
        pair = dataclasses.replace(scene, groups=(one, other))
        turned = dataclasses.replace(
            scene,
            groups=(dataclasses.replace(one, centers=other.centers), dataclasses.replace(other, centers=one.centers)),
        )
        kind = "left of / right of" if relation in ("left of", "right of") else "above / below"
        found[kind] = caption(pair, ("relation",)), [caption(turned, ("relation",))]
        across = other.center[0] - one.center[0]
        if abs(across) >= _APART:
            text = "a {style} picture of a {name} at the {place} on a {background} background"
            sides = ("left", "right") if across > 0 else ("right", "left")
            told = [
                text.format(style=scene.style, name=one.name, place=side, background=scene.background) for side in sides
            ]
            found["at the left / right"] = told[0], told[1:]
    found["background"] = (
        plain,
        [
            caption(dataclasses.replace(scene, background=color), ())
            for color in BACKGROUNDS
            if color != scene.background
        ],
    )
    found["style"] = (
        plain,
        [caption(dataclasses.replace(scene, style=style), ()) for style in STYLES if style != scene.style],
    )
    return found


def _changed(scene: HarderScene, group: Group, **parts: object) -> HarderScene:
    other = dataclasses.replace(group, **parts)  # type: ignore[arg-type]
    return dataclasses.replace(scene, groups=tuple(other if one is group else one for one in scene.groups))


def seen(model: Backend, of: Sequence[HarderScene]) -> dict[str, dict[str, float]]:
    """For each part of the world: how often the true caption is the nearest to the picture, and chance."""
    rows: dict[str, list[tuple[bool, float]]] = {}
    for seed, scene in enumerate(of):
        picture = model.encode_images([render(scene, seed=seed)])
        for part, (true, false) in alternatives(scene, seed).items():
            near = (model.encode_texts([true, *false]) @ picture[0]).tolist()
            rows.setdefault(part, []).append((near[0] > max(near[1:]), 1 / len(near)))
    return {
        part: {
            "right": sum(right for right, _ in found) / len(found),
            "half": interval(right for right, _ in found)[1] if len(found) > 1 else float("nan"),
            "chance": sum(chance for _, chance in found) / len(found),
            "scenes": len(found),
        }
        for part, found in sorted(rows.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["emoji:emoji-clip", "emoji:emoji-clip-reference"])
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--sheet", type=Path, help="write 24 scenes with their captions to this picture, to look at")
    parser.add_argument("--name", help="of the file in benchmarks/results, and then the page is left alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.sheet is not None:
        sheet(choosing(24), options.sheet)
    of = choosing(options.scenes)
    figures = {name: seen(load_backend(name), of) for name in options.models}
    parts = sorted(set().union(*figures.values()))
    first = options.models[0]
    rows = [["part", "chance", *options.models]]
    for part in parts:
        shares = [percent((own[part]["right"], own[part]["half"])) for own in figures.values()]
        rows.append([part, f"{100 * figures[first][part]['chance']:.0f} %", *shares])
    text = f"{options.scenes} scenes. {who_draws()}\n\n{markdown_table(rows)}"
    print(text)
    facts = {"scenes": options.scenes, "artists": available_artists(), "figures": figures}
    print(save(options.name or "harder_world", facts))
    if options.name is None:
        write_section(DOCS / "neutral.md", "harder world", text)


def sheet(of: Sequence[HarderScene], path: Path) -> None:
    """Writes scenes with their captions as one picture."""
    from common import save_figure, subplots

    figure, axes = subplots(4, 6, figsize=(18, 13))
    for scene, axis in zip(of, axes.flat, strict=True):
        axis.imshow(render(scene, size=160))
        axis.set_axis_off()
        text = caption(scene)
        cut = text.rfind(" ", 0, len(text) // 2)
        axis.set_title(f"{text[:cut]}\n{text[cut:]}", fontsize=6)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
