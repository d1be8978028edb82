"""--threads of every command that opens a model, and what the command line does about threads that wait."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hardprompts.cli import app, options, screen
from hardprompts.testing import ToyEncoder


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What torch's number of threads was set to."""
    found: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    return found


def test_whatever_takes_a_device_takes_threads() -> None:
    commands = [
        inspect.signature(command.callback).parameters for command in app.registered_commands if command.callback
    ]
    with_device = [names for names in commands if "device" in names]
    assert len(with_device) >= 8
    for names in with_device:
        assert names["threads"].annotation is options.Threads


@pytest.mark.parametrize("command", ["invert", "score", "invert-folder", "batch", "distill", "tune", "inspect"])
def test_threads_reach_torch(command: str, toy_plugin: str, tmp_path: Path, chosen: list[int]) -> None:
    picture, table = tmp_path / "a.png", tmp_path / "train.csv"
    ToyEncoder().picture("red house").save(picture)
    table.write_text("text,label\nred fire,sun\nold night,moon\n")
    quick = ["--steps", "1", "--restarts", "1", "--tokens", "2"]
    words = {
        "invert": [str(picture), *quick], "score": ["red house", str(picture)], "invert-folder": [str(tmp_path), *quick],
        "batch": [str(tmp_path), "-o", str(tmp_path / "prompts.jsonl"), *quick], "distill": ["red house in snow", *quick],
        "tune": [str(table), *quick], "inspect": [str(table)],
    }[command]  # fmt: skip
    found = CliRunner().invoke(app, [command, *words, "--model", toy_plugin, "--device", "cpu", "--threads", "3"])
    assert 3 in chosen, found.output
    wrong = CliRunner().invoke(app, [command, *words, "--model", toy_plugin, "--threads", "0"])
    assert wrong.exit_code == 2
    assert "--threads must be at least 1, got 0" in " ".join(wrong.output.split())


def test_advice_is_one_line_and_for_the_cpu_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], chosen: list[int]
) -> None:
    monkeypatch.setattr("hardprompts.devices.threads_advice", lambda: "--threads 1 may be faster")
    said: list[str] = []
    monkeypatch.setattr(screen, "say", lambda text, style="": said.append(text))
    screen.use_threads(None, "cpu")
    assert said == ["--threads 1 may be faster"]
    screen.use_threads(None, "cuda")
    screen.use_threads(2, "cpu")
    assert len(said) == 1 and chosen == [2]


@pytest.mark.parametrize(("given", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(given: str | None, policy: str) -> None:
    code = (
        "import contextlib, os, sys\nfrom hardprompts.cli import main\nsys.argv = ['hardprompts', '--version']\n"
        "with contextlib.suppress(SystemExit): main()\nprint(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.splitlines()[-1] == f"{policy} False"
