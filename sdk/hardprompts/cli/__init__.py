"""The `hardprompts` command: images become prompts in a terminal.

The SDK, and with it torch, is imported inside the commands: `hardprompts --help` answers at once.
"""

import contextlib
import dataclasses
import inspect
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hardprompts.cli import batch, classify, comfyui, distill, hub, screen
from hardprompts.cli.screen import clear_errors, err, fail, out, say

if TYPE_CHECKING:
    from hardprompts.inversion.inverter import PromptInverter
    from hardprompts.search.protocol import Search

app = typer.Typer(
    help="Turn images into hard prompts: plain text for any model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="SCHEME:NAME",
        help="The model; see `hardprompts models` (default: photo, if it is installed).",
    ),
]
Tokens = Annotated[int, typer.Option("--tokens", "-n", help="Length of the prompt in the model's tokens.")]
Template = Annotated[str, typer.Option(help="The text that the prompt is for, with one {} where it goes.")]
Method = Annotated[
    str | None, typer.Option(help="The search method; see `hardprompts methods` (default: build+refine).")
]
Steps = Annotated[int | None, typer.Option(help="Steps of the method, at most.")]
Restarts = Annotated[int | None, typer.Option(help="Random starts, searched in one batch.")]
Deadline = Annotated[float | None, typer.Option(help="Seconds for each search, at most.")]
Seed = Annotated[int | None, typer.Option(help="Makes the result repeatable (default: drawn, and shown).")]
Banned = Annotated[
    list[str] | None,
    typer.Option(help="A string that must not occur; may be repeated. none: lifts the list of swear words."),
]
Unlike = Annotated[
    list[Path] | None, typer.Option(metavar="IMAGE", help="An image that the prompt should not fit; may be repeated.")
]
VocabularyFile = Annotated[
    Path | None,
    typer.Option("--vocabulary", metavar="FILE", help="Use only the words of this file, one phrase a line."),
]
Words = Annotated[
    bool | None,
    typer.Option(
        "--words/--no-words", help="Use real words alone, or any tokens (default: words, if there are enough)."
    ),
]
Required = Annotated[
    list[str] | None, typer.Option("--require", metavar="WORD", help="The prompt begins with it; may be repeated.")
]
Caption = Annotated[str | None, typer.Option(help="A description to start from, and for banks of phrases to go on.")]
Bank = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Phrases to choose from, one a line, or a folder of such files (phrase-bank)."),
]
Prior = Annotated[
    str | None,
    typer.Option(metavar="SCHEME:NAME", help="A causal language model that likely prompts are preferred by."),
]
PriorWeight = Annotated[float | None, typer.Option(help="How much the prior counts beside similarity (default: 0.1).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps (default: the best there is).")]
DtypeName = Annotated[
    Literal["float32", "float16", "bfloat16"], typer.Option("--dtype", help="Numbers that the model computes with.")
]


@dataclasses.dataclass(frozen=True)
class Request:
    """What a command was asked for; misuse is found before a model is opened.

    Raises:
        HardPromptsError, ValueError, OSError: see the messages.
    """

    model: str | None
    tokens: int = 8
    template: str = "{}"
    method: str | None = None
    steps: int | None = None
    restarts: int | None = None
    deadline: float | None = None
    seed: int | None = None
    banned: tuple[str, ...] = ()
    unlike: tuple[Path, ...] = ()
    vocabulary: Path | None = None
    device: str | None = None
    dtype: str = "float32"
    words: bool | None = None
    required: tuple[str, ...] = ()
    caption: str | None = None
    bank: Path | None = None
    prior: str | None = None
    prior_weight: float | None = None

    def __post_init__(self) -> None:
        from hardprompts.prompts import PromptTemplate

        PromptTemplate(self.template)
        self._search()
        if self.prior_weight is not None and self.prior is None:
            raise ValueError("--prior-weight needs --prior, the language model that it is the weight of")
        for name, value, least in (
            ("--tokens", self.tokens, 1),
            ("--steps", self.steps, 0),
            ("--restarts", self.restarts, 1),
            ("--deadline", self.deadline, 0),
        ):
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.vocabulary is not None:
            self._phrases()

    def _phrases(self) -> list[str]:
        assert self.vocabulary is not None
        try:
            lines = self.vocabulary.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.vocabulary} is not UTF-8 text: {error}") from error
        phrases = [line.strip() for line in lines if line.strip()]
        if not phrases:
            raise ValueError(f"{self.vocabulary} has no phrases; write one on each line")
        return phrases

    def _search(self) -> "str | Search | None":
        """The method by name, or with the bank that was given; None for the default.

        Raises:
            UnknownName: there is no such method.
            ValueError: it is not one that has a bank.
            FileFormatError, OSError: the bank cannot be read.
        """
        from hardprompts.atomic import cache_folder
        from hardprompts.methods import PEZBank, PhraseBank, read_bank
        from hardprompts.search.registry import search_method

        if self.bank is None:
            if self.method is not None:
                search_method(self.method)
            return self.method
        search = search_method(self.method or "phrase-bank")
        if isinstance(search, PhraseBank):
            return dataclasses.replace(search, tables=read_bank(self.bank), cache=cache_folder())
        if isinstance(search, PEZBank):
            return dataclasses.replace(search, tables=read_bank(self.bank))
        raise ValueError(f"--bank is for --method phrase-bank, its variants and pez+bank, not for {self.method}")

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `PromptInverter.invert`: those that were given, so that its own defaults hold."""
        given = {
            "num_tokens": self.tokens,
            "template": self.template,
            "max_steps": self.steps,
            "restarts": self.restarts,
            "deadline": self.deadline,
            "seed": self.seed,
            "banned": self.banned or None,
            "unlike": list(self.unlike) or None,
            "vocabulary": None if self.vocabulary is None else self._phrases(),
            "words": self.words,
            "required": self.required or None,
            "caption": self.caption,
            "prior_weight": self.prior_weight,
        }
        return {name: value for name, value in given.items() if value is not None}

    def open(self) -> "PromptInverter":
        """The inverter; without a model's name that of `default_model`, and what it is good for."""
        import torch

        from hardprompts.encoders import default_model
        from hardprompts.inversion.inverter import PromptInverter

        search = self._search()
        method: dict[str, Any] = {} if search is None else {"method": search}
        model = default_model() if self.model is None else self.model
        with err.status(f"opening {model}") if err.is_terminal else contextlib.nullcontext():
            inverter = PromptInverter(
                model, device=self.device, dtype=getattr(torch, self.dtype), prior=self.prior, **method
            )
        if self.model is None:
            screen.show_note(model, inverter.backend.note)
        if self.deadline is None:
            screen.read_words(inverter.search, inverter.backend)
        return inverter


