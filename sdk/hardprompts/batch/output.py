"""Where prompts go: one part for each chunk of records, written in one go, and one file of all parts.

The parts are the state of a run: what is in them is done. Nothing else has to be kept in step with them, so a crash
at any moment loses the chunks that were on their way and nothing more.
"""

import contextlib
import csv
import errno
import functools
import glob
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from hardprompts.atomic import csv_rows, json_text, write_text_atomically, written_atomically
from hardprompts.causes.standins import read_json, stand_in_at
from hardprompts.errors import FileFormatError, MissingExtra
from hardprompts.hub.machine import distinct_label

#: What is written about a record: its prompt, or the error instead of it.
Row: TypeAlias = dict[str, Any]

COLUMNS = (
    "key",
    "prompt",
    "score",
    "token_ids",
    "template",
    "model",
    "method",
    "seed",
    "stop_reason",
    "fluency",
    "evidence",
    "error",
)

#: Columns that outputs of earlier releases lack: there they are empty.
LATER = frozenset(("fluency", "evidence"))
SETTINGS = "_settings.json"  # readers of folders of tables skip what begins with "_"
FORMAT_VERSION = 1

#: What temporary files end in, as a pattern.
_RANDOM = "[0-9a-f]" * 8

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Format(Protocol):
    """How rows are written."""

    suffix: str

    def write(self, file: IO[bytes], rows: Sequence[Row]) -> None: ...

    def read(self, path: Path, columns: Sequence[str]) -> list[Row]:
        """Raises FileFormatError if the file is damaged."""
        ...

    def join(self, file: IO[bytes], parts: Sequence[Path]) -> None: ...


class JsonLines:
    """One row a line."""

    suffix = ".jsonl"

    def write(self, file: IO[bytes], rows: Sequence[Row]) -> None:
        for row in rows:
            file.write(json_text(row, indent=None).encode())

    def read(self, path: Path, columns: Sequence[str]) -> list[Row]:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")  # a prompt may have other characters that break lines
            rows = [json.loads(line) for line in lines[:-1]]
            if lines[-1] or not rows:
                raise ValueError("its last line is not whole")
            return [{name: row[name] for name in columns} for row in rows]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, error) from error

    def join(self, file: IO[bytes], parts: Sequence[Path]) -> None:
        for part in parts:
            file.write(part.read_bytes())


class Parquet:
    """Columns, compressed.

    Raises:
        MissingExtra: pyarrow is not installed.
    """

    suffix = ".parquet"

    def __init__(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise MissingExtra("parquet", "parquet", error) from error
        self._arrow = pyarrow
        numbers = {"score": pyarrow.float64(), "fluency": pyarrow.float64()}
        kinds = {**numbers, "seed": pyarrow.uint64(), "token_ids": pyarrow.list_(pyarrow.int32())}
        self._schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])

    def write(self, file: IO[bytes], rows: Sequence[Row]) -> None:
        written = [{**row, "evidence": _evidence_text(row)} for row in rows]
        self._arrow.parquet.write_table(self._arrow.Table.from_pylist(written, schema=self._schema), file)

    def read(self, path: Path, columns: Sequence[str]) -> list[Row]:
        try:
            with self._arrow.parquet.ParquetFile(path) as file:
                rows: list[Row] = file.read(columns=list(columns)).to_pylist()
                if rows and set(rows[0]) != set(columns):
                    raise ValueError(f"it has the columns {', '.join(file.schema_arrow.names)}")
            return rows
        except (self._arrow.ArrowInvalid, ValueError) as error:
            raise _damaged(path, error) from error

    def join(self, file: IO[bytes], parts: Sequence[Path]) -> None:
        with self._arrow.parquet.ParquetWriter(file, self._schema) as writer:
            for group in range(0, len(parts), 256):  # many small groups of rows are slow to read
                tables = []
                for part in parts[group : group + 256]:
                    with self._arrow.parquet.ParquetFile(part) as source:
                        tables.append(self._whole(source.read()))
                writer.write_table(self._arrow.concat_tables(tables))

    def _whole(self, table: Any) -> Any:
        """A part with all columns: an earlier release wrote fewer."""
        for name in sorted(LATER - set(table.column_names)):
            kind = self._schema.field(name).type
            table = table.append_column(name, self._arrow.nulls(len(table), kind))
        return table.select(list(COLUMNS))


