"""Texts of the embedded decoder: alone, and as where a search begins, against the search alone; on scenes never seen.

`python benchmarks/decoder.py` writes results/decoder.json and the table of docs/decoder.md; with `--page
language_models` those of docs/language_models.md, where language models propose. The judge is a second model
that neither the decoder nor a search has seen. Cells that are done are kept.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from common import (
    DOCS,
    Cells,
    held_out_scenes,
    interval,
    nats_of,
    number,
    percent,
    pictures,
    save,
    summary,
    truth_rows,
    write_section,
)

from hardprompts import HardPrompt, PromptInverter, load_backend

#: First seed of the scenes that decide which settings ship, and of those that are reported.
CHOOSING, REPORTING = 1_900_000_000, 1_950_000_000

#: Ways to a prompt: proposers, and options of `invert_each`.
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "decoder alone, 8 texts (fast)": ("emoji:", {"fast": True, "proposals": 8}),
    "decoder alone, 32 texts (fast)": ("emoji:", {"fast": True}),
    "decoder alone, 128 texts (fast)": ("emoji:", {"fast": True, "proposals": 128}),
    "captions, 32 texts (fast)": ("emoji:", {"fast": True, "style": "caption", "num_tokens": 12}),
    "captions, 500 passes": ("emoji:", {"passes": 500, "style": "caption", "num_tokens": 12}),
    "decoder, 200 passes": ("emoji:", {"passes": 200}),
    "decoder, 2,000 passes": ("emoji:", {"passes": 2000}),
    "decoder, until it ends": ("emoji:", {}),
    "search alone, 2,000 passes": ("none", {"passes": 2000}),
    "search alone, until it ends": ("none", {}),
}

#: Likewise with language models as proposers, beside some of the others.
LANGUAGE_MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "VGD alone (fast)": ("lm:emoji:emoji-lm", {"fast": True}),
    "VGD, 200 passes": ("lm:emoji:emoji-lm", {"passes": 200}),
    "masked particles alone (fast)": ("mlm:emoji:emoji-mlm", {"fast": True}),
    "masked particles, 200 passes": ("mlm:emoji:emoji-mlm", {"passes": 200}),
    **{
        way: WAYS[way]
        for way in ("decoder alone, 32 texts (fast)", "decoder, 200 passes", "search alone, 2,000 passes")
    },
}

#: Of each page: the ways, and the language model that measures fluency, which proposed nothing.
PAGES = {"decoder": (WAYS, "emoji:emoji-lm"), "language_models": (LANGUAGE_MODELS, "emoji:emoji-lm-large")}

BATCH = 64


def inverted(
    inverter: PromptInverter, images: Sequence[Any], options: Mapping[str, Any]
) -> tuple[list[HardPrompt], float]:
    """The prompts of pictures in batches, and seconds of one processor for each."""
    own = {name: value for name, value in options.items() if name != "passes"}
    began = time.process_time()
    found: list[HardPrompt] = []
    for start in range(0, len(images), BATCH):
        part = list(images[start : start + BATCH])
        limit = {"max_evaluations": options["passes"] * len(part)} if "passes" in options else {}
        found += inverter.invert_each(part, batch_size=BATCH, seed=0, progress=False, **limit, **own)
    return found, (time.process_time() - began) / len(images)


def rows_of(way: str, objects: int, count: int, first_seed: int) -> dict[str, Any]:
    """What one way finds for scenes of so many objects."""
    proposers, options = {**WAYS, **LANGUAGE_MODELS}[way]
    scenes = held_out_scenes(count, objects, first_seed)
    images, judge = pictures(scenes), load_backend("emoji:emoji-clip-reference")
    inverter = PromptInverter("emoji", proposers=proposers)
    inverted(inverter, images[:2], options)  # what is read once for each model is not timed
    prompts, seconds = inverted(inverter, images, options)
    return {"seconds": seconds, "rows": truth_rows(prompts, scenes, images, judge)}


def difference(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """By how much the judge prefers the first prompts to the second ones of the same scenes, with its interval."""
    return interval(a["judge"] - b["judge"] for a, b in zip(first, second, strict=True))


def figures(cells: Cells, count: int, first_seed: int, ways: Sequence[str]) -> dict[str, Any]:
    """The figures of every way, for scenes of one and of two objects."""
    found: dict[str, Any] = {}
    for way in ways:
        for objects in (1, 2):
            cell = {"way": way, "objects": objects, "scenes": count, "seed": first_seed}
            found[f"{way}/{objects}"] = cells.get(cell, lambda w=way, o=objects: rows_of(w, o, count, first_seed))  # type: ignore[misc]
    return found


def nats_per_word(texts: Sequence[str], language_model: str) -> float:
    """How surprising a language model that proposed nothing finds the words of texts, on average."""
    told = nats_of(texts, language_model)
    return sum(told[text] for text in texts) / len(texts)


def table(found: Mapping[str, Any], ways: Sequence[str], language_model: str) -> str:
    """The figures as a table in Markdown."""
    lines = [
        "| | object named, of one | both named, of two | judge's similarity | judge: at least the caption "
        "| more than the search alone at 2,000 passes, by the judge | processor ms a picture | tokens | nats a word |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = [row for objects in (1, 2) for row in found[f"search alone, 2,000 passes/{objects}"]["rows"]]
    for way in ways:
        one, two = (found[f"{way}/{objects}"] for objects in (1, 2))
        both = [*one["rows"], *two["rows"]]
        whole = summary(both)
        mean, half = difference(both, base)
        lines.append(
            f"| {way} | {percent(summary(one['rows'])['objects'])} | {percent(summary(two['rows'])['objects'])} "
            f"| {number(whole['judge'])} | {percent(whole['judge_at_least_caption'])} | {mean:+.4f} ± {half:.4f} "
            f"| {500 * (one['seconds'] + two['seconds']):.0f} | {whole['tokens'][0]:.1f} "
            f"| {nats_per_word([row['prompt'] for row in both], language_model):.1f} |"
        )
    captions = nats_per_word([row["caption"] for row in base], language_model)
    judge = number(interval(row["judge_of_caption"] for row in base))
    lines.append(f"| the true captions | 100 % | 100 % | {judge} | 100 % | | | | {captions:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes the page's table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=96, help="of one object, and as many of two")
    parser.add_argument("--choosing", action="store_true", help="the scenes that settings are chosen by")
    parser.add_argument("--page", choices=list(PAGES), default="decoder")
    parser.add_argument("--ways", nargs="*", help="some of the page's")
    parser.add_argument("--only-read", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells("decoder", arguments.only_read, lambda told: f"{1000 * told['seconds']:.0f} ms")
    known, language_model = PAGES[arguments.page]
    ways = arguments.ways or list(known)
    found = figures(cells, arguments.scenes, CHOOSING if arguments.choosing else REPORTING, ways)
    written = table(found, ways, language_model)
    print(written)
    if not arguments.choosing:
        summaries = {name: {"seconds": cell["seconds"], **summary(cell["rows"])} for name, cell in found.items()}
        save(arguments.page, {"scenes": arguments.scenes, "figures": summaries})
        write_section(DOCS / f"{arguments.page}.md", arguments.page, written)


if __name__ == "__main__":
    main()
