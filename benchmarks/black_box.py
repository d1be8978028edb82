"""Pictures that a search needs with a generator whose words are not those of the model that compares pictures.

    python benchmarks/black_box.py                        # the first tables of docs/black_box.md
    python benchmarks/black_box.py --generator emoji-sd --targets 8 --seeds 1 --budget 30   # the others
    python benchmarks/black_box.py --tuning               # other targets: settings were chosen on these

The generator draws behind a dictionary that nobody sees: of a share of the words of its world, four related ones at a
time have changed places, so that "fox" draws what "wolf" should. emoji-clip knows nothing of it. Its image tower scores
the pictures of every search, and emoji-clip-reference those that are reported, on seeds that nothing was chosen by.
"scenes" draws the things, the color and the style that it reads, as the scenes of this world are drawn, and leaves the
rest to the seed; emoji-sd is a diffusion model.
"""

import argparse
import dataclasses
import functools
import hashlib
import itertools
import math
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from common import DOCS, Cells, interval, number, save, write_section
from PIL import Image
from torch import Tensor

from hardprompts import Backend, PromptInverter, load_backend
from hardprompts.applications import Generate, evolve, invert_by_pictures, likeness, load_generator
from hardprompts.encoders import ImageEncoder
from hardprompts.evaluation import markdown_table
from hardprompts.methods.banks import PhraseTable
from hardprompts_emoji import scenes

#: Scenes that no other benchmark draws; those that settings were chosen on are others again.
FIRST_SEEDS = {"scenes": scenes.HELD_OUT_SEED + 9_000_000, "emoji-sd": scenes.HELD_OUT_SEED + 8_000_000}
TUNING_SEED = scenes.HELD_OUT_SEED + 7_000_000

#: Of the dictionary.
SHARE, GROUP = 0.5, 4

#: Numbers of pictures at which is looked.
POINTS = (1, 10, 30, 100, 300)

#: The level that CLIP's prompt reaches on a generator without the dictionary.
OWN = "clip_on_own_words"

#: What a search may reach, as its tables say it.
LEVELS = {
    OWN: "Of {count} runs in which the dictionary costs CLIP's prompt something, those that make up for all of it",
    "clip": "Of {count} runs, those that reach what CLIP's prompt reaches here",
}

#: How much less similar a prompt's pictures may be that reach a level.
CLOSE = 1e-6

FRESH = tuple(range(9000, 9008))

STEPS, BATCH = 4, 8

#: A timeline: the best prompt from so many pictures on.
Timeline = list[tuple[int, str]]


def related_groups(words: Sequence[str], judge: Backend) -> list[list[str]]:
    """Words, four related ones together, by a model that no search knows."""
    features, left, groups = judge.encode_texts(words), list(range(len(words))), []
    while len(left) >= GROUP:
        first = left[0]
        near = (features[left] @ features[first]).topk(GROUP).indices.tolist()
        group = [left[place] for place in near]
        groups.append([words[place] for place in group])
        left = [place for place in left if place not in group]
    return groups


def dictionary(judge: Backend, share: float = SHARE) -> dict[str, str]:
    """What the generator reads for each word that is not as it should be."""
    kinds = [
        [word for words in scenes.BACKGROUNDS.values() for word in words],
        [word for words in scenes.STYLES.values() for word in words],
        sorted({word for name in scenes.COMMON_OBJECTS for word in name.split()}),
    ]
    found: dict[str, str] = {}
    draws = random.Random(0)
    for words in kinds:
        groups = related_groups(words, judge)
        for group in draws.sample(groups, round(share * len(groups))):
            found |= dict(zip(group, [*group[1:], group[0]], strict=True))
    return found