class Csv:
    """A table with a header row; `token_ids` are separated by spaces, and `evidence` is JSON."""

    suffix = ".csv"

    def write(self, file: IO[bytes], rows: Sequence[Row]) -> None:
        file.write(_csv_line({name: name for name in COLUMNS}))
        for row in rows:
            ids = row["token_ids"]
            ids = None if ids is None else " ".join(map(str, ids))
            file.write(_csv_line({**row, "token_ids": ids, "evidence": _evidence_text(row)}))

    def read(self, path: Path, columns: Sequence[str]) -> list[Row]:
        try:
            names, rows = csv_rows(path.read_bytes().decode())
            if tuple(names) != tuple(name for name in COLUMNS if name in names or name not in LATER):
                raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
            return [{name: row.get(name) or None for name in columns} for row in rows]
        except (ValueError, KeyError) as error:
            raise _damaged(path, error) from error

    def join(self, file: IO[bytes], parts: Sequence[Path]) -> None:
        header = _csv_line({name: name for name in COLUMNS})
        file.write(header)
        for part in parts:
            written = part.read_bytes()
            if written.startswith(header):
                file.write(written.removeprefix(header))
            else:  # an earlier release wrote fewer columns
                file.writelines(map(_csv_line, self.read(part, COLUMNS)))


