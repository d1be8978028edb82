"""Where pictures come from: folders, shards, tables and what is in memory, as records."""

import dataclasses
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from hardprompts.batch.records import IMAGE, IMAGES, Record, Unusable
from hardprompts.batch.shards import shard_records
from hardprompts.batch.tables import table_records
from hardprompts.errors import ImageError

SHARDS = (".tar", ".tar.gz", ".tgz")
TABLES = (".parquet", ".arrow")

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@runtime_checkable
class Indexed(Protocol):
    """A collection that makes its items when it is asked for them, as those of `datasets` and torch do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """Records in an order that is the same in every run.

    Attributes:
        name: what it is called in the settings of a run.
        records: the records; read once for each run.
        total: how many there are, as far as that is known without reading them.
        streamed: they can only be read one after the other, by one process.
    """

    name: str
    records: Iterable[Record]
    total: int | None = None
    streamed: bool = False


#: What `open_source` takes: paths and patterns, or pictures and rows in memory.
SourceInput: TypeAlias = str | os.PathLike[str] | Source | Iterable[Any] | Indexed


def open_source(source: SourceInput, *, image: str | None = None, key: str | None = None) -> Source:
    """The records of a folder, of shards, of tables or of what is in memory.

    - A folder: its pictures, by their suffix, with those in its folders; or, where it has none, the shards or tables
      in it. Hidden files are left out. The key is the path in the folder.
    - Shards (.tar, .tar.gz, .tgz; webdataset): nothing is unpacked to the disk. The key is the shard and the sample's.
    - Tables (.parquet; the .arrow files that `datasets` saves): a column has encoded pictures, or paths from the
      table's folder. The key is the file and the number of the row, or a column.
    - A list of such paths; patterns ("shards/*.tar", "shards/{0000..0099}.tar") too.
    - Rows (mappings, a `datasets.Dataset`) or pictures in memory. The key is the number, a path, or a column.

    Args:
        image: the column of a row, or the ending of a sample's member ("jpg", "left.png"), that has the picture.
            Default: "image" or the only one that there is.
        key: the column of the key.

    Raises:
        ValueError: no pictures are there; a folder has several kinds of files; a column is missing.
        MissingExtra: a table needs pyarrow.
        FileFormatError: a table or a shard cannot be read.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str | os.PathLike):
        return _of_paths([source], image, key)
    if isinstance(source, list | tuple) and source and all(isinstance(item, str | os.PathLike) for item in source):
        return _of_paths(source, image, key)
    if isinstance(source, Mapping) or not isinstance(source, Iterable | Indexed):
        raise ValueError(
            f"{type(source).__name__} is no source of pictures; accepted are folders, shards, tables, patterns, lists "
            "of these, and iterables of rows or pictures"
        )
    total = len(source) if isinstance(source, Sized) else None
    if total == 0:
        raise ValueError("the source has no records")
    return Source("", _in_memory(source, image or IMAGE, key), total)


def images_in(folder: Path, recursive: bool) -> list[Path]:
    """The image files of a folder by their suffix, in order, without hidden ones."""
    return _files_in(folder, recursive, IMAGES)


