"""When it pays to compile: steps of PEZ with and without `compile=True`, and the seconds that compiling takes.

    python benchmarks/compiled.py --threads 1

Towers have real shapes and, but for emoji-clip, random weights. Both sides run in turns, since what else runs on the
machine comes and goes: the least time of a step is told, and the median of how many times as fast the compiled one was
in a turn. Of one thread it is processor time. Steps until it pays: the seconds of compiling, by the clock, over what a
step saves. The same prompts: the share of restarts whose tokens agree after so many steps. It writes
benchmarks/results/compiled.json and a table of docs/gpu.md.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import DOCS, save, write_section
from generation import command
from limit import Tower

from hardprompts import run_search
from hardprompts.devices import default_device
from hardprompts.evaluation import markdown_table
from hardprompts.methods import PEZ
from hardprompts.search import graphs

STEPS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["emoji-clip", "ViT-B-32", "ViT-L-14"])
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = default_device()
    rows = []
    for name in options.models:
        tower = Tower(name, device)
        for prompts in options.prompts:
            rows.append(measured(tower, prompts, options.repetitions))
            print(markdown_table(table(rows[-1:])), flush=True)
    text = (
        f"Prompts of 8 tokens, float32, {options.threads} thread{'s' * (options.threads > 1)}, torch "
        f"{torch.__version__}, on {device.type}.\n\n{markdown_table(table(rows))}"
    )
    print(save("compiled", {"steps": STEPS, "rows": rows}))
    write_section(DOCS / "gpu.md", "compiled", f"```console\n{command()}\n```\n\n{text}")


def measured(tower: Tower, prompts: int, repetitions: int) -> dict[str, Any]:
    """The figures of one tower and one number of prompts."""
    steps = STEPS if tower.name == "emoji-clip" else graphs.MET_OFTEN + 14
    _, plain = searched(tower, prompts, steps, compile=False)
    _, _ = searched(tower, prompts, 1, compile=True)
    times, compiled = searched(tower, prompts, steps, compile=True, clock=time.perf_counter)
    compiling = max(times)
    turns = [
        [statistics.median(searched(tower, prompts, 6, compile=side)[0][1:]) for side in (False, True)]
        for _ in range(repetitions)
    ]
    eager_seconds, compiled_seconds = map(min, zip(*turns, strict=True))
    same = sum(a == b for a, b in zip(plain, compiled, strict=True)) / prompts
    return {
        "model": tower.name,
        "prompts": prompts,
        "eager_seconds": eager_seconds,
        "compiled_seconds": compiled_seconds,
        "times_as_fast": statistics.median(eager / compiled for eager, compiled in turns),
        "compile_seconds": compiling,
        "steps": steps,
        "same": same,
    }


def searched(
    tower: Tower, prompts: int, steps: int, compile: bool, clock: Callable[[], float] | None = None
) -> tuple[list[float], list[tuple[int, ...]]]:
    """The seconds of each step, and the tokens of each restart after the last one."""
    times: list[float] = []
    starts = tower.backend.vocabulary.sample((prompts, 8), torch.Generator().manual_seed(0))
    last: list[torch.Tensor] = []

    class Followed(PEZ):
        def steps(self, *arguments: Any) -> Any:
            for candidates in super().steps(*arguments):
                last[:] = [candidates.ids]
                yield candidates

    def follow(_: Any) -> None:
        times.append((clock or tower.now)())

    run_search(
        Followed(), tower.objective, tower.objective, tower.backend.vocabulary, starts, max_steps=steps, seed=0,
        report_every=1, callback=follow, compile=compile,
    )  # fmt: skip
    return [b - a for a, b in itertools.pairwise(times)], [tuple(row) for row in last[0].tolist()]


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The table."""
    found = [
        ["tower", "prompts", "ms a step", "compiled", "times as fast", "s to compile", "pays after", "same tokens"]
    ]
    for row in rows:
        saved = row["eager_seconds"] * (1 - 1 / row["times_as_fast"])
        found.append(
            [
                row["model"], str(row["prompts"]), f"{1e3 * row['eager_seconds']:.1f}",
                f"{1e3 * row['compiled_seconds']:.1f}", f"{row['times_as_fast']:.2f}",
                f"{row['compile_seconds']:.0f}",
                f"{row['compile_seconds'] / saved:,.0f} steps" if saved > 0 else "never",
                f"{row['same']:.0%} after {row['steps']} steps",
            ]
        )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
