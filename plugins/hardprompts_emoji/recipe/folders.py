"""Folders of models that appear at once or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """Yield the path of a folder to write; it becomes ``output``, instead of what is there, if nothing goes wrong."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (output.parent / f".{output.name}.{state}" for state in ("new", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    yield temporary
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.replace(output, old)
    os.replace(temporary, output)
    shutil.rmtree(old, ignore_errors=True)
