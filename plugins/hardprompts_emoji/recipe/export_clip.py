"""Export a checkpoint of ``train_clip`` as a transformers folder: fp16 weights, tokenizer, card.

Run ``python -m hardprompts_emoji.recipe.export_clip --model emoji-clip``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import CLIPImageProcessorPil

from hardprompts_emoji.recipe import build_tokenizer
from hardprompts_emoji.recipe.build_sprites import PACKAGE
from hardprompts_emoji.recipe.curriculum import MEAN, STD
from hardprompts_emoji.recipe.folders import replacing
from hardprompts_emoji.recipe.model_card import model_card
from hardprompts_emoji.recipe.train_clip import build_model
from hardprompts_emoji.recipe.train_image_tower import MODELS


def export(name: str, checkpoint: Path, output: Path, hardware: str, report: dict[str, object] | None) -> None:
    """Write the folder of a model; it appears at once or not at all."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    tokenizer = build_tokenizer.build()
    model = build_model(MODELS[name], tokenizer)
    model.load_state_dict(state["model"])
    with replacing(output) as temporary:
        model.half().save_pretrained(temporary)
        build_tokenizer.save(tokenizer, temporary)
        size = {"height": 64, "width": 64}
        CLIPImageProcessorPil(
            size={"shortest_edge": 64}, crop_size=size, resample=3, image_mean=list(MEAN), image_std=list(STD)
        ).save_pretrained(temporary)
        for file in ("processor_config.json", "preprocessor_config.json"):
            if (temporary / file).exists():
                settings = json.loads((temporary / file).read_text(encoding="utf-8"))
                settings["image_processor_type"] = "CLIPImageProcessor"
                (temporary / file).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        tower = torch.load(checkpoint.with_name("image_tower.pt"), weights_only=True, map_location="cpu")
        stages = [(stage["step"], stage["batch_size"], stage["spent"] / 60) for stage in (tower, state)]
        steps, seconds = state["polished"] or (0, 0.0)
        card = model_card(name, [*stages, (steps, state["batch_size"], seconds / 60)], hardware, report)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if report is not None:
            (temporary / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    parser.add_argument("--output", type=Path, default=PACKAGE / "models")
    parser.add_argument("--hardware", default="one CPU core", help="what it was trained on, for the card")
    parser.add_argument("--report", type=Path, help="JSON written by evaluate_clip, for the card")
    arguments = parser.parse_args()
    report = json.loads(arguments.report.read_text(encoding="utf-8")) if arguments.report else None
    checkpoint = arguments.work_dir / arguments.model / "clip.pt"
    export(arguments.model, checkpoint, arguments.output / arguments.model, arguments.hardware, report)


if __name__ == "__main__":
    main()
