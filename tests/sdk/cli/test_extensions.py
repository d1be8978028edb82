"""Commands that plugins add by entry points."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = '''
import colorsys
import typer


def shout(word: str, times: int = 2) -> None:
    """Say it loudly."""
    typer.echo(word.upper() * times)
'''


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What pip leaves behind of a plugin with a command, and of one that is damaged."""
    (tmp_path / "shouting.py").write_text(MODULE, encoding="utf-8")
    metadata = tmp_path / "shouting-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[hardprompts.commands]\nshout = shouting:shout\nlost = shouting_no_more:lost\nmodels = shouting:shout\n"
    )
    return tmp_path


def run(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hardprompts", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", **environment},
    )  # fmt: skip


def test_a_plugins_command_is_listed_and_called(installed: Path) -> None:
    listed, called = run(installed, "--help"), run(installed, "shout", "ho", "--times", "3")
    assert "Say it loudly." in listed.stdout
    assert called.returncode == 0 and called.stdout == "HOHOHO\n"
    assert "Say it loudly." in run(installed, "shout", "--help").stdout


def test_a_damaged_command_says_why_and_disturbs_no_other(installed: Path) -> None:
    assert "Cannot be imported" in run(installed, "--help").stdout
    called = run(installed, "lost")
    assert called.returncode == 2 and "shouting_no_more" in called.stderr and "Traceback" not in called.stderr


def test_our_own_commands_come_first_and_load_no_plugins(installed: Path) -> None:
    shown = run(installed, "invert", "--help")
    assert shown.returncode == 0 and "shouting" not in shown.stderr
    assert "List the models" in run(installed, "models", "--help").stdout


def test_the_variable_of_plugins_chooses_commands_too(installed: Path) -> None:
    assert run(installed, "shout", "ho", HARDPROMPTS_PLUGINS="emoji").returncode == 2
    assert run(installed, "shout", "ho", HARDPROMPTS_PLUGINS="emoji,shout").stdout == "HOHO\n"
