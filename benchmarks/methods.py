"""Which search is better when all spend the same? Every method, judged by a model that none of them sees.

    python benchmarks/methods.py

Each method gets the same number of forward and backward passes for each of the same unseen scenes, half of them
with two objects, one scene at a time. What counts is the neutral judge (emoji-clip-reference) and whether the scene
is named; the similarity that was optimized stands beside, to show that it decides little. Differences from the
default are paired over the targets, seeds averaged, with 95 % intervals. The default's row is what
`PromptInverter("emoji", proposers="none").invert(image, max_evaluations=N)` gives: methods are compared alone, without
a decoder's texts (decoder.py). All rows share its tokens, template and views,
except where a row says otherwise.

Among how many restarts a method's passes are divided stands in its row (the best of three such numbers, which
`--tune` compares on other scenes), and schedules are fitted to the passes. A run that is stopped goes on where it
stopped. It writes benchmarks/results/methods.json, the table of docs/methods.md and its picture. `--group before`
compares the default with the one before it alone, `--group pez+refine` that one with variants of itself, `--group
language_models` what language models write, and `--group fluency`, every method on fewer targets, how fluent they are:
nats a word by a language model that none of them asks. The first row of a group is what the others are compared with.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from common import (
    DOCS,
    Cells,
    nats_of,
    pictures,
    save,
    save_figure,
    scenes_in_turn,
    subplots,
    truth_rows,
    write_section,
)
from comparison import Measurement
from generation import bank, command

from hardprompts import Backend, HardPrompt, PromptInverter, load_backend
from hardprompts.encoders import normalize
from hardprompts.evaluation import markdown_table, text_statistics
from hardprompts.methods import (
    ARCA,
    GBDA,
    GCG,
    MAC,
    PEZ,
    AutoPrompt,
    AutoPromptSGD,
    BeamSearch,
    Evolution,
    FluentPrompt,
    PEZBank,
    PEZRefine,
    PhraseBank,
    PhraseTable,
    PromptTuning,
    RandomSearch,
    Refine,
)
from hardprompts.search import DEFAULT_METHOD, SearchProgress
from hardprompts_emoji import scenes as world
from hardprompts_emoji.scenes import HELD_OUT_SEED, Scene
from hardprompts_transformers.masked_particles import MaskedParticles
from hardprompts_transformers.product_of_experts import ProductOfExperts

#: Scenes of the measurements, and others to choose restarts by; truth_recovery.py has others again.
MEASURED, TUNED_ON = HELD_OUT_SEED + 500_000, HELD_OUT_SEED + 700_000

#: Targets of one cell, which is finished or measured again as a whole.
PART = 10

#: Restarts that `--tune` compares.
RESTARTS = (1, 4, 16)

#: What tells how fluent prompts are; no method of the tables asks it.
FLUENCY_MODEL = "emoji:emoji-lm-large"

#: Processor seconds at which the prompt so far is looked at.
SECONDS = tuple(0.0625 * 2**k for k in range(8))


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        method: what makes the method, given the passes of each restart and the tokens.
        restarts: that the passes are divided among.
        options: of `invert`, where they are others than everybody's.
        prior: a language model that has a say.
        tuned: `--tune` compares its restarts.
    """

    method: Callable[[int, int], Any]
    restarts: int = 16
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prior: str | None = None
    tuned: bool = True


