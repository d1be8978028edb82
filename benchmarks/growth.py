"""How time and memory of a call grow with what it is given, and whether its limits hold, on the embedded models.

    python benchmarks/growth.py                      # all curves, a quarter of an hour on one core
    python benchmarks/growth.py --curves distill     # one of them

Each point is a call in a process of its own, after the models were opened and a small call has warmed them up: seconds
by the clock, seconds of the processor (other programs do not count there), the megabytes that the call added at its
peak, the passes that the result names, and what it says was left out. Curves: `distill` over the words of a prompt;
`invert` over images that share one prompt; `audit` over the tokens of a soft prompt, with all that a page shows;
`tune` over labeled texts. Results go to `benchmarks/results/growth.json`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import held_out_scenes, pictures, save

from hardprompts.evaluation import markdown_table

#: Sizes of each curve, and the limits with which each size is called.
CURVES: dict[str, tuple[tuple[int, ...], tuple[dict[str, float], ...]]] = {
    "distill": ((50, 100, 250, 500, 1000, 1500, 5000), ({}, {"deadline": 2.0}, {"max_evaluations": 200})),
    "invert": ((1, 3, 10, 30, 100, 300), ({"max_steps": 20}, {"deadline": 2.0}, {"max_evaluations": 200})),
    "audit": ((1, 8, 25, 75), ({}, {"deadline": 2.0})),
    "tune": ((100, 500, 2000, 5000), ({"max_steps": 10}, {"deadline": 5.0})),
}

Call = Callable[[dict[str, Any]], Any]


def main() -> None:
    """Measures each point in a process of its own, prints the curves and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--sizes", nargs="+", type=int, help="other sizes than the usual ones")
    parser.add_argument("--point", nargs=3, metavar=("CURVE", "SIZE", "LIMITS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.point:
        curve, size, limits = arguments.point
        print(json.dumps(measured(curve, int(size), json.loads(limits))))
        return
    rows = []
    for curve in arguments.curves:
        sizes, limits = CURVES[curve]
        for limit in limits:
            for size in arguments.sizes or sizes:
                point = [sys.executable, __file__, "--point", curve, str(size), json.dumps(limit)]
                told = subprocess.run(point, check=True, capture_output=True, text=True).stdout
                rows.append({"curve": curve, "size": size, "limits": limit, **json.loads(told.splitlines()[-1])})
                print(rows[-1], flush=True)
    print(table(rows))
    if arguments.sizes is None and set(arguments.curves) == set(CURVES):
        save("growth", {"points": rows})


def measured(curve: str, size: int, limits: dict[str, Any]) -> dict[str, Any]:
    """What one call takes."""
    call = {"distill": distill, "invert": invert, "audit": audit, "tune": tune}[curve](size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, processor = time.perf_counter(), time.process_time()
    found = call(limits)
    seconds, cpu = time.perf_counter() - began, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "megabytes": round(peak / 1024),
        "evaluations": getattr(found, "evaluations", None), "left_out": list(getattr(found, "left_out", ())),
    }  # fmt: skip


def distill(words: int) -> Call:
    """A long prompt of so many words to 8 tokens."""
    from hardprompts import PromptDistiller
    from hardprompts_emoji import scenes

    distiller = PromptDistiller("emoji")
    captions = (scenes.caption(scene) for scene in held_out_scenes(words // 4 + 1, 1))
    text = " ".join(" ".join(captions).split()[:words])
    distiller.distill(text[:40], max_steps=1, progress=False, seed=0)
    return lambda limits: distiller.distill(text, progress=False, seed=0, **limits)


def invert(images: int) -> Call:
    """One prompt for so many images."""
    from hardprompts import PromptInverter

    inverter = PromptInverter("emoji")
    shown = [picture.resize((512, 512)) for picture in pictures(held_out_scenes(min(images, 10), 1))]
    given = [shown[number % len(shown)].copy() for number in range(images)]
    inverter.invert(given[0], max_steps=1, progress=False, seed=0)
    return lambda limits: inverter.invert(given, progress=False, seed=0, **limits)


def audit(tokens: int) -> Call:
    """An audit with plots and decoding of a soft prompt of so many tokens."""
    from hardprompts import SoftPrompt, load_backend
    from hardprompts.distillation.audits import audits_of

    backend = load_backend("emoji")
    table = backend.vocabulary.allowed_table
    rows = table[torch.linspace(0, len(table) - 1, tokens).long()]
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    file = Path(tempfile.mkdtemp()) / "soft.safetensors"
    SoftPrompt({"text_encoder": rows + 0.5 * table.std() * noise}, name="soft").save(file, format="diffusers")

    def call(limits: dict[str, Any]) -> Any:
        (found,) = audits_of(file, backend, plots=True, decode=True, **limits)
        return found

    return call


def tune(texts: int) -> Call:
    """A tuner fitted to so many texts of two classes."""
    from hardprompts import load_backend
    from hardprompts.classification import ClassifierPromptTuner
    from hardprompts_emoji import scenes

    captions = [scenes.caption(scene) for scene in held_out_scenes(texts, 1)]
    labels = [number % 2 for number in range(texts)]
    given = [f"{caption}, number {number}" for number, caption in enumerate(captions)]
    words, backend = {0: "good", 1: "bad"}, load_backend("emoji:emoji-lm")

    def call(limits: dict[str, Any]) -> Any:
        tuner = ClassifierPromptTuner(backend, verbalizer=words, random_state=0, progress=False, **limits)
        return tuner.fit(given, labels).hard_prompt_

    return call


def table(rows: list[dict[str, Any]]) -> str:
    """The points as a Markdown table."""
    head = ("call", "of", "limits", "seconds", "CPU seconds", "MB", "passes", "left out")
    cells = [
        (
            row["curve"], str(row["size"]), " ".join(f"{name}={value:g}" for name, value in row["limits"].items()),
            f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}", str(row["megabytes"]), str(row["evaluations"] or ""),
            "; ".join(row["left_out"]),
        )
        for row in rows
    ]  # fmt: skip
    return markdown_table([head, *cells])


if __name__ == "__main__":
    main()
