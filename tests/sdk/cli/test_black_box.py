"""`hardprompts invert-by-pictures` on the toy model and a painter of the user's own."""

import json
from pathlib import Path

import pytest
from commands import Run
from painter import TOWER

from hardprompts import HardPrompt

pytestmark = pytest.mark.usefixtures("toy_plugin")

PAINTER = """
from painter import NoisyPainter
draw = NoisyPainter()
def refuse(prompts, seeds):
    raise ConnectionError("no route to the service")
"""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image, beside a module that draws."""
    (tmp_path / "my_painter.py").write_text(PAINTER)
    monkeypatch.syspath_prepend(tmp_path)
    TOWER.picture("red house old river").save(tmp_path / "image.png")
    return tmp_path / "image.png"


def command(image: Path, *words: str) -> Run:
    return Run(
        "invert-by-pictures", image, "--generator", "python:my_painter:draw", "--model", "toy", "--tokens", "3",
        "--budget", "30", "--seed", "1", *words,
    )  # fmt: skip


def test_a_prompt_is_found_and_what_it_cost_is_said(image: Path, tmp_path: Path) -> None:
    run = command(image, "--report-at", "10", "--save", str(tmp_path / "saved"))
    assert run.code == 0, run.err
    prompt = HardPrompt.from_pretrained(tmp_path / "saved")
    assert run.out == f"{prompt.filled}\n" and prompt.score_unit == "image similarity on fresh seeds"
    assert "image similarity on fresh seeds" in run.err and "0 of them failed" in run.err
    assert "after 10 pictures" in run.err and "seed 1; the pictures of the budget were drawn" in run.err


def test_a_run_goes_on_in_its_folder(image: Path, tmp_path: Path) -> None:
    first = command(image, "--folder", str(tmp_path / "run"), "--json")
    again = command(image, "--folder", str(tmp_path / "run"), "--json")
    found, repeated = json.loads(first.out), json.loads(again.out)
    assert found["recalled"] == 0 and repeated["recalled"] == found["pictures"] == 30
    assert found["trials"] == repeated["trials"] and found["prompt"]["score"] == repeated["prompt"]["score"]
    assert len((tmp_path / "run" / "pictures.jsonl").read_text().splitlines()) == 31
    assert "best.png" in first.err and (tmp_path / "run" / "best.png").exists()
    command(image, "--folder", str(tmp_path / "run"), "--generator", "python:my_painter:refuse").fails(
        "another run", "generator"
    )


def test_a_page_shows_what_was_drawn_beside_the_image(image: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run = command(image, "--report-at", "10", "--report", str(page))
    assert run.code == 0, run.err
    text = page.read_text()
    assert text.count("<img") == 3 and "after 10 pictures" in text and "image.png" in text
    assert "</b><small>pictures</small>" in text and "passes" not in text
    command(image, "--report", str(image)).fails("cannot be")


def test_it_begins_with_the_users_text_and_a_judge_alone(image: Path) -> None:
    run = Run(
        "invert-by-pictures", image, "--generator", "python:my_painter:draw", "--judge", "toy", "--start", "old boat",
        "--budget", "20", "--json",
    )  # fmt: skip
    found = json.loads(run.out)
    assert found["trials"][0]["text"] == "old boat" and found["trials"][0]["mutation"] == "start"
    assert "gradient" not in found["mutations"] and found["prompt"]["token_ids"] == []


def test_what_goes_wrong_is_one_line(image: Path) -> None:
    command(image, "--generator", "python:my_painter:refuse").fails("no picture came", "ConnectionError", "no route")
    command(image, "--generator", "midjourney").fails("unknown generator scheme", "python:MODULE:FUNCTION")
    command(image, "--budget", "3").fails("budget must be more than")
