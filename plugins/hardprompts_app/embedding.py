"""The tab *Embedding*: what a soft prompt's file is, which words are near, and which do the same."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from hardprompts.distillation.audits import audits_of
from hardprompts.errors import FileFormatError
from hardprompts.softprompts.audit import Audit
from hardprompts.softprompts.findings import sentences
from hardprompts_app.work import Job, Models


def inspect(
    models: Models, job: Job[list[Audit]], path: str | None, model: str, decode: bool
) -> Generator[tuple[str, list[Audit]], None, list[Audit]]:
    """Looks into a file and yields what goes on, with what is known already.

    Args:
        model: whose words it is compared with; "" for none.
        decode: also search for words with the same effect, 20 seconds at most.

    Raises: what `audits_of` raises; Stopped.
    """
    if not path:
        raise FileFormatError("there is no file yet: drop an embedding (.safetensors, .pt, .bin), or choose one")
    file, known = Path(path), list[Audit]()

    def work() -> list[Audit]:
        backend = models.open(model) if model.strip() else None
        job.step("reading the file")
        known.extend(audits_of(file, backend))
        if backend is None or not decode:
            return known
        job.step("searching for words that do the same, 20 s")
        return audits_of(file, backend, decode=True, callback=job)

    def so_far() -> tuple[str, list[Audit]]:
        best = None if job.progress is None else job.progress.best[0]
        return job.doing if best is None else f"{job.doing}: {best.text}", known

    return (yield from job.telling(work, so_far))


def lines_of(audits: list[Audit]) -> list[str]:
    """What is known, in the sentences of `hardprompts inspect`."""
    return [line for audit in audits for line in sentences(audit)]


def values_of(audits: list[Audit]) -> list[dict[str, Any]]:
    """The same as JSON values, with the sentences."""
    return [{**audit.to_dict(), "sentences": sentences(audit)} for audit in audits]
