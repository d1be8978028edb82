"""`hardprompts edit` and `hardprompts interactions` on the toy model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import QUICK, Run
from PIL import Image

from hardprompts import HardPrompt

pytestmark = pytest.mark.usefixtures("toy_plugin")
TOY = ("--model", "toy")


def test_a_word_is_exchanged_and_what_else_changes_is_said(tmp_path: Path) -> None:
    run = Run("edit", "red house river", "house", "boat", *TOY, "--save", tmp_path / "boat")
    assert run.code == 0 and run.out == "red boat river\n"
    assert "in the direction from 'house' to 'boat'" in run.err and "river" in run.err
    saved = HardPrompt.from_pretrained(tmp_path / "boat")
    assert saved.text == "red boat river" and saved.model == "toy"
    values = json.loads(Run("edit", tmp_path / "boat", "red", "old", "--json").out)
    assert values["prompt"]["text"] == "old boat river" and values["before"] == "red boat river"
    assert [one["phrase"] for one in values["others"]] == ["boat", "river"]


def test_a_typed_prompt_has_a_template_and_a_saved_one_keeps_its_own(tmp_path: Path) -> None:
    assert (
        Run("edit", "red house", "house", "boat", *TOY, "--template", "the {} in snow").out == "the red boat in snow\n"
    )
    Run("edit", "red house", "house", "boat", *TOY, "--save", tmp_path / "boat")
    Run("edit", tmp_path / "boat", "red", "old", "--template", "the {}").fails("the saved prompt is for the template")


def test_misuse_of_edit_is_one_line() -> None:
    Run("edit", "red house red", "red", "old", *TOY).fails("occurs 2 times", "--every")
    assert Run("edit", "red house red", "red", "old", *TOY, "--every").out == "old house old\n"
    Run("edit", "red house", "hous", "old", *TOY).fails("did you mean 'house'?")
    Run("edit", "red house", "red", "", *TOY).fails("no letters or digits")


def test_interactions_are_a_table_and_a_picture(pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.png"
    run = Run("interactions", "red house", pictures / "a.png", *TOY, "--picture", path)
    assert run.code == 0 and "contributes" in run.out and "house" in run.out
    assert Image.open(path).format == "PNG"
    told = json.loads(Run("interactions", "red house", pictures / "a.png", *TOY, "--json").out)
    assert told["interactions"]["phrases"] == ["red", "house"]
    Run("interactions", "red house", pictures / "a.png", *TOY, "--picture", "a.doc").fails("--picture writes a .png")
    marked = Run("interactions", "[bold]red house", pictures / "a.png", *TOY)
    assert marked.code == 0 and "bold" in marked.out


def test_invert_measures_what_depends_and_shows_it_in_the_report(pictures: Path, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", pictures / "a.png"
    plain = Run("invert", picture, *QUICK)
    run = Run("invert", picture, *QUICK, "--interactions", "--report", page, "--save", tmp_path / "saved")
    assert run.code == 0 and run.out == plain.out and "contributes" in run.err and "contributes" not in plain.err
    assert "How much words depend on each other" in page.read_text(encoding="utf-8")
    saved = HardPrompt.from_pretrained(tmp_path / "saved")
    assert saved.interactions is not None and set(saved.interactions.phrases) <= set(plain.out.split())
    assert (
        saved.evaluations > HardPrompt.from_dict(json.loads(Run("invert", picture, *QUICK, "--json").out)).evaluations
    )
    asked = json.loads(Run("invert", picture, *QUICK, "--interactions", "--json").out)
    assert asked["interactions"]["phrases"] == list(saved.interactions.phrases)
    hurried = Run("invert", picture, *QUICK, "--interactions", "--deadline", "0")
    assert hurried.code == 0 and hurried.out and "no room within the limits" in hurried.err


def test_an_empty_or_interrupted_prompt_is_not_lost_for_its_interactions(
    pictures: Path, tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    asked = ("invert", pictures / "a.png", *QUICK, "--interactions")
    (tmp_path / "words.txt").write_text("of\nthe\n", encoding="utf-8")
    run = Run(*asked, "--vocabulary", tmp_path / "words.txt")
    assert run.code == 0 and run.out and "nothing depends on another word" in run.err
    interrupt(2)
    run = Run(*asked)
    assert run.code == 130 and run.out and "interrupted, so nothing was measured" in run.err


def test_editable_reaches_the_search(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    plain = Run("invert", pictures / "a.png", *QUICK, "--editable").out
    monkeypatch.setattr("hardprompts.inversion.experts.EditableScore", lambda *given: asked.append(given) or given[0])
    assert Run("invert", pictures / "a.png", *QUICK, "--editable").code == 0 and len(asked) == 1 and plain.strip()
