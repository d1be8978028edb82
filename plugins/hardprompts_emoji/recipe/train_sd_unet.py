"""Second stage of ``emoji-sd``: the denoiser, on the latents of the autoencoder and prompts of each scene.

Run ``python -m hardprompts_emoji.recipe.train_sd_unet --device cuda --minutes 5`` after ``train_sd_vae``.
The text tower is emoji-clip's and stays as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from hardprompts_emoji.recipe.build_tokenizer import CONTEXT_LENGTH
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
from hardprompts_emoji.recipe.sd_models import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    build_scheduler,
    build_unet,
    build_vae,
    empty_ids,
    load_text_encoder,
    load_tokenizer,
    load_vae,
    read_checkpoint,
)
from hardprompts_emoji.recipe.train_sd_vae import CHECKPOINT as VAE_CHECKPOINT
from hardprompts_emoji.recipe.train_sd_vae import to_pixels

CHECKPOINT = "unet.pt"
EMPTY_SHARE = 0.1
"""Share of pictures whose text is left out, for classifier-free guidance."""
WARMUP_STEPS = 200
SEED = 12


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Return (n, 4, 16, 16) fp16 latents of uint8 pictures, on their device."""
    shape = (len(pictures), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    latents = torch.empty(shape, dtype=torch.float16, device=pictures.device)
    for first in range(0, len(pictures), 1024):
        batch = to_pixels(pictures[first : first + 1024])
        latents[first : first + len(batch)] = vae.encode(batch).latent_dist.mode()
    return latents


class Batch:
    """The tensors of one batch, at fixed addresses, so that a recorded graph reads every new batch."""

    def __init__(self, size: int, text_width: int, device: torch.device) -> None:
        shape = (size, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        self.noisy = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
        self.target = torch.zeros_like(self.noisy)
        self.timesteps = torch.zeros(size, dtype=torch.long, device=device)
        self.context = torch.zeros(size, CONTEXT_LENGTH, text_width, device=device)
        self.loss = torch.zeros((), device=device)


def _starting_point(
    folder: Path, start_from: Path | None, state: dict[str, Any] | None, text_width: int
) -> tuple[UNet2DConditionModel, dict[str, Tensor], dict[str, Any]]:
    """Return the denoiser, the weights of the autoencoder, and what earlier runs were, by stage.

    Raises:
        ValueError: The autoencoder was trained on after the checkpoint of the denoiser was written.
    """
    if start_from is not None:
        vae = AutoencoderKL.from_pretrained(start_from, subfolder="vae", torch_dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(start_from, subfolder="unet", torch_dtype=torch.float32)
        training = json.loads((start_from / "training.json").read_text(encoding="utf-8"))
        return unet, vae.state_dict(), training
    first = folder / VAE_CHECKPOINT
    first_run = {key: read_checkpoint(first)[key] for key in ("step", "spent", "batch_size")}
    unet = build_unet(text_width)
    if state is None:
        return unet, load_vae(first).state_dict(), {"vae": first_run, "unet": []}
    if state["training"]["vae"] != first_run:
        raise ValueError(
            f"{folder / CHECKPOINT} belongs to another autoencoder than {first}: {state['training']['vae']}, now "
            f"{first_run}; delete it to train the denoiser anew"
        )
    return unet, state["vae"], {"vae": first_run, "unet": state["training"]["unet"][:-1]}


class UnetTrainer:
    """Training state; ``run`` trains until the clock runs out.

    Args:
        folder: Where ``sd_data`` and ``train_sd_vae`` left their results.
        device: Where everything is kept and computed.
        minutes: Wall-clock budget; the learning rate follows it.
        batch_size: Pictures in a step.
        learning_rate: Highest rate.
        start_from: Exported pipeline whose denoiser and autoencoder to go on from.
        compiled: Whether to compile the denoiser first, which takes a minute or two of the budget.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        minutes: float,
        batch_size: int,
        learning_rate: float,
        start_from: Path | None = None,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(SEED)
        prepare(device)
        self.device, self.batch_size, self.learning_rate = device, batch_size, learning_rate
        self.text_encoder = load_text_encoder().to(device)
        width = self.text_encoder.config.hidden_size
        self.checkpoint = folder / CHECKPOINT
        state = read_checkpoint(self.checkpoint) if self.checkpoint.exists() and start_from is None else None
        unet, self.vae_state, self.training = _starting_point(folder, start_from, state, width)
        vae = build_vae()
        vae.load_state_dict(self.vae_state)
        self.ids = load_data(folder, device, "ids")
        vae = vae.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
        self.latents = encode_all(vae, load_data(folder, device, "pictures"))
        self.empty = empty_ids(load_tokenizer()).to(device=device, dtype=self.ids.dtype)
        alphas = build_scheduler().alphas_cumprod.to(device=device, dtype=torch.float32)
        self.signal, self.noise_level = alphas.sqrt(), (1 - alphas).sqrt()
        self.unet = unet.to(device, memory_format=torch.channels_last).train()
        self.denoise = torch.compile(self.unet) if compiled else self.unet
        self.parameters = list(self.unet.parameters())
        self.average = Average(self.parameters, decay=0.999)
        self.optimizer = build_optimizer(self.parameters, device, weight_decay=0.01)
        self.batch = Batch(batch_size, width, device)
        self.steps, spent = 0, 0.0
        if state is not None:
            self.unet.load_state_dict(state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
            for value, saved in zip(self.average.values, state["average"], strict=True):
                value.copy_(saved)
            self.steps, spent = state["step"], state["spent"]
        self.generator = torch.Generator(device).manual_seed(SEED * 7919 + self.steps)
        self.clock = Clock(minutes * 60, spent)
        self.graph: torch.cuda.CUDAGraph | None = None

    @torch.no_grad()
    def draw_batch(self) -> None:
        """Fill the batch: scenes, one text of each or none, times and noise."""
        size, batch = self.batch_size, self.batch
        rows = torch.randint(len(self.latents), (size,), generator=self.generator, device=self.device)
        which = torch.randint(self.ids.shape[1], (size,), generator=self.generator, device=self.device)
        chance = torch.rand(size, generator=self.generator, device=self.device)
        ids = torch.where(chance[:, None] < EMPTY_SHARE, self.empty, self.ids[rows, which]).long()
        with mixed_precision(self.device):
            batch.context.copy_(self.text_encoder(input_ids=ids).last_hidden_state)
        # One time in each of `size` equal parts, which makes the loss steadier than independent ones.
        shift = torch.rand(size, generator=self.generator, device=self.device)
        places = (torch.arange(size, device=self.device) + shift) / size
        batch.timesteps.copy_((places * len(self.signal)).long().clamp_(max=len(self.signal) - 1))
        signal = self.signal[batch.timesteps][:, None, None, None]
        level = self.noise_level[batch.timesteps][:, None, None, None]
        latents = self.latents[rows].float()
        noise = torch.randn(latents.shape, generator=self.generator, device=self.device)
        batch.noisy.copy_(signal * latents + level * noise)
        batch.target.copy_(signal * noise - level * latents)

    def loss(self) -> Tensor:
        """Return the mean squared error of the predicted velocity of the batch."""
        batch = self.batch
        with mixed_precision(self.device):
            predicted = self.denoise(batch.noisy, batch.timesteps, batch.context, return_dict=False)[0]
        return functional.mse_loss(predicted.float(), batch.target)

    def learn(self) -> None:
        """Learn from the batch as it stands."""
        loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.batch.loss.copy_(loss.detach())

    def record(self) -> None:
        """Record one step as a CUDA graph: the many small kernels cost the host more than the device.

        Raises:
            RuntimeError: The graph computes another loss than the step it was recorded from.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.learn()
        self.draw_batch()
        with torch.no_grad():
            expected = float(self.loss())
        graph.replay()
        found = float(self.batch.loss)
        print(f"graph recorded; loss {found:.4f}, without it {expected:.4f}", flush=True)
        if not abs(found - expected) < 0.02 * expected:
            raise RuntimeError(f"the graph's loss is {found}, without it {expected}; run with --no-graph")
        self.graph = graph

    def step(self) -> dict[str, Tensor]:
        """Draw a batch and learn from it; returns the loss."""
        set_learning_rate(self.optimizer, self.learning_rate, self.steps, self.clock.progress, WARMUP_STEPS)
        self.draw_batch()
        if self.graph is None:
            self.learn()
        else:
            self.graph.replay()
        self.average.update(self.steps)
        self.steps += 1
        return {"loss": self.batch.loss}

    def save(self) -> None:
        """Write the checkpoint from which a run resumes and the export reads, the autoencoder included."""
        run = {
            "step": self.steps,
            "spent": self.clock.spent,
            "batch_size": self.batch_size,
            "scenes": len(self.latents),
        }
        save_checkpoint(
            self.checkpoint,
            self.unet,
            self.average,
            self.optimizer,
            step=self.steps,
            spent=self.clock.spent,
            vae=self.vae_state,
            training=self.training | {"unet": [*self.training["unet"], run]},
        )

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
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--start-from", type=Path, help="exported folder to go on from, without optimizer state")
    parser.add_argument("--graph", action=argparse.BooleanOptionalAction, default=True, help="CUDA graph, on CUDA only")
    parser.add_argument("--compile", action="store_true", help="torch.compile the denoiser; costs a minute or two")
    arguments = parser.parse_args()
    trainer = UnetTrainer(
        arguments.work_dir / FOLDER,
        torch.device(arguments.device),
        arguments.minutes,
        arguments.batch_size,
        arguments.learning_rate,
        arguments.start_from,
        arguments.compile,
    )
    print(f"{len(trainer.latents)} scenes encoded, from step {trainer.steps}", flush=True)
    if arguments.graph and trainer.device.type == "cuda":
        trainer.record()
    trainer.run()


if __name__ == "__main__":
    main()
