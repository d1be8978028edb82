"""What both training stages of ``emoji-sd`` share: averaged weights, learning rate, reports, checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardprompts_emoji.recipe.clock import Clock
from hardprompts_emoji.recipe.train_image_tower import save_state

REPORT_SECONDS = 20
SAVE_SECONDS = 60
AVERAGE_EVERY = 4


class Average:
    """Exponential moving average of weights, which remembers less at the start."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = [parameter.detach() for parameter in parameters]
        self.values = [parameter.clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights, every fourth step."""
        if step % AVERAGE_EVERY == 0:
            decay = min(self.decay, (1 + step) / (10 + step)) ** AVERAGE_EVERY
            torch._foreach_lerp_(self.values, self.parameters, 1 - decay)


def build_optimizer(parameters: Iterable[nn.Parameter], device: torch.device, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW whose learning rate is a tensor on CUDA, so that a recorded graph can follow it."""
    betas = (0.9, 0.99)
    if device.type == "cuda":
        rate = torch.zeros((), device=device)
        return torch.optim.AdamW(
            parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=True, capturable=True
        )
    return torch.optim.AdamW(parameters, lr=0.0, betas=betas, weight_decay=weight_decay)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take the moments of a checkpoint, and keep the settings of this device."""
    optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})


def set_learning_rate(optimizer: torch.optim.Optimizer, base: float, step: int, progress: float, warmup: int) -> None:
    """Warm up over the first steps, then fall linearly with the clock to 1 % of the base rate."""
    rate = base * min(1.0, (step + 1) / warmup) * (1 - 0.99 * progress)
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def mixed_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return bf16 autocast on CUDA and nothing elsewhere.

    Casts of weights are not kept: a recorded graph must hold its own.
    """
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False)
    return contextlib.nullcontext()


def prepare(device: torch.device) -> None:
    """Choose fast fp32 matrix products and convolutions on CUDA."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True


class Journal:
    """Prints the mean losses every 20 seconds and says when a checkpoint is due."""

    def __init__(self, clock: Clock, device: torch.device) -> None:
        self.clock = clock
        self.device = device
        self._reported = self._saved = clock.spent
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, step: int, losses: dict[str, Tensor], finished: bool) -> bool:
        """Take the losses of one step without waiting for them; returns whether to save now."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=self.device)) + value
        self._count += 1
        if self.device.type == "cuda" and step % 10 == 0:
            # The host must not run far ahead of the device, or the clock would measure nothing.
            torch.cuda.synchronize(self.device)
        now = self.clock.spent
        if finished or now - self._reported > REPORT_SECONDS:
            self._reported = now
            means = " ".join(f"{name} {float(total) / self._count:.4f}" for name, total in self._sums.items())
            print(f"{now:6.0f} s step {step:6d} {means}", flush=True)
            self._sums, self._count = {}, 0
        due = finished or now - self._saved > SAVE_SECONDS
        if due:
            self._saved = now
        return due


def save_checkpoint(
    path: Path, model: nn.Module, average: Average, optimizer: torch.optim.Optimizer, **more: Any
) -> None:
    """Write everything from which a run resumes; a reader never sees half of it."""
    save_state(path, model=model.state_dict(), average=average.values, optimizer=optimizer.state_dict(), **more)
