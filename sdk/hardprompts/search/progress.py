"""A progress bar for a search."""

from typing import TYPE_CHECKING, Any

from hardprompts.search.protocol import Callback, SearchProgress

if TYPE_CHECKING:
    from tqdm import tqdm


def about(seconds: float) -> str:
    """So many seconds, roughly, as people say it: "about 40 s", "about 12 min"."""
    if seconds >= 120:
        return f"about {round(seconds / 60)} min"
    return f"about {max(1, round(seconds)) if seconds < 10 else 5 * round(seconds / 5)} s"


def on_bar(callback: Callback | None, bar: "tqdm[Any]") -> Callback:
    """A callback that shows the best so far on a progress bar, then calls `callback`, which may stop the run."""

    def report(progress: SearchProgress) -> bool | None:
        bar.total = progress.max_steps
        best = next((candidate for candidate in progress.best if candidate is not None), None)
        if best is not None:
            bar.set_postfix_str(f"{best.score:.3f} {best.text}", refresh=False)
        bar.update(progress.step - bar.n)
        return None if callback is None else callback(progress)

    return report
