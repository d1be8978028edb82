"""`hardprompts invert --report` and `hardprompts report`: the page is written whole, beside what is printed."""

import dataclasses
import os
from pathlib import Path

import pytest
from audits import Page
from commands import QUICK, Run

from hardprompts import HardPrompt
from hardprompts.cli import screen
from hardprompts.wording import WordEvidence

pytestmark = pytest.mark.usefixtures("toy_plugin")


def test_invert_writes_the_page_beside_the_prompt(pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    run = Run("invert", pictures / "a.png", *QUICK, "--report", page, "--fluency-model", "emoji:emoji-lm")
    assert run.code == 0 and run.out == Run("invert", pictures / "a.png", *QUICK).out
    assert f"wrote {page}" in run.err.replace("\n", "") and os.listdir(page.parent) == ["page.html"]
    text = page.read_text(encoding="utf-8")
    told = Page(text)
    assert run.out.strip().split()[0] in told.text and "a.png" in told.text and "nats a word" in told.text
    assert str(tmp_path) not in text


def test_the_page_of_a_saved_prompt_is_the_same(pictures: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.html", tmp_path / "2.html"
    images = (pictures / "a.png", pictures / "deeper" / "c.png")
    Run("invert", *images, *QUICK, "--report", first, "--save", tmp_path / "saved")
    run = Run("report", tmp_path / "saved", *images, "--output", second)
    assert run.code == 0 and run.out == "" and first.read_text() == second.read_text()
    assert Run("report", tmp_path / "saved", "-o", second).code == 0 and "<img" not in second.read_text()


def test_mistakes_are_said_before_the_search(pictures: Path, tmp_path: Path) -> None:
    picture = pictures / "a.png"
    Run("invert", picture, *QUICK, "--report", tmp_path).fails("--report", "cannot be")
    Run("invert", picture, *QUICK, "--report", picture).fails("--report", "cannot be")
    Run("report", tmp_path).fails("--output is needed")
    Run("report", tmp_path, "-o", tmp_path / "x.html").fails("no prompt.json")
    HardPrompt("fox", (), 0.5).save_pretrained(tmp_path / "saved")
    Run("report", tmp_path / "saved", pictures / "broken.jpg", "-o", tmp_path / "x.html").fails("broken.jpg")
    assert not (tmp_path / "x.html").exists()


def test_evidence_is_a_table_beside_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    evidence = (WordEvidence("[bold]fox", "subject", 0.2, 0.1), WordEvidence("neon", "style", -0.1))
    prompt = HardPrompt("[bold]fox neon", (), 0.5, stop_reason="converged", model="toy", evidence=evidence)
    screen.show_prompt(prompt)
    shown = capsys.readouterr()
    assert shown.out == "[bold]fox neon\n"
    assert "[bold]fox" in shown.err and "+0.200" in shown.err and "-0.100" in shown.err
    assert "not calibrated for toy" in " ".join(shown.err.split()) and "true of the picture " not in shown.err
    screen.show_prompt(dataclasses.replace(prompt, evidence=()))
    assert "lost" not in capsys.readouterr().err


def test_evidence_is_asked_for_by_a_flag_and_bounded_by_a_number(pictures: Path, tmp_path: Path) -> None:
    plain = Run("invert", pictures / "a.png", *QUICK)
    run = Run("invert", pictures / "a.png", *QUICK, "--evidence", "--report", tmp_path / "page.html")
    assert run.code == 0 and run.out == plain.out
    assert "lost without it" in run.err and "not calibrated for toy" in " ".join(run.err.split())
    assert "What speaks for each word" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "lost without it" not in plain.err
    Run("invert", pictures / "a.png", *QUICK, "--min-evidence", "80").fails("--min-evidence must be a probability")
    run = Run("batch", pictures, "--output", tmp_path / "x.jsonl", *QUICK, "--evidence")
    assert '"contribution"' in (tmp_path / "x.jsonl").read_text(encoding="utf-8")


def test_a_text_of_ones_own_is_checked_word_by_word(pictures: Path) -> None:
    plain, told = (
        Run("score", "red [b]house", pictures / "a.png", "-m", "toy", *more) for more in ((), ("--evidence",))
    )
    assert plain.out == told.out and "lost" not in plain.err
    assert "red" in told.err and "house" in told.err and "not calibrated for toy" in " ".join(told.err.split())
    assert "no word in it" in Run("score", "of the", pictures / "a.png", "-m", "toy", "--evidence").err