@app.command()
def invert(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Several images give one prompt: a style.")],
    model: Model = None,
    tokens: Tokens = 8,
    template: Template = "{}",
    method: Method = None,
    steps: Steps = None,
    restarts: Restarts = None,
    deadline: Deadline = None,
    seed: Seed = None,
    banned: Banned = None,
    unlike: Unlike = None,
    vocabulary: VocabularyFile = None,
    words: Words = None,
    require: Required = None,
    caption: Caption = None,
    bank: Bank = None,
    prior: Prior = None,
    prior_weight: PriorWeight = None,
    device: Device = None,
    dtype: DtypeName = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything about the prompt as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write DIR/prompt.json.")] = None,
) -> None:
    """Find the prompt of an image, or one prompt for what several images share.

    Ctrl-C ends the search with the best prompt so far.
    """
    with clear_errors():
        if save is not None and save.exists() and not save.is_dir():
            fail(f"--save needs a folder, and {save} is a file")
        with _stdout_kept():
            request = Request(
                model, tokens, template, method, steps, restarts, deadline, seed, tuple(banned or ()),
                tuple(unlike or ()), vocabulary, device, dtype, words, tuple(require or ()), caption, bank, prior,
                prior_weight,
            )  # fmt: skip
            inverter = request.open()
            with screen.LiveSearch() as live:
                prompt = inverter.invert(images, callback=live, progress=False, **request.options())
        if as_json:
            typer.echo(json.dumps(prompt.to_dict(), indent=2))
        else:
            screen.show_prompt(prompt)
        if save is not None:
            say(f"saved {prompt.save_pretrained(save)}", "dim")
    if prompt.stop_reason == "interrupted":
        raise typer.Exit(screen.INTERRUPTED)


@app.command()
def invert_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the images are.")],
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a row for each image here, and no .txt files.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Subfolders too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do images again that have a prompt.")] = False,
    batch_size: Annotated[
        int, typer.Option(help="Images searched together: faster on a GPU, where one alone does not fill it.")
    ] = 1,
    model: Model = None,
    tokens: Tokens = 8,
    template: Template = "{}",
    method: Method = None,
    steps: Steps = None,
    restarts: Restarts = None,
    deadline: Deadline = None,
    seed: Seed = None,
    banned: Banned = None,
    unlike: Unlike = None,
    vocabulary: VocabularyFile = None,
    device: Device = None,
    dtype: DtypeName = "float32",
) -> None:
    """Find one prompt for each image of a folder.

    Writes cat.txt beside cat.png (cat.png.txt where there is a cat.jpg too), or a CSV file.
    Images that have a prompt are skipped, so the same command goes on where it stopped. An image that
    cannot be read is reported and the others are done; the exit code is then 1.
    """
    from hardprompts.cli import folder as folders

    with clear_errors():
        if not folder.is_dir():
            fail(f"{folder} is not a folder")
        images = folders.images_in(folder, recursive)
        if not images:
            fail(f"no images in {folder}" + ("" if recursive else "; --recursive looks into its folders too"))
        destination = folders.TextFiles(images) if csv is None else folders.CsvFile(csv, folder, overwrite)
        request = Request(
            model, tokens, template, method, steps, restarts, deadline, seed, tuple(banned or ()),
            tuple(unlike or ()), vocabulary, device, dtype,
        )  # fmt: skip
        if batch_size < 1:
            fail(f"--batch-size must be at least 1, got {batch_size}")
        with _stdout_kept():
            inverter = request.open()
        run = folders.FolderRun(inverter, request.options(), batch_size)
        run.run(images, destination, overwrite)
    left = len(images) - run.written - run.skipped - run.failed
    say(
        f"{len(images)} images: {run.written} written, {run.skipped} skipped, {run.failed} failed"
        + (f", {left} left; the same command goes on from here" if left else ""),
        "bold",
    )
    if run.interrupted:
        raise typer.Exit(screen.INTERRUPTED)
    if run.failed:
        raise typer.Exit(screen.SOME_FAILED)


