"""Runs tropt's optimizers on given targets, for peers.py and real_text.py; with a Python that has tropt.

    python benchmarks/peers_tropt.py specification.json results.json

The specification has the folder of a CLIP or of a sentence encoder, a file of unit features, the tokens of a prompt,
the passes of each target, the seed, the threads and the names of optimizers. Hyperparameters are those of tropt's
recipes; steps are as many as the passes allow. Importing, loading and a first short run are not timed, and neither is
most of the garbage collection that tropt asks for before every pass: it looks through all that was imported, which on
a CPU takes many times what the pass takes, so what is there before the first target is left out of it.
"""

import gc
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import set_seed
from transformers.utils import logging
from tropt.common import Targets
from tropt.loss import SimilarityLoss
from tropt.model.huggingface.clip_encoder import CLIPTextEncoderHFModel
from tropt.model.huggingface.encoder import EncoderHFModel
from tropt.optimizer import (
    ARCAOptimizer,
    AutoPromptOptimizer,
    BeamSearchOptimizer,
    GASLITEOptimizer,
    GBDAOptimizer,
    GCGOptimizer,
    GCGPlusOptimizer,
    HotFlipOptimizer,
    PEZOptimizer,
)
from tropt.optimizer.utils.token_constraints import TokenConstraints
from tropt.optimizer.utils.token_initializers import get_printable_random_trigger

TEMPLATE = "{{OPTIMIZED_TRIGGER}}"

#: One for all, since it keeps the list of tokens that it takes a while to find.
CONSTRAINTS = TokenConstraints()


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(given["threads"])
    logging.set_verbosity_error()
    # Folders of sentence-transformers list their modules.
    kind = EncoderHFModel if (Path(given["model"]) / "modules.json").exists() else CLIPTextEncoderHFModel
    # As it is stored, in half precision, its steps would be slower, and those of AdamW not numbers.
    model = kind(given["model"], device="cpu", dtype=torch.float32)
    targets = load_file(given["features"])["targets"]
    found = []
    for name in given["optimizers"]:
        run(model, name, targets[0], given, passes=3, seed=0)
        gc.collect()
        gc.freeze()
        for place, target in enumerate(targets):
            found.append({"target": place, **run(model, name, target, given, given["passes"], given["seed"] + place)})
    facts = {name: version(name) for name in ("tropt", "torch", "transformers")}
    Path(sys.argv[2]).write_text(json.dumps({"versions": facts, "runs": found}), encoding="utf-8")


def run(model: Any, name: str, target: torch.Tensor, given: dict[str, Any], passes: int, seed: int) -> dict[str, Any]:
    """One prompt for one target."""
    set_seed(seed)
    model.reset_usage_stats()
    optimizer = build(model, name, passes, given)
    start = get_printable_random_trigger(trigger_len=given["tokens"], tokenizer=model.tokenizer)
    wall, processor = time.perf_counter(), time.process_time()
    result = optimizer.optimize_trigger(
        templates=[TEMPLATE], targets=Targets(target_vectors=target.unsqueeze(0)), initial_trigger=start
    )
    seconds = (time.perf_counter() - wall, time.process_time() - processor)
    used = model.get_usage_stats()
    ids = result.best_trigger_ids
    return {
        "optimizer": name,
        "text": result.best_trigger_str,
        "ids": None if ids is None else ids.flatten().tolist(),
        "claimed": -float(result.best_loss),
        "seconds": seconds[0],
        "processor": seconds[1],
        "passes": used["forward_samples"] + used["grad_samples"],
    }


def build(model: Any, name: str, passes: int, given: dict[str, Any]) -> Any:
    """An optimizer with the hyperparameters of its recipe, and steps for so many passes.

    Raises:
        KeyError: there is none of that name.
    """
    kind, _, count = name.removesuffix(" candidates").partition(", ")
    # Passes of a step (0: see below), the optimizer, and its hyperparameters.
    known: dict[str, tuple[int, Any, dict[str, Any]]] = {
        "pez": (2, PEZOptimizer, {"learning_rate": 0.1, "weight_decay": 0.1, "gd_optimizer": torch.optim.AdamW}),
        "gcg": (0, GCGOptimizer, {"n_candidates": int(count or 512), "sample_topk": min(256, int(count or 256))}),
        "mac": (
            0, GCGPlusOptimizer, {
                "n_candidates": int(count or 256), "sample_topk": int(count or 256), "momentum": 0.6,
                "proxy_model": model,
            },
        ),
        # Made for encoders of this kind. Of its own 50 gradients and 128 candidates hardly two steps would fit.
        "gaslite": (
            16 + given["tokens"] * (int(count or 128) + 1), GASLITEOptimizer,
            {"n_grad": 8, "n_flip": given["tokens"], "n_candidates": int(count or 128)},
        ),
        "arca": (96, ARCAOptimizer, {"n_grad_avg": 32, "n_candidates": 32, "sample_topk": 32}),
        "autoprompt": (12, AutoPromptOptimizer, {"n_candidates": 10, "sample_topk": 10}),
        "hotflip": (3, HotFlipOptimizer, {}),
        "gbda": (
            21, GBDAOptimizer, {
                "n_grad_samples": 10, "learning_rate": 0.3, "initial_coeff": 15.0, "temp_start": 1.0, "temp_end": 1.0,
                "use_lr_schedule": False,
            },
        ),
        "beam": (
            0, BeamSearchOptimizer,
            {"util_lm_prefix": f"a picture of {TEMPLATE}", "branching_factor": 10, "top_k": 10},
        ),
    }  # fmt: skip
    each, optimizer, options = known[kind]
    if kind not in ("pez", "gbda"):
        options["token_constraints"] = CONSTRAINTS
    if kind == "beam":
        from tropt.model.huggingface.lm import LMHFModel

        options["util_lm"] = LMHFModel(model_name=given["language_model"], device="cpu", use_prefix_cache=False)
        options["beam_size"] = max(1, passes // (10 * given["tokens"]))
        steps = given["tokens"]
    else:
        steps = max(1, round(passes / (each or options["n_candidates"] + 2)))
    return optimizer(model=model, loss=SimilarityLoss(), num_steps=steps, **options)


if __name__ == "__main__":
    main()
