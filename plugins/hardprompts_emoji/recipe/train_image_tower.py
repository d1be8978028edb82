"""Stage 1: teach the image tower which drawings, color and style are in a picture.

Run ``python -m hardprompts_emoji.recipe.train_image_tower --model emoji-clip``. Exact labels are
richer than contrast, so the tower starts as a classifier; ``train_clip`` continues from its weights.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from hardprompts_emoji.recipe.clock import Clock
from hardprompts_emoji.recipe.curriculum import curriculum_scene, normalize
from hardprompts_emoji.recipe.loop import save_state
from hardprompts_emoji.recipe.optimizer import Muon, split_parameters
from hardprompts_emoji.recipe.stream import PictureStream
from hardprompts_emoji.scenes import BACKGROUNDS, OBJECTS, STYLES, Scene, render_batch


@dataclass(frozen=True)
class TowerSizes:
    """Sizes and seed of one model of the family."""

    seed: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    projection: int


MODELS = {
    "emoji-clip": TowerSizes(1, 192, 6, 3, 160, 3, 5, 192),
    "emoji-clip-reference": TowerSizes(2, 160, 7, 5, 128, 3, 4, 160),
}
OBJECT_INDEX = {name: i for i, name in enumerate(OBJECTS)}
BACKGROUND_INDEX = {name: i for i, name in enumerate(BACKGROUNDS)}
STYLE_INDEX = {name: i for i, name in enumerate(STYLES)}


def vision_config(sizes: TowerSizes) -> CLIPVisionConfig:
    """Return the configuration of the image tower."""
    return CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=4 * sizes.vision_width,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        projection_dim=sizes.projection,
        image_size=64,
        patch_size=16,
        hidden_act="gelu",
    )


class LabelHeads(nn.Module):
    """Linear classifiers of objects, backgrounds and styles on the projected image features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.objects = nn.Linear(width, len(OBJECTS), bias=False)
        self.backgrounds = nn.Linear(width, len(BACKGROUNDS), bias=False)
        self.styles = nn.Linear(width, len(STYLES), bias=False)

    def forward(self, features: Tensor, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Return (mean loss, share of scenes whose likeliest drawing is in them) for (n, width) features."""
        logits = self.objects(features)
        device = features.device
        targets = object_targets(scenes).to(device)
        backgrounds = torch.tensor([BACKGROUND_INDEX[scene.background] for scene in scenes], device=device)
        styles = torch.tensor([STYLE_INDEX[scene.style] for scene in scenes], device=device)
        loss = functional.cross_entropy(logits, targets)
        loss = loss + 0.3 * functional.cross_entropy(self.backgrounds(features), backgrounds)
        loss = loss + 0.3 * functional.cross_entropy(self.styles(features), styles)
        return loss, (targets.gather(1, logits.argmax(1, keepdim=True)) > 0).float().mean()


def object_targets(scenes: Sequence[Scene]) -> Tensor:
    """Return (n, objects) target probabilities: equal shares for the objects of each scene."""
    targets = torch.zeros(len(scenes), len(OBJECTS))
    for row, scene in zip(targets, scenes, strict=True):
        for item in scene.objects:
            row[OBJECT_INDEX[item.name]] += 1 / len(scene.objects)
    return targets


@torch.no_grad()
def whiten_patches(tower: CLIPVisionModelWithProjection, pictures: Tensor) -> None:
    """Start the patch embedding from the whitened principal components of (n, 3, 64, 64) pictures.

    A random projection of raw patches is badly conditioned: brightness swamps the shapes.
    """
    embedding = tower.vision_model.embeddings.patch_embedding
    patches = functional.unfold(pictures, 16, stride=16).transpose(1, 2).reshape(-1, 768)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    values, vectors = values.flip(0)[: embedding.out_channels], vectors.flip(1)[:, : embedding.out_channels]
    components = vectors / (values + 0.3 * values.mean()).sqrt()
    # A random rotation spreads the strong components over all channels.
    rotation, _ = torch.linalg.qr(torch.randn(embedding.out_channels, embedding.out_channels))
    embedding.weight.copy_((components @ rotation).T.reshape(embedding.weight.shape) * 0.5)


def set_learning_rates(
    optimizers: Sequence[torch.optim.Optimizer], step: int, progress: float, warmup: int = 40
) -> None:
    """Warm up over the first steps, then fall linearly with the clock to 3 % of the base rate."""
    factor = min(1.0, (step + 1) / warmup) * (1 - 0.97 * progress)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
            group["lr"] = group["base_lr"] * factor


@dataclass(frozen=True)
class Run:
    """How long, how large and on what a stage is trained."""

    minutes: float
    batch_size: int
    device: torch.device
    workers: int

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser, minutes: float) -> None:
        """Add the options of every stage."""
        parser.add_argument("--model", choices=sorted(MODELS), required=True)
        parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
        parser.add_argument("--minutes", type=float, default=minutes)
        parser.add_argument("--batch-size", type=int, default=96, help="scenes in a step")
        parser.add_argument("--device", default="cpu")
        parser.add_argument("--workers", type=int, default=0, help="processes that draw pictures; 0: none of their own")
        parser.add_argument("--threads", type=int, default=1)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Run:
        """Return what the command line says, and apply its number of threads."""
        torch.set_num_threads(arguments.threads)
        torch.set_float32_matmul_precision("high")
        return cls(arguments.minutes, arguments.batch_size, torch.device(arguments.device), arguments.workers)


def train(sizes: TowerSizes, checkpoint: Path, run: Run, optimizer: str) -> None:
    """Train, or go on training, the tower of a checkpoint for a total of ``run.minutes``."""
    torch.manual_seed(sizes.seed)
    tower = CLIPVisionModelWithProjection._from_config(vision_config(sizes), attn_implementation="eager")
    heads = LabelHeads(sizes.projection)
    whiten_patches(tower, normalize(render_batch([curriculum_scene(0.5, random.Random(i)) for i in range(512)])))
    tower.to(run.device)
    heads.to(run.device)
    hidden, rest = split_parameters(tower)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([{"params": rest, "lr": 1e-3}, {"params": heads.parameters(), "lr": 4e-3}], weight_decay=0.01)
    ]
    if optimizer == "muon":
        optimizers.append(Muon(hidden, lr=0.02))
    else:
        optimizers.append(torch.optim.AdamW(hidden, lr=1e-3, weight_decay=0.05))
    clock, step = Clock(run.minutes * 60), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=run.device)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        for one, saved in zip(optimizers, state["optimizers"], strict=True):
            one.load_state_dict(saved)
        clock, step = Clock(run.minutes * 60, state["spent"]), state["step"]
    stream = PictureStream(sizes.seed * 7919 + step, clock, run.batch_size).batches(run.workers, run.device)
    saved_at = reported_at = clock.spent
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    finished = False
    while not finished:
        finished = clock.progress >= 1
        set_learning_rates(optimizers, step, clock.progress)
        scenes, pictures = next(stream)
        loss, hit = heads(tower(pixel_values=pictures).image_embeds, scenes)
        loss.backward()
        nn.utils.clip_grad_norm_(rest, 1.0)
        for one in optimizers:
            one.step()
            one.zero_grad(set_to_none=True)
        step += 1
        losses.append(loss.detach())
        hits.append(hit)
        if clock.spent - reported_at > 20:
            reported_at = clock.spent
            mean_loss, mean_hit = (float(torch.stack(values).mean()) for values in (losses, hits))
            print(f"{clock.spent:6.0f} s step {step:5d} loss {mean_loss:.3f} hit {mean_hit:.3f}", flush=True)
            losses.clear()
            hits.clear()
        if finished or clock.spent - saved_at > 150:
            saved_at = clock.spent
            save_state(
                checkpoint,
                tower=tower.state_dict(),
                heads=heads.state_dict(),
                optimizers=[one.state_dict() for one in optimizers],
                step=step,
                spent=clock.spent,
                batch_size=run.batch_size,
            )


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    Run.add_arguments(parser, minutes=25)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    arguments = parser.parse_args()
    checkpoint = arguments.work_dir / arguments.model / "image_tower.pt"
    train(MODELS[arguments.model], checkpoint, Run.of(arguments), arguments.optimizer)


if __name__ == "__main__":
    main()
