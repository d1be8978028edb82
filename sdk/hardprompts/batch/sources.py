"""Where pictures come from: folders, shards, tables and what is in memory, as records."""

import collections
import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from hardprompts.batch.columns import one_split, picture_column, plain_rows
from hardprompts.batch.records import Record, UnusablePicture
from hardprompts.batch.shards import shard_records
from hardprompts.batch.tables import table_records
from hardprompts.errors import ImageError
from hardprompts.hub.machine import distinct_label, marked
from hardprompts.images import (
    IMAGE_SUFFIXES,
    FolderImages,
    caption_files,
    counted_files,
    images_in,
    is_junk,
    list_folder,
)

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
        passed_over: images and folders that cannot be read here, by their path in the folder, and why.
        notes: what else was left out, in sentences; see `FolderImages`.
    """

    name: str
    records: Iterable[Record]
    total: int | None = None
    streamed: bool = False
    root: Path | None = None
    passed_over: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

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
        return {key: folder / _caption_in(root, key, image, files[image]) for key, image in images.items()}


#: What `open_source` takes: paths and patterns, or pictures and rows in memory.
SourceInput: TypeAlias = str | os.PathLike[str] | Source | Iterable[Any] | IndexedCollection


def open_source(source: SourceInput, *, image: str | None = None, key: str | None = None) -> Source:
    """The records of a folder, of shards, of tables or of what is in memory.

    - A folder: its pictures, with those in its folders (see `images_in`); or, where it has none, the shards or tables
      in it. What is left out is in `passed_over` and `notes`. The key is the path in the folder.
    - Shards (.tar, .tar.gz, .tgz; webdataset): nothing is unpacked to the disk. The key is the shard and the sample's.
    - Tables (.parquet; the .arrow files that `datasets` saves): a column has encoded pictures, or paths from the
      table's folder. The key is the file and the number of the row, or a column.
    - A list of such paths; patterns ("shards/*.tar", "shards/{0000..0099}.tar") too. Keys begin with the name of the
      folder then, if there are several; what that folder lies in is left out.
    - Rows (mappings) or pictures in memory; a `datasets.Dataset`, streamed or not, or a `DatasetDict` of one split.
      The key is the number, a path, or a column.

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
    source = plain_rows(one_split(source))
    if isinstance(source, Mapping) or not isinstance(source, Iterable | IndexedCollection):
        raise ValueError(
            f"{type(source).__name__} is not a source of pictures; accepted are folders, shards, tables, patterns, "
            "lists of these, and iterables of rows or pictures"
        )
    total = len(source) if isinstance(source, Sized) else None
    if total == 0:
        raise ValueError("the source has no records")
    return Source("", _in_memory(source, picture_column(source, image, key), key), total)


# --- files ------------------------------------------------------------------------------------


def folder_source(folder: Path, recursive: bool = True) -> Source:
    """The images of a folder; see `images_in`.

    Raises:
        ValueError: there are none; the message says what is there instead.
        OSError: it cannot be read.
    """
    found = images_in(folder, recursive)
    if not found.images:
        raise ValueError(f"there are no images in {folder}{_left_out(folder, found)}")
    records = [Record(_name_in(folder, path), os.fspath(path)) for path in found.images]
    passed_over = tuple((_name_in(folder, path), reason) for path, reason in found.passed_over)
    whole = _readable(os.fspath(folder.resolve()))
    return Source(whole, records, len(records), root=folder, passed_over=passed_over, notes=found.notes)


def _left_out(folder: Path, found: FolderImages) -> str:
    """What a folder without images has, for a message."""
    unread = ""
    if found.passed_over:
        path, reason = found.passed_over[0]
        unread = f" that can be read; {len(found.passed_over)} cannot be, such as {_name_in(folder, path)}: {reason}"
    return "; ".join([unread, *found.notes]) if unread or found.notes else ", and nothing else"


def _name_in(folder: Path, path: Path) -> str:
    return _readable(path.absolute().relative_to(folder.absolute()).as_posix())


