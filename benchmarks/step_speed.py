"""How fast a PEZ step is, against the reference code's, in the same process on the same machine.

    HARDPROMPTS_PEZ_REFERENCE=~/hard-prompts-made-easy python benchmarks/step_speed.py

The variable holds the path of a checkout of https://github.com/YuxinWenRick/hard-prompts-made-easy;
it needs sentence-transformers beside this project's packages. Both sides search 8 tokens through a
CLIP text tower of real shapes and random weights, which they share, from random starts towards the
features of one target, in float32: the reference by its `optimize_prompt_loop`, we by `run_search`
with `PEZ`. Repetitions take turns, since a machine's speed drifts. On a GPU, if there is one.
"""

import argparse
import importlib
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from common import save

from hardprompts import run_search
from hardprompts.devices import default_device
from hardprompts.evaluation import markdown_table
from hardprompts.methods import PEZ
from hardprompts.objectives import FeatureSimilarity
from hardprompts_openclip.backend import from_model

NUM_TOKENS = 8
VISION = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 32, "image_size": 32}
#: (restarts, steps in one of our repetitions, steps in one of the reference's)
SETTINGS = ((1, 20, 10), (32, 6, 1))


def main() -> None:
    """Measures, prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ViT-L-14", "ViT-H-14"])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    optim_utils, reference_clip = import_reference()
    device = default_device()
    rows = []
    for name in arguments.models:
        ours, theirs = build(name, device, optim_utils, reference_clip)
        for restarts, our_steps, their_steps in SETTINGS:
            seconds: dict[str, list[float]] = {"ours": [], "reference": []}
            for repetition in range(arguments.repetitions + 1):
                pair = (timed(ours, restarts, our_steps, device), timed(theirs, restarts, their_steps, device))
                if repetition:  # the first one warms up
                    seconds["ours"].append(pair[0])
                    seconds["reference"].append(pair[1])
            rows.append(row(name, restarts, seconds))
            print(describe(rows[-1]), flush=True)
    one = {entry["model"]: entry["reference_seconds_per_step"] for entry in rows if entry["restarts"] == 1}
    for entry in rows:
        per_prompt = entry["our_seconds_per_step"] / entry["restarts"]
        entry["ratio_per_prompt_to_one_prompt_of_the_reference"] = round(one[entry["model"]] / per_prompt, 2)
    print(table(rows))
    facts = {
        "what": "seconds of one PEZ step of 8 tokens, fp32, random weights; medians, ratios with (lowest, highest)",
        "repetitions": arguments.repetitions,
        "rows": rows,
    }
    print(save("step_speed", facts))


def import_reference() -> tuple[Any, Any]:
    """The reference's `optim_utils` and its fork of open_clip, beside the installed open_clip."""
    path = Path(os.environ.get("HARDPROMPTS_PEZ_REFERENCE", ""))
    if not (path / "optim_utils.py").is_file():
        sys.exit("set HARDPROMPTS_PEZ_REFERENCE to a checkout of github.com/YuxinWenRick/hard-prompts-made-easy")
    installed = {n: sys.modules.pop(n) for n in list(sys.modules) if n.split(".")[0] == "open_clip"}
    sys.path.insert(0, str(path))
    try:
        optim_utils = importlib.import_module("optim_utils")
        fork = importlib.import_module("open_clip.model")
    except ModuleNotFoundError as error:
        sys.exit(f"the reference needs a package that is missing: pip install {error.name}")
    finally:
        sys.path.remove(str(path))
        for name in [n for n in sys.modules if n.split(".")[0] == "open_clip"]:
            del sys.modules[name]
        sys.modules.update(installed)
    return optim_utils, fork


def build(
    name: str, device: torch.device, optim_utils: Any, reference_clip: Any
) -> tuple[Callable[[int, int], None], Callable[[int, int], None]]:
    """Functions (restarts, steps) that run ours and the reference, on the same weights."""
    config = open_clip.get_model_config(name)
    text = {key: config["text_cfg"][key] for key in ("context_length", "vocab_size", "width", "heads", "layers")}
    torch.manual_seed(0)
    model = open_clip.CLIP(config["embed_dim"], VISION, text).to(device)
    with torch.device("meta"):
        reference = reference_clip.CLIP(config["embed_dim"], VISION, text)
    shared = {key: value for key, value in model.state_dict().items() if key in reference.state_dict()}
    reference.load_state_dict(shared, assign=True)
    reference.attn_mask = model.attn_mask
    reference.eval()
    target = torch.nn.functional.normalize(torch.randn(1, config["embed_dim"]), dim=1).to(device)

    backend = from_model(model, open_clip.get_tokenizer(name))
    objective = FeatureSimilarity(backend.text_encoder, target.unsqueeze(0), torch.ones(1, 1, device=device))

    def ours(restarts: int, steps: int) -> None:
        start = backend.vocabulary.sample((restarts, NUM_TOKENS), torch.Generator().manual_seed(steps))
        run_search(PEZ(), objective, objective, backend.vocabulary, start, max_steps=steps, seed=0)

    def theirs(restarts: int, steps: int) -> None:
        arguments = types.SimpleNamespace(
            iter=steps, lr=0.1, weight_decay=0.1, prompt_len=NUM_TOKENS, prompt_bs=restarts, loss_weight=1.0,
            print_step=None, batch_size=1,
        )  # fmt: skip
        tokenizer = optim_utils.open_clip.tokenizer._tokenizer
        optim_utils.optimize_prompt_loop(reference, tokenizer, reference.token_embedding, target, arguments, device)

    return ours, theirs


def timed(run: Callable[[int, int], None], restarts: int, steps: int, device: torch.device) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    run(restarts, steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def row(name: str, restarts: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """What was measured in one setting."""
    ratios = sorted(b / a for a, b in zip(seconds["ours"], seconds["reference"], strict=True))
    ours, theirs = statistics.median(seconds["ours"]), statistics.median(seconds["reference"])
    return {
        "model": name,
        "restarts": restarts,
        "our_seconds_per_step": round(ours, 5),
        "reference_seconds_per_step": round(theirs, 5),
        "our_steps_per_second": round(1 / ours, 3),
        "reference_steps_per_second": round(1 / theirs, 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "our_seconds": [round(value, 5) for value in seconds["ours"]],
        "reference_seconds": [round(value, 5) for value in seconds["reference"]],
    }


def describe(entry: dict[str, Any]) -> str:
    """One setting in a line."""
    low, high = entry["ratio_range"]
    return (
        f"{entry['model']}, {entry['restarts']} restarts: {entry['our_seconds_per_step']:.4f} s against "
        f"{entry['reference_seconds_per_step']:.4f} s, {entry['ratio']:.1f} times ({low:.1f} to {high:.1f})"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """All settings, as Markdown."""
    lines = [["tower", "restarts", "ours, steps/s", "reference, steps/s", "ratio (range)", "per prompt, to its one"]]
    for entry in rows:
        low, high = entry["ratio_range"]
        cells = [entry["model"], entry["restarts"], entry["our_steps_per_second"], entry["reference_steps_per_second"]]
        cells += [f"{entry['ratio']} ({low} to {high})", entry["ratio_per_prompt_to_one_prompt_of_the_reference"]]
        lines.append([str(cell) for cell in cells])
    return markdown_table(lines)


if __name__ == "__main__":
    main()
