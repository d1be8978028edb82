"""What a step of each method asks of a card: launches, views, waits and bytes moved, on a simulated device.

    OMP_NUM_THREADS=1 python benchmarks/launches.py

Counted and not timed, so no card is needed, and the figures are the same on every machine: an operation counts as one
launch (a card launches several kernels for some), and a wait is what makes the host wait until the card has done all
that it was given. Towers: emoji-clip, and the text tower of ViT-B/32 with random weights. One picture's restarts, 6
tokens. "reports" are the looks at the scores, every 10 steps; what they cost is counted apart. A method that builds on
its own results looks at them in each step.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from common import DOCS, save, write_section

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from simulated_device import Counts, counting, simulated

from hardprompts import Backend, load_backend
from hardprompts.evaluation import markdown_table
from hardprompts.methods import BuildRefine, PEZRefine, PromptTuning, Refine
from hardprompts.objectives import FeatureSimilarity
from hardprompts.plugins import collect
from hardprompts.search import Candidates, Search, run_search

#: What is counted of a step.
COUNTED = ("launches", "views", "waits", "transfers", "bytes_moved")

#: Steps between two reports on a card, and steps that are counted.
REPORT, STEPS = 10, 30

#: Names in the table and the methods, by their registered names where they have one.
METHODS: Mapping[str, Any] = {
    **{name: name for name in ("pez", "ph2p", "ph2p-lbfgs", "gcg", "mac", "gbda", "fluentprompt", "autoprompt")},
    "pez+refine, exploring": PEZRefine(explore_steps=2 * STEPS),
    "soft": PromptTuning(),
    "refine": Refine(),
    "build+refine": BuildRefine(),
    **{name: name for name in ("arca", "evolution", "greedy", "beam")},
}


@dataclasses.dataclass(frozen=True)
class Watched:
    """A method, and what was counted up to each of its proposals."""

    search: Search
    counts: Counts
    marks: list[dict[str, int]] = dataclasses.field(default_factory=list)

    def steps(self, *arguments: Any) -> Iterator[Candidates]:
        """The proposals of the method."""
        for candidates in self.search.steps(*arguments):
            self.marks.append({name: getattr(self.counts, name) for name in COUNTED})
            yield candidates


def counted(search: Search, backend: Backend, restarts: int = 4, tokens: int = 6) -> dict[str, dict[str, float]]:
    """The counts of a step between two reports, and of a step with a report, on average."""
    vocabulary = backend.vocabulary.narrowed(None, (), None)
    target = backend.encode_texts(["a red fox on a green background"])[:, None]
    objective = FeatureSimilarity(backend.text_encoder, target, torch.ones(1, 1, device=target.device))
    start = vocabulary.sample((restarts, tokens), torch.Generator().manual_seed(0))
    with counting() as counts:
        watch = Watched(search, counts)
        run_search(watch, objective, objective, vocabulary, start, max_steps=STEPS, seed=0, report_every=REPORT)
    pairs = list(enumerate(zip(watch.marks, watch.marks[1:], strict=False), start=1))
    silent = [pair for step, pair in pairs if step % REPORT]
    reporting = [pair for step, pair in pairs if not step % REPORT]
    return {"step": _mean(silent), "step with a report": _mean(reporting)}


def _mean(pairs: list[tuple[dict[str, int], dict[str, int]]]) -> dict[str, float]:
    count = max(1, len(pairs))
    return {name: round(sum(after[name] - before[name] for before, after in pairs) / count, 2) for name in COUNTED}


def vit_b_32(device: torch.device) -> Backend:
    """The text tower of ViT-B/32, with random weights."""
    import open_clip

    from hardprompts_openclip.backend import from_model

    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    vision = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 32, "image_size": 32}
    return from_model(open_clip.CLIP(512, vision, text).to(device), open_clip.get_tokenizer("ViT-B-32"))


def rows_of(tower: str, backend: Backend, names: list[str]) -> list[dict[str, Any]]:
    """One row for each method."""
    known = collect("search_methods")
    rows = []
    for name in names:
        method = METHODS[name]
        search = known[method]() if isinstance(method, str) else method
        rows.append({"tower": tower, "method": name, **counted(search, backend)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Counts, prints a table, and saves the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    parser.add_argument("--towers", nargs="+", default=["emoji-clip", "ViT-B/32"], choices=["emoji-clip", "ViT-B/32"])
    arguments = parser.parse_args()
    rows = []
    with simulated() as device:
        for tower in arguments.towers:
            backend = load_backend("emoji", device=device) if tower == "emoji-clip" else vit_b_32(device)
            rows += rows_of(tower, backend, arguments.methods)
    print(table(rows))
    print(save("launches", {"what": __doc__.splitlines()[0], "rows": rows}))
    write_section(DOCS / "gpu.md", "launches", table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [["tower", "method", "launches", "views", "waits", "transfers", "waits of a report", "bytes of a report"]]
    for row in rows:
        step, report = row["step"], row["step with a report"]
        values = [
            step["launches"],
            step["views"],
            step["waits"],
            step["transfers"],
            report["waits"],
            report["bytes_moved"],
        ]
        lines.append([row["tower"], row["method"], *(f"{value:g}" for value in values)])
    return markdown_table(lines)


if __name__ == "__main__":
    main()
