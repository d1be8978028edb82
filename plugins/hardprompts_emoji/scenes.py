"""Scenes of emoji drawings with known truth: sample, draw, caption, and check a prompt against them.

A scene holds one to three drawings on one of twelve background colors in one of twelve styles.
The same functions made the training data of the embedded models, with seeds below
``HELD_OUT_SEED``; seeds from there on were never seen in training and are free for evaluation.

    >>> scene = sample_scene(HELD_OUT_SEED, num_objects=1)
    >>> picture = render(scene)
    >>> names(caption(scene), scene).everything
    True
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

Size = Literal["small", "medium", "large"]

IMAGE_SIZE = 64
"""Side of a picture in pixels, as the embedded models see it."""

HELD_OUT_SEED = 1_000_000_000
"""Training uses scene seeds below this number, evaluation seeds from it on."""

SIZES: Mapping[Size, float] = MappingProxyType({"small": 30.0, "medium": 40.0, "large": 50.0})
"""Longer side of a drawing in pixels of a 64-pixel picture."""

POSITIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "center": (32.0, 32.0),
        "left": (16.0, 32.0),
        "right": (48.0, 32.0),
        "top": (32.0, 16.0),
        "bottom": (32.0, 48.0),
        "top left": (16.0, 16.0),
        "top right": (48.0, 16.0),
        "bottom left": (16.0, 48.0),
        "bottom right": (48.0, 48.0),
    }
)
"""Name of a place -> (x, y) of the drawing's middle, in pixels of a 64-pixel picture."""

BACKGROUNDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "red": ("red", "crimson", "scarlet"),
        "orange": ("orange", "amber"),
        "yellow": ("yellow", "golden"),
        "green": ("green", "emerald"),
        "teal": ("teal", "turquoise", "cyan"),
        "blue": ("blue", "azure", "navy"),
        "purple": ("purple", "violet", "lavender"),
        "pink": ("pink", "magenta"),
        "brown": ("brown", "umber"),
        "gray": ("gray", "grey"),
        "black": ("black", "ebony"),
        "white": ("white", "ivory"),
    }
)
"""Color -> the words that name it; the first is the canonical one."""

STYLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "flat": ("flat", "plain", "simple"),
        "pixel art": ("pixel", "pixelated", "blocky"),
        "sketch": ("sketch", "sketched", "drawn"),
        "neon": ("neon", "glowing", "luminous"),
        "sepia": ("sepia", "vintage", "antique"),
        "night": ("night", "starry", "nighttime"),
        "blurry": ("blurry", "blurred", "unfocused"),
        "watercolor": ("watercolor", "painted", "painting"),
        "mosaic": ("mosaic", "tiled", "tiles"),
        "comic": ("comic", "cartoon", "halftone"),
        "snowy": ("snowy", "snowfall", "wintry"),
        "glitch": ("glitch", "glitchy", "distorted"),
    }
)
"""Style -> the words that name it."""

_COLORS = {
    "red": (0.86, 0.14, 0.16),
    "orange": (1.00, 0.55, 0.10),
    "yellow": (0.99, 0.87, 0.20),
    "green": (0.20, 0.66, 0.25),
    "teal": (0.10, 0.68, 0.66),
    "blue": (0.16, 0.36, 0.85),
    "purple": (0.52, 0.24, 0.72),
    "pink": (0.98, 0.58, 0.76),
    "brown": (0.47, 0.29, 0.16),
    "gray": (0.55, 0.55, 0.56),
    "black": (0.06, 0.06, 0.07),
    "white": (0.97, 0.97, 0.96),
}
_LAYOUTS_OF_TWO = (("left", "right"), ("top", "bottom"))
_LAYOUTS_OF_THREE = (("top left", "top right", "bottom"), ("top", "bottom left", "bottom right"))
_LONE_SMALL = tuple(POSITIONS)
_MIN_CONTRAST = 0.22
_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class SceneObject:
    """One drawing: its name (see ``OBJECTS``), its size and where it stands (see ``POSITIONS``)."""

    name: str
    size: Size
    position: str


