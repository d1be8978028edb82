"""Export a checkpoint of ``train_lm`` as a transformers folder: fp16 weights, tokenizer, card.

Run ``python -m hardprompts_emoji.recipe.export_lm --model emoji-lm`` after ``evaluate_lm``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, GPT2LMHeadModel

from hardprompts_emoji import path
from hardprompts_emoji.recipe import build_lm_tokenizer
from hardprompts_emoji.recipe.folders import replacing
from hardprompts_emoji.recipe.lm_card import lm_card
from hardprompts_emoji.recipe.train_lm import MODELS, build_model

PACKAGE = Path(__file__).resolve().parents[1]


def read_report(path: Path, name: str, steps: int) -> dict[str, Any]:
    """Return the measurements of a checkpoint.

    Raises:
        ValueError: They were made of another checkpoint than the one with this many ``steps``.
    """
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (report["model"], report["steps"]) != (name, steps):
        raise ValueError(
            f"{path} measures {report['model']} after {report['steps']} steps, the checkpoint is {name} after {steps}; "
            "run hardprompts_emoji.recipe.evaluate_lm again"
        )
    return report


def export(name: str, checkpoint: Path, output: Path) -> None:
    """Write the folder of a model; it appears at once or not at all."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    report = read_report(checkpoint.with_name("evaluation.json"), name, state["steps"])
    model = build_model(MODELS[name])
    model.load_state_dict(state["model"])
    with replacing(output) as temporary:
        write_model(model, temporary)
        (temporary / "README.md").write_text(lm_card(report, state), encoding="utf-8")
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (temporary / "evaluation.json").write_text(text, encoding="utf-8")


def write_model(model: GPT2LMHeadModel, folder: Path) -> None:
    """Write weights in fp16, configuration and tokenizer, as transformers reads them."""
    end = build_lm_tokenizer.VOCABULARY_SIZE - 1
    model.config.pad_token_id = end
    model.generation_config = GenerationConfig(bos_token_id=end, eos_token_id=end, pad_token_id=end)
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it was written as a temporary file, for one user's eyes
    build_lm_tokenizer.save(build_lm_tokenizer.build(), folder)


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    parser.add_argument("--output", type=Path, help="default: where the embedded model is")
    arguments = parser.parse_args()
    output = arguments.output / arguments.model if arguments.output else path(arguments.model)
    export(arguments.model, arguments.work_dir / arguments.model / "lm.pt", output)


if __name__ == "__main__":
    main()
