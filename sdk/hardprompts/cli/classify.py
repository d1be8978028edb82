"""`hardprompts tune` and `hardprompts classify`: tables of texts in, a prompt or labels out."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardprompts.cli import screen
from hardprompts.cli.options import (
    AsJson,
    Checkpoint,
    ClassificationTemplate,
    ClassificationTokens,
    Deadline,
    Device,
    Dtype,
    FluencyWeight,
    Holdout,
    LanguageModel,
    Method,
    OtherModel,
    RandomState,
    Restarts,
    Seeds,
    Steps,
    Threads,
    Vram,
    Words,
    given,
    torch_dtype,
)
from hardprompts.cli.screen import clear_errors, fail, say
from hardprompts.errors import FileFormatError, printable

if TYPE_CHECKING:
    from hardprompts.classification.tuner import ClassifierPromptTuner

Table = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A table: .csv or .tsv with a header row, .parquet, or a folder that `datasets` saved.",
    ),
]
TextColumn = Annotated[str, typer.Option("--text-column", help="The column of the texts.")]

#: The language model that is embedded; the SDK has no default.
DEFAULT_LANGUAGE_MODEL = "emoji:emoji-lm"

#: Parameters of `tune` that are not options of the tuner.
_OF_THE_COMMAND = (
    "data", "text_column", "label_column", "model", "label", "suggest", "shots", "test", "save", "threads", "dtype",
    "as_json",
)  # fmt: skip


def read_column(path: Path, names: Sequence[str]) -> list[list[str]]:
    """The columns of a table, as they stand there; see `text_columns` for tables that `datasets` writes.

    Raises:
        ValueError: a column is missing, a row is too short, or the file is not a table.
        FileFormatError: something else lies in the file's place, or it is not a text in UTF-8, or in the encoding that
            the mark at its beginning says.
    """
    from hardprompts.atomic import csv_rows
    from hardprompts.batch.columns import is_table, text_columns
    from hardprompts.wording import read_text

    if is_table(path):
        return text_columns(path, names)
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    try:
        _, rows = csv_rows(read_text(path), delimiter)
    except FileFormatError:
        raise
    except ValueError as error:
        raise ValueError(f"{path} is not a table: {error}") from error
    if not rows:
        raise ValueError(f"{path} has no rows below its head")
    for name in names:
        if name not in rows[0]:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(map(str, rows[0]))}")
        short = next((number for number, row in enumerate(rows, 2) if row[name] is None), None)
        if short is not None:
            raise ValueError(f"row {short} of {path} has no column {name!r}; check its quotes and separators")
    # What has no column is kept under None.
    long = next((number for number, row in enumerate(rows, 2) if None in row), None)
    if long is not None:
        raise ValueError(f"row {long} of {path} has more cells than the head; quote texts that have separators in them")
    return [[row[name] for row in rows] for name in names]


def read_labeled(path: Path, text_column: str, label_column: str) -> list[list[str]]:
    """The texts and the labels of a table.

    Raises:
        ValueError: see `read_column`; or a label is empty.
    """
    texts, labels = read_column(path, (text_column, label_column))
    empty = next((number for number, label in enumerate(labels, 2) if not label.strip()), None)
    if empty is not None:
        raise ValueError(f"row {empty} of {path} has no label in {label_column!r}; fill it in, or leave the row out")
    return [texts, labels]


def _lines_of_stdin() -> list[str]:
    from hardprompts.wording import decode_text

    return decode_text(sys.stdin.buffer.read(), "the text on stdin").splitlines()


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
    model: LanguageModel = None,
    template: ClassificationTemplate = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL=WORD", help="Words of a label, such as 1=good,great; repeat the option for each."),
    ] = None,
    suggest: Annotated[bool, typer.Option("--suggest", help="Choose the label words from the texts.")] = False,
    num_tokens: ClassificationTokens = None,
    words: Words = None,
    method: Method = None,
    fluency_weight: FluencyWeight = None,
    holdout: Holdout = None,
    restarts: Restarts = None,
    seeds: Seeds = None,
    shots: Annotated[
        int | None,
        typer.Option(metavar="K", help="Learn from K examples of each class, and choose by as many others."),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(metavar="TEST.csv", help="With --shots: measure on these (default: all others).")
    ] = None,
    max_steps: Steps = None,
    vram: Vram = None,
    deadline: Deadline = None,
    random_state: RandomState = None,
    checkpoint: Checkpoint = None,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the tuner here, for `classify`.")] = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Find a few words that make a frozen language model classify texts.

    Prints the prompt; Ctrl-C ends the search with the best so far. With --shots it prints what prompts from a few
    examples reach over many draws of them, and Ctrl-C ends it with the draws that are done.
    """
    options = given(locals(), but=_OF_THE_COMMAND)
    with clear_errors():
        screen.check_save(save)
        texts, labels = read_labeled(data, text_column, label_column)
        label_words = read_words(label or ())
        if label_words and suggest:
            fail("give --label or --suggest, not both")
        if test is not None and shots is None:
            fail("--test goes with --shots; `hardprompts classify` labels a table with a tuner that was saved")
        screen.use_threads(threads, device)
        from hardprompts.classification.tuner import ClassifierPromptTuner

        tuner = ClassifierPromptTuner(
            DEFAULT_LANGUAGE_MODEL if model is None else model,
            verbalizer="suggest" if suggest else label_words,
            dtype=torch_dtype(dtype),
            progress=False,
            **options,
        )
        if shots is not None:
            if save is not None:
                fail("--shots compares many draws and saves no tuner; leave --save out")
            first = random_state or 0
            tested = None if test is None else read_labeled(test, text_column, label_column)
            tuner.set_params(deadline=None)  # it is for all draws together
            _few_shot(tuner, texts, labels, shots, range(first, first + tuner.seeds), tested, as_json, deadline)
            return
        with screen.LiveSearch() as live:
            tuner.set_params(callback=live).fit(texts, labels)
        if as_json:
            screen.show_json(tuner.hard_prompt_)
        else:
            typer.echo(tuner.prompt_)
        prompt, empty = tuner.report_["prompt"], tuner.report_["empty_template"]
        say(
            f"accuracy {prompt['accuracy']:.3f} on {prompt['count']} {tuner.report_['measured_on']} texts"
            + ("" if empty is None else f", {empty['accuracy']:.3f} without the prompt")
            + f"; seed {tuner.seed_}, {tuner.stop_reason_}",
            "dim",
        )
        for note in tuner.report_["notes"]:
            say(note, "yellow")
        if save is not None:
            screen.show_saved(tuner.save_pretrained(save))
    screen.end(tuner.stop_reason_)