@app.command()
def score(
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    model: Model = None,
    device: Device = None,
    dtype: DtypeName = "float32",
) -> None:
    """Print the cosine similarity of a text and an image."""
    with clear_errors():
        with _stdout_kept():
            similarity = Request(model, device=device, dtype=dtype).open().score(text, image)
        say(f"{similarity:.4f}", console=out)


@app.command("inspect")
def inspect_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A textual inversion, or an adapter's folder.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="SCHEME:NAME", help="Compare with the tokens of this model."),
    ] = None,
    device: Device = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write one page with plots: audit.html, say.")
    ] = None,
    ban_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Warn of these words, one a line, where it decodes to them.")
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Also search for words that make the model do the same (needs --model).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Tell what a soft-prompt file is, for which models, and which words are near. Nothing in it is run."""
    with clear_errors():
        from hardprompts.atomic import write_text_atomically
        from hardprompts.cli import audit
        from hardprompts.distillation.audits import audits_of
        from hardprompts.errors import FileFormatError
        from hardprompts.softprompts.audit import FileFacts, read_ban_list
        from hardprompts.softprompts.report import render_refusal, render_report

        if decode and model is None:
            fail("--decode needs --model: words are found by what a model makes of them")
        if report is not None and (report.is_dir() or (report.exists() and report.samefile(file))):
            fail(f"--report needs a file of its own to write, and {report} is none")
        banned = () if ban_list is None else read_ban_list(ban_list)
        with _stdout_kept():
            backend = None
            if model is not None:
                from hardprompts.encoders import load_backend

                backend = load_backend(model, device=device)
            try:
                audits = audits_of(file, backend, ban_list=banned, plots=report is not None, decode=decode)
            except FileFormatError as error:
                if report is not None and file.exists():
                    reason = str(error).replace(str(file), file.name)
                    write_text_atomically(report, render_refusal(FileFacts.of(file), reason))
                raise
        if report is not None:
            write_text_atomically(report, render_report(FileFacts.of(file), audits))
        if as_json:
            typer.echo(json.dumps([each.to_dict() for each in audits], ensure_ascii=False, indent=2))
        else:
            for each in audits:
                for line in audit.lines(each):
                    say(line, console=out)
        if report is not None:
            say(f"wrote {report}", "dim")


app.command()(batch.batch)
app.command()(distill.distill)
app.command()(hub.push)
app.command()(hub.pull)
app.add_typer(comfyui.app, name="comfyui")


app.command()(classify.tune)
app.command()(classify.classify)


@app.command()
def models() -> None:
    """List what can stand behind --model."""
    with clear_errors():
        from hardprompts.encoders import backends

        for scheme, opener in sorted(backends().items()):
            say(f"{scheme:<14}{_first_line(opener)}", console=out)
            for name in _examples(scheme, opener):
                say(f"{'':<14}--model {name}", console=out)


@app.command()
def methods() -> None:
    """List the search methods."""
    with clear_errors():
        from hardprompts.inversion.inverter import PromptInverter
        from hardprompts.search.registry import search_methods

        default = inspect.signature(PromptInverter).parameters["method"].default
        for name, method in sorted(search_methods().items()):
            say(f"{name:<22}{_first_line(method)}{' [default]' if name == default else ''}", console=out)


@app.command()
def plugins() -> None:
    """List the plugins and the models, methods and formats that each adds."""
    with clear_errors():
        from hardprompts.plugins import plugins as registered

        for name, things in registered().items():
            say(f"{name:<14}{', '.join(things)}", console=out)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show:
        from hardprompts import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The `hardprompts` command."""
    for stream in (sys.stdout, sys.stderr):
        # In a pipe, Windows would write its code page, which has no letters for many prompts.
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    screen.show_warnings()
    app()


@contextlib.contextmanager
def _stdout_kept() -> Iterator[None]:
    """What libraries print while a model is at work goes to stderr: stdout is the result's alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _examples(scheme: str, opener: object) -> list[str]:
    """The names that the opener's docstring puts in quotes or backticks: "scheme" or "scheme:name"."""
    pattern = rf"[`\"']({re.escape(scheme)}(?::[^`\"'\s]+)?)[`\"']"
    return list(dict.fromkeys(re.findall(pattern, inspect.getdoc(opener) or "")))
