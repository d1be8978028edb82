"""Image -> prompt -> image: how alike are the picture that a prompt makes and the picture that it was found for?

    python benchmarks/round_trip.py --targets 100 --seeds 5 --workers 2

All methods get the same number of passes for each target. The judge is a model that none of them follows.
Differences from the default are paired over the targets. A run that is stopped goes on where it stopped. It
writes benchmarks/results/round_trip.json, and the page docs/round_trip.md with its pictures. With models of
your own:

    python benchmarks/round_trip.py --generator stabilityai/stable-diffusion-2-1-base --images my_pictures \\
        --backend open_clip:ViT-H-14/laion2b_s32b_b79k --judge open_clip:ViT-bigG-14/laion2b_s39b_b160k \\
        --steps 25 --guidance-scale 9
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, save_figure, save_results, subplots
from comparison import Measurement
from generation import (
    Method,
    Setting,
    Unit,
    add_options,
    bank,
    batches,
    command,
    generator_folder,
    measurement,
    open_models,
    picture_path,
    run,
    setting_of,
    targets,
)
from PIL import Image

from hardprompts.applications import picture_grid
from hardprompts.atomic import write_text_atomically
from hardprompts.evaluation import TextStatistics, markdown_table, text_statistics
from hardprompts.methods import PEZ, PH2P

DEFAULT, CAPTION, EMPTY = "default", "true caption", "empty prompt"
METHODS: dict[str, Method] = {
    DEFAULT: Method("clip"),
    "PEZ": Method("clip", PEZ(), options={"views": 1, "token_cost": 0.0}),
    "PEZ+bank": Method("clip", PEZ(), bank=True, options={"views": 1, "token_cost": 0.0}),
    "PH2P (paper)": Method("diffusion", PH2P.paper()),
    "PH2P (code)": Method("diffusion", PH2P.code()),
    "PH2P (L-BFGS, soft prompt stays)": Method("diffusion", PH2P.lbfgs()),
    "PH2P (ours)": Method("diffusion", PH2P()),
    "soft": Method("soft"),
    CAPTION: Method("text", "caption"),
    EMPTY: Method("text", "empty"),
}
BY_LENGTH = (DEFAULT, "PEZ", "PH2P (code)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--lengths", type=int, nargs="*", default=[2, 4, 8, 16, 32], help="of the second table")
    parser.add_argument("--length-methods", nargs="*", default=list(BY_LENGTH), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--diffusion-targets", type=int, help="fewer, for the methods that follow the denoiser")
    parser.add_argument("--diffusion-seeds", type=int, help="likewise; a pass costs them many times more")
    parser.add_argument("--length-seeds", type=int, help="fewer runs of each target, for the second table")
    parser.add_argument("--output", type=Path, default=RESULTS / "round_trip.json")
    arguments = parser.parse_args()
    setting = setting_of(arguments)
    generator_folder(setting.generator)
    images, captions = targets(setting)
    methods = [name for name in METHODS if name in {DEFAULT, EMPTY, *arguments.methods}]
    if not all(captions) and CAPTION in methods:
        print("some targets have no caption, so the true caption is left out")
        methods.remove(CAPTION)
    room = open_models(setting).backend.text_encoder.max_tokens
    lengths = sorted({min(length, room) for length in arguments.lengths})
    if max(arguments.lengths, default=0) > room:
        print(f"{setting.backend} has room for {room} tokens; longer prompts are as long as that")

    slow = {name for name in methods if METHODS[name].kind == "diffusion"}

    def units(name: str, length: int, seed: int) -> list[Unit]:
        few = name in slow and arguments.diffusion_targets is not None
        count = min(len(images), arguments.diffusion_targets) if few else len(images)
        if name in slow and arguments.diffusion_seeds is not None and seed >= arguments.diffusion_seeds:
            return []
        return [Unit(name, length, seed, part) for part in batches(count, arguments.batch)]

    seeds = range(arguments.seeds)
    main_units = [unit for seed in seeds for name in methods for unit in units(name, arguments.num_tokens, seed)]
    by_length = [name for name in methods if name in arguments.length_methods]
    other_lengths = [length for length in lengths if length != arguments.num_tokens]
    length_seeds = seeds if arguments.length_seeds is None else range(arguments.length_seeds)
    length_units = [
        unit
        for seed in length_seeds
        for name in by_length
        for length in other_lengths
        for unit in units(name, length, seed)
    ]
    keep = str(arguments.output.with_suffix("")) + "_pictures"
    records = run([*main_units, *length_units], METHODS, setting, arguments.output, arguments.workers, keep)
    facts = report(records, setting, methods, by_length, lengths, arguments.num_tokens, arguments.seeds)
    shown = render(facts, images, methods, by_length, Path(keep), arguments)
    print(shown)
    kept = {name: value for name, value in facts.items() if name != "lines"}
    print(save_results(arguments.output, kept))


# --- what was found -----------------------------------------------------------------------


def report(
    records: Sequence[Mapping[str, Any]],
    setting: Setting,
    methods: Sequence[str],
    by_length: Sequence[str],
    lengths: Sequence[int],
    num_tokens: int,
    seeds: int,
) -> dict[str, Any]:
    """All figures, and the rows of both tables."""
    found = {name: measurement(records, name, num_tokens) for name in methods}
    words, vocabulary = bank(), open_models(setting).backend.vocabulary
    head = [
        "method",
        "image similarity",
        "over the default",
        "targets x seeds",
        "of the caption's",
        "above the empty prompt",
        *COLUMNS,
    ]
    lines, results = [head], {}
    for name, own in found.items():
        # Methods that follow the denoiser may have been run on the first targets alone.
        default, empty, caption = (_first(found.get(other), len(own.values)) for other in (DEFAULT, EMPTY, CAPTION))
        runs = [r for r in records if r["method"] == name and r["num_tokens"] == num_tokens]
        texts = [r["prompt"] for r in runs if r["prompt"]]
        statistics = text_statistics(texts, vocabulary, words) if texts else None
        share = None if caption is None else own.relative_to(caption)
        gap = None if caption is None or name == EMPTY else own.relative_to(caption, floor=empty)
        cost = [sum(r[what] for r in runs) / len(runs) for what in ("evaluations", "seconds")]
        lines.append(
            [
                *own.row(own if name == DEFAULT else default),
                f"{len(own.values)} x {len(runs) // len(own.values)}",
                "" if share is None else str(share),
                "" if gap is None else str(gap),
                *_text_cells(statistics),
                f"{cost[0]:.0f}",
                f"{cost[1]:.1f}",
            ]
        )
        results[name] = {
            "targets": len(own.values),
            "runs": len(runs),
            "similarity": interval_of(own.interval()),
            "over_default": interval_of(own.minus(default)),
            "of_caption": None if share is None else interval_of(share),
            "of_gap": None if gap is None else interval_of(gap),
            "text": None if statistics is None else dict(zip(TextStatistics.HEAD, statistics.row(), strict=True)),
            "evaluations": cost[0],
            "seconds": cost[1],
            "prompts": [r["prompt"] for r in runs if r["seed"] == 0][:10],
        }
        if setting.pictures > 1:
            results[name]["diversity"] = interval_of(measurement(records, name, num_tokens, "diversity").interval())
    curves = {
        name: {length: interval_of(measurement(records, name, length).interval()) for length in lengths}
        for name in by_length
    }
    return {
        "setting": vars(setting),
        "seeds": seeds,
        "num_tokens": num_tokens,
        "methods": results,
        "lengths": curves,
        "lines": lines,
    }


def _first(measured: Measurement | None, count: int) -> Measurement | None:
    return None if measured is None else Measurement(measured.name, measured.values[:count])


COLUMNS = ("tokens", "words of the world", "repeated words", "passes", "seconds to find")


def _text_cells(statistics: TextStatistics | None) -> list[str]:
    if statistics is None:
        return ["", "", ""]
    _, tokens, _, known, _, repeated = statistics.row()
    return [tokens, known, repeated]


def interval_of(interval: Any) -> list[float]:
    """The figure with its ends, as JSON has them."""
    return [interval.mean, interval.low, interval.high]


# --- the page -----------------------------------------------------------------------------


def render(
    facts: Mapping[str, Any],
    images: Sequence[Image.Image],
    methods: Sequence[str],
    by_length: Sequence[str],
    kept: Path,
    arguments: argparse.Namespace,
) -> str:
    """Writes the page with its pictures; returns its tables."""
    table = markdown_table(facts["lines"])
    lengths = [["tokens", *by_length]]
    for length in sorted({length for curve in facts["lengths"].values() for length in curve}):
        lengths.append([str(length), *(_plus_minus(facts["lengths"][name][length]) for name in by_length)])
    second = markdown_table(lengths)
    folder, name = arguments.docs, arguments.output.stem
    folder.mkdir(parents=True, exist_ok=True)
    plot(facts, folder / f"{name}.png")
    shown = range(min(6, len(images)))
    cells: list[tuple[Image.Image | None, str]] = [(images[target], f"target {target + 1}") for target in shown]
    for method in methods:
        paths = [picture_path(kept, method, arguments.num_tokens, target) for target in shown]
        cells += [(Image.open(path) if path.exists() else None, method) for path in paths]
    picture_grid([c[0] for c in cells], [c[1] for c in cells], len(shown), cell=96).save(
        folder / f"{name}_pictures.png"
    )
    setting = facts["setting"]
    by_length_section = f"\n## By length\n\n{second}\n" if by_length else ""
    page = f"""# Image to prompt to image

