"""Make a checkpoint of an exported model, so that ``train_clip`` or ``polish_text_tower`` can go on with it.

Run ``python -m hardprompts_emoji.recipe.resume_clip --model emoji-clip``. The vectors of drawings,
colors, styles and the rest are not exported; here they are fitted to what both towers say of
scenes and texts whose meaning is known.
"""

from __future__ import annotations

import argparse
import random

import torch
from torch import Tensor
from transformers import CLIPModel

import hardprompts_emoji
from hardprompts_emoji.recipe.clock import Clock
from hardprompts_emoji.recipe.loop import save_state
from hardprompts_emoji.recipe.stream import PictureStream
from hardprompts_emoji.recipe.texts import Meanings, Texts, Weights, scene_weights, to_matrix
from hardprompts_emoji.recipe.train_clip import Attributes, Trainer, image_features, pad, text_features
from hardprompts_emoji.recipe.train_image_tower import MODELS, Run
from hardprompts_emoji.scenes import Scene

SCENES = 12_000
FIT_STEPS = 600


@torch.no_grad()
def known_features(model: CLIPModel, meanings: Meanings, run: Run) -> tuple[Tensor, Tensor]:
    """Return (rows, NUM_ATTRIBUTES) weights and (rows, width) features of scenes and of texts about them."""
    texts = Texts(meanings, random.Random(3))
    stream = PictureStream(5, Clock(1e9), 200, start=1.0, varied=False).batches(run.workers, run.device)
    weights: list[Weights] = []
    features: list[Tensor] = []
    scenes: list[Scene] = []
    while len(scenes) < SCENES:
        some, pictures = next(stream)
        scenes += some
        told = [texts.complete(scene) for scene in some[::2]] + [texts.unrelated() for _ in some[::4]]
        weights += [scene_weights(scene) for scene in some] + [meanings.read(text) for text in told]
        features += [image_features(model, pictures), text_features(model, pad(told, meanings.tokenizer))]
    return to_matrix(weights).to(run.device), torch.cat(features)


def fit(attributes: Attributes, weights: Tensor, features: Tensor) -> float:
    """Fit the vectors to the features; returns the mean cosine that is reached."""
    optimizer = torch.optim.Adam(attributes.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, FIT_STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(FIT_STEPS):
        rows = torch.randint(len(weights), (2048,), generator=generator).to(weights.device)
        gap = 1 - (attributes.targets(weights[rows]) * features[rows]).sum(1).mean()
        optimizer.zero_grad()
        gap.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float((attributes.targets(weights) * features).sum(1).mean())


def main() -> None:
    """Parse the command line, fit, write ``clip.pt`` into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    Run.add_arguments(parser, minutes=0)
    arguments = parser.parse_args()
    run, sizes = Run.of(arguments), MODELS[arguments.model]
    folder = arguments.work_dir / arguments.model
    if (folder / "clip.pt").exists():
        parser.error(f"{folder / 'clip.pt'} exists already; training goes on from there")
    trainer = Trainer(sizes, None, folder / "clip.pt", run)
    exported = CLIPModel.from_pretrained(hardprompts_emoji.path(arguments.model)).float()
    trainer.model.load_state_dict(exported.state_dict())
    weights, features = known_features(trainer.model, trainer.meanings, run)
    print(f"mean cosine of the fitted meanings: {fit(trainer.attributes, weights, features):.4f}", flush=True)
    trainer.save()
    save_state(folder / "image_tower.pt", step=0, spent=0.0, batch_size=run.batch_size)
    print(trainer.checkpoint)


if __name__ == "__main__":
    main()
