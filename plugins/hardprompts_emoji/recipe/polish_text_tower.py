"""Stage 3: bring the text tower nearer to what texts mean; the image tower stays as it is.

Run ``python -m hardprompts_emoji.recipe.polish_text_tower --model emoji-clip``. Without pictures a
step is cheap, so many more texts are seen. A text must also score, for an image, what its meaning
deserves: after stage 2 a list of the true words scored a little below the caption in almost every
scene, because the towers had learned the look of captions together.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from torch import Tensor

from hardprompts_emoji.recipe.clock import Clock
from hardprompts_emoji.recipe.optimizer import Muon, split_parameters
from hardprompts_emoji.recipe.stream import PictureStream
from hardprompts_emoji.recipe.texts import to_matrix
from hardprompts_emoji.recipe.train_clip import Trainer, image_features
from hardprompts_emoji.recipe.train_image_tower import MODELS, Run, set_learning_rates
from hardprompts_emoji.scenes import Scene, caption

SCORE_WEIGHT = 100.0


class TextPolisher:
    """Trains the text tower of a finished ``train_clip`` run on texts alone."""

    def __init__(self, trainer: Trainer, run: Run, num_images: int, rate: float = 1.0) -> None:
        self.trainer = trainer
        self.steps = 0
        self.scenes_per_step = run.batch_size
        trainer.model.vision_model.requires_grad_(False)
        # Seldom trained words are read less exactly, and then score less than those that mean the same.
        trainer.texts.name_share, trainer.texts.canonical_share = 0.4, 0.2
        self.scenes, self.images = self._draw_images(run, num_images)
        self.clock = Clock(run.minutes * 60)
        hidden, rest = split_parameters(trainer.model.text_model)
        rest.append(trainer.model.text_projection.weight)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=1e-3 * rate),
            Muon(hidden, lr=0.008 * rate),
        ]

    def step(self) -> dict[str, float]:
        """Do one update; return the mean gap of each kind of text."""
        trainer = self.trainer
        set_learning_rates(self.optimizers, self.steps, self.clock.progress)
        rows = trainer.random.sample(range(len(self.scenes)), self.scenes_per_step)
        images = self.images[rows]
        kinds = self._draw(images, [self.scenes[row] for row in rows])
        texts = [text for some in kinds.values() for text in some]
        told = trainer.attributes.targets(to_matrix([trainer.meanings.read(text) for text in texts])).detach()
        features = trainer.text_features_of(texts)
        gaps: Tensor = 1 - (features * told).sum(1)
        tied = torch.cat([images[::4], images, images, images[::2]])
        scores = (tied * (features - told)[: len(tied)]).sum(1)
        (gaps.mean() + SCORE_WEIGHT * scores.square().mean()).backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        parts = gaps.detach().split([len(some) for some in kinds.values()])
        report = {kind: float(part.mean()) for kind, part in zip(kinds, parts, strict=True)}
        count = len(images)
        report["caption_score"] = float(scores[: len(images[::4])].detach().mean())
        report["list_score"] = float(scores[-len(images[::2]) - count : -len(images[::2])].detach().mean())
        return report

    @torch.no_grad()
    def _draw_images(self, run: Run, count: int) -> tuple[list[Scene], Tensor]:
        """Return scenes, drawn once, and the (count, width) features of their pictures."""
        stream = PictureStream(self.trainer.random.randrange(10**6), Clock(1e9), 200, start=1.0, varied=False)
        scenes: list[Scene] = []
        features = []
        for some, pictures in stream.batches(run.workers, run.device):
            scenes += some
            features.append(image_features(self.trainer.model, pictures))
            if len(scenes) >= count:
                return scenes, torch.cat(features)
        raise AssertionError("the stream has no end")

    def _draw(self, images: Tensor, scenes: list[Scene]) -> dict[str, list[tuple[int, ...]]]:
        """Return texts by kind; the first four kinds belong to images[::4], images, images, images[::2]."""
        trainer = self.trainer
        trainer.searched.refill(images, scenes)
        trainer.searched.advance(trainer.model, trainer.tokenizer)
        return {
            "canonical": [trainer.texts.encode(caption(scene)) for scene in scenes[::4]],
            "complete": [trainer.texts.complete(scene) for scene in scenes],
            "lists": [trainer.texts.word_list(scene) for scene in scenes],
            "corrupted": [trainer.texts.corrupted(scene) for scene in scenes[::2]],
            "unrelated": [trainer.texts.unrelated() for _ in scenes],
            "searched": [tuple(text) for text in trainer.searched.ids],
        }

    def run(self) -> None:
        """Train until the clock runs out, then save."""
        reported_at = 0.0
        while self.clock.progress < 1:
            gaps = self.step()
            if self.clock.spent - reported_at > 20:
                reported_at = self.clock.spent
                means = " ".join(f"{kind} {gap:.4f}" for kind, gap in gaps.items())
                print(f"{reported_at:6.0f} s step {self.steps:5d} {means}", flush=True)
        self.trainer.polished = (self.steps, self.clock.spent)
        self.trainer.save()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    Run.add_arguments(parser, minutes=6)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=1.0, help="of the learning rates; less to go on with polishing")
    arguments = parser.parse_args()
    folder = arguments.work_dir / arguments.model
    if not (folder / "clip.pt").exists():
        parser.error(f"{folder / 'clip.pt'} does not exist; run train_clip first")
    run = Run.of(arguments)
    endless = dataclasses.replace(run, minutes=1e9, workers=0)
    trainer = Trainer(MODELS[arguments.model], folder / "image_tower.pt", folder / "clip.pt", endless)
    TextPolisher(trainer, run, arguments.images, arguments.rate).run()


if __name__ == "__main__":
    main()
