"""Files written whole or not at all, JSON and tables in files, and the folder of those that can be made again."""

import contextlib
import csv
import io
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

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


#: Halves of characters, which no encoding of a file takes.
_HALF = re.compile(r"[\ud800-\udfff]")


def json_text(values: Any, indent: int | None = 2) -> str:
    """Values as JSON that any file can hold, and a line break; halves of characters are written as escapes."""
    text = json.dumps(values, ensure_ascii=False, indent=indent)
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"


#: Of the csv module, whose longest cell is a setting of the whole process.
_CSV = threading.Lock()
_END = "\x03"


def csv_rows(text: str, delimiter: str = ",") -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a table with a header row, whose cells may be of any length.

    Cells that are missing at the end of a row are None, as `csv.DictReader` has them.

    Raises:
        ValueError: it is not a table; a quotation mark is never closed, say.
    """
    with _CSV:
        before = csv.field_size_limit(len(text) + 1 + len(_END))
        try:
            # The last line is a row of its own unless a quotation mark before it was never closed.
            rows = list(csv.reader(io.StringIO(f"{text}\n{_END}", newline=""), delimiter=delimiter))
        except csv.Error as error:
            raise ValueError(str(error)) from error
        finally:
            csv.field_size_limit(before)
    if rows.pop() != [_END]:
        raise ValueError(
            "a quotation mark is opened and never closed; within a cell in quotation marks, write two of them for one"
        )
    names, *filled = [row for row in rows if row] or [[]]
    return names, [_cells(names, row) for row in filled]


def _cells(names: list[str], row: list[str]) -> Any:
    further: dict[Any, Any] = {None: row[len(names) :]} if len(row) > len(names) else {}
    return {**dict.fromkeys(names), **dict(zip(names, row, strict=False)), **further}


def cache_folder() -> Path:
    """The folder of HARDPROMPTS_CACHE, or `hardprompts` in the user's cache folder; it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("hardprompts", appauthor=False, opinion=False)
