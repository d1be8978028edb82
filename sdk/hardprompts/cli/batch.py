"""`hardprompts batch`: a prompt for each of many pictures, on one machine or on many."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hardprompts.cli import screen
from hardprompts.cli.invert import calibrations_at, check_options
from hardprompts.cli.options import (
    Banned,
    BatchSize,
    Calibrations,
    CaptionerName,
    Compile,
    Deadline,
    Device,
    Dtype,
    Editable,
    Evidence,
    Fast,
    FixedSeed,
    FluencyModel,
    Method,
    MinEvidence,
    Model,
    Overwrite,
    PromptStyle,
    ProposerNames,
    Restarts,
    Steps,
    Template,
    Threads,
    Tokens,
    Unlike,
    VocabularyFile,
    Vram,
    Words,
    given,
    torch_dtype,
)
from hardprompts.cli.screen import clear_errors, err, fail, out, say, stdout_kept

if TYPE_CHECKING:
    from hardprompts.batch import BatchProgress, BatchReport

#: Seconds between two lines of progress where there is no terminal for a bar.
REPORT_EVERY = 60.0

#: Files that were passed over, of which a command names no more.
SHOWN = 10

#: Parameters of `batch` that are not options of `invert_many` and `estimate` alike.
_OF_THE_COMMAND = (
    "source", "output", "model", "ray", "output_format", "overwrite", "retry_errors", "estimate", "sample",
    "price_per_hour", "vocabulary", "calibrations", "dtype",
)  # fmt: skip


def batch(
    source: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="A folder, shards (.tar), tables (.parquet), or patterns of these."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="prompts.jsonl, prompts.csv, prompts.parquet, or a folder."),
    ] = None,
    model: Model = None,
    batch_size: BatchSize = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of Ray workers, such as one for each GPU (default: this process alone).")
    ] = None,
    threads: Threads = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help='A Ray cluster: an address, or "auto" on one of its machines.'),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="The column of a table, or the member of a sample, with the image.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The column of a table that names its rows.")] = None,
    output_format: Annotated[
        Literal["jsonl", "csv", "parquet", "txt"] | None,
        typer.Option(
            "--format", help="For a folder: parts in this format, or txt: a caption for each image (default: jsonl)."
        ),
    ] = None,
    overwrite: Overwrite = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="First repeat the batches in which images failed.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only measure a sample, and print time, memory and price of all.")
    ] = False,
    sample: Annotated[
        int | None, typer.Option(help="Number of images to measure (default: one batch, at least 8).")
    ] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="Price of one worker, in any currency.")] = None,
    num_tokens: Tokens = None,
    template: Template = None,
    method: Method = None,
    max_steps: Steps = None,
    restarts: Restarts = None,
    compile: Compile = None,
    vram: Vram = None,
    deadline: Deadline = None,
    seed: FixedSeed = None,
    banned: Banned = None,
    unlike: Unlike = None,
    vocabulary: VocabularyFile = None,
    words: Words = None,
    captioner: CaptionerName = None,
    proposers: ProposerNames = None,
    fast: Fast = None,
    editable: Editable = None,
    fluency_model: FluencyModel = None,
    evidence: Evidence = None,
    min_evidence: MinEvidence = None,
    calibrations: Calibrations = None,
    style: PromptStyle = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Find one prompt for each of many images: in folders, webdataset shards and tables.

    The same command resumes a run that was stopped, and adds what is new in the source. An image that cannot be read
    gets a row with its error; one that nothing here can open, such as HEIC without its extra, is passed over and named.
    The exit code is then 1. With --workers, Ray distributes the work over the GPUs, or
    over the machines of a cluster, and repeats what a worker that died was doing.
    """
    options = given(locals(), but=_OF_THE_COMMAND)
    with clear_errors():
        if output is None and not estimate:
            fail("--output is needed: prompts.jsonl, prompts.parquet or a folder; or --estimate")
        if (ray is not None or retry_errors) and estimate:
            fail("--estimate measures in this process and writes nothing; leave --ray and --retry-errors out")
        if ray is not None and workers is None:
            fail("--ray needs --workers: how many of the cluster's GPUs or CPUs to use")
        if not estimate and (sample is not None or price_per_hour is not None):
            fail("--sample and --price-per-hour are for --estimate")
        if workers is None:
            screen.use_threads(threads, device)
        options = _opening(options, model, vocabulary, calibrations, dtype)
        if not estimate:
            assert output is not None
            report = _run(
                source, output, ray_address=ray, format=output_format, retry_errors=retry_errors, overwrite=overwrite,
                **options,
            )  # fmt: skip
        else:
            from hardprompts.batch import estimate as measure

            with stdout_kept():
                measured = measure(source, **given({"sample": sample, "price_per_hour": price_per_hour}), **options)
            for line in str(measured).splitlines():
                say(line, console=out)
            return
    _end(report, "the rows of images that failed have the reason in `error`; --retry-errors repeats them")


