"""What PH2P leaves open: which noise levels, which optimizer, which projection, which words?

    python benchmarks/ph2p_ablation.py --targets 30 --seeds 3 --workers 2

Each variant changes one thing of the base, gets the same number of passes for each target, and is judged by the
pictures that its prompts make, by a model that none follows; differences from the base are paired. It writes
benchmarks/results/ph2p_ablation.json, and docs/ph2p_ablation.md with a plot.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import RESULTS, save_figure, save_results, subplots
from generation import (
    Method,
    Unit,
    add_options,
    batches,
    command,
    generator_folder,
    measurement,
    run,
    setting_of,
    targets,
)
from round_trip import interval_of

from hardprompts.atomic import write_text_atomically
from hardprompts.evaluation import markdown_table
from hardprompts.methods import PEZ, PH2P

BASE = "base"


def variant(search: Any = PH2P(), **options: Any) -> Method:
    """PH2P with other hyperparameters, or with other options of the denoising error."""
    return Method("diffusion", search, options=options)


#: What is asked -> the answers; windows are noise levels, 0 clean and 1 pure noise.
VARIANTS: dict[str, dict[str, Method]] = {
    "": {BASE: variant()},
    "noise levels": {
        "all": variant(window=(0.0, 1.0)),
        "low: below 0.4": variant(window=(0.0, 0.4)),
        "middle: 0.4 to 0.7": variant(window=(0.4, 0.7)),
        "highest: above 0.85": variant(window=(0.85, 1.0)),
    },
    "projection": {"cosine": variant(PH2P(metric="cosine"))},
    "optimizer": {
        "AdamW": variant(PH2P(optimizer="adamw", learning_rate=1.0)),
        "L-BFGS, 5 steps on one draw": variant(PH2P.lbfgs()),
        "gradient descent, 5 steps on one draw": variant(PH2P(inner_steps=5)),
        "the code's (rate 2.4, adding up)": variant(PH2P.code()),
        "the paper's, to the letter": variant(PH2P.paper()),
        "PEZ": variant(PEZ()),
    },
    "words": {"every token": variant(PH2P(words_only=False))},
    "noises for a gradient": {
        "1": variant(noises_per_step=1),
        "all of the bank": variant(noises_per_step=None),
    },
}
METHODS = {f"{what}: {name}" if what else name: m for what, group in VARIANTS.items() for name, m in group.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(targets=30, seeds=3)
    parser.add_argument("--variants", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="VARIANT")
    parser.add_argument("--output", type=Path, default=RESULTS / "ph2p_ablation.json")
    arguments = parser.parse_args()
    setting = setting_of(arguments)
    generator_folder(setting.generator)
    names = [name for name in METHODS if name in {BASE, *arguments.variants}]
    parts = batches(len(targets(setting)[0]), arguments.batch)
    units = [
        Unit(name, arguments.num_tokens, seed, part)
        for seed in range(arguments.seeds)
        for name in names
        for part in parts
    ]
    records = run(units, METHODS, setting, arguments.output, arguments.workers)

    found = {name: measurement(records, name, arguments.num_tokens) for name in names}
    own_scores = {name: measurement(records, name, arguments.num_tokens, "score") for name in names}
    base = found[BASE]
    lines, results = [["what", "variant", "image similarity", "over the base", "own score", "passes", "seconds"]], {}
    for what, group in VARIANTS.items():
        for short in group:
            name = f"{what}: {short}" if what else short
            if name not in found:
                continue
            runs = [r for r in records if r["method"] == name]
            cost = [sum(r[column] for r in runs) / len(runs) for column in ("evaluations", "seconds")]
            _, mean, over = found[name].row(base)
            # Of other noise levels the error is another one, and no longer comparable.
            own = "" if what == "noise levels" else str(own_scores[name].interval())
            lines.append([what, short, mean, over, own, f"{cost[0]:.0f}", f"{cost[1]:.1f}"])
            results[name] = {
                "similarity": interval_of(found[name].interval()),
                "over_base": interval_of(found[name].minus(base)),
                "score": interval_of(own_scores[name].interval()),
                "evaluations": cost[0],
                "seconds": cost[1],
            }
    table = markdown_table(lines)
    arguments.docs.mkdir(parents=True, exist_ok=True)
    plot(results, arguments.docs / f"{arguments.output.stem}.png")
    page = f"""# What PH2P leaves open

```console
{command()}
```

{len(base.values)} targets, seeds: {arguments.seeds}; prompts of {arguments.num_tokens} tokens, about
{setting.evaluations} passes for each. The base is `PH2P()` on the noise levels above 0.618, the later half of Stable
Diffusion's timesteps; every other row changes one thing of it. Image similarity is the cosine, by `{setting.judge}`,
of the picture that a prompt makes with the target. The own score is the share of the empty prompt's denoising error
that the prompt removes. Intervals are 95 %, differences paired over the targets.

{table}

![Difference from the base]({arguments.output.stem}.png)
"""
    write_text_atomically(arguments.docs / f"{arguments.output.stem}.md", page)
    print(table)
    facts = {
        "setting": vars(setting),
        "seeds": arguments.seeds,
        "num_tokens": arguments.num_tokens,
        "variants": results,
    }
    print(save_results(arguments.output, facts))


def plot(results: Mapping[str, Any], path: Path) -> None:
    """The paired difference of each variant from the base."""
    names = [name for name in results if name != BASE][::-1]
    values = [results[name]["over_base"] for name in names]
    figure, axes = subplots(figsize=(8, 0.34 * len(names) + 1.2))
    errors = [[v[0] - v[1] for v in values], [v[2] - v[0] for v in values]]
    axes.errorbar([v[0] for v in values], range(len(names)), xerr=errors, fmt="o", capsize=3, color="#6c8ebf")
    axes.axvline(0, color="#999999", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("image similarity over the base, paired, 95 % interval")
    save_figure(figure, path)


if __name__ == "__main__":
    main()
