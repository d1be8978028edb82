"""Prompts by the denoising error, at equal processor seconds: the default against PH2P alone.

    python benchmarks/denoising.py --targets 40 --seconds 6

Every search gets the same processor seconds for each target, whatever it spends them on: opening a CLIP and searching
with it count too. Prompts are judged by the pictures that they make, by a model that none follows. It writes
benchmarks/results/denoising.json, and the section `denoising` of docs/results.md. Runs that are there already, in
benchmarks/results/denoising.jsonl, are not made again; `--only NAME` makes those of one search alone and no table, and
`--no-runs` a table of those that are there.
"""

import argparse
import contextlib
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import DOCS, Cells, save, write_section
from comparison import Measurement
from generation import Setting, draw, open_models, picture_seeds, targets
from round_trip import interval_of

import hardprompts.allowance
from hardprompts import HardPrompt, PromptInverter
from hardprompts.evaluation import image_similarities, markdown_table

#: Rows through the denoiser at once, for every search: the small model of the benchmark is faster so.
BATCH_SIZE = 32


def by_processor_time() -> None:
    """Deadlines and measurements of this process count its own processor seconds from here on, on one thread."""
    wall = hardprompts.allowance.clock
    for name, module in list(sys.modules.items()):
        if name.startswith("hardprompts") and getattr(module, "clock", None) is wall:
            module.clock = time.process_time
    torch.set_num_threads(1)


def by_denoiser(setting: Setting, target: int, seed: int, seconds: float, **options: Any) -> HardPrompt:
    """The prompt of a target by the generator's own denoising error."""
    found = open_models(setting).pipe.invert_prompt(
        targets(setting)[0][target], match="diffusion", deadline=seconds, batch_size=BATCH_SIZE,
        generator=torch.Generator().manual_seed(seed), **options,
    )  # fmt: skip
    prompt: HardPrompt = found.hard_prompts[0]
    return prompt


def by_clip(setting: Setting, target: int, seed: int, seconds: float) -> HardPrompt:
    """The prompt of a target by the similarity of features alone."""
    inverter = PromptInverter(open_models(setting).backend)
    return inverter.invert(targets(setting)[0][target], seed=seed, deadline=seconds, progress=False)


#: The figures of each search: for each target those of its seeds.
Runs = dict[str, dict[int, list[dict[str, Any]]]]

#: What is compared, PH2P first: the differences are from it.
SEARCHES: dict[str, Callable[..., HardPrompt]] = {
    "ph2p": functools.partial(by_denoiser, method="ph2p"),
    "ph2p+refine, from a CLIP's prompts (default)": by_denoiser,
    "ph2p+refine, without a CLIP": functools.partial(by_denoiser, clip_starts=False),
    "CLIP alone": by_clip,
}
BASE, DEFAULT = list(SEARCHES)[:2]


def measured(setting: Setting, name: str, target: int, seed: int, seconds: float) -> dict[str, Any]:
    """One search, and how similar the pictures of its prompt are to the target."""
    began = time.process_time()
    found = SEARCHES[name](setting, target, seed, seconds)
    spent = time.process_time() - began
    models = open_models(setting)
    drawn = draw(models, [found.filled], picture_seeds(target, seed, 1), setting)
    (similarity,) = image_similarities([drawn], [targets(setting)[0][target]], models.judge)
    return {
        "similarity": similarity, "score": found.score, "seconds": round(spent, 3), "evaluations": found.evaluations,
        "prompt": found.filled, "tokens": len(found.token_ids), "stop_reason": str(found.stop_reason),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="target to begin at")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="of the processor, for each target and search")
    parser.add_argument("--only", choices=list(SEARCHES), help="one search alone, without a table")
    parser.add_argument("--no-runs", action="store_true", help="a table of the runs that are there")
    arguments = parser.parse_args()
    setting = Setting(targets=arguments.targets)
    cells = Cells("denoising", arguments.no_runs, lambda figures: f"{figures['similarity']:.3f} {figures['prompt']}")
    if not arguments.no_runs:
        open_models(setting)
        by_processor_time()
    found: Runs = {}
    for target in range(arguments.first, arguments.targets):
        for name in [arguments.only] if arguments.only else SEARCHES:
            with contextlib.suppress(LookupError):  # a run that is not there, with --no-runs
                found.setdefault(name, {})[target] = [
                    cells.get(
                        {"search": name, "target": target, "seed": seed, "seconds": arguments.seconds},
                        functools.partial(measured, setting, name, target, seed, arguments.seconds),
                    )
                    for seed in range(arguments.seeds)
                ]
    if arguments.only is None:
        report(found, arguments)


def report(found: Runs, arguments: argparse.Namespace) -> Path:
    """Writes the table, and the figures; a search is compared with PH2P on the targets that both have."""

    def of(name: str, what: str, targets: list[int]) -> Measurement:
        return Measurement.of_runs(name, [[run[what] for run in found[name][target]] for target in targets])

    lines = [["search", "targets", "image similarity", "over PH2P, paired", "own score", "tokens", "seconds"]]
    results = {}
    for name, of_targets in found.items():
        both = sorted(of_targets.keys() & found[BASE].keys())
        similarity, base, score = of(name, "similarity", both), of(BASE, "similarity", both), of(name, "score", both)
        over = "" if name == BASE else similarity.row(base)[2]
        means = [of(name, what, both).interval().mean for what in ("tokens", "seconds")]
        # A CLIP's score is another one.
        own = "" if name == "CLIP alone" else str(score.interval())
        lines.append([name, f"{len(both)}", similarity.row()[1], over, own, f"{means[0]:.1f}", f"{means[1]:.1f}"])
        results[name] = {
            "targets": both,
            "similarity": interval_of(similarity.interval()),
            "over_ph2p": interval_of(similarity.minus(base)),
            "score": interval_of(score.interval()),
            "tokens": means[0],
            "seconds": means[1],
            "prompts": [of_targets[target][0]["prompt"] for target in both],
        }
    text = f"""```console
python benchmarks/denoising.py --targets {arguments.targets} --seeds {arguments.seeds} --seconds {arguments.seconds:g}
```

Scenes of the embedded world, seeds: {arguments.seeds}, prompts of at most 8 tokens, {arguments.seconds:.0f} seconds of
one core for each search and target, {BATCH_SIZE} rows at once; one picture of each prompt by `emoji-sd`, the same noise
for all searches, judged by `emoji-clip-reference`.

{markdown_table(lines)}
"""
    print(text)
    write_section(DOCS / "results.md", "denoising", text)
    return save("denoising", {"arguments": vars(arguments), "searches": results})


if __name__ == "__main__":
    main()
