"""What commands are tried on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardprompts.cli import screen
from hardprompts.testing import ToyEncoder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three pictures of texts and one damaged file."""
    place = tmp_path / "pictures"
    (place / "deeper").mkdir(parents=True)
    encoder = ToyEncoder()
    encoder.picture("red house river").save(place / "a.png")
    encoder.picture("old boat").save(place / "[bold]b.png")
    encoder.picture("black cat snow").save(place / "deeper" / "c.png")
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    (place / "notes.md").write_text("no picture either")
    (place / "._a.png").write_bytes(b"what macOS leaves on other disks")
    return place


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Presses Ctrl-C at the nth callback of the searches from now on."""

    def at(count: int) -> None:
        calls = 0

        def press(self: screen.LiveSearch, progress: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == count:
                raise KeyboardInterrupt

        monkeypatch.setattr(screen.LiveSearch, "__call__", press)

    return at
