"""The tab *Folder*: a caption beside each image of a folder on this machine."""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from hardprompts.batch import BatchReport, invert_many
from hardprompts.batch.sources import folder_source
from hardprompts_app.work import Job, Models

#: Images that are searched together: on a CPU as fast as more, and captions come one by one.
BATCH = {"cpu": 1}
BATCH_ELSEWHERE = 16


def caption(
    models: Models,
    job: Job[BatchReport],
    folder: str,
    recursive: bool,
    overwrite: bool,
    model: str,
    options: Mapping[str, Any],
) -> Generator[str, None, BatchReport]:
    """Writes the captions that are missing and yields how far it came.

    Args:
        overwrite: replace captions that exist.

    Raises: what `invert_many` raises; Stopped.
    """
    if not folder.strip():
        raise ValueError("there is no folder yet: type its path on this machine")
    path = Path(folder.strip()).expanduser()
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder of this machine")

    def work() -> BatchReport:
        source = folder_source(path, recursive)
        backend = models.with_images(model)
        job.step("searching")
        return invert_many(
            source, path, backend, format="txt", batch_size=BATCH.get(backend.device.type, BATCH_ELSEWHERE),
            retry_errors=True, overwrite=overwrite, progress=False, callback=job.on_batch, on_step=job, **options,
        )  # fmt: skip

    return (yield from job.telling(work, lambda: _doing(job)))


def rows_of(job: Job[BatchReport]) -> list[str]:
    """Each image with its caption, or the reason why there is none; the last first."""
    rows = [row for progress in job.batch for row in progress.rows]
    return [f"{row['key']}: {row['error'] or row['prompt']}" for row in reversed(rows)]


def told(report: BatchReport) -> str:
    """What a run did, in one line."""
    parts = [f"{report.done:,} captions, {report.failed:,} failed, {report.skipped:,} there before"]
    if report.stop_reason != "finished":
        parts.append("stopped; the same again resumes it")
    if report.passed_over:
        parts.append(f"{len(report.passed_over):,} files cannot be read here")
    return "; ".join(parts)


def _doing(job: Job[BatchReport]) -> str:
    if not job.batch:
        return job.doing
    last = job.batch[-1]
    done = last.done + last.failed
    of = "" if last.waiting is None else f" of {done + last.waiting:,}"
    left = "" if not last.seconds_left else f", about {last.seconds_left:.0f} s left"
    return f"{done:,}{of} images{left}{'; stopping' if job.stopped else ''}"
