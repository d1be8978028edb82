"""The facts beside the embeddings of a soft prompt, in a folder or repository."""

import json
import os
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from hardprompts.causes.standins import read_json, stand_in_at
from hardprompts.errors import FileFormatError, quoted
from hardprompts.hub.names import SOFT_PROMPT_FILE, embedding_files

FORMAT_VERSION = 1

#: Files that other tools write and that are read here, beside those of our own formats.
OTHER_FILES = ("learned_embeds.bin", "learned_embeds_2.bin", "adapter_model.bin")


def soft_prompt_files() -> tuple[str, ...]:
    """Every file of a soft prompt, the facts first; no more than these is taken from a repository."""
    return (SOFT_PROMPT_FILE, *embedding_files(), *OTHER_FILES)


def has_soft_prompt(folder: Path) -> bool:
    """Whether embeddings are in a folder."""
    return any((folder / name).is_file() for name in soft_prompt_files()[1:])


def whole_number(value: Any) -> int | None:
    """A number of steps, which may be stored as 1500, "1500" or 1500.0; None if it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return int(value) if isinstance(value, int) or str(value).strip().isdecimal() else _whole(float(value))
    except (ValueError, OverflowError):
        return None


def _whole(value: float) -> int | None:
    return int(value) if value.is_integer() else None


def read_facts(path: Path, formats: Container[str]) -> Mapping[str, Any]:
    """What soft_prompt.json says, each of the right kind; nothing if there is no such file.

    Fields that this release does not know are passed over; but for `format_version` and `format`, any may be missing.

    Args:
        formats: the formats that the embeddings may be of.

    Raises:
        FileFormatError: it is damaged.
    """
    try:
        found = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:  # the place may be an embedding file itself
        if found_instead := stand_in_at(path):
            raise FileFormatError(f"{os.fspath(path)!r}: {found_instead}") from error
        return {}
    if not isinstance(found, dict):
        raise FileFormatError(f"{os.fspath(path)!r} does not describe a soft prompt: {type(found).__name__}, no fields")
    if found.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(
            f"{os.fspath(path)!r} is of the format version {found.get('format_version')!r}; this release reads version "
            f"{FORMAT_VERSION}"
        )
    checks: dict[str, Callable[[Any], bool]] = {
        "format": lambda value: isinstance(value, str) and value in formats,
        "name": lambda value: isinstance(value, str | None),
        "step": lambda value: value is None or whole_number(value) is not None,
        "base_models": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
        "metadata": lambda value: isinstance(value, dict),
    }
    facts = {"name": None, "step": None, "base_models": [], "metadata": {}, **found}
    wrong = [
        f"{key} is {quoted(facts.get(key, 'missing'))}" for key, fits in checks.items() if not fits(facts.get(key))
    ]
    if wrong:
        raise FileFormatError(
            f"{os.fspath(path)!r} does not describe a soft prompt as this release knows it: its {', '.join(wrong)}"
        )
    metadata = {
        key: value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
        for key, value in facts["metadata"].items()
    }
    return {**facts, "step": whole_number(facts["step"]), "metadata": metadata}
