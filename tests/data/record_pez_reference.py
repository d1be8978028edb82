"""Records what the PEZ reference code does, step by step, to pez_reference.json beside this file.

    HARDPROMPTS_PEZ_REFERENCE=~/hard-prompts-made-easy python tests/data/record_pez_reference.py

The variable holds the path of a checkout of https://github.com/YuxinWenRick/hard-prompts-made-easy
(recorded at f22a1be). It needs sentence-transformers beside this project's packages, and its own
fork of open_clip comes before an installed one. The reference runs as it is; only the calls that
it makes are listened to. The model has the shapes of a small CLIP text tower, CLIP's real byte
pairs, and weights from a seed, so that nobody has to ship them.
"""

import json
import os
import platform
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

SEED = 7
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3}
VISION = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
EMBED_DIM = 64
STEPS = 100
#: name -> (tokens, targets, batch_size of the reference, seed of its random numbers). The seeds are those of runs
#: that never meet two tokens which are nearly equally near, where rounding decides; see "smallest_margin".
RUNS = {
    "one target": (8, 1, 1, 4),
    "all of three targets": (16, 3, None, 3),
    "one of three targets a step": (16, 3, 1, 2),
}


def uniform(name: str, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """Numbers in [-scale, scale) that depend on SEED and `name` alone, and on no library's version."""
    # The raw stream of a bit generator is guaranteed by numpy; its distributions, and torch's, may change.
    raw = np.random.PCG64([SEED, zlib.crc32(name.encode())]).random_raw(int(np.prod(shape)))
    return torch.from_numpy(((raw >> 11) * 2.0**-52 - 1) * scale).float().reshape(shape)


def set_weights(model: torch.nn.Module) -> None:
    """Gives a CLIP its text weights, in the size that training gives them."""
    for name, parameter in model.named_parameters():
        if name.startswith("visual") or name == "logit_scale":
            continue
        if parameter.ndim == 1:
            weight = uniform(name, tuple(parameter.shape), 0.1) + (1.0 if "ln_" in name and "weight" in name else 0.0)
        elif "embedding" in name:
            weight = uniform(name, tuple(parameter.shape), 0.02)
        else:
            weight = uniform(name, tuple(parameter.shape), (3 / parameter.shape[-1]) ** 0.5)
        parameter.data.copy_(weight)


def targets(count: int) -> torch.Tensor:
    """(count, features) what stands for the features of images."""
    return uniform("targets", (count, EMBED_DIM), 1.0)


def record(
    optim_utils: Any, model: Any, tokenizer: Any, num_tokens: int, count: int, batch: int | None, seed: int
) -> dict[str, Any]:
    """Runs the reference's own loop and returns what it projected to, scored and drew."""
    ids: list[list[int]] = []
    scores: list[float] = []
    drawn: list[list[int]] = []
    margins: list[float] = []
    everything = targets(count)
    project, forward = optim_utils.nn_project, model.forward_text_embedding

    def heard_project(current: torch.Tensor, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            unit = torch.nn.functional.normalize
            cosines = unit(current.reshape(-1, current.shape[-1]), dim=1) @ unit(layer.weight, dim=1).T
            best = cosines.topk(2).values
            margins.append(float((best[:, 0] - best[:, 1]).min()))
        result = project(current, layer, *args, **kwargs)
        ids.append(result[1][0].tolist())
        return result

    def heard_forward(embeddings: Any, dummy_ids: Any, features: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = forward(embeddings, dummy_ids, features, *args, **kwargs)
        if torch.is_grad_enabled():
            drawn.append([int((everything == row).all(dim=1).nonzero()[0]) for row in features])
        else:
            scores.append(float(result[0].mean()))
        return result

    arguments = types.SimpleNamespace(
        iter=STEPS, lr=0.1, weight_decay=0.1, prompt_len=num_tokens, prompt_bs=1, loss_weight=1.0, print_step=None,
        batch_size=batch,
    )  # fmt: skip
    optim_utils.nn_project, model.forward_text_embedding = heard_project, heard_forward
    try:
        torch.manual_seed(seed)
        best = optim_utils.optimize_prompt_loop(model, tokenizer, model.token_embedding, everything, arguments, "cpu")
    finally:
        optim_utils.nn_project, model.forward_text_embedding = project, forward
    return {
        "num_tokens": num_tokens, "targets": count, "batch_size": batch, "seed": seed, "best_text": best, "ids": ids,
        "scores": scores, "drawn": drawn, "smallest_margin": min(margins),
    }  # fmt: skip


def main() -> None:
    """Writes pez_reference.json."""
    path = os.environ.get("HARDPROMPTS_PEZ_REFERENCE", "")
    if not (Path(path) / "optim_utils.py").is_file():
        sys.exit("set HARDPROMPTS_PEZ_REFERENCE to a checkout of github.com/YuxinWenRick/hard-prompts-made-easy")
    sys.path.insert(0, path)
    import open_clip  # the reference's fork
    import optim_utils
    from open_clip.model import CLIP

    model = CLIP(EMBED_DIM, VISION, TEXT).eval()
    set_weights(model)
    runs = {name: record(optim_utils, model, open_clip.tokenizer._tokenizer, *run) for name, run in RUNS.items()}
    facts = {
        "reference": "https://github.com/YuxinWenRick/hard-prompts-made-easy at f22a1be, optimize_prompt_loop",
        "recorded with": f"torch {torch.__version__}, {platform.machine()}, fp32, CPU",
        "runs": runs,
    }
    text = json.dumps(facts, indent=1)
    for run in runs.values():  # one line for each step
        for row in [*run["ids"], *run["drawn"]]:
            text = text.replace(json.dumps(row, indent=1).replace("\n", "\n    "), json.dumps(row))
    Path(__file__).with_name("pez_reference.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
