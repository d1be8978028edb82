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

import sys
import warnings
from collections.abc import Iterable


class HardPromptsError(Exception):
    """Base of every error that hardprompts raises on purpose."""


class UnknownName(HardPromptsError, LookupError):
    """A name that nobody registered; the message lists those that exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str], advice: str = "") -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"unknown {kind} {name!r}; available: {names}{f'; {advice}' if advice else ''}")


class PluginError(HardPromptsError):
    """Two plugins use the same name, or a plugin implements a hook that does not exist."""


class BackendError(HardPromptsError):
    """A model cannot be opened, or lacks a part (an image tower, say) that is needed."""


def missing_package(error: ModuleNotFoundError) -> str:
    """The package that an import did not find; "" where the package is there, and a part of it is not."""
    package = (error.name or "").partition(".")[0]
    return package if package == error.name or sys.modules.get(package) is None else ""


class MissingExtra(BackendError, ImportError):
    """Something that was asked for needs a package that is not installed, or whose version does not fit.

    Args:
        what: that was asked for.
        extra: of hardprompts, that has the package.
        error: of the import, which says which package it is: perhaps one that the package itself needs.
    """

    def __init__(self, what: str, extra: str, error: ImportError | None = None) -> None:
        installed = f'"hardprompts[{extra}]"'
        if error is None:
            reason = f"a package that is missing: pip install {installed}"
        elif isinstance(error, ModuleNotFoundError) and (missing := missing_package(error)):
            reason = f"the package {missing}, which is not installed: pip install {installed}"
        else:
            reason = (
                f"a package that is installed but cannot be imported ({brief(error)}), so that it is damaged or its "
                f"version does not fit the others: pip install --upgrade {installed}"
            )
        super().__init__(f"{what} needs {reason}")


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


def listed(texts: Iterable[object], most: int = 5) -> str:
    """Texts from a file, for a message: each in quotes, and no more than `most` of them."""
    every = list(texts)
    return ", ".join(map(quoted, every[:most])) + (f" and {len(every) - most:,} more" if len(every) > most else "")


def brief(error: BaseException) -> str:
    """What a library said of a file, for a message: without control characters, and not longer than 200."""
    written = "".join(c if c.isprintable() else " " for c in str(error)) or type(error).__name__
    return written if len(written) <= 200 else f"{written[:197]}..."


#: Modules that a warning is not about: ours, and those that check our calls while tests run.
_NOT_THE_USERS = ("hardprompts", "jaxtyping", "beartype", "comfyui_nodes")


def warn_user(message: str) -> None:
    """A UserWarning about what somebody gave, at the line that called hardprompts, however deep this is called."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith(_NOT_THE_USERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