def _csv_line(cells: Mapping[str, Any]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _evidence_text(row: Row) -> str | None:
    """The evidence of a row as JSON, where a table has texts in its cells."""
    found = row.get("evidence")
    return found if found is None or isinstance(found, str) else json.dumps(found, ensure_ascii=False)


class Captions(JsonLines):
    """A text file for each image, where trainers look for captions; rows beside them say what is done.

    A caption that is there already is kept: that of another run, or one that somebody wrote or changed.

    Args:
        files: the caption of each record, by its key.
        overwrite: replace captions that are there.
    """

    def __init__(self, files: Mapping[str, Path], overwrite: bool = False) -> None:
        self._files, self._overwrite = files, overwrite

    @property
    def keys(self) -> set[str]:
        """The records that have a caption."""
        return set() if self._overwrite else {key for key, file in self._files.items() if file.exists()}

    def publish(self, rows: Iterable[Row]) -> None:
        """Writes the captions of rows that have a prompt."""
        for row in rows:
            file = self._files.get(row["key"])
            if file is not None and row["prompt"] is not None and (self._overwrite or not file.exists()):
                write_text_atomically(file, f"{row['prompt']}\n")


FORMATS: dict[str, Callable[[], Format]] = {"jsonl": JsonLines, "parquet": Parquet, "csv": Csv}

#: The format of `Captions`, and the folder of its rows in that of the captions.
TEXT_FILES = "txt"
ROWS_FOLDER = ".hardprompts"


class Output:
    """A file of prompts, a folder of parts, or a folder of captions.

    Args:
        path: "prompts.jsonl", "prompts.csv" or "prompts.parquet", with the parts in a folder "prompts.jsonl.parts"
            beside it; or a folder for the parts alone, or for captions.
        settings: JSON values that the prompts depend on. Of a path its last part is kept, and a hash of all of it.
        format: "jsonl", "csv" or "parquet", for a folder of parts.
        captions: for a folder of captions.
        overwrite: forget what an earlier run wrote.

    Attributes:
        keys: of the records that are done.
        numbers: of the parts that are there.

    Raises:
        ValueError: another kind of file; something else is there already; or the run there has other settings.
        FileFormatError: a part, or the settings, cannot be read.
        OSError: the disk is full, say.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        format: str | None = None,
        *,
        captions: Captions | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.captions = captions
        name, as_file = (TEXT_FILES, False) if captions is not None else _format_of(self.path, format)
        self.format = FORMATS[name]() if captions is None else captions
        self.file = self.path if as_file else None
        self.folder = self.path.with_name(f"{self.path.name}.parts") if as_file else self.path
        if captions is not None:
            self.folder = self.path / ROWS_FOLDER
        self._settings = {"format_version": FORMAT_VERSION, "format": name, **_labeled(dict(settings))}
        if overwrite:
            self._forget()
        self._check()
        self._rows = {
            int(part.stem.removeprefix("part-")): self.format.read(part, ("key", "error")) for part in self.parts()
        }
        if captions is not None:
            for part in self.parts():  # a run that was killed may have left a part whose captions are not written
                self._publish(self.format.read(part, ("key", "prompt")))

    @property
    def keys(self) -> set[str]:
        done = {row["key"] for rows in self._rows.values() for row in rows}
        return done if self.captions is None else done | self.captions.keys

    @property
    def failed(self) -> int:
        """How many records have an error instead of a prompt."""
        return sum(row["error"] is not None for rows in self._rows.values() for row in rows)

    @property
    def numbers(self) -> set[int]:
        return set(self._rows)

    def parts(self) -> list[Path]:
        """The parts that are there, in order."""
        found = self.folder.glob(f"part-*{self.format.suffix}")
        return sorted(found, key=lambda part: int(part.stem.removeprefix("part-")))

    def forget_errors(self) -> int:
        """Removes the parts that have errors in them, so that their records are done again; returns how many."""
        failed = [number for number, rows in self._rows.items() if any(row["error"] is not None for row in rows)]
        for number in failed:
            self._part(number).unlink()
            del self._rows[number]
        return len(failed)

    def write(self, number: int, rows: Sequence[Row]) -> None:
        """Writes a part: all of it, or nothing.

        Raises:
            OSError: the disk is full, say; what was written before is whole.
        """
        if not self._rows:  # not before: a mistake in the settings shall not be kept
            with _room(self.path):
                write_text_atomically(self.folder / SETTINGS, json_text(self._settings, indent=1))
        self._atomically(self._part(number), lambda file: self.format.write(file, rows))
        self._rows[number] = [{"key": row["key"], "error": row["error"]} for row in rows]
        self._publish(rows)

    def join(self) -> None:
        """Writes the one file, if there is to be one.

        Raises:
            OSError: the disk is full, say; the parts are whole.
        """
        self._remove_halves()
        if self.file is not None and self._rows:
            self._atomically(self.file, lambda file: self.format.join(file, self.parts()))

    def _publish(self, rows: Sequence[Row]) -> None:
        if self.captions is not None:
            with _room(self.path):
                self.captions.publish(rows)

    def _forget(self) -> None:
        """Removes what an earlier run wrote."""
        if (self.folder / SETTINGS).exists():
            for part in self.folder.glob("part-*"):
                part.unlink()
            (self.folder / SETTINGS).unlink()
            if self.file is not None:
                self.file.unlink(missing_ok=True)

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}{self.format.suffix}"

    def _check(self) -> None:
        path = self.folder / SETTINGS
        if path.exists():
            if any(self.folder.glob("part-*")):  # else nothing was done, with whatever settings
                _check_same(path, self._settings)
            self._remove_halves()
            return
        if self.file is not None and self.file.exists():
            raise ValueError(f"{self.file} is there already, and {self.folder} is not; choose another name, or move it")
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ValueError(f"{self.folder} is there already and is not the output of a run; choose another name")

    def _remove_halves(self) -> None:
        """Removes what writers that were killed left half-done."""
        halves = [*self.folder.glob(f".part-*.{_RANDOM}"), *self.folder.glob(f".{SETTINGS}.{_RANDOM}")]
        if self.file is not None:
            halves += self.file.parent.glob(f".{glob.escape(self.file.name)}.{_RANDOM}")
        for half in halves:
            half.unlink(missing_ok=True)

    def _atomically(self, path: Path, write: Callable[[IO[bytes]], None]) -> None:
        """Writes a file in one go: a reader, or a crash, never sees half of it."""
        with _room(self.path), written_atomically(path) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave an empty file under the final name


def _format_of(path: Path, format: str | None) -> tuple[str, bool]:
    """The format of an output, and whether it is one file.

    Raises:
        ValueError: there is no such format, or it is not that of the file.
    """
    suffix = path.suffix.lower()
    as_file = suffix.removeprefix(".") in FORMATS and not path.is_dir()
    if not as_file and suffix and not path.is_dir():
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise ValueError(
            f"the output {os.fspath(path)!r} ends in {suffix!r}; accepted are {endings}, and a folder, whose name has "
            "no suffix"
        )
    name = suffix.removeprefix(".") if as_file else format or "jsonl"
    if name not in FORMATS or (as_file and format not in (None, name)):
        raise ValueError(f"the format {format!r} is not one of {', '.join(FORMATS)}, or not that of {path.name}")
    return name, as_file


@contextlib.contextmanager
def _room(path: Path) -> Iterator[None]:
    """Says what a full disk means here."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno,
            "the disk is full. What is done is kept, whole: make room, and the same command resumes it",
            os.fspath(path),
        ) from error


