"""`hardprompts app` as a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RUN = "from hardprompts_app.command import app; import typer; typer.run(app)"


def run(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )


def test_without_the_extra_it_says_how_to_install_it() -> None:
    ended = run(f"import sys; sys.modules['gradio'] = None; {RUN}", "--model", "emoji", "--no-browser")
    assert ended.returncode == 2
    assert 'the page of `hardprompts app` needs the package gradio, which is not installed: pip install "hardprompts[app]"' in ended.stderr  # fmt: skip
    assert "Traceback" not in ended.stderr


def test_its_help_loads_neither_torch_nor_gradio() -> None:
    code = (
        "import contextlib, sys; import typer; from hardprompts_app.command import app\n"
        "with contextlib.suppress(SystemExit): typer.run(app)\n"
        "print({'torch', 'gradio'} & set(sys.modules))"
    )
    ended = run(code, "--help")
    assert ended.stdout.endswith("set()\n") and "--share" in ended.stdout


def test_other_addresses_are_warned_of() -> None:
    ended = run(f"import sys; sys.modules['gradio'] = None; {RUN}", "--host", "0.0.0.0")
    assert "warning: whoever reaches this page" in ended.stderr


@pytest.mark.parametrize("arguments", [("--port", "99999"), ("--threads", "0"), ("--device", "abacus")])
def test_wrong_options_are_one_line(arguments: tuple[str, ...]) -> None:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    ended = run(RUN, "--no-browser", *arguments)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr and ended.stderr.count("error:") == 1, ended.stderr