def _files_in(folder: Path, recursive: bool, suffixes: Iterable[str]) -> list[Path]:
    found = folder.rglob("*") if recursive else folder.iterdir()
    endings = tuple(suffixes)
    return sorted(
        path
        for path in found
        if path.name.lower().endswith(endings)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


# --- files ------------------------------------------------------------------------------------


def _of_paths(paths: Sequence[str | os.PathLike[str]], image: str | None, key: str | None) -> Source:
    given = [path for pattern in paths for path in _expanded(os.fspath(pattern))]
    files = [file for path in given for file in (_of_folder(path) if path.is_dir() else [path])]
    only_folder = given[0] if len(given) == 1 and given[0].is_dir() else None
    root = only_folder or Path(os.path.commonpath([file.absolute().parent for file in files]))
    parts: list[Iterable[Record]] = []
    streamed = False
    for file in files:
        name = _readable((file if only_folder else file.absolute()).relative_to(root).as_posix())
        kind = file.name.lower()
        if kind.endswith(tuple(IMAGES)):
            parts.append([Record(name, os.fspath(file))])
        elif kind.endswith(SHARDS):
            records = shard_records(file, name, image)
            streamed = streamed or not isinstance(records, list)
            parts.append(records)
        elif kind.endswith(TABLES):
            parts.append(table_records(file, name, image, key))
        else:
            raise ValueError(
                f"{file} is neither a folder nor a picture ({' '.join(sorted(IMAGES))}), a shard ({' '.join(SHARDS)}) "
                f"or a table ({' '.join(TABLES)})"
            )
    whole = ", ".join(_readable(os.fspath(path.resolve())) for path in given)
    if streamed:
        return Source(whole, (record for part in parts for record in part), streamed=True)
    records = [record for part in parts for record in part]
    if not records:
        raise ValueError(f"{whole} has no records")
    return Source(whole, records, len(records))


def _expanded(pattern: str) -> list[Path]:
    """The paths that a pattern stands for, in order."""
    numbers = _RANGE.search(pattern)
    if numbers:
        first, last = numbers.groups()
        names = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        return [
            path for name in names for path in _expanded(pattern[: numbers.start()] + name + pattern[numbers.end() :])
        ]
    if Path(pattern).exists():
        return [Path(pattern)]
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))
    if not found:
        raise ValueError(f"there is nothing at {pattern!r}; check the path")
    return found


def _of_folder(folder: Path) -> list[Path]:
    kinds = {
        what: found
        for what, suffixes in (("pictures", IMAGES), ("shards", SHARDS), ("tables", TABLES))
        if (found := _files_in(folder, True, suffixes))
    }
    if not kinds:
        raise ValueError(f"no pictures, shards or tables in {folder}; they are known by their suffix")
    if len(kinds) > 1:
        count = " and ".join(f"{len(found)} {what}" for what, found in kinds.items())
        raise ValueError(f"{folder} has {count}; say which: '{folder}/*.tar', say")
    return next(iter(kinds.values()))


def _readable(name: str) -> str:
    """A name that any file can hold: bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- what is in memory --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Item:
    """An item of a collection, which is not made before it is read."""

    collection: Indexed
    index: int
    column: str

    def read(self) -> Any:
        return _picture_of(self.collection[self.index], self.column)


def _in_memory(source: Iterable[Any] | Indexed, column: str, key: str | None) -> Iterator[Record]:
    if isinstance(source, Indexed) and not isinstance(source, list | tuple):
        keys: Any = source.select_columns([key]) if key and hasattr(source, "select_columns") else source
        for index in range(len(source)):
            name, reason = _key_of(keys[index] if key else None, key, index)
            yield Record(name, Unusable(reason) if reason else _Item(source, index, column))
        return
    assert isinstance(source, Iterable)
    for index, item in enumerate(source):
        if isinstance(item, Record):
            yield item
            continue
        name, reason = _key_of(item, key, index)
        try:
            yield Record(name, Unusable(reason) if reason else _picture_of(item, column))
        except ImageError as error:
            yield Record(name, Unusable(str(error)))


def _key_of(item: Any, key: str | None, index: int) -> tuple[str, str]:
    """The key of an item, and what is wrong with it."""
    if isinstance(item, str | os.PathLike):
        return _readable(os.fspath(item)), ""
    if key is None:
        return str(index), ""
    if not isinstance(item, Mapping) or item.get(key) is None:
        return str(index), f"there is no key: the record has no {key!r}"
    return str(item[key]), ""


def _picture_of(item: Any, column: str) -> Any:
    if not isinstance(item, Mapping):
        return item
    if column not in item:
        raise ImageError(f"there is no picture: the record has no {column!r}, but {', '.join(map(repr, item))}")
    return item[column]
