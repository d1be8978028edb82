"""What is shown while a command runs, and how it is written where nobody looks."""

import sys
from pathlib import Path
from typing import Any

import pytest

from hardprompts.cli import main, screen

pytestmark = pytest.mark.usefixtures("toy_plugin")


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    class Unfamiliar(UserWarning):
        """A category of its own."""

    usual: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda *arguments, **_: usual.append(arguments[1]))
        screen.show_warnings()
        warnings.warn("photo knows nothing\nof this [red]picture[/red]; name another model", UserWarning, stacklevel=1)
        warnings.warn("for developers", DeprecationWarning, stacklevel=1)
        for search in range(2):
            with screen.LiveSearch():
                warnings.warn(f"unfamiliar {search}", Unfamiliar, stacklevel=1)
                warnings.warn(f"unfamiliar {search} again", Unfamiliar, stacklevel=1)
    found = capsys.readouterr().err
    assert found.splitlines() == [
        "warning: photo knows nothing of this [red]picture[/red]; name another model",
        "warning: unfamiliar 0",
        "warning: unfamiliar 1",
    ]
    assert usual == [DeprecationWarning]


def test_the_live_display_shows_prompts_as_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from hardprompts.prompts import Candidate
    from hardprompts.search.protocol import SearchProgress

    terminal = io.StringIO()
    monkeypatch.setattr(screen, "err", Console(file=terminal, force_terminal=True, width=200))
    with screen.LiveSearch("1/2 cat.png, ") as live:
        live(SearchProgress(3, None, 0.5, 64, (None, Candidate("[red]a\x1b[2J dog[/red]", (1,), 0.5))))
        live._live.refresh()
    assert "[red]a\\x1b[2J dog[/red]" in terminal.getvalue()
    assert "step 3" in terminal.getvalue()


def test_a_piped_command_writes_utf_8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", encoding="cp1252") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "argv", ["hardprompts", "--version"])
        with pytest.raises(SystemExit):
            main()
        assert stream.encoding == "utf-8"
