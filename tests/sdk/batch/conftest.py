"""Pictures to make prompts of."""

from pathlib import Path

import pytest
from batches import TEXTS, encoded, picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, one of them deeper, a text that is named as a picture, and half a picture."""
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    for name, text in zip(("a.png", "b.png", "c.png", "d.png", "more/e.png"), TEXTS, strict=True):
        picture(text).save(place / name)
    (place / "bb.png").write_text("no picture")
    (place / "cc.png").write_bytes(encoded("red")[:45])
    (place / "notes.md").write_text("no picture either")
    (place / ".hidden.png").write_bytes(encoded("red"))
    return place