```console
{command()}
```

{len(images)} targets, seeds: {facts["seeds"]}; prompts of {facts["num_tokens"]} tokens, about {setting["evaluations"]}
passes for each. Pictures by `{setting["generator"]}`, {setting["steps"]} steps, guidance {setting["guidance_scale"]}.
Image similarity is the cosine, by `{setting["judge"]}`, of the picture that a prompt makes with the target; no method
follows this judge. Intervals are 95 %; differences are paired over the targets. A pass of a prompt through the denoiser
costs more than one through the text encoder, so seconds stand beside the passes.

{table}

![Image similarity by method{" and by length" if by_length else ""}]({name}.png)
{by_length_section}
## What they draw

The first targets, and the pictures of their prompts with seed 0.

![Pictures of the first targets]({name}_pictures.png)
"""
    write_text_atomically(folder / f"{name}.md", page)
    return f"{table}\n\n{second}"


def _plus_minus(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:.3f} ± {(high - low) / 2:.3f}"


def plot(facts: Mapping[str, Any], path: Path) -> None:
    """Image similarity by method, and by the length of the prompt."""
    if facts["lengths"]:
        figure, (left, right) = subplots(1, 2, figsize=(11, 4.2), width_ratios=(1.2, 1))
    else:
        (figure, left), right = subplots(figsize=(6.5, 4.2)), None
    names = list(facts["methods"])[::-1]
    values = [facts["methods"][name]["similarity"] for name in names]
    errors = [[v[0] - v[1] for v in values], [v[2] - v[0] for v in values]]
    colors = [
        "#d0791f" if name == DEFAULT else "#6c8ebf" if name not in (CAPTION, EMPTY) else "#999999" for name in names
    ]
    left.barh(names, [v[0] for v in values], xerr=errors, color=colors, capsize=3)
    left.set_xlim(0.0, min(1.0, max(v[2] for v in values) + 0.05))
    left.set_xlabel("image similarity, 95 % interval")
    if right is not None:
        for name, curve in facts["lengths"].items():
            ordered = sorted(curve.items())
            low, high = ([v[0] - v[1] for _, v in ordered], [v[2] - v[0] for _, v in ordered])
            right.errorbar(
                [n for n, _ in ordered], [v[0] for _, v in ordered], yerr=[low, high], marker="o", capsize=3, label=name
            )
        right.set_xscale("log", base=2)
        right.set_xticks(
            ticks := sorted({n for curve in facts["lengths"].values() for n in curve}), list(map(str, ticks))
        )
        right.set_xlabel("tokens")
        right.set_ylabel("image similarity")
        right.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
