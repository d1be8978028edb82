"""`hardprompts tune` and `hardprompts classify`: tables of texts in, a prompt or labels out."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hardprompts.cli import screen
from hardprompts.cli.screen import clear_errors, fail, say
from hardprompts.errors import printable

if TYPE_CHECKING:
    from hardprompts.classification.tuner import ClassifierPromptTuner

Table = Annotated[Path, typer.Argument(metavar="DATA.csv", help="A table with a head; .tsv is split at tabs.")]
TextColumn = Annotated[str, typer.Option("--text-column", help="The column of the texts.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps (default: the best there is).")]


def read_column(path: Path, names: Sequence[str]) -> list[list[str]]:
    """The columns of a table, as they stand there.

    Raises:
        ValueError: a column is missing, a row is too short, or the file is not UTF-8.
    """
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=delimiter))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    if not rows:
        raise ValueError(f"{path} has no rows below its head")
    for name in names:
        if name not in rows[0]:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(map(str, rows[0]))}")
        short = next((number for number, row in enumerate(rows, 2) if row[name] is None), None)
        if short is not None:
            raise ValueError(f"row {short} of {path} has no column {name!r}; check its quotes and separators")
    return [[row[name] for row in rows] for name in names]


def read_words(given: Sequence[str]) -> dict[str, list[str]] | None:
    """The label words of options such as "1=good,great"; None without any.

    Raises:
        ValueError: an option is not of this form.
    """
    words: dict[str, list[str]] = {}
    for option in given:
        label, equals, own = option.partition("=")
        if not equals or not label or not own.strip():
            raise ValueError(f"--label takes LABEL=WORD or LABEL=WORD,WORD, got {option!r}")
        words[label] = [word.strip() for word in own.split(",")]
    return words or None


def tune(
    data: Table,
    text_column: TextColumn = "text",
    label_column: Annotated[str, typer.Option("--label-column", help="The column of the labels.")] = "label",
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="SCHEME:NAME", help="A language model; see `hardprompts models`.")
    ] = "emoji:emoji-lm",
    template: Annotated[
        str, typer.Option(help="Text with {prompt}, {text} and {label} once each.")
    ] = "{prompt} {text} It was {label}",
    label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL=WORD", help="Words of a label: 1=good,great; repeat for each.")
    ] = None,
    suggest: Annotated[bool, typer.Option("--suggest", help="Look for label words in the texts.")] = False,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="Length of the prompt in the model's tokens.")] = 10,
    method: Annotated[str, typer.Option(help="The search method; see `hardprompts methods`.")] = "pez+refine",
    fluency_weight: Annotated[float | None, typer.Option(help="Share of the prompt's own likelihood.")] = None,
    holdout: Annotated[float, typer.Option(help="Share of the examples that the prompt is chosen by.")] = 0.2,
    restarts: Annotated[int, typer.Option(help="Prompts searched for in one batch.")] = 4,
    seeds: Annotated[int, typer.Option(help="Searches, one after the other; with --shots, draws of examples.")] = 1,
    shots: Annotated[
        int | None, typer.Option(metavar="K", help="Learn from K examples of each class, as many more to choose by.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(metavar="TEST.csv", help="With --shots: measure on these (default: all others).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the method, at most.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds, at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the result repeatable.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep finished searches here, and take them from here.")
    ] = None,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the tuner here, for `classify`.")] = None,
    device: Device = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option("--dtype", help="Numbers that the model computes with.")
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the prompt and its report as JSON.")] = False,
) -> None:
    """Find a few words that make a frozen language model tell the labels of texts.

    Prints the prompt; Ctrl-C ends the search with the best so far. With --shots it prints what prompts from a few
    examples reach over many draws of them, and Ctrl-C ends it with the draws that are done.
    """
    with clear_errors():
        if save is not None and save.exists() and not save.is_dir():
            fail(f"--save needs a folder, and {save} is a file")
        texts, labels = read_column(data, (text_column, label_column))
        words = read_words(label or ())
        if words and suggest:
            fail("give --label or --suggest, not both")
        import torch

        from hardprompts.classification.tuner import ClassifierPromptTuner

        verbalizer: Any = "suggest" if suggest else words
        if test is not None and shots is None:
            fail("--test goes with --shots; `hardprompts classify` labels a table with a tuner that was saved")
        tuner = ClassifierPromptTuner(
            model, template=template, verbalizer=verbalizer, num_tokens=tokens, method=method,
            fluency_weight=fluency_weight, holdout=holdout, restarts=restarts, seeds=seeds, max_steps=steps,
            deadline=deadline, random_state=seed, checkpoint=resume, device=device, dtype=getattr(torch, dtype),
            progress=False,
        )  # fmt: skip
        if shots is not None:
            if save is not None:
                fail("--shots compares many draws and saves no tuner; leave --save out")
            tested = None if test is None else read_column(test, (text_column, label_column))
            _few_shot(tuner, texts, labels, shots, range(seed or 0, (seed or 0) + seeds), tested, as_json)
            return
        with screen.LiveSearch() as live:
            tuner.set_params(callback=live).fit(texts, labels)
        if as_json:
            typer.echo(json.dumps(tuner.hard_prompt_.to_dict(), ensure_ascii=False, indent=2))
        else:
            typer.echo(tuner.prompt_)
        prompt, empty = tuner.report_["prompt"], tuner.report_["empty_template"]
        say(
            f"accuracy {prompt['accuracy']:.3f} on {prompt['count']} {tuner.report_['measured_on']} texts, "
            f"{empty['accuracy']:.3f} without the prompt; seed {tuner.seed_}, {tuner.stop_reason_}",
            "dim",
        )
        for note in tuner.report_["notes"]:
            say(note, "yellow")
        if save is not None:
            say(f"saved {tuner.save_pretrained(save)}", "dim")
    if tuner.stop_reason_ == "interrupted":
        raise typer.Exit(screen.INTERRUPTED)


def _few_shot(
    tuner: "ClassifierPromptTuner",
    texts: list[str],
    labels: list[str],
    shots: int,
    seeds: Sequence[int],
    test: list[list[str]] | None,
    as_json: bool,
) -> None:
    """Prints the figures of many draws, and each draw as it is done."""
    from hardprompts.classification.few_shot import FewShotRun, few_shot

    def shown(run: FewShotRun) -> None:
        say(f"seed {run.seed}: {run.accuracy:.3f} ({run.empty:.3f} without) {printable(run.prompt)}", "dim")

    given = None if test is None else (test[0], test[1])
    report = few_shot(tuner, texts, labels, shots=shots, seeds=seeds, test=given, report=shown)
    typer.echo(json.dumps(report.to_dict(), ensure_ascii=False, indent=2) if as_json else report.table())
    if len(report.runs) < len(seeds):
        raise typer.Exit(screen.INTERRUPTED)


def classify(
    tuner: Annotated[Path, typer.Argument(metavar="DIR", help="What `hardprompts tune --save` wrote.")],
    data: Annotated[Path | None, typer.Argument(metavar="[DATA.csv]", help="A table; default: lines of stdin.")] = None,
    text_column: TextColumn = "text",
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="SCHEME:NAME", help="Another model than it was tuned for.")
    ] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="A column for each label.")] = False,
    device: Device = None,
) -> None:
    """Print the label of each text, as a table on stdout."""
    with clear_errors():
        texts = sys.stdin.read().splitlines() if data is None else read_column(data, (text_column,))[0]
        from hardprompts.classification.tuner import ClassifierPromptTuner

        fitted = ClassifierPromptTuner.from_pretrained(tuner, model=model, device=device)
        likely = fitted.predict_proba(texts)
        classes = [str(label) for label in fitted.classes_]
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["text", "label", *(classes if probabilities else ())])
        for text, row in zip(texts, likely, strict=True):
            shown = [f"{value:.4f}" for value in row] if probabilities else []
            writer.writerow([text, classes[int(row.argmax())], *shown])
