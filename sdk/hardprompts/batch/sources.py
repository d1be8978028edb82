"""Where pictures come from: folders, shards, tables and what is in memory, as records."""

import dataclasses
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from hardprompts.batch.records import IMAGE, Record, UnusablePicture
from hardprompts.batch.shards import shard_records
from hardprompts.batch.tables import table_records
from hardprompts.errors import ImageError
from hardprompts.images import IMAGE_SUFFIXES, caption_files, files_in, images_in

SHARDS = (".tar", ".tar.gz", ".tgz")
TABLES = (".parquet", ".arrow")

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@runtime_checkable
class IndexedCollection(Protocol):
    """A collection that makes its items when it is asked for them, as those of `datasets` and torch do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """Records in an order that is the same in every run.

    Attributes:
        name: what it is called in the settings of a run.
        records: the records; read once for each run.
        total: how many there are, if that is known without reading them.
        streamed: they can only be read one after the other, by one process.
        root: the folder that keys are paths in, if all records are image files.
        passed_over: image files that cannot be read here, by their path in the folder, and why.
    """

    name: str
    records: Iterable[Record]
    total: int | None = None
    streamed: bool = False
    root: Path | None = None
    passed_over: tuple[tuple[str, str], ...] = ()

    def captions(self, folder: Path) -> dict[str, Path]:
        """The text file of each record's caption in a folder, by its key; see `caption_files`.

        Raises:
            ValueError: a record is not an image file.
        """
        if self.root is None:
            raise ValueError(
                "captions are for image files, and these images are in shards, tables or memory; choose .jsonl, .csv "
                "or .parquet"
            )
        root = self.root.absolute()
        images = {record.key: Path(record.image).absolute() for record in self.records}
        files = caption_files(images.values())
        return {key: folder / files[image].relative_to(root) for key, image in images.items()}


#: What `open_source` takes: paths and patterns, or pictures and rows in memory.
SourceInput: TypeAlias = str | os.PathLike[str] | Source | Iterable[Any] | IndexedCollection


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
    if isinstance(source, Mapping) or not isinstance(source, Iterable | IndexedCollection):
        raise ValueError(
            f"{type(source).__name__} is not a source of pictures; accepted are folders, shards, tables, patterns, "
            "lists of these, and iterables of rows or pictures"
        )
    total = len(source) if isinstance(source, Sized) else None
    if total == 0:
        raise ValueError("the source has no records")
    return Source("", _in_memory(source, image or IMAGE, key), total)


# --- files ------------------------------------------------------------------------------------


def folder_source(folder: Path, recursive: bool = True) -> Source:
    """The image files of a folder.

    Raises:
        ValueError: there are none.
    """
    found = images_in(folder, recursive)
    passed_over = tuple((_readable(path.relative_to(folder).as_posix()), reason) for path, reason in found.passed_over)
    if not found.images:
        hint = "" if recursive else "; --recursive also searches its subfolders"
        if passed_over:
            name, reason = passed_over[0]
            hint = f" that can be read; {len(passed_over)} cannot be, such as {name}: {reason}"
        raise ValueError(f"there are no images in {folder}{hint}")
    records = [Record(_readable(path.relative_to(folder).as_posix()), os.fspath(path)) for path in found.images]
    return Source(_readable(os.fspath(folder.resolve())), records, len(records), root=folder, passed_over=passed_over)


def _of_paths(paths: Sequence[str | os.PathLike[str]], image: str | None, key: str | None) -> Source:
    given = [path for pattern in paths for path in _expanded(os.fspath(pattern))]
    if len(given) == 1 and given[0].is_dir() and _kind_in(given[0]) == "images":
        return folder_source(given[0])
    files = [file for path in given for file in (_of_folder(path) if path.is_dir() else [path])]
    only_folder = given[0] if len(given) == 1 and given[0].is_dir() else None
    root = only_folder or Path(os.path.commonpath([file.absolute().parent for file in files]))
    passed_over = [
        found
        for path in given
        if path.is_dir() and _kind_in(path) == "images"
        for found in images_in(path, True).passed_over
    ]
    parts: list[Iterable[Record]] = []
    streamed, only_images = False, True
    for file in files:
        name = _readable((file if only_folder else file.absolute()).relative_to(root).as_posix())
        kind = file.name.lower()
        if kind.endswith(tuple(IMAGE_SUFFIXES)):
            parts.append([Record(name, os.fspath(file))])
            continue
        only_images = False
        if kind.endswith(SHARDS):
            records = shard_records(file, name, image)
            streamed = streamed or not isinstance(records, list)
            parts.append(records)
        elif kind.endswith(TABLES):
            parts.append(table_records(file, name, image, key))
        else:
            raise ValueError(
                f"{file} is neither a folder nor an image ({' '.join(sorted(IMAGE_SUFFIXES))}), a shard "
                f"({' '.join(SHARDS)}) or a table ({' '.join(TABLES)})"
            )
    whole = ", ".join(_readable(os.fspath(path.resolve())) for path in given)
    left_out = tuple((_readable(os.fspath(path)), reason) for path, reason in passed_over)
    if streamed:
        return Source(whole, (record for part in parts for record in part), streamed=True, passed_over=left_out)
    records = [record for part in parts for record in part]
    if not records:
        raise ValueError(f"{whole} has no records")
    return Source(whole, records, len(records), root=root if only_images else None, passed_over=left_out)


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
    kind = _kind_in(folder)
    if kind == "images":
        return list(images_in(folder, True).images)
    return files_in(folder, SHARDS if kind == "shards" else TABLES, True)


def _kind_in(folder: Path) -> str:
    """What a folder has: "images", "shards" or "tables".

    Raises:
        ValueError: it has none, or several.
    """
    counts = {
        what: count
        for what, suffixes in (("images", IMAGE_SUFFIXES), ("shards", SHARDS), ("tables", TABLES))
        if (count := len(files_in(folder, suffixes, True)))
    }
    if not counts:
        raise ValueError(f"no images, shards or tables in {folder}; they are recognized by their suffix")
    if len(counts) > 1:
        listed = " and ".join(f"{count} {what}" for what, count in counts.items())
        raise ValueError(f"{folder} has {listed}; say which, for example '{folder}/*.tar'")
    return next(iter(counts))


def _readable(name: str) -> str:
    """A name that any file can hold: bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- what is in memory --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Item:
    """An item of a collection, which is not made before it is read."""

    collection: IndexedCollection
    index: int
    column: str

    def read(self) -> Any:
        return _picture_of(self.collection[self.index], self.column)


def _in_memory(source: Iterable[Any] | IndexedCollection, column: str, key: str | None) -> Iterator[Record]:
    if isinstance(source, IndexedCollection) and not isinstance(source, list | tuple):
        keys: Any = source.select_columns([key]) if key and hasattr(source, "select_columns") else source
        for index in range(len(source)):
            name, reason = _key_of(keys[index] if key else None, key, index)
            yield Record(name, UnusablePicture(reason) if reason else _Item(source, index, column))
        return
    assert isinstance(source, Iterable)
    for index, item in enumerate(source):
        if isinstance(item, Record):
            yield item
            continue
        name, reason = _key_of(item, key, index)
        try:
            yield Record(name, UnusablePicture(reason) if reason else _picture_of(item, column))
        except ImageError as error:
            yield Record(name, UnusablePicture(str(error)))


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