def _labeled(value: Any) -> Any:
    """Settings without paths of this machine, which can be distinguished all the same."""
    if isinstance(value, str):
        return distinct_label(value)
    if isinstance(value, list):
        return [_labeled(one) for one in value]
    return {name: _labeled(one) for name, one in value.items()} if isinstance(value, dict) else value


def _damaged(path: Path, error: Exception) -> FileFormatError:
    found = stand_in_at(path) or f"it is damaged: {error}"
    return FileFormatError(f"{path}: {found}; or delete it, and what was in it is done again")


def _check_same(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        before = read_json(path)
    except FileFormatError as error:
        raise FileFormatError(f"the settings of a run cannot be read: {error}; choose another output") from error
    if not isinstance(before, dict):
        raise FileFormatError(
            f"{path} does not hold the settings of a run: {type(before).__name__} instead of named values; choose "
            "another output"
        )
    differing = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)!r} and is {settings.get(name)!r}" for name in differing)
        raise ValueError(
            f"{path.parent} is the output of a run with other settings: {changes}. Choose another output, use the "
            f"settings of {path}, or overwrite it"
        )


# --- settings ---------------------------------------------------------------------------------


@functools.singledispatch
def plain(value: Any) -> Any:
    """A value as JSON that tells it from others.

    Raises:
        ValueError: nothing in it says what it is.
    """
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):  # tensors, arrays and images
        import hashlib

        import numpy as np

        array = np.ascontiguousarray(value)
        return f"{type(value).__name__} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    if isinstance(value, functools.partial):
        return {"function": plain(value.func), "arguments": plain([*value.args, value.keywords])}
    text = repr(value)
    if " at 0x" in text:
        name = getattr(value, "__qualname__", None)
        if name is None:
            raise ValueError(
                f"{text} cannot be distinguished from others in the settings of a run; give a name or a path"
            )
        return f"{value.__module__}.{name}"
    return text


@plain.register(type(None))
@plain.register(bool)
@plain.register(int)
@plain.register(float)
@plain.register(str)
def _same(value: Any) -> Any:
    return value


@plain.register
def _path(value: os.PathLike) -> str:  # type: ignore[type-arg]
    return str(os.path.abspath(os.fspath(value)))


@plain.register(list)
@plain.register(tuple)
def _list(values: Iterable[Any]) -> list[Any]:
    return [plain(value) for value in values]


@plain.register(dict)
def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): plain(value) for name, value in values.items()}