def beam(passes: int, tokens: int) -> BeamSearch:
    """As many beams as the passes allow; the first token takes but one."""
    one = BeamSearch()
    of_beam = 2 * one.probes + one.candidates + len(one.connectors)
    return dataclasses.replace(one, beams=max(1, (passes // of_beam - 1) // max(1, tokens - 1)))


def product_of_experts(passes: int, tokens: int) -> ProductOfExperts:
    """As many beams as the passes allow."""
    one = ProductOfExperts()
    return dataclasses.replace(one, beams=max(1, passes // (tokens * (one.expand + one.seed_words))))


def masked_particles(passes: int, _: int) -> MaskedParticles:
    """As many particles as the passes allow."""
    one = MaskedParticles()
    return dataclasses.replace(one, particles=max(1, passes // one.rounds))


def world_bank() -> tuple[PhraseTable, ...]:
    """What the embedded world is made of: pictures, things and backgrounds, as phrases."""
    styles = [f"{word} picture" for words in world.STYLES.values() for word in words]
    backgrounds = [f"{word} background" for words in world.BACKGROUNDS.values() for word in words]
    tables = (("styles", styles), ("backgrounds", backgrounds), ("objects", list(world.OBJECTS)))
    return tuple(PhraseTable.create(name, phrases) for name, phrases in tables)


DEFAULT, SOFT, CAPTION = f"{DEFAULT_METHOD} (default)", "soft prompt, nearest words", "true caption"
METHODS: dict[str, Row] = {
    DEFAULT: Row(lambda *_: DEFAULT_METHOD, tuned=False),
    "pez+refine": Row(lambda *_: PEZRefine(), tuned=False),
    "pez": Row(lambda *_: PEZ()),
    "refine": Row(lambda *_: Refine(), 1),
    "gcg": Row(lambda *_: GCG(), 4),
    "mac": Row(lambda *_: MAC(), 4),
    "arca": Row(lambda *_: ARCA(), 1),
    "autoprompt": Row(lambda *_: AutoPrompt(), 4),
    "hotflip": Row(lambda *_: AutoPrompt.hotflip()),
    "autoprompt-sgd": Row(lambda *_: AutoPromptSGD()),
    "fluentprompt": Row(lambda passes, _: FluentPrompt(anneal_steps=max(1, passes // 2))),
    "gbda": Row(lambda *_: GBDA(), 1),
    "random search": Row(lambda *_: RandomSearch(), tuned=False),
    "greedy": Row(lambda *_: RandomSearch.greedy(), 1),
    "evolution": Row(lambda *_: Evolution(), tuned=False),
    "beam": Row(beam, 1, tuned=False),
    "beam, language model": Row(beam, 1, prior="emoji:emoji-lm", tuned=False),
    "vgd": Row(product_of_experts, 1, tuned=False),
    "masked-particles": Row(masked_particles, 1, tuned=False),
    "pez+bank": Row(lambda *_: PEZBank()),
    "pez, words of the world": Row(lambda *_: PEZ(), 1, {"vocabulary": bank}),
    "phrase bank": Row(lambda *_: PhraseBank(), 1, tuned=False),
    "phrase bank, fast": Row(lambda *_: PhraseBank.fast(), 1, tuned=False),
    "phrase bank, classic": Row(lambda *_: PhraseBank.classic(), 1, tuned=False),
    "phrase bank of the world": Row(lambda *_: PhraseBank(tables=world_bank()), 1, tuned=False),
    SOFT: Row(lambda *_: PromptTuning()),
    CAPTION: Row(lambda *_: None, tuned=False),
}
VARIANTS: dict[str, Row] = {
    "pez+refine": METHODS["pez+refine"],
    "one view": Row(lambda *_: PEZRefine(), options={"views": 1}),
    "tokens cost nothing": Row(lambda *_: PEZRefine(), options={"token_cost": 0.0}),
    "tokens cost twice as much": Row(lambda *_: PEZRefine(), options={"token_cost": 0.3}),
    "1 token dropped in pez": Row(lambda *_: PEZRefine(explore=PEZ(token_dropout=1))),
    "L2 projection": Row(lambda *_: PEZRefine(explore=PEZ(metric="l2"))),
    "20 steps of pez": Row(lambda *_: PEZRefine(explore_steps=20)),
    "pez has at most half of the passes": Row(lambda *_: PEZRefine(explore_share=0.5)),
    "pez has at most three quarters": Row(lambda *_: PEZRefine(explore_share=0.75)),
    "all 64 candidates from the start": Row(lambda *_: PEZRefine(refine=Refine(first_candidates=64))),
    "1 prompt refined": Row(lambda *_: PEZRefine(refined=1)),
    "8 restarts, 2 refined": Row(lambda *_: PEZRefine(refined=2), 8),
    "32 candidates for each place": Row(lambda *_: PEZRefine(refine=Refine(candidates_per_slot=32))),
    "pez as in the paper: one view, tokens cost nothing": Row(
        lambda *_: PEZ(), options={"views": 1, "token_cost": 0.0}
    ),
}
GROUPS = {
    "methods": METHODS,
    "before": {name: METHODS[name] for name in (DEFAULT, "pez+refine")},
    "pez+refine": VARIANTS,
    "language_models": {
        **{name: METHODS[name] for name in (DEFAULT, "beam", "beam, language model", "vgd", "masked-particles")},
        "vgd, the language model's tokens alone": Row(
            lambda passes, tokens: dataclasses.replace(product_of_experts(passes, tokens), seed_words=0), 1, tuned=False
        ),
        CAPTION: METHODS[CAPTION],
    },
    "fluency": METHODS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=2000, help="forward and backward passes for each target")
    parser.add_argument("--num-tokens", type=int, default=8)
    parser.add_argument("--group", choices=list(GROUPS), default="methods")
    parser.add_argument("--methods", nargs="*", metavar="METHOD", help="some of the group; its first is always there")
    parser.add_argument("--tune", action="store_true", help="compare restarts, on other scenes, with one seed")
    parser.add_argument("--other-scenes", action="store_true", help="those to choose settings by; needs --name")
    parser.add_argument("--only-read", action="store_true", help="report what is there, compute nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", help="of the files in benchmarks/results, and then the page is left alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    group = GROUPS[options.group]
    unknown = set(options.methods or ()) - set(group)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(group)}")
    rows = {name: row for name, row in group.items() if name in {next(iter(group)), *(options.methods or group)}}
    if options.tune:
        tune(rows, options)
        return
    name = options.name or ("methods" if options.group == "methods" else f"methods_{options.group}")
    if options.other_scenes and options.name is None:
        parser.error("the page is of the measured scenes: give --name with --other-scenes")
    first_seed = TUNED_ON if options.other_scenes else MEASURED
    measured = Bench(options, first_seed, Cells(name, options.only_read, describe)).measure(rows)
    facts, table = report(rows, measured, options)
    print(table)
    print(save(name, facts))
    if options.name is None:
        write_section(DOCS / "methods.md", name, f"```console\n{command()}\n```\n\n{table}")
        if options.group == "methods":
            plot(facts, DOCS / "methods.png")


# --- running ------------------------------------------------------------------------------


class Bench:
    """Targets, and what each method makes of them."""

    def __init__(self, options: argparse.Namespace, first_seed: int, cells: Cells) -> None:
        self.options, self.cells = options, cells
        self.backend, self.judge = load_backend("emoji"), load_backend("emoji:emoji-clip-reference")
        self.scenes = scenes_in_turn(options.targets, first_seed)
        self.images = pictures(self.scenes)
        self.targets = self.backend.encode_images(self.images)
        self.judged = self.judge.encode_images(self.images)

    def measure(self, rows: Mapping[str, Row]) -> dict[str, list[list[dict[str, Any]]]]:
        """Of each method the runs of each target; a caption needs no seeds.

        Without computing (`only_read`) the targets and seeds that all methods have.
        """
        found: dict[str, list[list[dict[str, Any]]]] = {name: [[] for _ in self.scenes] for name in rows}
        for seed in range(self.options.seeds):
            for first in range(0, len(self.scenes), PART):
                places = range(first, min(first + PART, len(self.scenes)))
                try:
                    cells = {name: self.cell(name, row, seed, places) for name, row in rows.items()}
                except LookupError as error:
                    print(error)
                    continue
                for name, own in cells.items():
                    for place, run in zip(places, own, strict=True):
                        found[name][place].append(run)
        kept = [place for place, runs in enumerate(next(iter(found.values()))) if runs]
        if not kept:
            raise SystemExit("no part of the targets is finished for all of these methods")
        return {name: [runs[place] for place in kept] for name, runs in found.items()}

    def cell(self, name: str, row: Row, seed: int, places: range) -> list[dict[str, Any]]:
        """The runs of a part of the targets."""
        cell = {
            "method": name, "restarts": row.restarts, "passes": self.options.passes,
            "tokens": self.options.num_tokens, "seed": 0 if name == CAPTION else seed, "first": places.start,
            "count": len(places), "scenes": self.scenes[places.start].objects[0].name,
        }  # fmt: skip
        runs = self.cells.get(cell, lambda: {"runs": [self.run(name, row, seed, place) for place in places]})
        return list(runs["runs"])

    def run(self, name: str, row: Row, seed: int, place: int) -> dict[str, Any]:
        """One prompt for one target, and what is known of it."""
        extra: dict[str, Any] = {}
        if name == CAPTION:
            prompt, trace, wall = self.caption(self.scenes[place]), Trace(), 0.0
        else:
            method = row.method(self.options.passes // row.restarts, self.options.num_tokens)
            soft = SoftBest()
            if isinstance(method, PromptTuning):
                method = dataclasses.replace(method, observe=soft)
            prompt, trace, wall = self.search(row, method, seed, place)
            if soft.prompt is not None:
                features = normalize(self.backend.text_encoder.encode(soft.prompt.unsqueeze(0)))
                extra["soft_similarity"] = float(features[0] @ self.targets[place])
        (truth,) = truth_rows([prompt], [self.scenes[place]], [self.images[place]], self.judge)
        keep = ("prompt", "objects", "background", "style", "similarity", "judge", "tokens", "evaluations")
        return {
            **{key: truth[key] for key in keep},
            "two": len(self.scenes[place].objects) == 2,
            "reencodes": text_statistics([prompt], self.backend.vocabulary).round_trip_rate == 1,
            "seconds": round(trace.seconds, 4),
            "wall": round(wall, 4),
            "curves": self.curves(trace, place),
            **extra,
        }

    def search(self, row: Row, method: Any, seed: int, place: int) -> tuple[HardPrompt, "Trace", float]:
        """The prompt that a method finds, how it came about, and the seconds that passed."""
        inverter = PromptInverter(self.backend, method=method, prior=prior(row.prior), proposers="none")
        options = {key: value() if callable(value) else value for key, value in row.options.items()}
        wall, trace = time.perf_counter(), Trace()
        prompt = inverter.invert(
            self.images[place], self.options.num_tokens, restarts=row.restarts, seed=seed,
            max_evaluations=self.options.passes, callback=trace.step, progress=False, **options,
        )  # fmt: skip
        trace.add(prompt.evaluations, prompt.text)
        return prompt, trace, time.perf_counter() - wall

    def caption(self, scene: Scene) -> HardPrompt:
        """The true caption as a prompt."""
        text = world.caption(scene)
        place = self.scenes.index(scene)
        similarity = float(self.backend.encode_texts([text])[0] @ self.targets[place])
        ids = tuple(self.backend.vocabulary.encode(text))
        return HardPrompt(
            text=text, token_ids=ids, score=similarity, template="{}", model=self.backend.name, method=CAPTION
        )

    def curves(self, trace: "Trace", place: int) -> dict[str, list[float | None]]:
        """Similarity and judge of the best prompt so far, at some numbers of passes and seconds."""
        at = {
            "passes": [trace.at(mark, 0) for mark in pass_marks(self.options.passes)],
            "seconds": [trace.at(mark, 1) for mark in SECONDS],
        }
        texts = sorted({text for found in at.values() for text in found if text is not None})
        found: dict[str, list[float | None]] = {}
        for name, model, target in (("own", self.backend, self.targets), ("judge", self.judge, self.judged)):
            scores = model.encode_texts(texts) @ target[place] if texts else []
            known: dict[str | None, float] = {t: round(float(s), 4) for t, s in zip(texts, scores, strict=True)}
            for mark, own in at.items():
                found[f"{name} at {mark}"] = [known.get(text) for text in own]
        return found


@dataclasses.dataclass
class Trace:
    """When the best prompt so far became another: (passes, processor seconds, text)."""

    points: list[tuple[int, float, str]] = dataclasses.field(default_factory=list)
    start: float = dataclasses.field(default_factory=time.process_time)
    seconds: float = 0.0

    def step(self, progress: SearchProgress) -> None:
        best = progress.best[0]
        if best is not None:
            self.add(progress.evaluations, best.text)

    def add(self, passes: int, text: str) -> None:
        self.seconds = time.process_time() - self.start
        if not self.points or self.points[-1][2] != text:
            self.points.append((passes, self.seconds, text))

    def at(self, mark: float, coordinate: int) -> str | None:
        """The best prompt when so many passes (coordinate 0) or seconds (1) were spent, if there was one."""
        return next((point[2] for point in reversed(self.points) if point[coordinate] <= mark), None)


@dataclasses.dataclass
class SoftBest:
    """The soft prompt of lowest loss that a search came by."""

    loss: float = float("inf")
    prompt: torch.Tensor | None = None

    def __call__(self, soft: torch.Tensor, losses: torch.Tensor) -> None:
        place = int(losses.argmin())
        if float(losses[place]) < self.loss:
            self.loss, self.prompt = float(losses[place]), soft[place].clone()


@functools.cache
def prior(name: str | None) -> Backend | None:
    """An open language model."""
    return None if name is None else load_backend(name)


def pass_marks(passes: int) -> list[int]:
    """Numbers of passes at which the prompt so far is looked at."""
    return [passes >> k for k in range(6, -1, -1)]


def describe(figures: Mapping[str, Any]) -> str:
    """A cell in a line."""
    runs = figures["runs"]
    means = {
        key: sum(run[key] for run in runs) / len(runs) for key in ("judge", "similarity", "evaluations", "seconds")
    }
    return (
        f"judge {means['judge']:.3f}, own {means['similarity']:.3f}, {means['evaluations']:.0f} passes, "
        f"{means['seconds']:.2f} s, {runs[0]['prompt']!r}"
    )


def tune(rows: Mapping[str, Row], options: argparse.Namespace) -> None:
    """Prints what the judge makes of each method with several numbers of restarts."""
    options.targets, options.seeds = min(options.targets, 20), 1
    bench = Bench(options, TUNED_ON, Cells("methods_tuning", options.only_read, describe))
    table = [["method", *(f"{count} restarts" for count in RESTARTS), "in use"]]
    reference = next(iter(rows))
    for name, row in rows.items():
        if not row.tuned:
            continue
        cells = []
        for count in RESTARTS:
            runs = bench.measure({reference: rows[reference], name: dataclasses.replace(row, restarts=count)})[name]
            cells.append(str(by_target(name, runs, "judge").interval()))
        table.append([name, *cells, str(row.restarts)])
    print(markdown_table(table))


# --- reporting ----------------------------------------------------------------------------


def by_target(name: str, runs: Sequence[Sequence[Mapping[str, Any]]], key: str) -> Measurement:
    """A figure of each target, the mean over its seeds."""
    return Measurement.of_runs(name, [[float(run[key]) for run in own] for own in runs])


HEAD = (
    "method", "restarts", "judge", "over the default", "own similarity", "objects", "background", "style",
    "nats a word", "tokens", "re-encodes", "passes", "processor s",
)  # fmt: skip


def report(
    rows: Mapping[str, Row], measured: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], options: argparse.Namespace
) -> tuple[dict[str, Any], str]:
    """All figures, and the table, best judge first; differences are from the first of the rows."""
    told = nats_of([run["prompt"] for own in measured.values() for runs in own for run in runs], FLUENCY_MODEL)
    measured = {
        name: [[{**run, "nats": told[run["prompt"]]} for run in runs] for runs in own] for name, own in measured.items()
    }
    judged = {name: by_target(name, runs, "judge") for name, runs in measured.items()}
    first = next(iter(rows))
    reference, called = judged[first], _called(first)
    facts: dict[str, Any] = {}
    lines = []
    for name in sorted(judged, key=lambda name: -judged[name].interval().mean):
        own = {key: by_target(name, measured[name], key).interval() for key in KEYS}
        over = judged[name].minus(reference)
        flat = [run for runs in measured[name] for run in runs]
        facts[name] = {
            "restarts": rows[name].restarts,
            "runs": len(flat),
            "over_default": [over.mean, over.low, over.high],
            **{key: [value.mean, value.low, value.high] for key, value in own.items()},
            "judge_two_objects": sum(r["judge"] for r in flat if r["two"]) / max(1, sum(r["two"] for r in flat)),
            "passes_range": [min(r["evaluations"] for r in flat), max(r["evaluations"] for r in flat)],
            "wall": sum(run["wall"] for run in flat) / len(flat),
            "curves": mean_curves(flat),
            "prompts": [runs[0]["prompt"] for runs in measured[name][:6]],
        }
        lines.append(
            [
                name,
                "" if name == CAPTION else str(rows[name].restarts),
                str(own["judge"]),
                "" if name == first else f"{over.mean:+.3f} ± {over.half_width:.3f}",
                str(own["similarity"]),
                *(f"{100 * own[key].mean:.0f} %" for key in ("objects", "background", "style")),
                f"{own['nats'].mean:.1f}",
                f"{own['tokens'].mean:.1f}",
                f"{100 * own['reencodes'].mean:.0f} %",
                f"{own['evaluations'].mean:.0f}",
                f"{own['seconds'].mean:.2f}",
            ]
        )
        if "soft_similarity" in flat[0]:
            soft = by_target(name, measured[name], "soft_similarity").interval()
            facts[name]["soft_similarity"] = [soft.mean, soft.low, soft.high]
            spent = [f"{own['evaluations'].mean:.0f}", f"{own['seconds'].mean:.2f}"]
            lines.append(
                ["soft prompt, no text", str(rows[name].restarts), "it reads text", "", str(soft)] + [""] * 6 + spent
            )
    setting = {"targets": len(reference.values), "seeds": max(map(len, measured[first])), "passes": options.passes,
               "num_tokens": options.num_tokens, "threads": options.threads}  # fmt: skip
    facts = {"setting": setting, "pass_marks": pass_marks(options.passes), "second_marks": SECONDS, "methods": facts}
    sentence = (
        f"{setting['targets']} targets, {setting['seeds']} seeds, at most {options.passes} passes for each target, "
        f"prompts of up to {options.num_tokens} tokens. {standing(judged)} Seconds are of one thread of one processor."
    )
    head = [f"over {called}" if column == "over the default" else column for column in HEAD]
    return facts, f"{sentence}\n\n{markdown_table([head, *lines])}"


def _called(first: str) -> str:
    """What the method that others are compared with is called in a sentence."""
    return "the default" if first == DEFAULT else first


KEYS = (
    "judge",
    "similarity",
    "objects",
    "background",
    "style",
    "nats",
    "tokens",
    "reencodes",
    "evaluations",
    "seconds",
)


def standing(judged: Mapping[str, Measurement]) -> str:
    """Where the first method stands among the searches, by the judge."""
    searches = {name: own for name, own in judged.items() if name != CAPTION}
    reference = next(iter(searches))
    first = max(searches, key=lambda name: searches[name].interval().mean)
    if first == reference:
        return f"By the judge {_called(reference)} is first."
    ahead = searches[first].minus(searches[reference])
    within = "within" if ahead.low <= 0 else "not within"
    return f"By the judge {first} is first, {ahead} ahead of {_called(reference)}, which is {within} its interval."


def mean_curves(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """The mean of each curve, from where every run has a prompt."""
    found: dict[str, list[float | None]] = {}
    for name in runs[0]["curves"]:
        columns = zip(*(run["curves"][name] for run in runs), strict=True)
        found[name] = [None if None in column else round(sum(column) / len(column), 5) for column in columns]
    return found


#: Lines of the picture that have a color; the others are gray.
SHOWN = {
    DEFAULT: "#c2410c", "pez+refine": "#0f172a", "pez": "#1d4ed8", "refine": "#15803d", "gcg": "#7c3aed",
    "mac": "#db2777", "arca": "#0891b2", "autoprompt": "#a16207", "greedy": "#4d7c0f", "random search": "#44403c",
}  # fmt: skip


def plot(facts: Mapping[str, Any], path: Any) -> None:
    """Anytime curves: similarity and judge of the best prompt so far, against passes and against seconds."""
    drawn, axes = subplots(2, 2, figsize=(11, 7.5))
    for line, (kind, title) in enumerate((("own", "similarity, own model"), ("judge", "similarity, neutral judge"))):
        for column, (mark, label) in enumerate(
            (("passes", "forward and backward passes"), ("seconds", "processor seconds, one thread"))
        ):
            axis = axes[line][column]
            places = facts["pass_marks" if mark == "passes" else "second_marks"]
            for name, own in facts["methods"].items():
                if name == CAPTION:
                    if kind == "judge":
                        axis.axhline(own["judge"][0], color="gray", linestyle="--", lw=1, label=CAPTION)
                    continue
                points = [
                    (x, y) for x, y in zip(places, own["curves"][f"{kind} at {mark}"], strict=True) if y is not None
                ]
                known = name in SHOWN
                axis.plot(
                    [x for x, _ in points], [y for _, y in points], color=SHOWN.get(name, "#d6d3d1"),
                    lw=2.2 if name == DEFAULT else 1.2, marker="." if known else None, zorder=2 + known,
                    label=name if known else None,
                )  # fmt: skip
            axis.set(xlabel=label, ylabel=title, xscale="log")
    axes[1][1].legend(frameon=False, fontsize=8, loc="lower right")
    save_figure(drawn, path)


if __name__ == "__main__":
    main()