def _few_shot(
    tuner: "ClassifierPromptTuner",
    texts: list[str],
    labels: list[str],
    shots: int,
    seeds: Sequence[int],
    test: list[list[str]] | None,
    as_json: bool,
    deadline: float | None,
) -> None:
    """Prints the figures of many draws, and each draw as it is done."""
    from hardprompts.classification.shots import FewShotRun, few_shot

    def shown(run: FewShotRun) -> None:
        say(f"seed {run.seed}: {run.accuracy:.3f} ({run.empty:.3f} without) {printable(run.prompt)}", "dim")

    given = None if test is None else (test[0], test[1])
    report = few_shot(tuner, texts, labels, shots=shots, seeds=seeds, test=given, report=shown, deadline=deadline)
    typer.echo(json.dumps(report.to_dict(), ensure_ascii=False, indent=2) if as_json else report.table())
    for note in report.left_out:
        say(f"no room within the limits: {note}", "yellow")
    if deadline is None and len(report.runs) < len(seeds):
        raise typer.Exit(screen.INTERRUPTED)


def classify(
    tuner: Annotated[Path, typer.Argument(metavar="DIR", help="What `hardprompts tune --save` wrote.")],
    data: Annotated[Path | None, typer.Argument(metavar="[DATA.csv]", help="A table; default: lines of stdin.")] = None,
    text_column: TextColumn = "text",
    model: OtherModel = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="A column for each label.")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Print the label of each text, as a table on stdout."""
    with clear_errors():
        texts = _lines_of_stdin() if data is None else read_column(data, (text_column,))[0]
        screen.use_threads(threads, device)
        from hardprompts.classification.tuner import ClassifierPromptTuner

        fitted = ClassifierPromptTuner.from_pretrained(tuner, model=model, device=device)
        likely = list(fitted.predict_proba(texts)) if texts else []
        classes = [str(label) for label in fitted.classes_]
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["text", "label", *(classes if probabilities else ())])
        for text, row in zip(texts, likely, strict=True):
            shown = [f"{value:.4f}" for value in row] if probabilities else []
            writer.writerow([text, classes[int(row.argmax())], *shown])
