"""Texts about scenes for the decoder of emoji-clip: captions, paraphrases by other templates, and lists of words.

None is written by what draws: a text names what a scene holds, in words of several grammars, and never with signs,
which a search for words leaves out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hardprompts_emoji.scenes import BACKGROUNDS, HELD_OUT_SEED, OBJECTS, STYLES, Scene, caption, sample_scene

FIRST_SEED = HELD_OUT_SEED // 4
"""Of the scenes that texts are about; all of them are below ``HELD_OUT_SEED``."""

PARAPHRASES = (
    "{objects} with {color} behind, in {style} look",
    "{style} art showing {objects} over {color}",
    "a {color} scene of {objects} looking {style}",
    "{objects} in {style} style, {color}",
    "a picture with {objects}, {style} and {color}",
    "{color} {style} {objects}",
    "{style} {color} {objects}",
    "{objects} {color} {style}",
    "the {objects} on {color}, {style}",
    "{style} image, {color}, with {objects}",
    "there is {objects} on {color} in this {style} picture",
    "{style} rendering of {objects}, all {color} behind",
    "we see {objects} before {color}, it looks {style}",
)

OWNERS = Counter(word for name, keywords in OBJECTS.items() for word in {*name.split(), *keywords})
"""How many drawings a word names."""


def texts(count: int, first_seed: int = FIRST_SEED) -> Iterator[str]:
    """Yield a text about each of so many scenes.

    Raises:
        ValueError: A seed would be one of those that are kept for evaluation.
    """
    if first_seed + count > HELD_OUT_SEED:
        raise ValueError(f"seeds up to {first_seed + count} reach those that are held out, from {HELD_OUT_SEED} on")
    for seed in range(first_seed, first_seed + count):
        yield text(sample_scene(seed), random.Random(seed))


def text(scene: Scene, generator: random.Random) -> str:
    """Return a text that names every object of the scene, and nearly always its background and style."""
    kind = generator.random()
    if kind < 0.25:
        return _plain(caption(scene, generator))
    if kind < 0.65:
        return _plain(_paraphrase(scene, generator))
    return _plain(_word_list(scene, generator))


def _paraphrase(scene: Scene, generator: random.Random) -> str:
    objects = [_object(item.name, generator) for item in scene.objects]
    joined = generator.choice((" and ", " and a ", " with ", " ")).join(objects)
    return generator.choice(PARAPHRASES).format(
        objects=joined,
        color=_word(scene.background, BACKGROUNDS, generator),
        style=_word(scene.style, STYLES, generator),
    )


def _word_list(scene: Scene, generator: random.Random) -> str:
    parts = [_object(item.name, generator) for item in scene.objects]
    if generator.random() < 0.9:
        parts.append(_word(scene.background, BACKGROUNDS, generator))
    if generator.random() < 0.9:
        parts.append(_word(scene.style, STYLES, generator))
    generator.shuffle(parts)
    return " ".join(parts)


def _object(name: str, generator: random.Random) -> str:
    """The name of a drawing, or now and then a word that only it has."""
    if generator.random() < 0.85:
        return name
    unique = [word for word in (*name.split(), *OBJECTS[name]) if OWNERS[word] == 1 and word not in OBJECTS]
    return generator.choice(unique) if unique else name


def _word(name: str, words: Mapping[str, Sequence[str]], generator: random.Random) -> str:
    return name if generator.random() < 0.6 else generator.choice(words[name])


def _plain(written: str) -> str:
    return " ".join(written.replace(",", " ").split())