@dataclass(frozen=True)
class Scene:
    """One to three drawings, in reading order, with a background (``BACKGROUNDS``) and a style (``STYLES``)."""

    objects: tuple[SceneObject, ...]
    background: str
    style: str


@dataclass(frozen=True)
class SceneTruth:
    """What a text names of a scene: one flag per object, one for the background, one for the style."""

    objects: tuple[bool, ...]
    background: bool
    style: bool

    @property
    def all_objects(self) -> bool:
        """Whether every object is named."""
        return all(self.objects)

    @property
    def everything(self) -> bool:
        """Whether every object, the background and the style are named."""
        return self.all_objects and self.background and self.style


def _read_objects() -> dict[str, tuple[str, ...]]:
    entries = json.loads((_PACKAGE / "objects.json").read_text(encoding="utf-8"))
    return {entry["name"]: tuple(entry["keywords"]) for entry in entries}


OBJECTS: Mapping[str, tuple[str, ...]] = MappingProxyType(_read_objects())
"""Name of a drawing -> its CLDR keywords, in the order of the sprite sheet."""


COMMON_OBJECTS: tuple[str, ...] = tuple((_PACKAGE / "common_objects.txt").read_text(encoding="utf-8").split("\n")[:-1])
"""Names of the drawings that are easiest to tell apart; emoji-sd draws these."""


def sample_scene(
    seed: int, num_objects: int | None = None, style: str | None = None, objects: Sequence[str] | None = None
) -> Scene:
    """Return the scene of a seed: always the same one for the same arguments.

    Args:
        seed: Any integer; use ``HELD_OUT_SEED + i`` for scenes that training never saw.
        num_objects: 1, 2 or 3; by default one (half of the scenes), two (a third) or three.
        style: A key of ``STYLES``; by default any.
        objects: Keys of ``OBJECTS`` to choose from, such as ``COMMON_OBJECTS``; by default any.

    Raises:
        ValueError: ``num_objects``, ``style`` or ``objects`` is none of the above.
    """
    generator = random.Random(seed)
    drawn_count = generator.choices((1, 2, 3), (3, 2, 1))[0]
    drawn_style = generator.choice(_STYLE_NAMES)
    if num_objects is not None and num_objects not in (1, 2, 3):
        raise ValueError(f"num_objects is {num_objects}; a scene holds 1, 2 or 3 objects")
    if style is not None:
        _check_known("style", style, STYLES)
    count = num_objects or drawn_count
    for name in objects or ():
        _check_known("object", name, OBJECTS)
    chosen = generator.sample(_OBJECT_NAMES if objects is None else objects, count)
    layout = _layout(count, generator)
    placed = tuple(SceneObject(n, size, position) for n, (size, position) in zip(chosen, layout, strict=True))
    allowed = contrasting_backgrounds()
    candidates = [b for b in BACKGROUNDS if all(b in allowed[n] for n in chosen)] or list(BACKGROUNDS)
    return Scene(placed, generator.choice(candidates), style or drawn_style)


def sample_drawable_scene(seed: int, num_objects: int | None = None) -> Scene:
    """Return the scene of a seed as emoji-sd can draw it: always the same one for the same arguments.

    Its one or two objects are of ``COMMON_OBJECTS``; a lone one is large and in the middle, so that a
    caption, which seldom tells size and place, leaves little open.

    Args:
        seed: Any integer; from ``HELD_OUT_SEED`` on for scenes that training never saw.
        num_objects: 1 or 2; by default one in three of four scenes.

    Raises:
        ValueError: ``num_objects`` is neither.
    """
    if num_objects not in (None, 1, 2):
        raise ValueError(f"num_objects is {num_objects}; emoji-sd draws scenes of 1 or 2 objects")
    count = num_objects or random.Random(seed).choices((1, 2), (3, 1))[0]
    scene = sample_scene(seed, count, objects=COMMON_OBJECTS)
    if count == 2:
        return scene
    return Scene((SceneObject(scene.objects[0].name, "large", "center"),), scene.background, scene.style)


