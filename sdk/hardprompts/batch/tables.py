"""Tables of pictures: parquet files, and the arrow files that `datasets` saves."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardprompts.batch.records import IMAGE, Record, UnusablePicture
from hardprompts.causes.failures import cause_of
from hardprompts.causes.standins import stand_in_at
from hardprompts.errors import FileFormatError, ImageError, MissingExtra, brief
from hardprompts.hub.machine import distinct_label

if TYPE_CHECKING:
    import pyarrow


@dataclasses.dataclass(frozen=True)
class Cell:
    """The picture in a row of a group of rows of a table."""

    path: Path
    column: str
    group: int
    row: int

    def read(self) -> Any:
        try:
            value = _column(self.path, self.group, self.column, _stamp(self.path))[self.row].as_py()
        except _arrow().ArrowException as error:
            raise ImageError(f"the table is damaged: {brief(error)}; get the file again") from error
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        return str(self.path.parent / value) if isinstance(value, str) else value


def table_records(path: Path, name: str, image: str | None, key: str | None) -> list[Record]:
    """The rows of a table.

    The picture's column has bytes, paths from the table's folder, or structures of both, as `datasets` writes them.
    Pictures are read a group of rows at a time.

    Raises:
        MissingExtra: pyarrow is not installed.
        FileFormatError: the file cannot be read.
        ValueError: it has no such column.
    """
    arrow = _arrow()
    try:
        schema, groups = _layout(path)
        column = _picture_column(path, schema, image)
        if key is not None and key not in schema.names:
            raise ValueError(f"{path} has no column {key!r} for the key; it has {', '.join(schema.names)}")
        keys = [
            None if key is None else _column(path, group, key, _stamp(path)).to_pylist() for group in range(len(groups))
        ]
    except FileNotFoundError:
        raise
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        found = (
            cause_of(error)
            or stand_in_at(path)
            or f"it is not a table that can be read: {brief(error)}; get the file again"
        )
        raise FileFormatError(f"{path}: {found}") from error
    records: list[Record] = []
    for group, rows in enumerate(groups):
        own = keys[group]
        for row in range(rows):
            number = str(len(records))
            if own is None:
                records.append(Record(f"{name}:{number}", Cell(path, column, group, row)))
            elif own[row] is None:
                records.append(
                    Record(f"{name}:{number}", UnusablePicture(f"there is no key: the column {key!r} is empty"))
                )
            else:
                records.append(Record(distinct_label(str(own[row])), Cell(path, column, group, row)))
    return records


def arrow_schema(path: Path) -> "pyarrow.Schema":
    """The columns of a table and what is stored with them.

    Raises:
        MissingExtra: pyarrow is not installed.
        FileFormatError: the file cannot be read.
    """
    arrow = _arrow()
    try:
        return _layout(path)[0]
    except FileNotFoundError:
        raise
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        found = stand_in_at(path) or f"it is not a table that can be read: {brief(error)}; get the file again"
        raise FileFormatError(f"{path}: {found}") from error


def read_table_column(path: Path, column: str) -> list[Any]:
    """All values of a column of a table.

    Raises:
        MissingExtra: pyarrow is not installed.
        FileFormatError: the file cannot be read.
    """
    arrow = _arrow()
    try:
        groups = range(len(_layout(path)[1]))
        return [value for group in groups for value in _column(path, group, column, _stamp(path)).to_pylist()]
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: the table is damaged: {brief(error)}; get the file again") from error


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("a table", "parquet", error) from error
    return pyarrow


def _layout(path: Path) -> tuple["pyarrow.Schema", list[int]]:
    """The columns, and the rows of each group."""
    if path.suffix.lower() == ".arrow":
        batches = _batches(path, _stamp(path))
        return batches[0].schema, [batch.num_rows for batch in batches]
    with _arrow().parquet.ParquetFile(path) as file:
        return file.schema_arrow, [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


def _stamp(path: Path) -> int:
    """What changes when the file is written again, so that nothing is remembered of the old one."""
    return path.stat().st_mtime_ns


# A group is read once for the records of a chunk, and for the next chunk if that begins in it too.
@functools.lru_cache(maxsize=1)
def _column(path: Path, group: int, column: str, stamp: int) -> Any:
    if path.suffix.lower() == ".arrow":
        return _batches(path, stamp)[group].column(column)
    with _arrow().parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(0)


@functools.lru_cache(maxsize=1)
def _batches(path: Path, stamp: int) -> Any:
    """The groups of rows of an arrow file, which stay on the disk until they are looked at."""
    arrow = _arrow()
    file = arrow.memory_map(str(path))
    try:
        reader = arrow.ipc.open_stream(file)
        table = reader.read_all()
    except arrow.ArrowInvalid:
        file.seek(0)
        table = arrow.ipc.open_file(file).read_all()
    batches = table.to_batches()
    return batches or [arrow.RecordBatch.from_pylist([], schema=table.schema)]


def _picture_column(path: Path, schema: "pyarrow.Schema", image: str | None) -> str:
    arrow = _arrow()

    def encoded(kind: Any) -> bool:
        binary = arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind)
        return bool(binary or (arrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0))

    if image is not None or IMAGE in schema.names:
        column = image or IMAGE
        if column not in schema.names:
            raise ValueError(f"{path} has no column {column!r}; it has {', '.join(schema.names)}")
        return column
    found = [field.name for field in schema if encoded(field.type)]
    if len(found) != 1:
        raise ValueError(f"which column of {path} has the pictures? It has {', '.join(schema.names)}; say image=...")
    return str(found[0])
