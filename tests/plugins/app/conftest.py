"""A model and pictures for the tabs."""

from pathlib import Path

import pytest

from hardprompts.testing import toy_backend
from hardprompts_app.work import Models


@pytest.fixture
def models() -> Models:
    return Models("toy")


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = []
    for name, text in (("a", "red house near river"), ("b", "slow dog")):
        paths.append(str(tmp_path / f"{name}.png"))
        toy_backend().image_encoder.picture(text).save(paths[-1])  # type: ignore[union-attr]
    return paths
