"""First stage of ``emoji-sd``: the autoencoder, 64 x 64 pixels to 16 x 16 x 4 latents and back.

Run ``python -m hardprompts_emoji.recipe.train_sd_vae --device cuda --minutes 1.5`` after ``sd_data``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from hardprompts_emoji.recipe.clock import Clock
from hardprompts_emoji.recipe.sd_data import FOLDER, load_data
from hardprompts_emoji.recipe.sd_loop import (
    Average,
    Journal,
    build_optimizer,
    load_optimizer,
    mixed_precision,
    prepare,
    save_checkpoint,
    set_learning_rate,
)
from hardprompts_emoji.recipe.sd_models import build_vae, load_average, read_checkpoint

CHECKPOINT = "vae.pt"
EDGE_WEIGHT = 0.5
KL_WEIGHT = 0.01
PICTURES_FOR_STATISTICS = 2048
SEED = 11


def to_pixels(pictures: Tensor) -> Tensor:
    """Return uint8 pictures as the autoencoder takes them: fp32 in [-1, 1], channels last."""
    return pictures.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def edge_loss(first: Tensor, second: Tensor) -> Tensor:
    """Return how far the differences of neighbouring pixels are apart, at full and half size."""
    difference = first - second
    total = difference.new_zeros(())
    for scale in (1, 2):
        scaled = difference if scale == 1 else functional.avg_pool2d(difference, 2)
        total = total + (scaled[..., 1:] - scaled[..., :-1]).abs().mean()
        total = total + (scaled[..., 1:, :] - scaled[..., :-1, :]).abs().mean()
    return total / 4


def losses(vae: AutoencoderKL, pixels: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, its parts) for (n, 3, 64, 64) pixels and (n, 4, 16, 16) noise of the latents."""
    with mixed_precision(pixels.device):
        moments = vae.encode(pixels).latent_dist
        mean, log_variance = moments.mean.float(), moments.logvar.float()
        latents = mean + (0.5 * log_variance).exp() * noise
        drawn = vae.decode(latents).sample
    drawn = drawn.float()
    parts = {
        "l1": functional.l1_loss(drawn, pixels),
        "mse": functional.mse_loss(drawn, pixels),
        "edge": edge_loss(drawn, pixels),
        "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
    }
    loss = parts["l1"] + parts["mse"] + EDGE_WEIGHT * parts["edge"] + KL_WEIGHT * parts["kl"]
    return loss, {name: part.detach() for name, part in parts.items()}


@torch.no_grad()
def latent_statistics(vae: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean, deviation) of each channel of the latents of uint8 pictures, on the CPU."""
    latents = torch.cat([vae.encode(to_pixels(batch)).latent_dist.mode() for batch in pictures.split(512)])
    return latents.mean((0, 2, 3)).cpu(), latents.std((0, 2, 3)).cpu()


class VaeTrainer:
    """Training state; ``run`` trains until the clock runs out."""

    def __init__(
        self, folder: Path, device: torch.device, minutes: float, batch_size: int, learning_rate: float
    ) -> None:
        torch.manual_seed(SEED)
        prepare(device)
        self.pictures = load_data(folder, device, "pictures")
        self.vae = build_vae().to(device, memory_format=torch.channels_last)
        self.average = Average(self.vae.parameters(), decay=0.998)
        self.optimizer = build_optimizer(self.vae.parameters(), device, weight_decay=0.0)
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.checkpoint = folder / CHECKPOINT
        self.steps, spent = 0, 0.0
        if self.checkpoint.exists():
            state = read_checkpoint(self.checkpoint)
            self.vae.load_state_dict(state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
            for value, saved in zip(self.average.values, state["average"], strict=True):
                value.copy_(saved)
            self.steps, spent = state["step"], state["spent"]
        self.generator = torch.Generator(device).manual_seed(SEED * 7919 + self.steps)
        self.clock = Clock(minutes * 60, spent)

    def step(self) -> dict[str, Tensor]:
        """Learn from one batch; returns the parts of the loss."""
        set_learning_rate(self.optimizer, self.learning_rate, self.steps, self.clock.progress, warmup=100)
        rows = torch.randint(len(self.pictures), (self.batch_size,), generator=self.generator, device=self.device)
        pixels = to_pixels(self.pictures[rows])
        size = pixels.shape[-1] // 4
        noise = torch.randn(self.batch_size, 4, size, size, generator=self.generator, device=self.device)
        loss, parts = losses(self.vae, pixels, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.steps)
        self.steps += 1
        return parts

    def save(self) -> None:
        """Write the checkpoint, with the statistics that make the latents standard ones."""
        averaged = build_vae().to(self.device).eval()
        load_average(averaged, self.average.values)
        mean, std = latent_statistics(averaged, self.pictures[:PICTURES_FOR_STATISTICS])
        save_checkpoint(
            self.checkpoint,
            self.vae,
            self.average,
            self.optimizer,
            step=self.steps,
            spent=self.clock.spent,
            latent_mean=mean,
            latent_std=std,
            batch_size=self.batch_size,
        )
        print(f"saved; latents: mean {mean.tolist()} deviation {std.tolist()}", flush=True)

    def run(self) -> None:
        """Train until the clock runs out."""
        journal = Journal(self.clock, self.device)
        finished = False
        while not finished:
            finished = self.clock.progress >= 1
            if journal.add(self.steps, self.step(), finished):
                self.save()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    folder = arguments.work_dir / FOLDER
    device = torch.device(arguments.device)
    VaeTrainer(folder, device, arguments.minutes, arguments.batch_size, arguments.learning_rate).run()


if __name__ == "__main__":
    main()
