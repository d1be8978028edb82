"""The decoder of ``emoji-sd``: 8 x 8 x 32 latents, as ``sd_codec`` writes them down, to 64 x 64 pixels.

Run ``python -m hardprompts_emoji.recipe.train_sd_decoder --device cuda --minutes 1.5`` after ``sd_data``; it does
not need ``train_sd_unet``, which can run beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardprompts_emoji.recipe.clock import Clock
from hardprompts_emoji.recipe.loop import (
    Average,
    Optimizers,
    mixed_precision,
    prepare,
    resume,
    run,
    save_checkpoint,
)
from hardprompts_emoji.recipe.sd_codec import Codec, to_pixels
from hardprompts_emoji.recipe.sd_data import FOLDER, load_data
from hardprompts_emoji.recipe.sd_models import build_vae, read_checkpoint

CHECKPOINT = "decoder.pt"
EDGE_WEIGHT = 1.0
NOISE = 0.1
"""Deviation of the noise on latents, up to which the decoder learns to forgive the denoiser."""
SEED = 11


def edge_loss(first: Tensor, second: Tensor) -> Tensor:
    """Return how far the differences of neighboring pixels are apart, at full and half size."""
    difference = first - second
    total = difference.new_zeros(())
    for scale in (1, 2):
        scaled = difference if scale == 1 else functional.avg_pool2d(difference, 2)
        total = total + (scaled[..., 1:] - scaled[..., :-1]).abs().mean()
        total = total + (scaled[..., 1:, :] - scaled[..., :-1, :]).abs().mean()
    return total / 4


def losses(drawn: Tensor, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, its parts) of (n, 3, 64, 64) drawn pixels."""
    parts = {
        "l1": functional.l1_loss(drawn, pixels),
        "mse": functional.mse_loss(drawn, pixels),
        "edge": edge_loss(drawn, pixels),
    }
    loss = parts["l1"] + parts["mse"] + EDGE_WEIGHT * parts["edge"]
    return loss, {name: part.detach() for name, part in parts.items()}


class Decoder(nn.Module):
    """The half of an autoencoder that is learned."""

    def __init__(self) -> None:
        super().__init__()
        vae = build_vae()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Return (n, 3, 64, 64) pixels of (n, 32, 8, 8) latents."""
        pixels: Tensor = self.decoder(self.post_quant_conv(latents))
        return pixels


class DecoderTrainer:
    """Training state; ``run`` trains until the clock runs out."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        minutes: float,
        batch_size: int,
        learning_rate: float,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(SEED)
        prepare(device)
        self.pictures = load_data(folder, device, "pictures")
        self.model = Decoder().to(memory_format=torch.channels_last).to(device)
        self.checkpoint = folder / CHECKPOINT
        state = read_checkpoint(self.checkpoint) if self.checkpoint.exists() else None
        self.codec = Codec.of_folder(folder, self.pictures) if state is None else Codec(**state["codec"])
        self.average = Average(self.model.parameters(), decay=0.998)
        self.optimizers = Optimizers(self.model, learning_rate, warmup=50, weight_decay=0.0)
        self.batch_size = batch_size
        self.device = device
        self.steps, spent = 0, 0.0
        if state is not None:
            self.steps, spent = resume(state, self.model, self.average, self.optimizers)
        self.decode = torch.compile(self.model) if compiled else self.model
        self.generator = torch.Generator(device).manual_seed(SEED * 7919 + self.steps)
        self.clock = Clock(minutes * 60, spent)

    def step(self) -> dict[str, Tensor]:
        """Learn from one batch; returns the parts of the loss."""
        self.optimizers.set_rates(self.steps, self.clock.progress)
        rows = torch.randint(len(self.pictures), (self.batch_size,), generator=self.generator, device=self.device)
        pictures = self.pictures[rows]
        pixels, latents = to_pixels(pictures), self.codec.encode(pictures)
        level = NOISE * torch.rand(self.batch_size, 1, 1, 1, generator=self.generator, device=self.device)
        latents += level * torch.randn(latents.shape, generator=self.generator, device=self.device)
        with mixed_precision(self.device):
            drawn = self.decode(latents.contiguous(memory_format=torch.channels_last))
        loss, parts = losses(drawn.float(), pixels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step()
        self.average.update(self.steps)
        self.steps += 1
        return parts

    def save(self) -> None:
        """Write the checkpoint from which a run resumes and the export reads."""
        save_checkpoint(
            self.checkpoint,
            self.model,
            self.average,
            self.optimizers,
            step=self.steps,
            spent=self.clock.spent,
            batch_size=self.batch_size,
            codec=self.codec.state_dict(),
        )

    def run(self) -> None:
        """Train until the clock runs out."""
        run(self)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--compile", action="store_true", help="torch.compile, which takes a minute of the budget")
    arguments = parser.parse_args()
    DecoderTrainer(
        arguments.work_dir / FOLDER,
        torch.device(arguments.device),
        arguments.minutes,
        arguments.batch_size,
        arguments.learning_rate,
        arguments.compile,
    ).run()


if __name__ == "__main__":
    main()