def _layout(count: int, generator: random.Random) -> list[tuple[Size, str]]:
    if count == 1:
        size: Size = generator.choices(("large", "medium", "small"), (5, 4, 2))[0]
        return [(size, generator.choice(_LONE_SMALL) if size == "small" else "center")]
    return [("small", position) for position in generator.choice(_LAYOUTS_OF_TWO if count == 2 else _LAYOUTS_OF_THREE)]


def caption(scene: Scene, generator: random.Random | None = None) -> str:
    """Return a true caption of the scene.

    Without a generator it is the canonical one, which names every object, the background and the
    style and nothing else. With one, wording, synonyms, order and optional sizes and places vary;
    it still names everything.
    """
    if generator is None:
        listed = _enumerate([item.name for item in scene.objects])
        return f"a {scene.style} picture of {listed} on a {scene.background} background"
    style = scene.style if generator.random() < 0.6 else generator.choice(STYLES[scene.style])
    color = scene.background if generator.random() < 0.7 else generator.choice(BACKGROUNDS[scene.background])
    listed = _enumerate([_describe(o, len(scene.objects), generator) for o in scene.objects])
    template = generator.choice(_TEMPLATES)
    return template.format(style=style, color=color, objects=listed)


_TEMPLATES = (
    "a {style} picture of {objects} on a {color} background",
    "a {style} picture of {objects} on a {color} background",
    "a {style} image of {objects} on {color}",
    "{objects} on a {color} background, {style} style",
    "{objects} on {color}, {style}",
    "{style} {objects}, {color} background",
    "{style} style, {objects} in front of a {color} background",
    "{color} background with {objects}, {style} style",
    "an image of {objects} with a {color} background in {style} style",
    "{style}, {color}, {objects}",
)


def _describe(item: SceneObject, count: int, generator: random.Random) -> str:
    text = f"{item.size} {item.name}" if generator.random() < 0.2 else item.name
    if (count > 1 or item.position != "center") and generator.random() < 0.2:
        text = f"{text} at the {item.position}" if " " not in item.position else f"{text} in the {item.position} corner"
    return text


def _enumerate(texts: Sequence[str]) -> str:
    articled = [f"{'an' if text[0] in 'aeiou' else 'a'} {text}" for text in texts]
    return articled[0] if len(articled) == 1 else ", ".join(articled[:-1]) + " and " + articled[-1]


def names(text: str, scene: Scene) -> SceneTruth:
    """Return which parts of the scene the text names.

    An object is named by any word of its name or of its CLDR keywords, a background or a style by
    any of its words. Whole words are compared, without case, and a plural ending does not matter.
    """
    words = {stem(word) for word in re.findall(r"[a-z0-9]+", text.lower())}
    return SceneTruth(
        tuple(bool(words & object_words(item.name)) for item in scene.objects),
        bool(words & {stem(word) for word in BACKGROUNDS[scene.background]}),
        bool(words & {stem(word) for word in STYLES[scene.style]}),
    )


@cache
def object_words(name: str) -> frozenset[str]:
    """Return the words, without plural endings, any of which names the object.

    Raises:
        ValueError: ``name`` is not a key of ``OBJECTS``.
    """
    _check_known("object", name, OBJECTS)
    found = {*re.findall(r"[a-z0-9]+", name), *OBJECTS[name]} - {"and", "of", "the"}
    return frozenset(stem(word) for word in found)


