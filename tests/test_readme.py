"""The README tells the truth: its Python runs, its commands and options exist, its files are there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from hardprompts.cli import app
from hardprompts.encoders import is_installed

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"

#: What makes the examples of the README smaller, so that they run in seconds: that they run is what is tested.
SMALLER = {"per_class=64": "per_class=8", "random_state=0)": "random_state=0, max_steps=3, restarts=2)"}

pytestmark = pytest.mark.skipif(not README.exists(), reason="there is no README yet")


def blocks(*languages: str) -> list[str]:
    if not README.exists():
        return []
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """The `hardprompts ...` commands of the README, in blocks and in sentences."""
    lines = "\n".join(blocks("console", "bash", "sh", "shell")).replace("\\\n", " ").splitlines()
    named = re.findall(r"`(hardprompts \w[^`]*)`", README.read_text(encoding="utf-8")) if README.exists() else []
    return [line for line in (*(line.removeprefix("$ ") for line in lines), *named) if line.startswith("hardprompts ")]


def test_the_readme_names_commands() -> None:
    assert len(commands()) >= 3


def test_python_blocks_run_one_after_the_other(tmp_path: Path) -> None:
    # In one process, as a reader would type them, beside a copy of the pictures that the README names.
    for plugin in ("hardprompts_emoji", "hardprompts_photo"):
        pictures = Path("plugins", plugin, "examples")
        shutil.copytree(ROOT / pictures, tmp_path / pictures)
    without = () if is_installed("photo") else ('"photo"',)
    code = "\n".join(block for block in blocks("python") if not any(word in block for word in ("# not run", *without)))
    for given, smaller in SMALLER.items():
        assert given in code, f"README.md has no {given} any more; what makes its examples smaller now?"
        code = code.replace(given, smaller)
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("line", commands())
def test_commands_and_options_exist(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    group = typer.main.get_command(app)
    known = group.commands[words[0]]  # type: ignore[attr-defined]
    options = {option for parameter in known.params for option in parameter.opts}
    for word in words[1:]:
        if word.startswith("-"):
            assert word.partition("=")[0] in options, f"{words[0]} has no option {word}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", "\n".join(blocks("console", "bash", "sh", "shell")))) <= targets


def test_files_that_the_readme_names_exist() -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), f"README.md points to {target}"