def _of_paths(paths: Sequence[str | os.PathLike[str]], image: str | None, key: str | None) -> Source:
    given, bases = zip(*(found for pattern in paths for found in _expanded(os.fspath(pattern))), strict=True)
    contents = {path: _contents(path) for path in given if path.is_dir()}
    if len(given) == 1 and given[0] in contents and contents[given[0]].kind == "images":
        return folder_source(given[0])
    several = len(set(bases)) > 1
    named = [
        (file, f"{_base_name(base)}/{_name_in(base, file)}" if several else _name_in(base, file))
        for path, base in zip(given, bases, strict=True)
        for file in (contents[path].files if path in contents else [path])
    ]
    root = Path(os.path.commonpath([base.absolute() for base in bases]))
    passed_over = [found for content in contents.values() for found in content.passed_over]
    notes = tuple(
        f"{_readable(os.fspath(path))}: {note}" for path, content in contents.items() for note in content.notes
    )
    parts: list[Iterable[Record]] = []
    streamed, only_images = False, True
    for file, name in _distinct(named):
        kind = file.name.lower()
        if kind.endswith(tuple(IMAGE_SUFFIXES)):
            parts.append([Record(name, os.fspath(file))])
            continue
        only_images = False
        if kind.endswith(SHARDS):
            records = shard_records(file.absolute(), name, image)
            streamed = streamed or not isinstance(records, list)
            parts.append(records)
        elif kind.endswith(TABLES):
            parts.append(table_records(file.absolute(), name, image, key))
        else:
            raise ValueError(
                f"{file} is neither a folder nor an image ({' '.join(sorted(IMAGE_SUFFIXES))}), a shard "
                f"({' '.join(SHARDS)}) or a table ({' '.join(TABLES)}); name the files that are, for example "
                f"'{file.parent}/*.png'"
            )
    whole = ", ".join(_readable(os.fspath(path.resolve())) for path in given)
    left_out = tuple((_readable(os.fspath(path)), reason) for path, reason in passed_over)
    if streamed:
        return Source(
            whole, (record for part in parts for record in part), streamed=True, passed_over=left_out, notes=notes
        )
    records = [record for part in parts for record in part]
    empty = [file for (file, _), part in zip(named, parts, strict=True) if not part]
    notes += tuple(f"{_readable(os.fspath(file))} has no records" for file in empty)
    if not records:
        raise ValueError(f"{whole} has no records")
    return Source(whole, records, len(records), root=root if only_images else None, passed_over=left_out, notes=notes)


def _base_name(base: Path) -> str:
    return _readable(base.resolve().name) or "root"


def _distinct(named: Sequence[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """The same files and names; names of several files, in folders of one name, with a hash of where each is."""
    files = collections.defaultdict(set)
    for file, name in named:
        files[name].add(file)
    return [(file, name if len(files[name]) == 1 else marked(name, os.fspath(file.absolute()))) for file, name in named]


def _caption_in(root: Path, key: str, image: Path, caption: Path) -> Path:
    """Where a caption lies in its folder: as the image does in the source's, or by the image's key."""
    inside = image.relative_to(root)
    return caption.relative_to(root) if _readable(inside.as_posix()) == key else Path(key).with_name(caption.name)


def _expanded(pattern: str) -> list[tuple[Path, Path]]:
    """The paths that a pattern stands for, in order, each with the folder that names in a source begin at."""
    numbers = _RANGE.search(pattern)
    if numbers:
        first, last = numbers.groups()
        names = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        return [
            path for name in names for path in _expanded(pattern[: numbers.start()] + name + pattern[numbers.end() :])
        ]
    if Path(pattern).exists():
        return [(Path(pattern), Path(pattern) if Path(pattern).is_dir() else Path(pattern).parent)]
    base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    found = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if not is_junk(path.name))
    if not found:
        raise ValueError(f"there is nothing at {pattern!r}; check the path")
    return [(path, base) for path in found]


@dataclasses.dataclass(frozen=True)
class _Contents:
    """What a folder has: files of one kind ("images", "shards" or "tables"), and what was left out."""

    kind: str
    files: Sequence[Path]
    passed_over: Sequence[tuple[Path, str]]
    notes: Sequence[str]


def _contents(folder: Path) -> _Contents:
    """Raises ValueError if a folder has files of no kind, or of several."""
    found, listing = images_in(folder, True), list_folder(folder, True)
    kinds = {
        "images": list(found.images),
        "shards": [path for path in listing.files if path.name.lower().endswith(SHARDS)],
        "tables": [path for path in listing.files if path.name.lower().endswith(TABLES)],
    }
    present = {kind: files for kind, files in kinds.items() if files}
    if not present:
        raise ValueError(f"there are no images, shards or tables in {folder}{_left_out(folder, found)}")
    if len(present) > 1:
        listed = " and ".join(f"{len(files)} {kind}" for kind, files in present.items())
        raise ValueError(f"{folder} has {listed}; say which, for example '{folder}/*.tar'")
    kind, files = next(iter(present.items()))
    if kind == "images":
        return _Contents(kind, files, found.passed_over, found.notes)
    others = [path for path in listing.files if path not in files and path.suffix.lower() not in IMAGE_SUFFIXES]
    notes = [f"{len(others):,} files are neither shards nor tables: {counted_files(others)}"] if others else []
    return _Contents(kind, files, found.passed_over, notes)


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
        return distinct_label(os.fspath(item)), ""
    if key is None:
        return str(index), ""
    if not isinstance(item, Mapping) or item.get(key) is None:
        return str(index), f"there is no key: the record has no {key!r}"
    return distinct_label(str(item[key])), ""


def _picture_of(item: Any, column: str) -> Any:
    if not isinstance(item, Mapping):
        return item
    if column not in item:
        raise ImageError(f"there is no picture: the record has no {column!r}, but {', '.join(map(repr, item))}")
    return item[column]
