"""The facts beside the embeddings of a soft prompt, in a folder or repository."""

import json
import os
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from hardprompts.errors import FileFormatError, stand_in_at
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


def read_facts(path: Path, formats: Container[str]) -> Mapping[str, Any]:
    """What soft_prompt.json says, each of the right kind; nothing if there is no such file.

    Args:
        formats: the formats that the embeddings may be of.

    Raises:
        FileFormatError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # the place may be an embedding file itself
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        if found_instead := stand_in_at(path):
            raise FileFormatError(f"{os.fspath(path)!r}: {found_instead}") from error
        raise FileFormatError(f"{os.fspath(path)!r} is not JSON that describes a soft prompt: {error}") from error
    checks: dict[str, Callable[[Any], bool]] = {
        "format_version": lambda value: value == FORMAT_VERSION,
        "format": lambda value: isinstance(value, str) and value in formats,
        "name": lambda value: isinstance(value, str),
        "step": lambda value: value is None or (isinstance(value, int) and not isinstance(value, bool)),
        "base_models": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
        "metadata": lambda value: (
            isinstance(value, dict)
            and all(isinstance(each, str | int | float | bool | None) for each in value.values())
        ),
    }
    if not isinstance(found, dict):
        raise FileFormatError(f"{os.fspath(path)!r} does not describe a soft prompt: {type(found).__name__}, no fields")
    wrong = [key for key, fits in checks.items() if key not in found or not fits(found[key])]
    if wrong:
        raise FileFormatError(
            f"{os.fspath(path)!r} does not describe a soft prompt as this release knows it: its fields "
            f"{', '.join(wrong)} are missing or of the wrong kind"
        )
    return found
