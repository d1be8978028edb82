"""Files that are written whole or not at all, and the folder of those that can be made again."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import platformdirs

#: The variable of the environment that holds another cache folder than the user's.
CACHE_VARIABLE = "HARDPROMPTS_CACHE"


def write_text_atomically(path: Path, text: str) -> Path:
    """Writes a text in one go; see `written_atomically`."""
    with written_atomically(path) as file:
        file.write(text.encode("utf-8"))
    return path


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which has its name when the block ends: a reader, or a crash, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_files_atomically(contents: Mapping[Path, bytes]) -> tuple[Path, ...]:
    """Writes files such that a reader, or a crash, never sees half of one; returns their paths.

    All are first written beside their places, and moved there when the last one is complete.
    """
    temporary = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary[path], "xb") as file:
                file.write(content)
        for path, part in temporary.items():
            os.replace(part, path)
    except BaseException:
        for part in temporary.values():
            part.unlink(missing_ok=True)
        raise
    return tuple(contents)


def cache_folder() -> Path:
    """The folder of HARDPROMPTS_CACHE, or `hardprompts` in the user's cache folder; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("hardprompts", appauthor=False, opinion=False)
