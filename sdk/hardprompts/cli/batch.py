"""`hardprompts batch`: a prompt for each of many pictures, on one machine or on many."""

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hardprompts.cli import screen
from hardprompts.cli.screen import clear_errors, err, fail, out, say

if TYPE_CHECKING:
    from hardprompts.batch import BatchProgress, BatchReport

#: Seconds between two lines of progress where there is no terminal for a bar.
REPORT_EVERY = 60.0


def batch(
    source: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="A folder, shards (.tar), tables (.parquet), or patterns of these."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="prompts.jsonl, prompts.parquet, or a folder of parts."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="SCHEME:NAME", help="See `hardprompts models` (default: photo, if installed)."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images searched together: more use a GPU better.")] = 16,
    workers: Annotated[
        int | None, typer.Option(help="So many workers of Ray, one for each GPU, say (default: this process).")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each worker (default: an equal share).")] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help='A Ray cluster: an address, or "auto" on one of its machines.'),
    ] = None,
    image: Annotated[str | None, typer.Option(help="The column of a table, or member of a sample, with it.")] = None,
    key: Annotated[str | None, typer.Option(help="The column of a table that names its rows.")] = None,
    table_format: Annotated[
        Literal["jsonl", "parquet"] | None, typer.Option("--format", help="Of the parts in a folder (default: jsonl).")
    ] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Do chunks with errors again.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only measure a sample: time, memory and price of it all.")
    ] = False,
    sample: Annotated[int | None, typer.Option(help="Images to measure (default: one batch, at least 8).")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="Of one worker, in any currency.")] = None,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="Length of the prompts in the model's tokens.")] = 8,
    template: Annotated[str, typer.Option(help="The text that the prompt is for, with one {} where it goes.")] = "{}",
    method: Annotated[str, typer.Option(help="The search method; see `hardprompts methods`.")] = "build+refine",
    steps: Annotated[int | None, typer.Option(help="Steps of the method, at most.")] = None,
    restarts: Annotated[int | None, typer.Option(help="Random starts of each image.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds for each image, at most.")] = None,
    seed: Annotated[int, typer.Option(help="Another one gives other prompts.")] = 0,
    banned: Annotated[
        list[str] | None,
        typer.Option(help="A string that must not occur; may be repeated. none: lifts the list of swear words."),
    ] = None,
    words: Annotated[
        bool | None, typer.Option("--words/--no-words", help="Use real words alone, or any tokens.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps (default: the best there is).")] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option("--dtype", help="Numbers that the model computes with.")
    ] = "float32",
) -> None:
    """Find one prompt for each of many images: in folders, webdataset shards and tables.

    What is done is kept: the same command goes on where it stopped, and takes in what is new. An image that cannot be
    read gets a row with its error and the others are done; the exit code is then 1. With --workers, Ray spreads the
    work over the GPUs, or over the machines of a cluster, and does again what a worker that died was doing.
    """
    with clear_errors():
        if output is None and not estimate:
            fail("--output is needed: prompts.jsonl, prompts.parquet or a folder; or --estimate")
        if (ray is not None or retry_errors) and estimate:
            fail("--estimate measures in this process, and writes nothing; leave --ray and --retry-errors out")
        if ray is not None and workers is None:
            fail("--ray needs --workers: how many of the cluster's GPUs or CPUs to use")
        if not estimate and (sample is not None or price_per_hour is not None):
            fail("--sample and --price-per-hour are for --estimate")
        import torch

        from hardprompts import batch as batches
        from hardprompts.encoders import default_model

        model = default_model() if model is None else model
        given = {
            "max_steps": steps, "restarts": restarts, "deadline": deadline, "banned": banned or None,
            "words": words,
        }  # fmt: skip
        options: dict[str, Any] = {
            "num_tokens": tokens, "template": template, "seed": seed, "method": method, "batch_size": batch_size,
            "workers": workers, "threads": threads, "image": image, "key": key, "device": device,
            "dtype": getattr(torch, dtype), **{name: value for name, value in given.items() if value is not None},
        }  # fmt: skip
        with contextlib.redirect_stdout(sys.stderr):  # stdout is the result's alone
            if estimate:
                measured = batches.estimate(source, model, sample=sample, price_per_hour=price_per_hour, **options)
            else:
                assert output is not None
                report = batches.invert_many(
                    source, output, model, ray_address=ray, format=table_format, retry_errors=retry_errors,
                    callback=None if err.is_terminal else _Lines(), **options,
                )  # fmt: skip
        if estimate:
            for line in str(measured).splitlines():
                say(line, console=out)
            return
        _show(report)
    if report.stop_reason == "interrupted":
        raise typer.Exit(screen.INTERRUPTED)
    if report.failed:
        raise typer.Exit(screen.SOME_FAILED)


class _Lines:
    """A line of progress from time to time, for logs."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, progress: "BatchProgress") -> None:
        if time.monotonic() - self._last < REPORT_EVERY:
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


def _show(report: "BatchReport") -> None:
    rate = f", {report.images_per_hour:,.0f} images per hour" if report.done + report.failed else ""
    say(f"{report.done:,} prompts, {report.failed:,} failed, {report.skipped:,} done before{rate}", "bold")
    if report.stop_reason != "finished":
        say(f"{report.stop_reason}; the same command goes on from here", "yellow")
    if report.output.exists():
        say(f"{report.output} has them", "dim")
    if report.failed:
        say("the rows of images that failed tell why, in `error`; --retry-errors does them again", "yellow")
