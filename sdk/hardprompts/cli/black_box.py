"""`hardprompts invert-by-pictures`: the prompt of an image for a generator that only draws."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardprompts.cli import screen
from hardprompts.cli.invert import open_model
from hardprompts.cli.options import (
    AsJson,
    Bank,
    Banned,
    Budget,
    CaptionerName,
    Deadline,
    Device,
    Dtype,
    GeneratorName,
    GeneratorSteps,
    GuidanceScale,
    Judge,
    Model,
    Patience,
    ProposerNames,
    Report,
    ReportAt,
    Rewriter,
    RunFolder,
    Save,
    Seed,
    StartTexts,
    Template,
    Threads,
    Tokens,
    given,
    torch_dtype,
)
from hardprompts.cli.report import check_report, write_report
from hardprompts.cli.screen import clear_errors, say, stdout_kept
from hardprompts.errors import printable

if TYPE_CHECKING:
    from hardprompts.applications import PictureInversion
    from hardprompts.inversion import PromptInverter

#: Parameters of the command that are not options of the search by pictures.
_OF_THE_COMMAND = (
    "images", "generator", "model", "judge", "proposers", "num_tokens", "generator_steps", "guidance_scale", "device",
    "threads", "dtype", "as_json", "save", "report",
)  # fmt: skip


def invert_by_pictures(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="What the pictures should be like.")],
    generator: GeneratorName,
    model: Model = None,
    judge: Judge = None,
    budget: Budget = None,
    folder: RunFolder = None,
    starts: StartTexts = None,
    captioner: CaptionerName = None,
    proposers: ProposerNames = None,
    language_model: Rewriter = None,
    bank: Bank = None,
    num_tokens: Tokens = None,
    template: Template = None,
    banned: Banned = None,
    report_at: ReportAt = None,
    patience: Patience = None,
    deadline: Deadline = None,
    seed: Seed = None,
    generator_steps: GeneratorSteps = None,
    guidance_scale: GuidanceScale = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    save: Save = None,
    report: Report = None,
) -> None:
    """Find the prompt with which a generator draws an image, by nothing but a number of its pictures.

    Ctrl-C ends the search with the best prompt so far; with --folder it goes on from there when it is run again.
    """
    options = given(locals(), but=_OF_THE_COMMAND)
    with clear_errors():
        screen.check_save(save)
        if report is not None:
            check_report("--report", report, images)
        with stdout_kept():
            from hardprompts.applications import invert_by_pictures, load_generator
            from hardprompts.applications.black_box.inverter import BEST

            screen.use_threads(threads, device)
            place: dict[str, Any] = {"device": device, "dtype": torch_dtype(dtype)}
            own = given({"steps": generator_steps, "guidance_scale": guidance_scale})
            with screen.opening(generator):
                draws = load_generator(generator, **place, **own)
            inverter = None if judge is not None and model is None else _inverter(model, proposers, device, dtype)
            with screen.LiveSearch() as live:
                found = invert_by_pictures(
                    list(images), draws, None if judge is None else open_model(judge, device, dtype), inverter=inverter,
                    search=given({"num_tokens": num_tokens, "banned": banned}), callback=live, progress=False,
                    **options,
                )  # fmt: skip
        _show(found, as_json)
        if folder is not None and found.picture is not None:
            say(f"what it draws: {folder / BEST}", "dim")
        if report is not None:
            drawn = [(point.picture, point.caption) for point in found.points if point.picture is not None]
            write_report(report, found.prompt, images, drawn)
        if save is not None:
            screen.show_saved(found.prompt.save_pretrained(save))
    screen.end(found.prompt.stop_reason)


def _inverter(
    model: str | None, proposers: list[str] | None, device: str | None, dtype: str | None
) -> "PromptInverter":
    from hardprompts.inversion import PromptInverter

    inverter = PromptInverter(open_model(model, device, dtype), proposers=proposers or None)
    screen.read_words(inverter.search, inverter.backend)
    return inverter


def _show(found: "PictureInversion", as_json: bool) -> None:
    """The prompt on stdout, or everything as JSON; on stderr how good it is, and what it cost."""
    from hardprompts.search.protocol import StopReason

    prompt = found.prompt
    if as_json:
        cleared, clearance = prompt.cleared()
        typer.echo(json.dumps({**found.to_dict(), "prompt": cleared.to_dict()}, indent=2))
        clearance.tell()
    elif screen.out.is_terminal:
        say(prompt.__rich__(), console=screen.out)
    else:
        typer.echo(prompt.filled)
    say(
        f"{prompt.score_unit} {prompt.score:.3f} (on those it was chosen by {found.chosen_at:.3f}); {found.pictures} "
        f"pictures, {found.failures} of them failed, {found.recalled} from an earlier run; seed {prompt.seed}; "
        f"{StopReason(prompt.stop_reason).sentence}",
        "dim",
    )
    for point in found.points[:-1]:
        score = "not drawn once more" if point.score is None else f"{point.score:.3f}"
        say(f"after {point.pictures} pictures {score}: {printable(point.text)}", "dim")
    screen.show_notes(prompt)
