"""`hardprompts batch` on the toy model: what is on stdout, what is on stderr, what is on the disk."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardprompts.cli import app
from hardprompts.testing import ToyEncoder

pytestmark = pytest.mark.usefixtures("toy_plugin")

QUICK = ("--model", "toy", "--tokens", "3", "--steps", "2", "--restarts", "2", "--batch-size", "2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for name, text in (("a", "red house river"), ("b", "old boat"), ("c", "black cat snow")):
        ToyEncoder().picture(text).save(place / f"{name}.png")
    return place


class Run:
    """The outcome of `hardprompts batch`."""

    def __init__(self, *words: str | Path) -> None:
        result = CliRunner().invoke(app, ["batch", *map(str, words)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr


def test_a_folder_becomes_a_file_and_the_same_command_goes_on(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "prompts.jsonl"
    run = Run(folder, "--output", output, *QUICK, "--template", "the {}", "--banned", "red", "--words")
    assert run.code == 0 and run.out == ""
    assert "3 prompts, 0 failed, 0 done before" in run.err and "images per hour" in run.err
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["key"] for row in found] == ["a.png", "b.png", "c.png"]
    assert all(row["prompt"].startswith("the ") and "red" not in row["prompt"] for row in found)
    before = output.read_bytes()
    run = Run(folder, "--output", output, *QUICK, "--template", "the {}", "--banned", "red", "--words")
    assert run.code == 0 and "0 prompts, 0 failed, 3 done before" in run.err
    assert output.read_bytes() == before


def test_a_bad_picture_is_exit_code_1_and_can_be_done_again(folder: Path, tmp_path: Path) -> None:
    (folder / "bb.png").write_text("no picture")
    run = Run(folder, "--output", tmp_path / "prompts", *QUICK)
    assert run.code == 1 and "3 prompts, 1 failed" in run.err and "--retry-errors" in run.err
    ToyEncoder().picture("gold stone").save(folder / "bb.png")
    run = Run(folder, "--output", tmp_path / "prompts", *QUICK, "--retry-errors")
    assert run.code == 0 and "2 prompts, 0 failed, 2 done before" in run.err


def test_an_estimate_is_printed_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    run = Run(folder, "--estimate", *QUICK, "--price-per-hour", "2.5", "--sample", "3")
    assert run.code == 0 and sorted(tmp_path.rglob("*")) == before and run.out.count("\n") == 4
    assert "images per hour" in run.out and "a million images" in run.out and "at 2.5 per hour" in run.out


@pytest.mark.parametrize(
    "words, expected",
    [
        ((), "--output is needed"),
        (("--output", "x.txt"), "accepted are .jsonl"),
        (("--output", "x.jsonl", "--price-per-hour", "2"), "are for --estimate"),
        (("--output", "x.jsonl", "--ray", "auto"), "--ray needs --workers"),
        (("--estimate", "--ray", "auto"), "--estimate measures in this process"),
        (("--output", "x.jsonl", "--batch-size", "0"), "--batch-size must be at least 1"),
        (("--output", "x.jsonl", "--method", "pezz"), "unknown search method 'pezz'"),
        (("--output", "x.jsonl", "--template", "none"), "slots"),
    ],
)
def test_misuse_is_one_clear_line(
    words: tuple[str, ...], expected: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(folder, *QUICK, *words)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("error: ") and run.err.count("\n") == 1 and expected in run.err


def test_other_settings_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    Run(folder, "--output", tmp_path / "prompts.jsonl", *QUICK)
    run = Run(folder, "--output", tmp_path / "prompts.jsonl", *QUICK, "--seed", "7")
    assert run.code == 2 and "other settings" in run.err and run.err.count("\n") == 1
    run = Run(tmp_path / "nowhere", "--output", tmp_path / "new.jsonl", *QUICK)
    assert run.code == 2 and "nowhere" in run.err


def test_a_log_gets_lines_of_progress(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardprompts.cli import batch

    monkeypatch.setattr(batch, "REPORT_EVERY", 0.0)
    run = Run(folder, "--output", tmp_path / "prompts.jsonl", *QUICK)
    assert "2 of 3 images, 0 failed" in run.err and "seconds left" in run.err
