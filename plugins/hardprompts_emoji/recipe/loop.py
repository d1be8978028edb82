"""What the trainings share: averaged weights, learning rate, reports, checkpoints."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hardprompts_emoji.recipe.clock import Clock
from hardprompts_emoji.recipe.optimizer import Muon

REPORT_SECONDS = 20
SAVE_SECONDS = 60
AVERAGE_EVERY = 4
ADAM_SHARE = 0.1
BORDERS = ("conv_in.", "conv_out.", "quant_conv.", "wte.", "wpe.", "embeddings.", "lm_head.")
"""Parts of the names of layers that touch pixels or tokens: Muon is for what lies between them."""


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


class Optimizers:
    """Muon for the inner matrices and convolutions, AdamW for the borders and vectors, one learning rate.

    The rates are tensors on CUDA, so that a recorded graph can follow them.

    Args:
        model: Network to train; its first and last layers (``BORDERS``) and what has one dimension are AdamW's.
        learning_rate: Highest rate of Muon; AdamW's is ``ADAM_SHARE`` of it.
        warmup: Steps over which the rates rise.
        weight_decay: Of both, per step and rate.
    """

    def __init__(self, model: nn.Module, learning_rate: float, warmup: int, weight_decay: float) -> None:
        inner, rest = list[nn.Parameter](), list[nn.Parameter]()
        for name, parameter in model.named_parameters():
            border = any(part in name for part in BORDERS)
            (rest if parameter.ndim < 2 or border else inner).append(parameter)
        on_cuda = rest[0].device.type == "cuda"
        zero = torch.zeros((), device=rest[0].device) if on_cuda else 0.0
        adam = torch.optim.AdamW(
            rest, lr=zero, betas=(0.9, 0.99), weight_decay=weight_decay, fused=on_cuda or None, capturable=on_cuda
        )
        muon = Muon(inner, lr=zero, weight_decay=weight_decay)
        self.both = (muon, adam)
        self.rates = (learning_rate, learning_rate * ADAM_SHARE)
        self.warmup = warmup

    def set_rates(self, step: int, progress: float) -> None:
        """Warm up over the first steps, then fall linearly with the clock to 1 %."""
        share = min(1.0, (step + 1) / self.warmup) * (1 - 0.99 * progress)
        for optimizer, rate in zip(self.both, self.rates, strict=True):
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * share)
                else:
                    group["lr"] = rate * share

    def step(self) -> None:
        """Follow the gradients and forget them."""
        for optimizer in self.both:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the moments of both."""
        return [optimizer.state_dict() for optimizer in self.both]

    def load_state_dict(self, saved: list[dict[str, Any]]) -> None:
        """Take the moments of a checkpoint, and keep the settings of this device."""
        for optimizer, state in zip(self.both, saved, strict=True):
            settings = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state["state"], "param_groups": settings})


def mixed_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return bf16 autocast on CUDA and on processors that multiply bf16, nothing elsewhere.

    Casts of weights are not kept on CUDA: a recorded graph must hold its own.
    """
    if device.type == "cuda" or (device.type == "cpu" and torch.backends.mkldnn.is_available() and _has_bf16()):
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=device.type == "cpu")
    return contextlib.nullcontext()


@cache
def _has_bf16() -> bool:
    """Return whether this processor multiplies bf16 natively; emulated it is slower than fp32."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch 2.4 cannot tell
    return supported is not None and bool(supported())


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


class Trainer(Protocol):
    """What ``run`` trains until its clock runs out."""

    clock: Clock
    device: torch.device
    steps: int

    def step(self) -> dict[str, Tensor]:
        """Learn from one batch; returns the losses."""
        ...

    def save(self) -> None:
        """Write the checkpoint from which a run resumes."""
        ...


def run(trainer: Trainer) -> None:
    """Train until the clock runs out."""
    journal = Journal(trainer.clock, trainer.device)
    finished = False
    while not finished:
        finished = trainer.clock.progress >= 1
        if journal.add(trainer.steps, trainer.step(), finished):
            trainer.save()


def save_state(path: Path, **state: Any) -> None:
    """Write a checkpoint; a reader never sees half of one, and two writers do not mix theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    torch.save(state, temporary)
    temporary.replace(path)


def save_checkpoint(path: Path, model: nn.Module, average: Average, optimizers: Optimizers, **more: Any) -> None:
    """Write everything from which a run resumes."""
    save_state(path, model=model.state_dict(), average=average.values, optimizer=optimizers.state_dict(), **more)


def resume(state: Mapping[str, Any], model: nn.Module, average: Average, optimizers: Optimizers) -> tuple[int, float]:
    """Take what ``save_checkpoint`` wrote; returns the steps and the seconds spent."""
    model.load_state_dict(state["model"])
    optimizers.load_state_dict(state["optimizer"])
    for value, saved in zip(average.values, state["average"], strict=True):
        value.copy_(saved)
    return state["step"], state["spent"]
