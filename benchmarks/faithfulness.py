"""Soft prompts of held-out scenes, decoded in several ways, and what share of their effect is left.

    python benchmarks/faithfulness.py            # 50 soft prompts in feature space
    python benchmarks/faithfulness.py --quick    # 8, in a few minutes

Textual inversions of the embedded diffusion model are decoded too where that model is there.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import held_out_scenes, pictures, save

from hardprompts import DistilledPrompt, PromptDistiller, SoftPrompt, load_backend
from hardprompts.evaluation import Measurement, comparison_table, markdown_table
from hardprompts.learning import learn_soft_prompt, learn_soft_prompts
from hardprompts_emoji import path, scenes

#: The ways, by the names of the distiller's methods; the last is the product's.
METHODS = ("nearest", "nearest-l2", "pez", "refine", "pez+refine")
FIRST_SEED = scenes.HELD_OUT_SEED + 4_500_000
#: Soft prompts are learned and matched in these; held out are the distiller's own templates.
TEMPLATES = ("{}",)


def learned(
    count: int, num_tokens: int, templates: Sequence[str], steps: int, learning_rate: float
) -> list[SoftPrompt]:
    """Soft prompts in the feature space of the embedded dual encoder, of scenes with one and two objects in turn."""
    of = [held_out_scenes(1, 1 + place % 2, FIRST_SEED + place)[0] for place in range(count)]
    names = [scenes.caption(scene)[:200] for scene in of]
    return learn_soft_prompts(
        load_backend("emoji"), pictures(of), names=names, num_tokens=num_tokens, inside=templates, max_steps=steps,
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
        found[method] = distiller.distill_each(prompts, inside=templates, seed=0, progress=False, **options)
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


def inversions(count: int, num_tokens: int, steps: int) -> tuple[list[Any], Any] | None:
    """Textual inversions of the embedded diffusion model and its backend; None where it is not installed."""
    try:
        folder = path("emoji-sd")
    except ValueError as error:
        print(f"\ntextual inversions are left out: {error}")
        return None
    backend = load_backend(f"diffusers:{folder}")
    found = []
    for place in range(count):
        scene = held_out_scenes(1, 1 + place % 2, FIRST_SEED + place)[0]
        images = [scenes.render(scene, seed=seed) for seed in range(3)]
        found.append(
            learn_soft_prompt(
                backend, images, num_tokens, "{}", name=scenes.caption(scene)[:200], max_steps=steps, batch_size=32
            )
        )
    return found, backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 soft prompts, fewer steps")
    parser.add_argument("--count", type=int, help="soft prompts of either kind (default 50)")
    parser.add_argument("--soft-tokens", type=int, default=2, help="tokens of a soft prompt")
    parser.add_argument("--tokens", type=int, default=8, help="tokens of a hard prompt")
    parser.add_argument("--templates", nargs="+", default=list(TEMPLATES), help="where they are learned and matched")
    parser.add_argument("--steps", type=int, help="of learning a soft prompt")
    parser.add_argument("--evaluations", type=int, help="passes of one prompt for each soft prompt, alike for all")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of learning: more leads farther from words")
    parser.add_argument("--restarts", type=int, default=16)
    arguments = parser.parse_args()
    count = arguments.count or (8 if arguments.quick else 50)
    steps = arguments.steps or (200 if arguments.quick else 500)
    evaluations = arguments.evaluations or (6000 if arguments.quick else 20_000)
    settings = {**vars(arguments), "count": count, "steps": steps, "evaluations": evaluations}
    options = {
        "num_tokens": arguments.tokens, "restarts": arguments.restarts, "max_evaluations": count * evaluations
    }  # fmt: skip
    prompts = learned(count, arguments.soft_tokens, arguments.templates, steps, arguments.learning_rate)
    losses = [float(prompt.metadata["loss"] or 0) for prompt in prompts]
    print(f"{count} soft prompts learned: mean similarity with their picture {1 - sum(losses) / len(losses):.3f}")
    report("features", decoded(prompts, load_backend("emoji"), arguments.templates, options), settings)
    inverted = inversions(count, arguments.soft_tokens, steps)
    if inverted is not None:
        report("inversions", decoded(inverted[0], inverted[1], ["{}"], {**options, "match": "noise"}), settings)


if __name__ == "__main__":
    main()
