"""STEPS by its authors' code: https://github.com/ynqiu/STEPS, a checkout in --checkout.

Their `STEPSPrompt` runs with their settings of rank 10, 64 candidates a place and 8 kept rows, and with fewer samples
in a step and fewer steps than theirs, so that it keeps to the passes. Needs jax and optax.
"""

import importlib
import logging
import sys
import types
from pathlib import Path

import torch
from protocol import LikeCLIP, LikeTokenizer, arguments, commit, write
from torch import Tensor


def main() -> None:
    given, task = arguments(__doc__, checkout="", steps=2)
    checkout = Path(given.checkout)
    sys.path.insert(0, str(checkout / "src"))
    logging.disable(logging.INFO)
    code = importlib.import_module("STEPSPrompt")
    # The package's name is also its module's.
    code.seqprotes = importlib.import_module("seqprotes.seqprotes").seqprotes
    model, tokenizer = LikeCLIP(task.tower, whole=True), LikeTokenizer(task.tower)
    # A step is a gradient, two passes, and samples in hundreds, the last of which may go beyond what is left.
    samples = max(100, (task.passes // given.steps - 2) // 100 * 100)
    settings = types.SimpleNamespace(
        iter=given.steps, prompt_len=task.tokens, batch_size=1, loss_weight=1.0, topk=64, top_n=8, rank=10,
        sample_bs=samples,
    )  # fmt: skip

    def prompt(target: Tensor) -> str:
        search = code.STEPSPrompt(model, tokenizer, model.token_embedding, settings, torch.device("cpu"))
        size = len(task.tower.table)
        drawn = torch.randint
        # It begins with ids below 40,408 of CLIP's vocabulary; this one may have fewer.
        torch.randint = lambda low, high, *rest, **more: drawn(low, min(high, size), *rest, **more)
        try:
            return str(search.run(target)[0])
        finally:
            torch.randint = drawn

    differences = [
        f"{given.steps} steps of {samples} samples in place of 100 to 200 of 1,000",
        "another model than CLIP ViT-H-14, and no padding behind the end",
    ]
    write(given.row, task.row("STEPS", f"STEPS {commit(checkout)}", differences, prompt))


if __name__ == "__main__":
    main()
