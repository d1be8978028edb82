"""`hardprompts app` as a command."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hardprompts_app.command import app

ROOT = Path(__file__).resolve().parents[3]


class Run:
    """The outcome of the command, on a machine without Gradio."""

    def __init__(self, *words: str) -> None:
        command = typer.Typer()
        command.command("app")(app)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "gradio", None)
            result = CliRunner().invoke(command, list(words))
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


def test_without_the_extra_it_says_how_to_install_it() -> None:
    ended = Run("--model", "emoji", "--no-browser")
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert "`hardprompts app` needs the package gradio, which is not installed" in ended.err
    assert 'pip install "hardprompts[app]"' in ended.err


def test_its_help_loads_neither_torch_nor_gradio() -> None:
    code = (
        "import contextlib, sys; import typer; from hardprompts_app.command import app\n"
        "with contextlib.suppress(SystemExit): typer.run(app)\n"
        "print({'torch', 'gradio'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.endswith("set()\n") and "--share" in ended.stdout


@pytest.mark.parametrize("arguments", [("--host", "0.0.0.0"), ("--share",)])
def test_pages_that_others_reach_are_warned_of(arguments: tuple[str, ...]) -> None:
    assert "warning: whoever reaches this page" in Run("--model", "emoji", *arguments).err
    assert "warning" not in Run("--model", "emoji").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "0"), "--threads must be at least 1"),
        (("--device", "abacus"), "unknown device 'abacus'"),
        (("--model", "none:such"), "unknown model scheme 'none'"),
        (("--port", "99999"), "65535"),
    ],
)
def test_wrong_options_are_said_before_the_page_opens(arguments: tuple[str, ...], message: str) -> None:
    ended = Run("--no-browser", *arguments)
    assert ended.code == 2 and message in ended.err
