"""`estimate`: what a prompt for each of many pictures takes, measured on a few of them."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hardprompts.batch.chunks import Chunk, InverterSettings, invert_chunk
from hardprompts.batch.run import check_options
from hardprompts.batch.sources import SourceInput, open_source
from hardprompts.errors import ImageError
from hardprompts.search.registry import DEFAULT_METHOD

if TYPE_CHECKING:
    from hardprompts.encoders import Backend
    from hardprompts.inversion.captioning import Captioner
    from hardprompts.inversion.evidence.calibration import CalibrationInput
    from hardprompts.inversion.proposals import Proposer
    from hardprompts.search.protocol import Search

MILLION = 1_000_000

#: Steps of the search that warms up: kernels are chosen and memory is reserved then.
_WARM_UP_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What was measured on a sample, and what follows from it.

    Attributes:
        images: pictures in the sample that got a prompt, and so were measured.
        failed: records in the sample that have no usable picture.
        seconds: for all of them, by one worker; opening the model and warming up are not counted.
        seconds_to_open: the model.
        batch_size: pictures that were searched together.
        device: the name of the GPU, or "CPU" with its threads.
        gpu_memory: bytes of the GPU that were in use at the most; None on a CPU.
        total: records in the source, if that is known.
        workers: that are to share the work.
        price_per_hour: of one worker, in any currency.
        passed_over: images and folders of the source that cannot be read here, and why.
    """

    images: int
    failed: int
    seconds: float
    seconds_to_open: float
    batch_size: int
    device: str
    gpu_memory: int | None = None
    total: int | None = None
    workers: int = 1
    price_per_hour: float | None = None
    passed_over: tuple[tuple[str, str], ...] = ()

    @property
    def seconds_per_image(self) -> float:
        """Of one worker."""
        return self.seconds / self.images

    @property
    def images_per_hour(self) -> float:
        """Of one worker."""
        return 3600 / self.seconds_per_image

    def hours(self, images: int = MILLION) -> float:
        """Until so many pictures have prompts, if `workers` share them evenly and do not slow each other down."""
        return images / self.images_per_hour / self.workers

    def price(self, images: int = MILLION) -> float | None:
        """Of so many pictures: it does not depend on the number of workers, which are paid for the shorter."""
        return None if self.price_per_hour is None else images / self.images_per_hour * self.price_per_hour

    def __str__(self) -> str:
        memory = "" if self.gpu_memory is None else f", {self.gpu_memory / 2**30:.2f} GiB of GPU memory"
        together = f"{self.workers} workers" if self.workers > 1 else "1 worker"
        lines = [
            f"{self.device}{memory}",
            f"{self.seconds_per_image:.2f} s per image, {self.images_per_hour:,.0f} images per hour and worker "
            f"(measured on {self.images} images, {self.batch_size} at a time; opening the model took "
            f"{self.seconds_to_open:.1f} s more)",
        ]
        if self.failed:
            lines.append(f"{self.failed} of {self.images + self.failed} records in the sample have no usable image")
        if self.passed_over:
            name, reason = self.passed_over[0]
            lines.append(f"{len(self.passed_over):,} images cannot be read here, such as {name}: {reason}")
        for count, name in ((self.total, "this source"), (MILLION, "a million images")):
            if count is not None:
                price = self.price(count)
                cost = "" if price is None else f", {price:,.2f} at {self.price_per_hour:g} per hour and worker"
                lines.append(f"{name} ({count:,}): {duration(self.hours(count))} on {together}{cost}")
        return "\n".join(lines)


def estimate(
    source: SourceInput,
    model: "str | Sequence[str] | Backend | Callable[[], Backend]" = "emoji",
    *,
    sample: int | None = None,
    price_per_hour: float | None = None,
    workers: int | None = None,
    method: "str | Search" = DEFAULT_METHOD,
    judge: "str | Backend | None" = None,
    prior: "str | Backend | None" = None,
    captioner: "str | Captioner | None" = None,
    proposers: "str | Proposer | Sequence[str | Proposer] | None" = None,
    fluency_model: "str | Backend | None" = None,
    calibrations: "CalibrationInput" = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 16,
    threads: int | None = None,
    image: str | None = None,
    key: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Estimate:
    """Time, memory and price of `invert_many` with the same arguments, from a sample that is really inverted here.

    Args:
        sample: how many records, spread over the source if its length is known. Default: one batch, at least 8.
        price_per_hour: of one worker, in any currency.
        workers: that are to share the work. The sample is inverted by one process.

    The other arguments are those of `invert_many`; nothing is written.

    Raises:
        ImageError: no record of the sample has a usable picture.
        ValueError and others: see `invert_many`.
    """
    count = max(batch_size, 8) if sample is None else sample
    check_options(options, {"batch_size": batch_size, "workers": workers, "threads": threads, "sample": count})
    if price_per_hour is not None and not price_per_hour >= 0:
        raise ValueError(f"price_per_hour must not be negative, got {price_per_hour}")
    records = open_source(source, image=image, key=key)
    step = max(1, (records.total or 0) // count)
    chosen = list(itertools.islice(records.records, 0, count * step, step))
    chunks = [
        Chunk(number, tuple(chosen[start : start + batch_size]))
        for number, start in enumerate(range(0, len(chosen), batch_size))
    ]
    if not chunks:
        raise ImageError("the source has no records; there is nothing to measure")
    before = torch.get_num_threads()
    started = time.perf_counter()
    try:
        inverter = InverterSettings(
            model, method, judge, prior, captioner, proposers, fluency_model, calibrations, device, dtype, threads
        ).open()
        opened = time.perf_counter()
        on_gpu = inverter.backend.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(inverter.backend.device)
        search = {**options, "seed": seed}
        invert_chunk(inverter, chunks[0], {**search, "max_steps": _WARM_UP_STEPS})
        warm = time.perf_counter()
        rows = [row for chunk in chunks for row in invert_chunk(inverter, chunk, search).rows]
        finished = time.perf_counter()
        device_name = f"CPU, threads: {torch.get_num_threads()}"
    finally:
        torch.set_num_threads(before)
    errors = [row["error"] for row in rows if row["error"] is not None]
    if len(errors) == len(rows):
        raise ImageError(f"none of the {len(rows)} records of the sample has a usable image; the first: {errors[0]}")
    return Estimate(
        images=len(rows) - len(errors),
        failed=len(errors),
        seconds=finished - warm,
        seconds_to_open=opened - started,
        batch_size=batch_size,
        device=torch.cuda.get_device_name(inverter.backend.device) if on_gpu else device_name,
        gpu_memory=torch.cuda.max_memory_allocated(inverter.backend.device) if on_gpu else None,
        total=records.total,
        workers=workers or 1,
        price_per_hour=price_per_hour,
        passed_over=records.passed_over,
    )


def duration(hours: float) -> str:
    """A time as people say it: "40 seconds", "3.5 hours"."""
    if hours < 1:
        return f"{60 * hours:.0f} minutes" if hours >= 1 / 30 else f"{3600 * hours:.0f} seconds"
    return f"{hours:,.1f} hours" if hours < 72 else f"{hours / 24:,.1f} days"
