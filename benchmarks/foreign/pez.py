"""PEZ by its authors' code: https://github.com/YuxinWenRick/hard-prompts-made-easy, a checkout in --checkout.

Their `optimize_prompt_loop` runs with the paper's settings (AdamW, learning rate and weight decay 0.1) for as many
steps as the passes allow: a step is two passes forward and one back. Needs sentence-transformers.
"""

import importlib
import io
import sys
import types
from contextlib import redirect_stdout
from pathlib import Path

import torch
from protocol import LikeCLIP, LikeTokenizer, arguments, commit, write
from torch import Tensor


def main() -> None:
    given, task = arguments(__doc__, checkout="", steps=0)
    checkout = Path(given.checkout)
    # Their fork of open_clip goes by the name of the installed one; the loop needs neither.
    sys.modules.setdefault("open_clip", types.ModuleType("open_clip"))
    sys.path.insert(0, str(checkout))
    code = importlib.import_module("optim_utils")
    model, tokenizer = LikeCLIP(task.tower), LikeTokenizer(task.tower)
    steps = given.steps or max(1, task.passes // 3)
    settings = types.SimpleNamespace(
        iter=steps, lr=0.1, weight_decay=0.1, prompt_len=task.tokens, prompt_bs=1, loss_weight=1.0, print_step=None,
        batch_size=1,
    )  # fmt: skip

    def prompt(target: Tensor) -> str:
        with redirect_stdout(io.StringIO()):
            return str(
                code.optimize_prompt_loop(
                    model, tokenizer, model.token_embedding, target, settings, torch.device("cpu")
                )
            )

    differences = [
        f"{steps:,} steps in place of the paper's 3,000",
        "another model than CLIP ViT-H-14: its own special tokens, and no padding behind the end",
    ]
    write(given.row, task.row("PEZ, reference", f"hard-prompts-made-easy {commit(checkout)}", differences, prompt))


if __name__ == "__main__":
    main()
