"""Columns of data sets: which has the pictures, and the texts and labels of tables as `datasets` writes them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hardprompts.batch.records import IMAGE
from hardprompts.batch.tables import arrow_schema, read_table_column
from hardprompts.causes.standins import read_json
from hardprompts.errors import FileFormatError

#: The part of a file's name that says its split: "train-00000-of-00002.parquet".
_SHARD = re.compile(r"(.+)-\d+-of-\d+")

#: How a data set of `datasets` may hand its rows out, other than as plain Python values and PIL images.
_ARRAYS = ("arrow", "jax", "numpy", "pandas", "polars", "tensorflow", "torch")


def one_split(source: Any) -> Any:
    """The only split of a `DatasetDict`; anything else as it is.

    Raises:
        ValueError: there are several.
    """
    if not isinstance(source, Mapping) or not source or not all(_is_dataset(part) for part in source.values()):
        return source
    if len(source) > 1:
        first = next(iter(source))
        raise ValueError(
            f"this {type(source).__name__} has the splits {', '.join(map(str, source))}; give one of them, "
            f"such as dataset[{first!r}]"
        )
    return next(iter(source.values()))


def plain_rows(source: Any) -> Any:
    """A data set of `datasets` that hands out plain values and PIL images, whatever format was set; else `source`."""
    kind = getattr(source, "format", None)
    arrays = _is_dataset(source) and isinstance(kind, Mapping) and kind.get("type") in _ARRAYS
    return source.with_format(None) if arrays else source


def picture_column(source: Any, image: str | None, key: str | None) -> str:
    """The column of a data set's pictures: the one named, "image", or the only one of pictures.

    Raises:
        ValueError: it has no such column, nor the key's, or several have pictures, or none is known to.
    """
    names = list(getattr(source, "column_names", None) or ()) if _is_dataset(source) else []
    for what, column in (("the pictures", image), ("the key", key)):
        if names and column is not None and column not in names:
            raise ValueError(f"the data set has no column {column!r} for {what}; it has {', '.join(names)}")
    if image is not None or not names or IMAGE in names:
        return image or IMAGE
    features = getattr(source, "features", None) or {}
    found = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if len(found) != 1:
        raise ValueError(
            f"which column of the data set has the pictures? It has {', '.join(names)}; "
            f"say image={names[0]!r}, or another"
        )
    return str(found[0])


def _is_dataset(source: Any) -> bool:
    return hasattr(source, "column_names") and hasattr(source, "features")


# --- tables of texts --------------------------------------------------------------------------


def is_table(path: Path) -> bool:
    """Whether a path is a table as `datasets` writes it: a folder, a .parquet or an .arrow file."""
    return path.is_dir() or path.suffix.lower() in (".parquet", ".arrow")


def text_columns(path: Path, names: Sequence[str]) -> list[list[str]]:
    """Columns of a table as texts; of a column of classes (`ClassLabel`) their names.

    Args:
        path: a .parquet or .arrow file, or a folder of these, as `save_to_disk` writes it.

    Raises:
        ValueError: there are no tables, several splits, no such column, or a value is missing.
        FileFormatError, MissingExtra: see `read_table_column`.
    """
    files = _tables(path)
    schemas = [arrow_schema(file) for file in files]
    found: list[list[str]] = []
    for name in names:
        values: list[str] = []
        for file, schema in zip(files, schemas, strict=True):
            if name not in schema.names:
                raise ValueError(f"{file} has no column {name!r}; it has {', '.join(schema.names)}")
            values.extend(_as_texts(read_table_column(file, name), _class_names(schema, name), name, file))
        found.append(values)
    if not found[0]:
        raise ValueError(f"{path} has no rows")
    return found


def _tables(path: Path) -> list[Path]:
    """The files of one split, in order."""
    if not path.is_dir():
        return [path]
    listed = path / "dataset_dict.json"
    if listed.is_file():
        found = read_json(listed)
        splits = found.get("splits") if isinstance(found, dict) else None
        if not isinstance(splits, list) or not splits or not all(isinstance(split, str) for split in splits):
            raise FileFormatError(f"{str(listed)!r} names no splits; save the data set again with save_to_disk")
        if len(splits) > 1:
            raise ValueError(f"{path} has the splits {', '.join(splits)}; name one of them, such as {path / splits[0]}")
        return _tables(path / splits[0])
    files = sorted(file for suffix in ("arrow", "parquet") for file in path.rglob(f"*.{suffix}"))
    if not files:
        raise FileFormatError(
            f"{str(path)!r} is a folder, and has no .arrow or .parquet files; give a table, or a folder that "
            "save_to_disk wrote"
        )
    begins = {(file.parent, found[1] if (found := _SHARD.fullmatch(file.stem)) else file.stem) for file in files}
    if len(begins) > 1:
        listing = ", ".join(str(file.relative_to(path)) for file in files[:5])
        raise ValueError(f"{path} has several tables ({listing}); name one of them")
    return files


def _class_names(schema: Any, column: str) -> Sequence[str] | None:
    """The names of a column's classes, which `datasets` stores beside their numbers."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    features = json.loads(stored).get("info", {}).get("features") or {}
    names = (features.get(column) or {}).get("names")
    return None if names is None else list(map(str, names))


def _as_texts(values: Iterable[Any], classes: Sequence[str] | None, column: str, file: Path) -> list[str]:
    texts = []
    for number, value in enumerate(values, 1):
        # Test sets that are meant to be kept secret have -1 for every class.
        unknown = classes is not None and not (isinstance(value, int) and 0 <= value < len(classes))
        if value is None or unknown:
            raise ValueError(f"row {number} of {file} has nothing in {column!r} ({value}); leave the row out")
        if not isinstance(value, str | int | float | bool):
            raise ValueError(f"{column!r} of {file} holds values such as {value!r}, which are not texts; name another")
        texts.append(str(value) if classes is None else classes[int(value)])
    return texts
