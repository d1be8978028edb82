"""`hardprompts tune` and `hardprompts classify` on a toy language model."""

from pathlib import Path

import pytest
from commands import Run
from typer.testing import CliRunner

from hardprompts import ClassifierPromptTuner
from hardprompts.cli import app
from hardprompts.testing import toy_language_model


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labeled texts; every model that is opened by name is the toy."""
    monkeypatch.setattr("hardprompts.classification.tuner.load_backend", lambda *a, **k: toy_language_model())
    rows = [f"{word} house in the {clue},{label}" for word in ("red", "old", "green", "blue") for clue, label in (("fire", "sun"), ("night", "moon"))]  # fmt: skip
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def tuned(table: Path, *words: str) -> Run:
    template = ("--template", "{prompt} {text} the {label}")
    return Run("tune", table, *template, "--tokens", "2", "--steps", "1", "--restarts", "1", "--seed", "0", *words)


def test_a_tuner_is_saved_and_labels_texts(table: Path, tmp_path: Path) -> None:
    found = tuned(table, "--save", str(tmp_path / "tuner"))
    fitted = ClassifierPromptTuner.from_pretrained(tmp_path / "tuner")
    assert found.out == fitted.prompt_ + "\n"
    assert "accuracy" in found.err and "seed 0" in found.err
    named = CliRunner().invoke(app, ["classify", str(tmp_path / "tuner")], input="red fire\nold night\n")
    assert named.stdout.splitlines()[1:] == [
        f"{text},{fitted.predict([text])[0]}" for text in ("red fire", "old night")
    ]
    nothing = CliRunner().invoke(app, ["classify", str(tmp_path / "tuner")], input="")
    assert (nothing.exit_code, nothing.stdout) == (0, "text,label\n")


@pytest.mark.parametrize(("option", "expected"), [((), None), (("--words",), True), (("--no-words",), False)])
def test_which_words_may_be_used_is_passed_on(
    option: tuple[str, ...], expected: bool | None, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    fit = ClassifierPromptTuner.fit
    monkeypatch.setattr(ClassifierPromptTuner, "fit", lambda self, X, y: (seen.append(self.words), fit(self, X, y))[1])
    assert tuned(table, *option).code == 0
    assert seen == [expected]


def test_labels_without_words_are_explained(table: Path) -> None:
    table.write_text(table.read_text().replace(",sun", ",1").replace(",moon", ",0"))
    tuned(table, "--label", "1=sun").fails("'0'", "no words")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("I liked it, really,sun", ("row 10", "more cells than the head", "quote")),
        ("red fire,", ("row 10", "no label in 'label'")),
        ("red fire,  ", ("row 10", "no label in 'label'")),
        ("red fire", ("row 10", "no column 'label'")),
    ],
)
def test_rows_that_would_be_misread_or_dropped_are_named(row: str, words: tuple[str, ...], table: Path) -> None:
    table.write_text(table.read_text() + row + "\n")
    tuned(table).fails(*words)
