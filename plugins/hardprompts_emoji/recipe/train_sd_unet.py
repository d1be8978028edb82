"""The denoiser of ``emoji-sd``, on the latents of scenes (``sd_codec``) and prompts of each.

Run ``python -m hardprompts_emoji.recipe.train_sd_unet --device cuda --minutes 5`` after ``sd_data``; it does not
need ``train_sd_decoder``, which can run beside it. The text tower is emoji-clip's and stays as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from hardprompts_emoji.recipe.build_tokenizer import CONTEXT_LENGTH
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
from hardprompts_emoji.recipe.sd_codec import Codec
from hardprompts_emoji.recipe.sd_data import FOLDER, about_data, load_data
from hardprompts_emoji.recipe.sd_models import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    build_scheduler,
    build_unet,
    empty_ids,
    load_text_encoder,
    load_tokenizer,
    read_checkpoint,
)

CHECKPOINT = "unet.pt"
EMPTY_SHARE = 0.1
"""Share of pictures whose text is left out, for classifier-free guidance."""
WARMUP_STEPS = 50
NOISE_BIAS = 0.55
"""Exponent of the times' distribution; below 1 it favors much noise, where the text decides."""
SEED = 12


def encode_all(codec: Codec, pictures: Tensor) -> Tensor:
    """Return (n, 32, 8, 8) fp16 latents of uint8 pictures, on their device."""
    return torch.cat([codec.encode(batch).half() for batch in pictures.split(1024)])


class Batch:
    """The tensors of one batch, at fixed addresses, so that a recorded graph reads every new batch."""

    def __init__(self, size: int, text_width: int, device: torch.device) -> None:
        shape = (size, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        self.noisy = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
        self.target = torch.zeros_like(self.noisy)
        self.timesteps = torch.zeros(size, dtype=torch.long, device=device)
        self.context = torch.zeros(size, CONTEXT_LENGTH, text_width, device=device)
        self.loss = torch.zeros((), device=device)


def _from_export(folder: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return the denoiser's weights and the runs so far of an exported folder, whose codec must be this data's."""
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32)
    runs: list[dict[str, Any]] = json.loads((folder / "training.json").read_text(encoding="utf-8"))["unet"]
    return unet.state_dict(), runs


class UnetTrainer:
    """Training state; ``run`` trains until the clock runs out.

    Args:
        folder: Where ``sd_data`` left its results.
        device: Where everything is kept and computed.
        minutes: Wall-clock budget; the learning rate follows it.
        batch_size: Pictures in a step.
        learning_rate: Highest rate.
        start_from: Exported pipeline whose denoiser to go on from, without its optimizer's moments.
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
        self.device, self.batch_size = device, batch_size
        self.text_encoder = load_text_encoder().to(device)
        width = self.text_encoder.config.hidden_size
        self.checkpoint = folder / CHECKPOINT
        state = read_checkpoint(self.checkpoint) if self.checkpoint.exists() and start_from is None else None
        self.ids = load_data(folder, device, "ids")
        pictures = load_data(folder, device, "pictures")
        self.codec = Codec.of_folder(folder, pictures) if state is None else Codec(**state["codec"])
        self.num_objects = about_data(folder)["objects"]
        self.latents = encode_all(self.codec, pictures)
        del pictures
        unet, self.runs = build_unet(width), list[dict[str, Any]]()
        if start_from is not None:
            weights, self.runs = _from_export(start_from)
            unet.load_state_dict(weights)
        self.empty = empty_ids(load_tokenizer()).to(device=device, dtype=self.ids.dtype)
        alphas = build_scheduler().alphas_cumprod.to(device=device, dtype=torch.float32)
        self.signal, self.noise_level = alphas.sqrt(), (1 - alphas).sqrt()
        self.unet = unet.to(device, memory_format=torch.channels_last).train()
        self.denoise = torch.compile(self.unet) if compiled else self.unet
        self.parameters = list(self.unet.parameters())
        self.average = Average(self.parameters, decay=0.999)
        self.optimizers = Optimizers(self.unet, learning_rate, WARMUP_STEPS, weight_decay=0.01)
        self.batch = Batch(batch_size, width, device)
        self.steps, spent = 0, 0.0
        if state is not None:
            self.steps, spent = resume(state, self.unet, self.average, self.optimizers)
            self.runs = state["training"]["unet"][:-1]
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
        times = (places**NOISE_BIAS * len(self.signal)).long()
        batch.timesteps.copy_(times.clamp_(max=len(self.signal) - 1))
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
        self.optimizers.step()
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
        self.optimizers.set_rates(self.steps, self.clock.progress)
        self.draw_batch()
        if self.graph is None:
            self.learn()
        else:
            self.graph.replay()
        self.average.update(self.steps)
        self.steps += 1
        return {"loss": self.batch.loss}

    def save(self) -> None:
        """Write the checkpoint from which a run resumes and the export reads, the codec included."""
        this = {
            "step": self.steps,
            "spent": self.clock.spent,
            "batch_size": self.batch_size,
            "scenes": len(self.latents),
            "objects": self.num_objects,
        }
        save_checkpoint(
            self.checkpoint,
            self.unet,
            self.average,
            self.optimizers,
            step=self.steps,
            spent=self.clock.spent,
            codec=self.codec.state_dict(),
            training={"unet": [*self.runs, this]},
        )

    def run(self) -> None:
        """Train until the clock runs out."""
        run(self)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--start-from", type=Path, help="exported folder to go on from")
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