class Illustrator:
    """Draws scenes as prompts tell: the things, the color and the style that it reads; the seed decides the rest."""

    def __init__(self) -> None:
        self.things: dict[str, list[str]] = {}
        for name in scenes.COMMON_OBJECTS:
            for word in sorted(scenes.object_words(name)):
                self.things.setdefault(word, []).append(name)
        self.colors = {word: color for color, words in scenes.BACKGROUNDS.items() for word in words}
        self.styles = {word: style for style, words in scenes.STYLES.items() for word in words}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return [self.picture(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def picture(self, prompt: str, seed: int) -> Image.Image:
        """One picture; what is not said is the same for all prompts of a seed."""
        draws = random.Random(seed)
        color, style = draws.choice(list(scenes.BACKGROUNDS)), draws.choice(list(scenes.STYLES))
        thing, which = draws.choice(scenes.COMMON_OBJECTS), draws.random()
        layout = draws.choice((("left", "right"), ("top", "bottom")))
        words = re.findall(r"[a-z]+", prompt.lower())
        text = f" {' '.join(words)} "
        named = {text.index(f" {name} "): name for name in scenes.COMMON_OBJECTS if f" {name} " in text}
        whole = {word for name in named.values() for word in name.split()}
        for word in words:
            if word not in whole and (known := self.things.get(word) or self.things.get(word.rstrip("s"))):
                named.setdefault(text.index(f" {word} "), known[int(which * len(known))])
        things = list(dict.fromkeys(named[place] for place in sorted(named)))[:2] or [thing]
        color = next((self.colors[word] for word in words if word in self.colors), color)
        style = next((self.styles[word] for word in words if word in self.styles), style)
        if len(things) == 1:
            placed = (scenes.SceneObject(things[0], "large", "center"),)
        else:
            placed = tuple(scenes.SceneObject(one, "small", where) for one, where in zip(things, layout, strict=True))
        return scenes.render(scenes.Scene(placed, color, style), seed=seed)


class Renamed:
    """The generator behind its dictionary; pictures of one target are kept."""

    def __init__(self, words: Mapping[str, str], generate: Generate) -> None:
        self.words, self.generate = words, generate
        self.kept: dict[tuple[str, int], Image.Image] = {}

    def read(self, prompt: str) -> str:
        """What the generator reads."""
        return re.sub(r"[a-z]+", lambda found: self.words.get(found[0], found[0]), prompt.lower())

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return self.draw([self.read(prompt) for prompt in prompts], seeds)

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Pictures of prompts as they are."""
        pairs = list(zip(prompts, seeds, strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self.kept]
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            drawn = self.generate([text for text, _ in part], [seed for _, seed in part])
            for pair, picture in zip(part, drawn, strict=True):
                assert picture is not None, "neither generator refuses anything"
                self.kept[pair] = picture
        return [self.kept[pair] for pair in pairs]


def generator_of(name: str) -> Generate:
    """What draws."""
    return Illustrator() if name == "scenes" else load_generator(f"emoji:{name}", steps=STEPS, dtype=torch.bfloat16)


class Remembering:
    """An image tower that looks at each picture once: most searches draw some that another one has drawn."""

    def __init__(self, tower: ImageEncoder) -> None:
        self.tower = tower
        self.known: dict[bytes, Tensor] = {}

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """The features of those that are new, and of the others."""
        keys = [hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self.known}
        if new:
            self.known.update(zip(new, self.tower.encode_images(list(new.values())), strict=True))
        return torch.stack([self.known[key] for key in keys])


def remembering(name: str) -> Backend:
    """A model that looks at each picture once."""
    opened = load_backend(name)
    assert opened.image_encoder is not None, "it compares pictures"
    return dataclasses.replace(opened, image_encoder=Remembering(opened.image_encoder))


class World:
    """Models, words and targets."""

    def __init__(self, first_seed: int, generator: str) -> None:
        self.clip, self.judge = remembering("emoji"), remembering("emoji:emoji-clip-reference")
        self.language = load_backend("emoji:emoji-mlm")
        self.draw = Renamed(dictionary(self.judge), generator_of(generator))
        self.first_seed = first_seed
        self.bank = (
            PhraseTable.create("styles", [word for words in scenes.STYLES.values() for word in words]),
            PhraseTable.create("things", sorted(scenes.COMMON_OBJECTS)),
            PhraseTable.create("colors", [word for words in scenes.BACKGROUNDS.values() for word in words]),
        )
        self.inverter = PromptInverter(self.clip)

    def scene(self, target: int) -> scenes.Scene:
        """The scene of a target, with one and with two objects in turn."""
        return scenes.sample_drawable_scene(self.first_seed + target, 1 + target % 2)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one world lives as long as the program
    def image(self, target: int) -> Image.Image:
        """The picture of a target; pictures of the target before are forgotten."""
        self.draw.kept.clear()
        return scenes.render(self.scene(target), seed=target)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def candidates(self, target: int, seed: int) -> tuple[str, ...]:
        """What the search of emoji-clip finds, best first."""
        found = self.inverter.invert(self.image(target), seed=seed, progress=False, max_evaluations=2000)
        return tuple(dict.fromkeys([found.text, *(candidate.text for candidate in found.candidates)]))

    def phrases(self, seed: int) -> list[str]:
        """What a search without CLIP begins with: phrases by chance."""
        draws = random.Random(seed)
        return [" ".join(draws.choice(table.phrases) for table in self.bank) for _ in range(8)]

    def fresh(self, target: int, text: str, renamed: bool = True) -> float:
        """The similarity of a prompt's pictures, on fresh seeds, by the judge that no search sees."""
        prompt = self.draw.read(text) if renamed else text
        pictures = self.draw.draw([prompt] * len(FRESH), FRESH)
        return math.fsum(likeness(self.image(target), self.judge)(pictures)) / len(FRESH)


# --- searches -----------------------------------------------------------------------------


def by_pictures(
    world: World, target: int, budget: int, seed: int, starts: Sequence[str], clip: bool, **own: Any
) -> Timeline:
    """`invert_by_pictures`, all of its pictures for the search."""
    inverter = FixedStarts(world.clip, world.candidates(target, seed)) if clip else None
    found = invert_by_pictures(
        world.image(target), world.draw, world.clip, budget, starts=starts, inverter=inverter, bank=world.bank,
        seed=seed, progress=False, fresh_seeds=(), report_at=range(1, budget), **own,
    )  # fmt: skip
    return [(point.pictures, point.text) for point in found.points]


class FixedStarts(PromptInverter):
    """An inverter whose search was done before."""

    def __init__(self, backend: Backend, texts: Sequence[str]) -> None:
        super().__init__(backend)
        self.texts = texts

    def invert(self, *_: Any, **__: Any) -> Any:
        """A prompt with the candidates that were found before."""
        from hardprompts import Candidate, HardPrompt

        return HardPrompt(self.texts[0], (), 0.0, candidates=tuple(Candidate(text, (), 0.0) for text in self.texts))


def random_mutation(world: World, target: int, budget: int, seed: int, starts: Sequence[str]) -> Timeline:
    """One word of the best prompt is exchanged, added or dropped by chance, and kept if its picture is better."""
    draws, score = random.Random(seed), likeness(world.image(target), world.clip)
    words = [word for table in world.bank for word in table.phrases]
    timeline: Timeline = []
    best, asked, texts = -math.inf, 0, list(starts)[:BATCH]
    while asked < budget:
        texts = texts[: budget - asked]
        for text, found in zip(texts, score(world.draw(texts, [0] * len(texts))), strict=True):
            asked += 1
            if found > best:
                best = found
                timeline.append((asked, text))
        texts = [changed(timeline[-1][1], words, draws) for _ in range(BATCH)]
    return timeline


def changed(text: str, words: Sequence[str], draws: random.Random) -> str:
    """A text with one word exchanged, added or dropped."""
    own, kind = text.split(), draws.choice(("exchange", "add", "drop"))
    place = draws.randrange(len(own))
    if kind == "drop" and len(own) > 1:
        return " ".join(own[:place] + own[place + 1 :])
    return " ".join([*own[:place], draws.choice(words), *own[place + (kind == "exchange") :]])


def evolution(
    world: World, target: int, budget: int, seed: int, starts: Sequence[str], seeds: Sequence[int]
) -> Timeline:
    """`evolve`: tokens of the best prompts are crossed, and drift to their neighbors."""
    parents = list(starts)[: min(8, max(1, budget // len(seeds)))]
    generations = max(0, (budget // len(seeds) - len(parents)) // 8)
    lineage = evolve(
        parents, world.draw, world.clip, likeness(world.image(target), world.clip), generations=generations,
        population=8, survivors=4, seeds=seeds, seed=seed,
    )  # fmt: skip
    timeline: Timeline = []
    best = -math.inf
    for count, own in enumerate(lineage.individuals, 1):
        if own.score > best:
            best = own.score
            timeline.append((count * len(seeds), own.text))
    return timeline


Run = Callable[[World, int, int, int], Timeline]


def methods() -> dict[str, Run]:
    """The rows of the table."""

    def clip(world: World, target: int, seed: int) -> tuple[str, ...]:
        return world.candidates(target, seed)

    return {
        "CLIP's prompt": lambda w, t, b, s: [(1, clip(w, t, s)[0])],
        "CLIP + random mutation": lambda w, t, b, s: random_mutation(w, t, b, s, clip(w, t, s)),
        "CLIP + token evolution": lambda w, t, b, s: evolution(w, t, b, s, clip(w, t, s), (0,)),
        "CLIP + invert_by_pictures": lambda w, t, b, s: by_pictures(w, t, b, s, (), True, language_model=w.language),
        "phrases + random mutation": lambda w, t, b, s: random_mutation(w, t, b, s, w.phrases(s)),
        "phrases + token evolution": lambda w, t, b, s: evolution(w, t, b, s, w.phrases(s), (0,)),
        "phrases + invert_by_pictures": lambda w, t, b, s: by_pictures(
            w, t, b, s, w.phrases(s), False, language_model=w.language
        ),
    }


def tuned() -> dict[str, Run]:
    """Settings that were tried on the other targets."""

    def ours(**own: Any) -> Run:
        return lambda w, t, b, s: by_pictures(w, t, b, s, (), True, language_model=w.language, **own)

    def free(**own: Any) -> Run:
        return lambda w, t, b, s: by_pictures(w, t, b, s, w.phrases(s), False, language_model=w.language, **own)

    grids: dict[str, dict[str, Any]] = {
        "1 seed": {"seeds": (0,)}, "2 seeds": {}, "3 seeds": {"seeds": (0, 1, 2)},
        "population 4": {"population": 4}, "survivors 2": {"survivors": 2}, "exploration 2": {"exploration": 2.0},
        "exploration 0.1": {"exploration": 0.1},
    }  # fmt: skip
    return {
        **{f"CLIP + {name}": ours(**own) for name, own in grids.items()},
        **{f"phrases + {name}": free(**own) for name, own in grids.items()},
        "CLIP + token evolution, 2 seeds": lambda w, t, b, s: evolution(w, t, b, s, w.candidates(t, s), (0, 1)),
        **methods(),
    }


# --- measuring ----------------------------------------------------------------------------


def measured(world: World, run: Run, target: int, budget: int, seed: int) -> dict[str, Any]:
    """What a search had at each number of pictures, on fresh seeds, and what stands beside it."""
    world.image(target)
    began = time.process_time()
    timeline = run(world, target, budget, seed)
    seconds = time.process_time() - began
    best = {point: [text for asked, text in timeline if asked <= point] for point in POINTS if point <= budget}
    own = world.candidates(target, seed)[0]
    levels = {"clip": world.fresh(target, own), "clip_on_own_words": world.fresh(target, own, renamed=False)}
    back = {drawn: word for word, drawn in world.draw.words.items()}
    caption = re.sub(r"[a-z]+", lambda found: back.get(found[0], found[0]), scenes.caption(world.scene(target)))
    return {
        "points": {str(point): world.fresh(target, texts[-1]) if texts else None for point, texts in best.items()},
        "text": timeline[-1][1],
        **levels,
        **{f"pictures_to_{name}": first_at(world, target, timeline, level) for name, level in levels.items()},
        "caption": world.fresh(target, caption),
        "seconds": round(seconds, 1),
    }


def first_at(world: World, target: int, timeline: Timeline, level: float) -> int | None:
    """The pictures after which the best prompt reached a level on fresh seeds; None where none did."""
    return next((asked for asked, text in timeline if world.fresh(target, text) >= level - CLOSE), None)


def rows_of(cells: Sequence[Mapping[str, Any]], budget: int) -> dict[str, Any]:
    """The figures of one method: means over targets, each the mean of its seeds, and what reaches either level."""
    points = [point for point in POINTS if point <= budget]
    found: dict[str, Any] = {"runs": len(cells), "seconds": statistics.fmean(cell["seconds"] for cell in cells)}
    harmed = [cell for cell in cells if cell["clip"] < cell[OWN] - CLOSE]
    for level, counted in ((OWN, harmed), ("clip", cells)):
        key = f"pictures_to_{level}"
        reached = [cell[key] for cell in counted if cell[key] is not None]
        found[f"counted_{level}"] = len(counted)
        found[f"runs_to_{level}"] = {str(p): sum(first <= p for first in reached) for p in points}
        found[key] = statistics.median(reached) if reached else None
    for point in points:
        found[f"at_{point}"] = by_target(cells, lambda cell, p=point: cell["points"][str(p)])
        found[f"gain_{point}"] = by_target(cells, lambda cell, p=point: cell["points"][str(p)] - cell["clip"])
    return found


def by_target(cells: Sequence[Mapping[str, Any]], value: Callable[[Any], float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval, in which the seeds of one target count once."""
    groups: dict[int, list[float]] = {}
    for cell in cells:
        groups.setdefault(cell["target"], []).append(value(cell))
    return interval(statistics.fmean(group) for group in groups.values())


def compared(found: Mapping[str, Sequence[Mapping[str, Any]]], budget: int) -> dict[str, dict[str, Any]]:
    """How much better `invert_by_pictures` is than what begins with the same, target by target."""
    pairs = [(start, other) for start in ("CLIP", "phrases") for other in ("random mutation", "token evolution")]
    rows: dict[str, dict[str, Any]] = {}
    for start, other in pairs:
        ours, theirs = found.get(f"{start} + invert_by_pictures"), found.get(f"{start} + {other}")
        if ours is None or theirs is None:
            continue
        both = [
            {"target": a["target"], "ours": a["points"], "theirs": b["points"]}
            for a, b in zip(ours, theirs, strict=True)
        ]
        rows[f"{start}: than {other}"] = {
            str(point): by_target(both, lambda cell, p=str(point): cell["ours"][p] - cell["theirs"][p])
            for point in POINTS
            if point <= budget
        }
    return rows


def table(figures: Mapping[str, Mapping[str, Any]], compared: Mapping[str, Mapping[str, Any]], budget: int) -> str:
    """Similarities on fresh seeds, and how many targets reach what CLIP's prompt reaches."""
    points = [point for point in POINTS if point <= budget]
    head = ["search", *(f"at {point}" for point in points), f"gain at {points[-1]}"]
    similar = [head] + [
        [name, *(number(row[f"at_{point}"]) for point in points), number(row[f"gain_{points[-1]}"])]
        for name, row in figures.items()
    ]
    better = [["begun with", *(f"at {point}" for point in points)]] + [
        [name, *(number(row[str(point)]) for point in points)] for name, row in compared.items()
    ]
    parts = [
        markdown_table(similar),
        f"By how much invert_by_pictures is better, target by target:\n\n{markdown_table(better)}",
    ]
    for level, words in LEVELS.items():
        shares = [["search", "pictures, median of those", *(f"within {point}" for point in points)]]
        for name, row in figures.items():
            median = row[f"pictures_to_{level}"]
            shown = "none" if median is None else f"{median:g}"
            shares.append([name, shown, *(str(row[f"runs_to_{level}"][str(point)]) for point in points)])
        count = next(iter(figures.values()))[f"counted_{level}"]
        parts.append(f"{words.format(count=count)}, and with how many pictures:\n\n{markdown_table(shares)}")
    return "\n\n".join(parts)


def main() -> None:
    """Runs what is not there yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", choices=("scenes", "emoji-sd"), default="scenes")
    parser.add_argument("--targets", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--tuning", action="store_true", help="other targets, and the settings that were tried")
    parser.add_argument("--only", nargs="*", help="rows by name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = World(TUNING_SEED if options.tuning else FIRST_SEEDS[options.generator], options.generator)
    rows = tuned() if options.tuning else methods()
    chosen = {name: run for name, run in rows.items() if options.only is None or name in options.only}
    name = f"black_box_{options.generator.replace('-', '_')}{'_tuning' if options.tuning else ''}"
    cells = Cells(name, describe=lambda figures: f"{figures['points']} clip {figures['clip']:.3f}")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for target, seed in itertools.product(range(options.targets), range(options.seeds)):
        for row, run in chosen.items():
            cell = {"method": row, "of": world.first_seed, "target": target, "seed": seed, "budget": options.budget}
            own = cells.get(cell, functools.partial(measured, world, run, target, options.budget, seed))
            found[row].append({**own, "target": target})
    figures = {row: rows_of(own, options.budget) for row, own in found.items()}
    against = compared(found, options.budget)
    first = next(iter(found.values()))
    levels = {level: by_target(first, lambda cell, own=level: cell[own]) for level in (*LEVELS, "caption")}
    print(levels)
    print(text := table(figures, against, options.budget))
    if not options.tuning and options.only is None:
        values = {"targets": options.targets, "seeds": options.seeds, "budget": options.budget, "levels": levels}
        print(save(name, {**values, "words": len(world.draw.words), "figures": figures, "compared": against}))
        write_section(DOCS / "black_box.md", options.generator, text)


if __name__ == "__main__":
    main()
