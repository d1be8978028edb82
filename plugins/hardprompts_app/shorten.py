"""The tab *Shorten*: a long prompt becomes a short one, with what is lost."""

from collections.abc import Generator, Mapping
from typing import Any

from hardprompts.distillation.distiller import PromptDistiller
from hardprompts.distillation.faithfulness import DistilledPrompt
from hardprompts_app.work import Job, Models, read_words

#: Options of `PromptDistiller.distill` that callers of the page may give.
OPTIONS = (
    "num_tokens", "ratio", "templates", "markup", "banned", "deadline", "seed", "max_steps", "max_evaluations",
    "restarts",
)  # fmt: skip


def shorten(
    models: Models, job: Job[DistilledPrompt], text: str, model: str, options: Mapping[str, Any]
) -> Generator[str, None, DistilledPrompt]:
    """Searches the short prompt of a long one and yields what goes on, with the best so far.

    Raises: what `PromptDistiller.distill` raises; Stopped.
    """
    if not text.strip():
        raise ValueError("there is no prompt yet: paste a long one")

    def work() -> DistilledPrompt:
        distiller = PromptDistiller(models.open(model))
        job.step(f"reading the words of {distiller.backend.name}, once for each model")
        read_words(distiller.search, distiller.backend)
        job.step("searching")
        return distiller.distill(text, callback=job, progress=False, **options)

    def so_far() -> str:
        best = None if job.progress is None else job.progress.best[0]
        if best is None or job.progress is None:
            return job.doing
        return f"{job.progress.seconds:.1f} s{'; stopping' if job.stopped else ''}: {best.text}"

    return (yield from job.telling(work, so_far))