def stem(word: str) -> str:
    """Return a word in lower case without its plural ending; what is compared when a text names something."""
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "oes")):
        return word[:-2]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _check_known(what: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        listed = list(known)
        more = ", ..." if len(listed) > 12 else ""
        raise ValueError(f"unknown {what} {value!r}; the world knows {', '.join(listed[:12])}{more}")


# Drawing ----------------------------------------------------------------------------------------


def render(scene: Scene, seed: int = 0, size: int = IMAGE_SIZE) -> Image.Image:
    """Return the scene as an RGB picture of ``size`` x ``size`` pixels.

    The seed moves the drawings by up to 1.25 of 64 pixels and draws the random parts of the styles.

    Raises:
        ValueError: The scene names something the world does not know, or ``size`` is below 16.
    """
    pixels = render_batch([scene], generator=torch.Generator().manual_seed(seed), size=size)[0]
    array = (pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(array)


def render_batch(scenes: Sequence[Scene], generator: torch.Generator | None = None, size: int = IMAGE_SIZE) -> Tensor:
    """Return the scenes as one tensor (n, 3, size, size), values in [0, 1].

    Args:
        scenes: At least one scene.
        generator: Source of the small random shifts and of the styles' random parts; by default a
            fresh one with seed 0.
        size: Side in pixels, at least 16.

    Raises:
        ValueError: No scene, an unknown name, or ``size`` below 16.
    """
    if not scenes:
        raise ValueError("render_batch got no scenes; pass at least one")
    if size < 16:
        raise ValueError(f"size is {size} pixels; it must be at least 16")
    for scene in scenes:
        _check_scene(scene)
    generator = generator or torch.Generator().manual_seed(0)
    shade = torch.rand(len(scenes), 1, generator=generator) * 0.08 - 0.04
    layer = _draw_objects(scenes, generator, size)
    return paint(layer, [scene.background for scene in scenes], [scene.style for scene in scenes], generator, shade)


def paint(
    layer: Tensor, backgrounds: Sequence[str], styles: Sequence[str], generator: torch.Generator, shade: Tensor
) -> Tensor:
    """Return drawings on their backgrounds in their styles, (n, 3, size, size) in [0, 1].

    Args:
        layer: (n, 4, size, size), premultiplied RGB and alpha of what is drawn.
        backgrounds: Keys of ``BACKGROUNDS``, one for each picture.
        styles: Keys of ``STYLES``, likewise.
        generator: Source of the styles' random parts.
        shade: (n, 1), added to the background's color.
    """
    size = layer.shape[-1]
    colors = torch.tensor([_COLORS[name] for name in backgrounds])
    background = (colors + shade).clamp(0, 1)[:, :, None, None].expand(-1, -1, size, size)
    picture = torch.empty(len(layer), 3, size, size)
    for name in set(styles):
        rows = torch.tensor([i for i, style in enumerate(styles) if style == name])
        canvas = _Canvas(layer[rows, :3], layer[rows, 3:], background[rows], generator)
        picture[rows] = _FILTERS[name](canvas)
    return picture.clamp_(0, 1)


def _check_scene(scene: Scene) -> None:
    _check_known("background", scene.background, BACKGROUNDS)
    _check_known("style", scene.style, STYLES)
    for item in scene.objects:
        _check_known("object", item.name, OBJECTS)
        _check_known("size", item.size, SIZES)
        _check_known("position", item.position, POSITIONS)


@lru_cache(maxsize=1)
def sprites() -> Tensor:
    """Return all drawings, (objects, 4, 64, 64) in [0, 1]: premultiplied RGB and alpha."""
    sheet = np.asarray(Image.open(_PACKAGE / "sprites.webp").convert("RGBA"), dtype=np.float32) / 255
    columns = sheet.shape[1] // 64
    cells = sheet.reshape(-1, 64, columns, 64, 4).transpose(0, 2, 4, 1, 3).reshape(-1, 4, 64, 64)
    straight = torch.from_numpy(np.ascontiguousarray(cells[: len(OBJECTS)]))
    return torch.cat([straight[:, :3] * straight[:, 3:], straight[:, 3:]], 1)


@lru_cache(maxsize=1)
def _half_sprites() -> Tensor:
    # Small drawings are sampled from these: bilinear sampling of the full ones would alias.
    return functional.avg_pool2d(sprites(), 2)


def _draw_objects(scenes: Sequence[Scene], generator: torch.Generator, size: int) -> Tensor:
    """Return one layer (n, 4, size, size) with all objects of each scene, premultiplied."""
    layer = torch.zeros(len(scenes), 4, size, size)
    for slot in range(max(len(scene.objects) for scene in scenes)):
        rows = [i for i, scene in enumerate(scenes) if len(scene.objects) > slot]
        items = [scenes[i].objects[slot] for i in rows]
        for small in (True, False):
            chosen = [k for k, item in enumerate(items) if (item.size == "small") == small]
            if chosen:
                drawn = _sample_sprites([items[k] for k in chosen], small and size <= 64, generator, size)
                where = torch.tensor([rows[k] for k in chosen])
                layer[where] = drawn + layer[where] * (1 - drawn[:, 3:])
    return layer


def _sample_sprites(items: Sequence[SceneObject], half: bool, generator: torch.Generator, size: int) -> Tensor:
    index = torch.tensor([_OBJECT_INDEX[item.name] for item in items])
    center = torch.tensor([POSITIONS[item.position] for item in items])
    side = torch.tensor([SIZES[item.size] for item in items])
    room = (torch.minimum(center, 64 - center) - side[:, None] / 2).clamp(0.5, 1.25)
    center = center + (torch.rand(center.shape, generator=generator) * 2 - 1) * room
    side = side * (0.98 + 0.04 * torch.rand(side.shape, generator=generator))
    theta = torch.zeros(len(items), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 64 / side
    theta[:, :, 2] = (32 - center) * 2 / side[:, None]
    grid = functional.affine_grid(theta, [len(items), 4, size, size], align_corners=False)
    source = (_half_sprites() if half else sprites())[index]
    return functional.grid_sample(source, grid, padding_mode="zeros", align_corners=False)


@lru_cache(maxsize=1)
def contrasting_backgrounds() -> Mapping[str, frozenset[str]]:
    """Return the name of an object -> the backgrounds on which it can be seen."""
    small = functional.avg_pool2d(sprites(), 4)
    colors = torch.tensor([_COLORS[name] for name in BACKGROUNDS])
    difference = small[:, None, :3] - small[:, None, 3:] * colors[None, :, :, None, None]
    strength = difference.square().sum((2, 3, 4)) / small[:, 3].sum((1, 2)).clamp(min=1e-6)[:, None] / 3
    visible = strength.sqrt() > _MIN_CONTRAST
    return {
        name: frozenset(color for color, seen in zip(BACKGROUNDS, row.tolist(), strict=True) if seen)
        for name, row in zip(OBJECTS, visible, strict=True)
    }


@dataclass(frozen=True)
class _Canvas:
    """What a style works on: premultiplied drawing, its alpha, the plain background, randomness."""

    drawing: Tensor
    alpha: Tensor
    background: Tensor
    generator: torch.Generator

    @property
    def scale(self) -> float:
        return self.alpha.shape[-1] / IMAGE_SIZE

    def compose(self, drawing: Tensor | None = None, background: Tensor | None = None) -> Tensor:
        drawing = self.drawing if drawing is None else drawing
        background = self.background if background is None else background
        return drawing + background * (1 - self.alpha)

    def axes(self) -> tuple[Tensor, Tensor]:
        """Return (x, y), each broadcastable to the picture, in pixels of a 64-pixel picture."""
        line = (torch.arange(self.alpha.shape[-1]) + 0.5) / self.scale
        return line[None, None, None, :], line[None, None, :, None]

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(len(self.alpha), *shape, generator=self.generator)

    def spots(self, count: int, radius: float, below: float = 64.0) -> Tensor:
        """Return soft random round spots, (n, 1, size, size) in [0, 1]."""
        x, y = self.axes()
        center = self.rand(count, 2)
        total = torch.zeros_like(self.alpha)
        for i in range(count):
            dx = x - center[:, i, 0, None, None, None] * 64
            dy = y - center[:, i, 1, None, None, None] * below
            total = torch.maximum(total, (1.5 - (dx * dx + dy * dy) / radius**2).clamp(0, 1))
        return total


def _gray(picture: Tensor) -> Tensor:
    return (picture * picture.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def _blur(picture: Tensor, width: int) -> Tensor:
    """Return two passes of a box blur of an odd width in pixels, edges repeated."""
    for _ in range(2):
        picture = functional.avg_pool2d(functional.pad(picture, [width // 2] * 4, mode="replicate"), width, 1)
    return picture


def _odd(value: float) -> int:
    return max(1, round(value) // 2 * 2 + 1)


def _flat(canvas: _Canvas) -> Tensor:
    return canvas.compose()


def _pixel_art(canvas: _Canvas) -> Tensor:
    blocks = functional.interpolate(canvas.compose(), size=(32, 32), mode="area")
    checker = (torch.arange(32)[:, None] + torch.arange(32)[None]) % 2
    blocks = (blocks * 8).round() / 8 + (checker * 0.10 - 0.05)
    return functional.interpolate(blocks, size=canvas.alpha.shape[-2:], mode="nearest")


def _sketch(canvas: _Canvas) -> Tensor:
    x, y = canvas.axes()
    tone = (_gray(canvas.drawing) / canvas.alpha.clamp(min=1e-3) * 1.3 - 0.1).clamp(0, 1) * canvas.alpha
    crayon = 0.5 * tone + 0.5 * canvas.drawing
    hatching = (torch.sin((x + y) * 1.3 + canvas.rand(1, 1, 1) * 6) > 0.55).float()
    return canvas.compose(crayon) * (1 - 0.28 * hatching)


def _neon(canvas: _Canvas) -> Tensor:
    x, y = canvas.axes()
    gray = _gray(canvas.drawing)
    vivid = (gray + (canvas.drawing - gray) * 1.8).clamp(0, 1)
    halo = _blur(canvas.alpha, _odd(5 * canvas.scale)) * (1 - canvas.alpha)
    edge = torch.minimum(torch.minimum(x, 64 - x), torch.minimum(y, 64 - y))
    frame = (1 - (edge - 3).abs() / 1.6).clamp(0, 1)
    light = torch.maximum(halo, frame) * canvas.alpha.new_tensor([0.75, 1.0, 0.2])[:, None, None]
    cover = torch.maximum(halo, frame)
    return canvas.compose(vivid, canvas.background * 0.8) * (1 - cover) + light


def _sepia(canvas: _Canvas) -> Tensor:
    x, y = canvas.axes()
    tone = _gray(canvas.drawing) * canvas.alpha.new_tensor([1.05, 0.85, 0.62])[:, None, None]
    tone = 0.6 * tone + 0.4 * canvas.drawing
    distance = ((x - 32).square() + (y - 32).square()).sqrt() / 45
    vignette = ((distance - 0.55) * 2).clamp(0, 0.85)
    return canvas.compose(tone) * (1 - vignette) + vignette * canvas.alpha.new_tensor([0.36, 0.24, 0.10])[:, None, None]


def _night(canvas: _Canvas) -> Tensor:
    _, y = canvas.axes()
    dark = (0.85 - y / 40).clamp(0, 0.85)
    stars = canvas.spots(14, 0.9, below=40.0)
    sky = canvas.compose(canvas.drawing * 0.8, canvas.background * 0.85) * (1 - dark)
    sky = sky + dark * canvas.alpha.new_tensor([0.02, 0.03, 0.14])[:, None, None]
    return torch.maximum(sky, stars.expand_as(sky))


def _blurry(canvas: _Canvas) -> Tensor:
    soft = _blur(canvas.compose(), _odd(3.6 * canvas.scale))
    # Blur alone is hard to see at 64 pixels; lights out of focus are not.
    lights = 0.4 * canvas.spots(6, 6.0)
    return soft * (1 - lights) + lights * canvas.alpha.new_tensor([1.0, 0.92, 0.72])[:, None, None]


def _watercolor(canvas: _Canvas) -> Tensor:
    x, y = canvas.axes()
    coarse = functional.interpolate(canvas.rand(1, 9, 9), size=canvas.alpha.shape[-2:], mode="bicubic")
    washed = canvas.compose(canvas.drawing * 0.85 + 0.15 * canvas.alpha) * (0.88 + 0.12 * coarse) + 0.12 * coarse
    edge = torch.minimum(torch.minimum(x, 64 - x), torch.minimum(y, 64 - y))
    paper = ((2.5 + 4.0 * coarse - edge) / 2).clamp(0, 1)
    return washed * (1 - paper) + 0.98 * paper


def _mosaic(canvas: _Canvas) -> Tensor:
    x, y = canvas.axes()
    tiles = functional.interpolate(canvas.rand(1, 8, 8), size=canvas.alpha.shape[-2:], mode="nearest")
    grout = ((x % 8 < 1.0) | (y % 8 < 1.0)).float()
    picture = canvas.compose() * (0.84 + 0.28 * tiles)
    return picture * (1 - 0.7 * grout) + 0.7 * 0.32 * grout


def _comic(canvas: _Canvas) -> Tensor:
    x, y = canvas.axes()
    dots = (torch.sin(x * torch.pi / 2.5) * torch.sin(y * torch.pi / 2.5) > 0.35).float()
    width = _odd(3 * canvas.scale)
    outline = functional.max_pool2d(canvas.alpha, width, 1, width // 2) * (1 - canvas.alpha)
    bold = ((canvas.drawing * 5).round() / 5).clamp(max=1)
    return canvas.compose(bold, canvas.background * (1 - 0.30 * dots) * (1 - outline))


def _snowy(canvas: _Canvas) -> Tensor:
    x, y = canvas.axes()
    phase = canvas.rand(1, 1, 1) * 6
    ground = ((y - 57 + 2 * torch.sin(x / 7 + phase)) / 1.5).clamp(0, 1)
    snow = torch.maximum(canvas.spots(22, 1.4), ground)
    cold = canvas.compose() * 0.92
    return cold * (1 - snow) + canvas.alpha.new_tensor([0.95, 0.97, 1.0])[:, None, None] * snow


def _glitch(canvas: _Canvas) -> Tensor:
    picture = canvas.compose()
    shift = max(1, round(2.5 * canvas.scale))
    picture = torch.stack([picture[:, 0].roll(-shift, -1), picture[:, 1], picture[:, 2].roll(shift, -1)], 1)
    _, y = canvas.axes()
    for _ in range(3):
        start = canvas.rand(1, 1, 1) * 60
        band = ((y > start) & (y < start + 2.5)).float()
        moved = picture.roll(round(7 * canvas.scale), -1) * 0.6 + 0.4 * canvas.rand(3, 1, 1)
        picture = picture * (1 - band) + moved * band
    return picture


_FILTERS = {
    "flat": _flat,
    "pixel art": _pixel_art,
    "sketch": _sketch,
    "neon": _neon,
    "sepia": _sepia,
    "night": _night,
    "blurry": _blurry,
    "watercolor": _watercolor,
    "mosaic": _mosaic,
    "comic": _comic,
    "snowy": _snowy,
    "glitch": _glitch,
}
_OBJECT_NAMES = tuple(OBJECTS)
_STYLE_NAMES = tuple(STYLES)
_OBJECT_INDEX = {name: index for index, name in enumerate(OBJECTS)}
