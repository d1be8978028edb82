"""The errors of hardprompts.

    HardPromptsError
    ├── UnknownName          a model, method or plugin that nobody registered
    ├── PluginError          a plugin that clashes with another or misuses a hook
    ├── BackendError         a model that cannot be opened, or lacks a part that is needed
    │   └── MissingExtra     a package that has to be installed first
    ├── ImageError           an image that cannot be read or used
    ├── TemplateError        a template without exactly one slot, or too long for the model
    ├── VocabularyError      no token is left to search over, or ids that no text spells
    ├── SearchError          a search that could not return any admissible prompt
    │   └── NonFiniteError   the model returned NaN or infinity
    ├── FileFormatError      a file that is damaged or is not what it claims to be
    └── HubError             the Hub refused, could not be reached, or has no such repository

A message says what is wrong, with which value, what is accepted and what to do next.
Plain misuse of an argument (a negative number of steps) raises ValueError, as in torch.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path


class HardPromptsError(Exception):
    """Base of every error that hardprompts raises on purpose."""


class UnknownName(HardPromptsError, LookupError):
    """A name that nobody registered; the message lists those that exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"unknown {kind} {name!r}; available: {names}")


class PluginError(HardPromptsError):
    """Two plugins use the same name, or a plugin implements a hook that does not exist."""


class BackendError(HardPromptsError):
    """A model cannot be opened, or lacks a part (an image tower, say) that is needed."""


class MissingExtra(BackendError, ImportError):
    """Something that was asked for needs a package that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs a package that is missing: pip install "hardprompts[{extra}]"')


class ImageError(HardPromptsError, ValueError):
    """An image is unreadable, empty, too large or of a shape that is not understood."""


class TemplateError(HardPromptsError, ValueError):
    """A template does not have exactly one "{}", or leaves no room in the model's context."""


class VocabularyError(HardPromptsError, ValueError):
    """No token is left to search over, or ids are outside of the vocabulary."""


class SearchError(HardPromptsError):
    """The search met no prompt that may be returned."""


class NonFiniteError(SearchError, ArithmeticError):
    """The model returned NaN or infinity."""


class FileFormatError(HardPromptsError, ValueError):
    """A file is damaged, or is not what its name claims."""


class HubError(HardPromptsError):
    """The Hub refused, could not be reached, or has no such repository. Nothing was half done, there or here."""


def printable(text: str) -> str:
    """The text, with what would move a terminal's cursor or break a line written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def quoted(text: object) -> str:
    """A text from a file, for a message: in quotes, without control characters, and not longer than 60."""
    written = str(text)
    return repr(written if len(written) <= 60 else f"{written[:57]}...")


def brief(error: BaseException) -> str:
    """What a library said of a file, for a message: without control characters, and not longer than 200."""
    written = "".join(c if c.isprintable() else " " for c in str(error)) or type(error).__name__
    return written if len(written) <= 200 else f"{written[:197]}..."


# --- what often lies in a file's place: a pointer of Git LFS, or the web page about the file ---

_POINTER = b"version https://git-lfs.github.com/spec/v1"
_PAGE = re.compile(rb"(<\?xml[^>]*>|<!--(?:(?!-->).)*-->|\s)*<(!doctype\s+html|html|head)\b", re.IGNORECASE | re.DOTALL)
_HEAD_BYTES = 1024

#: What is read of a model's folder; a web page among the documents is no mistake.
_CONFIGURATIONS = (".safetensors", ".json", ".model", ".txt")
_OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".ckpt")


def stand_in(head: bytes) -> str:
    """What a file is that begins with `head`, and what to do, if it only stands for the file that was meant; else "".

    For example "it is a pointer of Git LFS, and not the file itself; ...".
    """
    beginning = head.removeprefix(b"\xef\xbb\xbf")
    if beginning.startswith(_POINTER):
        return (
            "it is a pointer of Git LFS, and not the file itself; run `git lfs pull` in its repository, or download "
            "the file itself"
        )
    if _PAGE.match(beginning):
        return (
            "it is a web page, and not the file itself; download the file itself (on the Hub by its download button "
            'or `hf download`, on GitHub by "Raw")'
        )
    return ""


def stand_in_at(path: str | os.PathLike[str]) -> str:
    """The same of the file at `path`; "" if there is none, or it cannot be read."""
    try:
        with open(path, "rb") as file:
            return stand_in(file.read(_HEAD_BYTES))
    except OSError:
        return ""


def stand_in_inside(folder: str | os.PathLike[str]) -> str:
    """The same of the first of a model's files in a folder, after its path; "" if there is none.

    Where whole weights in safetensors lie, other weights are not looked at, since nobody reads them.
    """
    place = Path(folder)
    files = sorted(file for file in place.iterdir() if file.is_file()) if place.is_dir() else []
    whole = any(file.suffix == ".safetensors" and not stand_in_at(file) for file in files)
    read = _CONFIGURATIONS if whole else (*_CONFIGURATIONS, *_OTHER_WEIGHTS)
    wanted = (file for file in files if file.suffix.lower() in read)
    return next((f"{file}: {found}" for file in wanted if (found := stand_in_at(file))), "")
