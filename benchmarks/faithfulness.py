"""Soft prompts of held-out scenes, decoded in several ways, and what share of their effect is left.

    python benchmarks/faithfulness.py            # 50 in feature space and 50 textual inversions
    python benchmarks/faithfulness.py --quick    # 8 of either, in some minutes

Textual inversions are of the embedded diffusion model: two tokens, learned from three pictures of a scene with one
object. They take a minute or two each on a processor, and a run that was stopped goes on where it was.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, held_out_scenes, pictures, save
from comparison import Measurement, comparison_table

from hardprompts import DistilledPrompt, PromptDistiller, SoftPrompt, load_backend
from hardprompts.distillation import learn_soft_prompt, learn_soft_prompts
from hardprompts.evaluation import markdown_table
from hardprompts_emoji import path, scenes

#: The ways, by the names of the distiller's methods; the last is the product's.
METHODS = ("nearest", "nearest-l2", "pez", "refine", "pez+refine")
FIRST_SEED = scenes.HELD_OUT_SEED + 4_500_000
FIRST_SEED_OF_INVERSIONS = scenes.HELD_OUT_SEED + 4_700_000
INVERSION_TOKENS, INVERTED_TOKENS = 2, 6
#: Soft prompts are learned and matched in these; held out are the distiller's own templates.
TEMPLATES = ("{}", "a picture of {}", "the {} here")


def scenes_of(count: int) -> list[scenes.Scene]:
    """Held-out scenes with one and two objects in turn."""
    return [held_out_scenes(1, 1 + place % 2, FIRST_SEED + place)[0] for place in range(count)]


def learned(
    count: int, num_tokens: int, templates: Sequence[str], steps: int, learning_rate: float
) -> list[SoftPrompt]:
    """Soft prompts in the feature space of the embedded dual encoder, of scenes with one and two objects in turn."""
    of = scenes_of(count)
    names = [scenes.caption(scene)[:200] for scene in of]
    return learn_soft_prompts(
        load_backend("emoji"), pictures(of), names=names, num_tokens=num_tokens, templates=templates, max_steps=steps,
        learning_rate=learning_rate,
    )  # fmt: skip


def decoded(
    prompts: Sequence[Any], backend: Any, templates: Sequence[str], options: Mapping[str, Any]
) -> dict[str, list[DistilledPrompt]]:
    """Each soft prompt by each method."""
    found = {}
    for method in METHODS:
        start = time.perf_counter()
        distiller = PromptDistiller(backend, method)
        found[method] = distiller.distill_each(prompts, templates=templates, seed=0, progress=False, **options)
        print(f"{method}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def report(name: str, found: Mapping[str, Sequence[DistilledPrompt]], settings: Mapping[str, Any]) -> Path:
    """Prints the tables and writes the figures."""
    rows: dict[str, Any] = {}
    for which in ("matched", "held_out"):
        measured = []
        for method, prompts in found.items():
            shares = [getattr(prompt.faithfulness, which) for prompt in prompts]
            measured.append(Measurement(method, tuple(share.value for share in shares)))
        print(f"\n{name}: faithfulness, {which.replace('_', ' ')} "
              f"({getattr(next(iter(found.values()))[0].faithfulness, which).quantity})")  # fmt: skip
        print(comparison_table(measured, measured[-1], "share of the effect"))
        rows[which] = {one.name: {"values": one.values, "interval": str(one.interval())} for one in measured}
    examples = [["soft prompt", *found]]
    for place, prompt in enumerate(next(iter(found.values()))[:8]):
        examples.append([str(prompt.provenance["original"]), *(prompts[place].text for prompts in found.values())])
    print("\n" + markdown_table(examples))
    texts = {method: [prompt.text for prompt in prompts] for method, prompts in found.items()}
    return save(f"faithfulness_{name}", {"settings": dict(settings), "shares": rows, "prompts": texts})


# --- textual inversions -------------------------------------------------------------------


def inverted(place: int, settings: Mapping[str, Any], cache: Path) -> SoftPrompt:
    """The textual inversion of a held-out scene with one object, learned once."""
    folder = cache / f"{place:02d}"
    if not folder.exists():
        scene = scenes.sample_drawable_scene(FIRST_SEED_OF_INVERSIONS + place, 1)
        images = [scenes.render(scene, seed=seed) for seed in range(3)]
        found = learn_soft_prompt(
            load_backend(f"diffusers:{path('emoji-sd')}"), images, INVERSION_TOKENS, "{}",
            name=scenes.caption(scene)[:200], max_steps=settings["inversion_steps"], learning_rate=0.3, batch_size=32,
            seed=place,
        )  # fmt: skip
        found.save_pretrained(folder)
    return SoftPrompt.from_pretrained(folder)


def inversion_row(place: int, settings: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """One textual inversion, decoded in every way: the shares of its effect on what the denoiser predicts."""
    torch.set_num_threads(settings["threads"])
    soft, backend = inverted(place, settings, cache), load_backend(f"diffusers:{path('emoji-sd')}")
    noise = {"match": "noise", "num_noises": 8, "seed": 0, "num_tokens": INVERTED_TOKENS}
    features = {**noise, "match": "features", "max_evaluations": settings["evaluations"]}
    row: dict[str, Any] = {"place": place, "original": soft.name, "loss": soft.metadata["loss"], "ways": {}}
    for way, method, options in (
        ("nearest", "nearest", noise),
        ("nearest-l2", "nearest-l2", noise),
        ("pez, by features", "pez", features),
        ("refine, by features", "refine", features),
        ("default, by noise", "pez+refine", {**noise, "max_evaluations": settings["noise_evaluations"]}),
        ("true caption", "", {}),
    ):
        start = time.perf_counter()
        distiller = PromptDistiller(backend, method or "nearest")
        text = distiller.distill(soft, progress=False, **options).text if method else soft.name
        seconds = time.perf_counter() - start
        # Judged alike, whatever was followed, on noises that no search met.
        judged = distiller.faithfulness(text, soft, **{**noise, "seed": 1})
        assert judged.held_out is not None
        by_features = distiller.faithfulness(text, soft, match="features", num_tokens=INVERTED_TOKENS, seed=0)
        row["ways"][way] = {
            "text": text, "noise": judged.matched.value, "other levels": judged.held_out.value,
            "features": by_features.matched.value, "seconds": round(seconds, 1),
        }  # fmt: skip
    return row


def inversions(count: int, settings: Mapping[str, Any], cache: Path, workers: int) -> None:
    """Learns and decodes textual inversions of the embedded diffusion model; a run that was stopped goes on."""
    try:
        path("emoji-sd")
    except ValueError as error:
        print(f"\ntextual inversions are left out: {error}")
        return
    log = RESULTS / "faithfulness_inversions.jsonl"
    rows = {}
    if log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["settings"] == settings and record["row"]["place"] < count:
                rows[record["row"]["place"]] = record["row"]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(inversion_row, place, settings, cache) for place in range(count) if place not in rows]
        for job in as_completed(jobs):
            row = job.result()
            rows[row["place"]] = row
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"settings": settings, "row": row}) + "\n")
            print(row["place"], row["original"], {way: round(one["noise"], 2) for way, one in row["ways"].items()},
                  flush=True)  # fmt: skip
    found = [rows[place] for place in sorted(rows)]
    ways = list(found[0]["ways"])
    shares: dict[str, Any] = {}
    for quantity, described in (
        ("noise", "predicted noise, on noises that no search met"),
        ("other levels", "predicted noise at other levels too"),
        ("features", "text features"),
    ):
        measured = [Measurement(way, tuple(row["ways"][way][quantity] for row in found)) for way in ways]
        print(f"\ntextual inversions: faithfulness, {described}")
        print(comparison_table(measured, measured[ways.index("default, by noise")], "share of the effect"))
        shares[quantity] = {one.name: {"values": one.values, "interval": str(one.interval())} for one in measured}
    table = [["textual inversion of", *ways]]
    table += [[row["original"], *(row["ways"][way]["text"] for way in ways)] for row in found[:8]]
    print("\n" + markdown_table(table))
    save("faithfulness_inversions", {"settings": dict(settings), "shares": shares, "rows": found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 soft prompts, fewer steps")
    parser.add_argument("--count", type=int, help="soft prompts of either kind (default 50)")
    parser.add_argument("--soft-tokens", type=int, default=1, help="tokens of a soft prompt")
    parser.add_argument("--tokens", type=int, default=8, help="tokens of a hard prompt")
    parser.add_argument("--templates", nargs="+", default=list(TEMPLATES), help="where they are learned and matched")
    parser.add_argument("--steps", type=int, help="of learning a soft prompt")
    parser.add_argument("--evaluations", type=int, help="passes of one prompt for each soft prompt, alike for all")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of learning: more leads farther from words")
    parser.add_argument("--restarts", type=int, default=16)
    parser.add_argument("--kinds", nargs="+", choices=("features", "inversions"), default=["features", "inversions"])
    parser.add_argument(
        "--cache", type=Path, default=Path("build/inversions"), help="where textual inversions are kept"
    )
    parser.add_argument("--workers", type=int, default=1, help="textual inversions at once")
    parser.add_argument("--threads", type=int, default=1, help="of each of them")
    arguments = parser.parse_args()
    count = arguments.count or (8 if arguments.quick else 50)
    steps = arguments.steps or (200 if arguments.quick else 500)
    evaluations = arguments.evaluations or 4000
    settings = {**vars(arguments), "count": count, "steps": steps, "evaluations": evaluations}
    settings = {name: value for name, value in settings.items() if name not in ("kinds", "cache", "workers", "threads")}
    options = {
        "num_tokens": arguments.tokens, "restarts": arguments.restarts, "max_evaluations": count * evaluations
    }  # fmt: skip
    if "features" in arguments.kinds:
        prompts = learned(count, arguments.soft_tokens, arguments.templates, steps, arguments.learning_rate)
        losses = [float(prompt.metadata["loss"] or 0) for prompt in prompts]
        print(f"{count} soft prompts learned: mean similarity with their picture {1 - sum(losses) / len(losses):.3f}")
        report("features", decoded(prompts, load_backend("emoji"), arguments.templates, options), settings)
    if "inversions" in arguments.kinds:
        chosen = {
            "inversion_steps": 100 if arguments.quick else 150, "evaluations": 4000,
            "noise_evaluations": 100 if arguments.quick else 300, "threads": arguments.threads,
        }  # fmt: skip
        inversions(count, chosen, arguments.cache, arguments.workers)


if __name__ == "__main__":
    main()
