"""`--calibrations`: a file of the user's own says how likely words are true, in every command that has evidence."""

import json
from pathlib import Path

import pytest
from commands import QUICK, Run

from hardprompts.inversion import EvidenceCalibration
from hardprompts.inversion.evidence.calibration import save_calibrations

pytestmark = pytest.mark.usefixtures("toy_plugin")
TOY = ("--model", "toy")


def calibrations(path: Path, model: str = "toy", bias: float = 2.0) -> Path:
    """A file by which every word is as likely, whatever was measured of it."""
    ways = [EvidenceCalibration((model,), {}, {"": bias}, searched, "three toys") for searched in (True, False)]
    return save_calibrations(path, ways)


def test_invert_and_score_say_how_likely_words_are_by_a_file(pictures: Path, tmp_path: Path) -> None:
    file = calibrations(tmp_path / "own.json")
    for command in (
        ("invert", pictures / "a.png", *QUICK, "--evidence"),
        ("score", "red house", pictures / "a.png", *TOY, "--evidence"),
    ):
        run = Run(*command, "--calibrations", file)
        told = " ".join(run.err.split())
        assert run.code == 0 and "88%" in told and "calibrated on three toys" in told
        assert "88%" not in Run(*command).err


def test_a_bound_drops_words_by_a_file(pictures: Path, tmp_path: Path) -> None:
    sure, unsure = (calibrations(tmp_path / f"{bias}.json", bias=bias) for bias in (2.0, -2.0))
    asked = ("invert", pictures / "a.png", *QUICK, "--min-evidence", "0.5", "--calibrations")
    plain = Run("invert", pictures / "a.png", *QUICK)
    assert set(plain.out.split()) <= set(Run(*asked, sure).out.split())
    assert Run(*asked, unsure).out.strip() == ""


def test_a_bound_without_a_calibration_says_that_it_drops_nothing(pictures: Path, tmp_path: Path) -> None:
    said, out = "nothing is calibrated for toy, so no word was dropped as unlikely", tmp_path / "rows.jsonl"
    for command in (("invert", pictures / "a.png"), ("batch", pictures, "-o", out), ("invert-folder", pictures)):
        run = Run(*command, *QUICK, "--min-evidence", "0.9")
        assert said in " ".join(run.err.split()), command
    file = calibrations(tmp_path / "own.json")
    assert said not in Run("invert", pictures / "a.png", *QUICK, "--min-evidence", "0.9", "--calibrations", file).err
    plain = Run("batch", pictures, "-o", tmp_path / "plain.jsonl", *QUICK)
    assert "calibrated" not in plain.err


def test_batches_know_their_calibrations_by_what_stands_in_them(pictures: Path, tmp_path: Path) -> None:
    file, out = calibrations(tmp_path / "own.json"), tmp_path / "rows.jsonl"
    (pictures / "broken.jpg").unlink()
    asked = ("batch", pictures, "--output", out, *QUICK, "--evidence", "--calibrations")
    assert Run(*asked, file).code == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert rows and all(
        one["probability"] == pytest.approx(0.8808, abs=1e-4) for row in rows for one in row["evidence"]
    )
    elsewhere = calibrations(tmp_path / "copy.json")
    assert "done before" in Run(*asked, elsewhere).err, "another place of the same calibrations"
    Run(*asked, calibrations(file, bias=1.0)).fails("calibrations was")
    assert all(
        str(tmp_path) not in part.read_text(encoding="utf-8") for part in tmp_path.glob("rows.jsonl.parts/*.json")
    )
    table = tmp_path / "rows.csv"
    assert Run("invert-folder", pictures, "--csv", table, *QUICK, "--evidence", "--calibrations", file).code == 0
    assert '""probability"": 0.7' in table.read_text(encoding="utf-8")


def test_a_wrong_file_is_one_line_before_anything_is_searched(pictures: Path, tmp_path: Path) -> None:
    picture, other = pictures / "a.png", tmp_path / "other.json"
    file = calibrations(tmp_path / "own.json")
    other.write_text('{"text": "fox"}', encoding="utf-8")
    commands = (
        ("invert", picture, *QUICK, "--evidence"),
        ("score", "red", picture, *TOY, "--evidence"),
        ("batch", pictures, "-o", tmp_path / "x.jsonl", *QUICK, "--evidence"),
    )
    for command in commands:
        Run(*command, "--calibrations", tmp_path / "none.json").fails("No such file", "none.json")
        Run(*command, "--calibrations", picture).fails("a.png", "not JSON", "PNG image")
        Run(*command, "--calibrations", other).fails("other.json", "not calibrations of evidence")
        foreign = calibrations(tmp_path / "foreign.json", model="photo")
        Run(*command, "--calibrations", foreign).fails("the calibrations are for 'photo' and not for toy")
        Run(*command[:-1], "--calibrations", file).fails("--calibrations is for --evidence")
