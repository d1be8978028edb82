"""Chunks: the records that are searched together, and what comes of them."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hardprompts.atomic import json_text
from hardprompts.batch.output import COLUMNS, Row, plain
from hardprompts.batch.records import Record, UnusablePicture
from hardprompts.devices import use_threads
from hardprompts.errors import HardPromptsError, ImageError, SearchError
from hardprompts.hub.machine import model_label, without_machine
from hardprompts.images import ImageInput
from hardprompts.inversion.evidence.calibration import CalibrationInput, opened_calibrations
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.prompts import HardPrompt
from hardprompts.search.protocol import StopReason
from hardprompts.search.registry import DEFAULT_METHOD

if TYPE_CHECKING:
    from hardprompts.encoders import Backend


@dataclasses.dataclass(frozen=True)
class InverterSettings:
    """How every process opens the same inverter; see `PromptInverter`."""

    model: Any = "emoji"
    method: Any = DEFAULT_METHOD
    judge: Any = None
    prior: Any = None
    captioner: Any = None
    proposers: Any = None
    fluency_model: Any = None
    calibrations: CalibrationInput = None
    device: "torch.device | str | None" = None
    dtype: torch.dtype | None = None
    threads: int | None = None

    def open(self) -> PromptInverter:
        """The inverter.

        Raises:
            UnknownName, BackendError: see `load_backend`.
        """
        use_threads(self.threads)
        model: str | Backend | Sequence[str | Backend] = self.model() if callable(self.model) else self.model
        return PromptInverter(
            model, self.method, device=self.device, dtype=self.dtype, judge=self.judge, prior=self.prior,
            captioner=self.captioner, proposers=self.proposers, fluency_model=self.fluency_model,
            calibrations=self.calibrations,
        )  # fmt: skip

    def described(self) -> dict[str, Any]:
        """What the prompts depend on, as JSON values."""
        parts = {name: getattr(self, name) for name in ("model", "method", "judge", "prior", "captioner")}
        dtype = torch.float32 if self.dtype is None else self.dtype
        named = {name: getattr(part, "name", part) for name, part in parts.items()}  # open backends
        # A run that was begun without them knows nothing of them.
        asked = {
            name: plain(getattr(part, "name", part))
            for name, part in {"proposers": self.proposers, "fluency_model": self.fluency_model}.items()
            if part is not None
        }
        if self.calibrations is not None:
            asked["calibrations"] = _digest(self.calibrations)
        return {
            **{name: plain(part) for name, part in named.items()},
            **asked,
            "dtype": str(dtype).removeprefix("torch."),
        }


def _digest(given: CalibrationInput) -> str:
    """What tells calibrations from others, wherever their file is."""
    found = [one.to_dict() for one in opened_calibrations(given) or ()]
    return hashlib.sha256(json_text(found).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Records that are searched together; the number is that of their part of the output."""

    number: int
    records: tuple[Record, ...]


@dataclasses.dataclass(frozen=True)
class ChunkResult:
    """A chunk's rows, and when it was begun and finished, in seconds since the epoch."""

    number: int
    rows: list[Row]
    started: float
    finished: float


class Plan:
    """The chunks of what is not done yet, as they are read from a source.

    Chunks are consecutive records in the source's order. What is done of an unchanged source is a set of whole chunks,
    so that the others get the records, and the numbers, that they have in a run that nothing disturbed. Records that
    were added since are chunks of their own.

    Attributes:
        skipped: records that were done already, in the part of the source that was read.
    """

    def __init__(self, records: Iterable[Record], size: int, keys: set[str], numbers: set[int]) -> None:
        self.skipped = 0
        self._records, self._size, self._keys, self._numbers = records, size, keys, numbers

    def __iter__(self) -> Iterator[Chunk]:
        number = 0
        waiting: list[Record] = []
        for record in self._unique():
            if record.key in self._keys:
                self.skipped += 1
                continue
            waiting.append(record)
            if len(waiting) == self._size:
                number = self._free(number)
                yield Chunk(number, tuple(waiting))
                number, waiting = number + 1, []
        if waiting:
            yield Chunk(self._free(number), tuple(waiting))

    def _free(self, number: int) -> int:
        while number in self._numbers:
            number += 1
        return number

    def _unique(self) -> Iterator[Record]:
        seen: dict[str, int] = {}
        for record in self._records:
            count = seen[record.key] = seen.get(record.key, 0) + 1
            if count == 1:
                yield record
            else:
                key = f"{record.key} (number {count})"
                yield Record(
                    key, UnusablePicture(f"the key {record.key!r} is there {count} times; only the first is used")
                )


def invert_chunk(inverter: PromptInverter, chunk: Chunk, options: Mapping[str, Any]) -> ChunkResult:
    """A row for each record of a chunk: the prompt, or the error where there is none.

    Raises:
        KeyboardInterrupt: the search was interrupted; half a search is not a result.
        HardPromptsError, ValueError: the options are wrong, for all records.
    """
    started = time.time()
    found: dict[str, HardPrompt | HardPromptsError] = {}
    images = {}
    for record in chunk.records:
        try:
            images[record.key] = record.load()
        except ImageError as error:
            found[record.key] = error
    if images:
        found.update(zip(images, prompts_of_each(inverter, list(images.values()), options), strict=True))
    rows = [row_of(record.key, found[record.key], record.image) for record in chunk.records]
    return ChunkResult(chunk.number, rows, started, time.time())


def prompts_of_each(
    inverter: PromptInverter, images: Sequence[ImageInput], options: Mapping[str, Any]
) -> list[HardPrompt | HardPromptsError]:
    """The prompt of each image, or why there is none.

    If a search of all together fails, each is searched alone. The deadline is for each image.

    Raises:
        HardPromptsError, ValueError: the options are wrong, for all images.
    """
    timed = dict(options)
    if timed.get("deadline") is not None:
        timed["deadline"] *= len(images)
    try:
        return [*inverter.invert_each(images, batch_size=len(images), progress=False, **timed)]
    except SearchError as error:
        if len(images) == 1:
            return [error]
    return [found for image in images for found in prompts_of_each(inverter, [image], options)]


def row_of(key: str, found: HardPrompt | HardPromptsError, image: object = None) -> Row:
    """What is written about a record, without paths of this machine.

    Args:
        image: where its picture is; in an error it goes by the record's key.

    Raises:
        KeyboardInterrupt: see `invert_chunk`.
    """
    if isinstance(found, HardPrompt):
        if found.stop_reason == StopReason.INTERRUPTED:
            raise KeyboardInterrupt
        about = {
            name: getattr(found, name) for name in ("template", "model", "method", "seed", "stop_reason", "fluency")
        }
        about["model"] = model_label(found.model)
        asked = "evidence" in found.provenance
        about["evidence"] = [dataclasses.asdict(one) for one in found.evidence] if asked else None
        return {
            "key": key, "prompt": found.filled, "score": found.score, "token_ids": list(found.token_ids), **about,
            "error": None,
        }  # fmt: skip
    reason = " ".join(str(found).split())
    if isinstance(image, str | os.PathLike):
        reason = reason.replace(os.fspath(image), key)
    return failed_row(key, without_machine(reason))


def failed_row(key: str, error: str) -> Row:
    """What is written about a record that has no prompt."""
    return {**dict.fromkeys(COLUMNS), "key": key, "error": error}