def invert_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the images are.")],
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a row for each image here, and no .txt files.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also search its subfolders.")] = False,
    overwrite: Overwrite = False,
    batch_size: BatchSize = None,
    model: Model = None,
    num_tokens: Tokens = None,
    template: Template = None,
    method: Method = None,
    max_steps: Steps = None,
    restarts: Restarts = None,
    compile: Compile = None,
    vram: Vram = None,
    deadline: Deadline = None,
    seed: FixedSeed = None,
    banned: Banned = None,
    unlike: Unlike = None,
    vocabulary: VocabularyFile = None,
    words: Words = None,
    captioner: CaptionerName = None,
    proposers: ProposerNames = None,
    fast: Fast = None,
    editable: Editable = None,
    fluency_model: FluencyModel = None,
    evidence: Evidence = None,
    min_evidence: MinEvidence = None,
    calibrations: Calibrations = None,
    style: PromptStyle = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
) -> None:
    """Write a caption beside each image of a folder.

    The same as `batch FOLDER --output FOLDER --format txt`: cat.txt beside cat.png (cat.png.txt if there is a cat.jpg
    too), or a CSV file. Images that have a caption are skipped, so the same command resumes a run that was stopped.
    An image that cannot be read is named, and the exit code is then 1.
    """
    options = given(locals(), but=("folder", "csv", "recursive", *_OF_THE_COMMAND))
    with clear_errors():
        if not folder.is_dir():
            fail(f"{folder} is not a folder")
        from hardprompts.batch.sources import folder_source

        screen.use_threads(threads, device)
        options = _opening(options, model, vocabulary, calibrations, dtype)
        source = folder_source(folder, recursive)
        output, format = (folder, "txt") if csv is None else (csv, "csv")
        report = _run(source, output, format=format, retry_errors=True, overwrite=overwrite, **options)
    _end(report, "the same command tries the images that failed again")


def _opening(
    options: dict[str, Any], model: str | None, vocabulary: Path | None, calibrations: Path | None, dtype: str | None
) -> dict[str, Any]:
    """The arguments of `invert_many` for the options that were given.

    Raises:
        ValueError, OSError: an option is wrong; what needs no model is found before one is opened.
    """
    if vocabulary is not None:
        from hardprompts.wording import read_phrases

        options["vocabulary"] = read_phrases(vocabulary)
    check_options(options)
    wanted = bool(options.get("evidence")) or "min_evidence" in options
    counted = calibrations_at(calibrations, wanted)
    if options.get("fast") or options.get("style") == "caption":
        options.setdefault("proposers", ["auto"])
    from hardprompts.encoders import default_model

    opening = {"calibrations": counted, "dtype": torch_dtype(dtype)}
    return {**options, "model": default_model() if model is None else model, **given(opening)}


def _run(source: Any, output: Path, **options: Any) -> "BatchReport":
    from hardprompts.batch import invert_many

    with stdout_kept():
        return invert_many(source, output, callback=_Lines(), **options)


class _Lines:
    """Images that fail, as they do, and a line of progress from time to time, for logs."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, progress: "BatchProgress") -> None:
        for row in progress.rows:
            if row["error"] is not None:
                say(f"{row['key']}: {row['error']}", "red")
        if err.is_terminal or time.monotonic() - self._last < REPORT_EVERY:
            return
        from hardprompts.batch.estimates import duration

        self._last = time.monotonic()
        left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left / 3600)} left"
        of = "" if progress.waiting is None else f" of {progress.done + progress.failed + progress.waiting:,}"
        say(
            f"{progress.done + progress.failed:,}{of} images, {progress.failed:,} failed, "
            f"{progress.images_per_hour:,.0f} images per hour{left}",
            "dim",
        )


def _end(report: "BatchReport", retry: str) -> None:
    """Says what was done and what was not, how images that failed are tried again, and ends with the exit code."""
    rate = f", {report.images_per_hour:,.0f} images per hour" if report.done + report.failed else ""
    before = f" ({report.failed_before:,} of them failed)" if report.failed_before else ""
    say(f"{report.done:,} prompts, {report.failed:,} failed, {report.skipped:,} done before{before}{rate}", "bold")
    if report.stop_reason != "finished":
        say(f"{report.stop_reason}; the same command resumes it", "yellow")
    if report.output.exists():
        say(f"wrote {report.output}", "dim")
    if report.passed_over:
        count = len(report.passed_over)
        say(f"passed over {count:,} that cannot be read here:", "yellow")
        for name, reason in report.passed_over[:SHOWN]:
            say(f"{name}: {reason}", "yellow")
        if count > SHOWN:
            say(f"and {count - SHOWN:,} more", "yellow")
    for note in report.notes:
        say(note, "dim")
    if report.failed or report.failed_before:
        say(retry, "yellow")
    screen.end(report.stop_reason)
    if report.failed or report.passed_over:
        raise typer.Exit(screen.SOME_FAILED)
