"""`invert_many`: a prompt for each picture of a source, in this process or on the workers of Ray."""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from hardprompts.batch.chunks import ChunkResult, InverterSettings, Plan, invert_chunk
from hardprompts.batch.output import TEXT_FILES, Captions, Output, Row, plain
from hardprompts.batch.sources import SourceInput, open_source
from hardprompts.hub.machine import FOLDERS, Clearance
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.inversion.options import InversionOptions
from hardprompts.search.protocol import StopReason
from hardprompts.search.registry import DEFAULT_METHOD
from hardprompts.wording.evidence import NOTHING_DROPPED, UNCALIBRATED

if TYPE_CHECKING:
    from hardprompts.encoders import Backend
    from hardprompts.inversion.captioning import Captioner
    from hardprompts.inversion.evidence.calibration import CalibrationInput
    from hardprompts.inversion.proposals import Proposer
    from hardprompts.search.protocol import Callback, Search, SearchProgress

#: Options of `PromptInverter.invert` that are not for the pictures of a batch.
_NOT_FOR_BATCHES = {"callback", "progress"}

#: Those that prompts do not depend on.
_NOT_IN_PROMPTS = {"vram"}


@dataclasses.dataclass(frozen=True)
class BatchProgress:
    """How far a run has come; what a callback is given.

    Attributes:
        done, failed: records of this run that got a prompt, and that have an error instead.
        waiting: records that are left, if that is known.
        seconds: since the first of them was begun; opening models is not counted.
        rows: what was found for the records of the last chunk; see `Output`.
    """

    done: int
    failed: int
    waiting: int | None
    seconds: float
    rows: Sequence[Row] = dataclasses.field(default=(), kw_only=True, repr=False)

    @property
    def images_per_hour(self) -> float:
        """The rate so far."""
        return 3600 * (self.done + self.failed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The time that is left at this rate, if it is known."""
        if self.waiting is None or not self.images_per_hour:
            return None
        return 3600 * self.waiting / self.images_per_hour


@dataclasses.dataclass(frozen=True)
class BatchReport(BatchProgress):
    """What a run did.

    Attributes:
        skipped: records that were done before.
        busy_seconds: of all workers together.
        stop_reason: "finished", "interrupted" (Ctrl-C) or "cancelled" (by the callback).
        output: the file of prompts, or the folder of parts or captions.
        passed_over: images and folders of the source that cannot be read here, and why.
        notes: what else of the source, or of what was asked for, was left out, in sentences.
        failed_before: of those that were done before, records that have an error instead of a prompt.
        notices: what was shortened in the output, since it is of this machine alone.
    """

    skipped: int = 0
    busy_seconds: float = 0.0
    stop_reason: str = "finished"
    output: Path = Path()
    passed_over: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    failed_before: int = 0
    notices: tuple[str, ...] = ()


#: Called after every chunk; returning True stops the run, which keeps what is done.
BatchCallback = Callable[[BatchProgress], bool | None]


def invert_many(
    source: SourceInput,
    output: str | os.PathLike[str],
    model: "str | Sequence[str] | Backend | Callable[[], Backend]" = "emoji",
    *,
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
    workers: int | None = None,
    threads: int | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    image: str | None = None,
    key: str | None = None,
    format: str | None = None,
    retry_errors: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    callback: BatchCallback | None = None,
    on_step: "Callback | None" = None,
    seed: int = 0,
    **options: Any,
) -> BatchReport:
    """Writes the prompt of each picture, and resumes an earlier run into the same output.

    Each chunk of `batch_size` consecutive records is searched together and becomes a part of the output as soon as
    it is done. Its prompts are those of `PromptInverter.invert_each` with the same options: they depend neither on
    other chunks nor on the worker, so that any number of workers and interruptions give the same output (on one
    kind of device, with as many threads, and without a deadline). A record that has no usable picture gets a row with
    its error, and the others go on.

    Args:
        source, image, key: see `open_source`. Records whose key is in the output are skipped; new ones may be added
            to the source later. A picture that was replaced under the same key is not noticed.
        output: "prompts.jsonl", "prompts.csv" or "prompts.parquet", whose parts are kept in a folder beside it,
            "prompts.jsonl.parts"; or a folder for the parts alone, or for captions, see `format`. Rows have key,
            prompt, score, token_ids, template, model, method, seed, stop_reason, fluency, which is null without a
            `fluency_model`, evidence, which is null unless it was asked for (a list of the fields of `WordEvidence`; in
            tables as JSON), and error, which is null where there is a prompt. Nothing has paths of this machine in it:
            a model in a folder is "open_clip:…/x", and a key that is an absolute path is "…/cat.png #1f2e3d4c"; a
            warning, and the report, say so.
        model, method, judge, prior, captioner, proposers, fluency_model, calibrations, device, dtype: see
            `PromptInverter`. The model may also be a function without arguments that opens it. Workers open it
            themselves: it cannot be open already then.
        batch_size: records that are searched together: more use a GPU better, and lose more when a run is stopped.
        workers: None: this process. Else so many of Ray's (`pip install "hardprompts[ray]"`), each with a model of
            its own. Ray restarts a worker that dies and repeats its work.
        threads: of the CPU for each worker. Default: torch's own number here, and an equal share for workers.
        gpus_per_worker: default: 1 where Ray has GPUs, or an equal share if they are fewer than the workers.
        ray_address: a cluster's, or "auto" for the one that this machine belongs to; pictures must have the same path
            on all of its machines. Default: Ray is started here, unless `ray.init` was called before.
        format: if the output is a folder: "jsonl", "csv" or "parquet" for its parts, or "txt" for captions: a text file
            for each image file, in the folders of the source, "cat.txt" for "cat.png". The output may be the
            source's folder itself. Images that have a caption are skipped. Default: "jsonl".
        retry_errors: first do again the chunks that have errors in them.
        overwrite: forget what an earlier run wrote there, and replace captions.
        progress: a progress bar with the rate, on a terminal or in a notebook.
        callback: see `BatchCallback`.
        on_step: called after every step of a search in this process; returning True stops the run at once, which keeps
            what is done and drops the records that are being searched. Not for workers.
        seed: of every search.
        options: of `PromptInverter.invert`. A deadline is for each picture.

    Returns:
        What was done. Ctrl-C ends the run with what is done, and the one file then has that.

    Raises:
        ValueError: a wrong option; or the output is of a run with other settings, or of something else.
        MissingExtra: Ray or pyarrow is needed and not installed.
        FileFormatError: a shard, a table or a part of the output cannot be read.
        OSError: the disk is full, say: what was written before is whole, and the same call goes on from there.
        UnknownName, BackendError, TemplateError, VocabularyError: see `PromptInverter` and its `invert`.
    """
    check_options(options, {"batch_size": batch_size, "workers": workers, "threads": threads})
    if workers is not None and on_step is not None:
        raise ValueError("on_step is for searches in this process; leave it out, or run without workers")
    opening = InverterSettings(
        model, method, judge, prior, captioner, proposers, fluency_model, calibrations, device, dtype, threads
    )
    if workers is not None:
        from hardprompts.batch.on_ray import check_ray

        check_ray(opening)
    chosen = {**options, "seed": seed}
    records = open_source(source, image=image, key=key)
    if workers is not None and records.streamed:
        raise ValueError(
            "compressed shards are read from one end to the other, by one process; unpack them (gunzip), or run "
            "without workers"
        )
    settings = {
        "source": records.name, "image": image, "key": key, **opening.described(), "batch_size": batch_size,
        **plain({name: value for name, value in chosen.items() if name not in _NOT_IN_PROMPTS}),
    }  # fmt: skip
    captions = Captions(records.captions(Path(output)), overwrite) if format == TEXT_FILES else None
    where = Output(output, settings, format, captions=captions, overwrite=overwrite)
    if retry_errors:
        where.forget_errors()
    keys, failed_before = where.keys, where.failed
    plan = Plan(records.records, batch_size, keys, where.numbers)
    count = _Count(None if records.total is None else max(0, records.total - len(keys)))
    clearance, stop_reason = Clearance(), "finished"
    done: Generator[ChunkResult, None, None]
    steps = None if on_step is None else _Steps(on_step)
    if workers is None:
        done = _in_this_process(plan, opening, chosen if steps is None else {**chosen, "callback": steps})
    else:
        from hardprompts.batch.on_ray import on_ray

        done = on_ray(plan, opening, chosen, workers, gpus_per_worker, ray_address)
    with contextlib.closing(done), _bar(progress, count.waiting) as bar:
        try:
            for chunk in done:
                where.write(chunk.number, chunk.rows)
                for column, text in ((name, row[name]) for row in chunk.rows for name in ("key", "model")):
                    if text and FOLDERS in text:
                        clearance.shortened.setdefault(column, text)
                count.add(chunk)
                bar.update(len(chunk.rows))
                bar.set_postfix_str(f"{count.report().images_per_hour:,.0f} images/h, {count.failed} failed")
                if callback is not None and callback(dataclasses.replace(count.report(), rows=chunk.rows)):
                    stop_reason = str(StopReason.CANCELLED)
                    break
        except KeyboardInterrupt:
            by_callback = steps is not None and steps.stopped
            stop_reason = str(StopReason.CANCELLED if by_callback else StopReason.INTERRUPTED)
    where.join()
    return BatchReport(
        **vars(count.report()), skipped=plan.skipped, busy_seconds=count.busy_seconds, stop_reason=stop_reason,
        output=where.path, passed_over=records.passed_over, notes=(*records.notes, *count.notes),
        failed_before=failed_before, notices=clearance.tell(),
    )  # fmt: skip


class _Steps:
    """Ends a search as Ctrl-C does when a callback wants it, so that half of it is not taken for a result."""

    def __init__(self, callback: "Callback") -> None:
        self.callback, self.stopped = callback, False

    def __call__(self, progress: "SearchProgress") -> None:
        if self.callback(progress):
            self.stopped = True
            raise KeyboardInterrupt


class _Count:
    """What was done so far."""

    def __init__(self, waiting: int | None) -> None:
        self.waiting = waiting
        self.done = self.failed = 0
        self.busy_seconds = 0.0
        self._span: tuple[float, float] | None = None
        self._uncalibrated: collections.Counter[str] = collections.Counter()

    @property
    def notes(self) -> tuple[str, ...]:
        """That nothing says how likely words are true, for models and prompts of which that was asked."""
        return tuple(
            f"probabilities of words: of {count:,} prompts none has any; {UNCALIBRATED} {model}, {NOTHING_DROPPED}"
            for model, count in self._uncalibrated.items()
        )

    def add(self, chunk: ChunkResult) -> None:
        failed = sum(row["error"] is not None for row in chunk.rows)
        self.failed += failed
        self.done += len(chunk.rows) - failed
        self._uncalibrated.update(filter(None, map(_uncalibrated, chunk.rows)))
        self.busy_seconds += chunk.finished - chunk.started
        first, last = self._span or (chunk.started, chunk.finished)
        self._span = min(first, chunk.started), max(last, chunk.finished)

    def report(self) -> BatchProgress:
        first, last = self._span or (0.0, 0.0)
        waiting = None if self.waiting is None else max(0, self.waiting - self.done - self.failed)
        return BatchProgress(self.done, self.failed, waiting, last - first)


def _uncalibrated(row: Row) -> str | None:
    """The model of a row that has evidence, none of which says how likely a word is true."""
    found = row["evidence"]
    return str(row["model"]) if found and all(one["probability"] is None for one in found) else None


def _bar(progress: bool, total: int | None) -> tqdm:
    return tqdm(total=total, disable=None if progress else True, desc="prompts", unit="image", smoothing=0)


def _in_this_process(
    plan: Plan, opening: InverterSettings, options: Mapping[str, Any]
) -> Generator[ChunkResult, None, None]:
    inverter: PromptInverter | None = None
    threads = torch.get_num_threads()
    try:
        for chunk in plan:
            inverter = inverter or opening.open()  # not at all, if nothing is left to do
            yield invert_chunk(inverter, chunk, options)
    finally:
        torch.set_num_threads(threads)


def check_options(options: Mapping[str, Any], counts: Mapping[str, int | None]) -> None:
    """Raises ValueError unless the options are those of a search, and the counts at least 1."""
    known = [field.name for field in dataclasses.fields(InversionOptions) if field.name not in _NOT_FOR_BATCHES]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"unknown options {', '.join(unknown)}; those of a search are {', '.join(known)}")
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
