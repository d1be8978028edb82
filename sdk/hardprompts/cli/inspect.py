"""`hardprompts inspect`: what is in a soft-prompt file, in plain words and as a page."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hardprompts.cli.options import AsJson, ComparedModel, Deadline, Device, Rename, Threads, as_flags
from hardprompts.cli.screen import clear_errors, end, fail, out, say, stdout_kept, use_threads


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A textual inversion, or an adapter's folder.")],
    model: ComparedModel = None,
    device: Device = None,
    threads: Threads = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write one page with plots, such as audit.html.")
    ] = None,
    ban_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Warn if it decodes to these words, one on each line.")
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Also search for words with the same effect on the model (needs --model).")
    ] = False,
    rename: Rename = None,
    deadline: Deadline = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a soft-prompt file, which models it is for, and which words are near. Nothing in it is run."""
    with clear_errors():
        from hardprompts.atomic import write_text_atomically
        from hardprompts.distillation.audits import audits_of
        from hardprompts.errors import FileFormatError
        from hardprompts.softprompts.audit import FileFacts
        from hardprompts.softprompts.findings import sentences
        from hardprompts.softprompts.names import renaming_of
        from hardprompts.softprompts.report import render_refusal, render_report
        from hardprompts.wording import read_phrases

        if decode and model is None:
            fail("--decode needs --model: words are found by what a model makes of them")
        if report is not None and (report.is_dir() or (report.exists() and report.samefile(file))):
            fail(f"--report writes a file of its own, and cannot be {report}")
        banned = () if ban_list is None else read_phrases(ban_list)
        with stdout_kept():
            backend = None
            if model is not None:
                from hardprompts.encoders import load_backend

                use_threads(threads, device)
                backend = load_backend(model, device=device)
            try:
                audits = audits_of(
                    file,
                    backend,
                    ban_list=banned,
                    plots=report is not None,
                    decode=decode,
                    rename=renaming_of(rename or ()),
                    deadline=deadline,
                )
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
                for line in sentences(each):
                    say(as_flags(line), console=out)
        if report is not None:
            say(f"wrote {report}", "dim")
    end(next((each.stop_reason for each in audits if each.stop_reason), None))
