"""Where a model of transformers lies, how its files are read, and what is said when they cannot be."""

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import transformers
from safetensors import SafetensorError

from hardprompts.causes.standins import stand_in_at, stand_in_inside
from hardprompts.errors import BackendError, HardPromptsError
from hardprompts.hub.reasons import loading_cause
from hardprompts_transformers.releases import CONFIG_ERRORS

#: One of these holds the tokens; without any, transformers makes up a tokenizer that knows nothing.
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")

#: What reading a damaged, foreign or absent model raises, in transformers and below it.
LOADING_ERRORS: tuple[type[Exception], ...] = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, EOFError, MemoryError,
    SafetensorError, pickle.UnpicklingError, *CONFIG_ERRORS,
)  # fmt: skip

T = TypeVar("T")


def resolve(location: str | os.PathLike[str], example: str) -> str:
    """A local folder's path, or what must then be a hub id.

    Args:
        example: a name that can be opened, for the message where there is none.

    Raises:
        BackendError: no name, no such folder, or a file.
    """
    text = os.fspath(location)
    if not text:
        scheme = example.partition(":")[0]
        raise BackendError(f"{scheme}: needs a model: a local folder, or a hub id as in {example}")
    folder = Path(text).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.is_file():
        raise BackendError(f"{folder} is a file; pass the folder that holds it together with config.json")
    if isinstance(location, os.PathLike) or folder.is_absolute() or text[0] in ".~" or "\\" in text:
        raise BackendError(f"there is no folder {folder}; check the path, or pass a hub id such as owner/name")
    return text


def check_folder(folder: Path, tokenizer_files: Sequence[str] = TOKENIZER_FILES) -> None:
    """Raises BackendError where a folder has no config, or none of the files that hold the tokens."""
    if not (folder / "config.json").is_file():
        found = stand_in_at(folder / "config.json") or "pass a folder that save_pretrained wrote"
        raise BackendError(f"{folder} has no config.json; {found}")
    if found := stand_in_inside(folder, configurations_only=True):  # which transformers may take for an empty one
        raise BackendError(f"cannot load {found}")
    if not any((folder / file).is_file() for file in tokenizer_files):
        raise BackendError(
            f"{folder} has no tokenizer; expected one of {', '.join(tokenizer_files)}: "
            "save the tokenizer into the same folder"
        )


def load(place: str, what: str, read: Callable[[], T]) -> T:
    """What `read` gives, or a BackendError that says what of `place` could not be read, and what to do next."""
    try:
        return read()
    except HardPromptsError:
        raise
    except LOADING_ERRORS as error:
        raise unreadable(place, what, error) from error


def unreadable(place: str, what: str, error: BaseException) -> BackendError:
    """What is raised where `what` of `place` cannot be loaded: the cause, if it is known, and what to do next."""
    if found := loading_cause(error, place):
        return BackendError(f"cannot load {what} of {place}: {found}")
    reason = " ".join(str(error).split())
    reason = reason if len(reason) < 300 else reason[:300] + " ..."
    if Path(place).is_dir():
        step = "look whether the folder is whole and of a model that is supported, or save it from the model again"
    else:
        step = f"{place!r} is not a local folder, so it was looked for on the hub: check the spelling"
    return BackendError(f"cannot load {what} of {place}: {type(error).__name__}: {reason}. Next: {step}")


def complete(place: str, loaded: tuple[Any, dict[str, Any]], unused: tuple[str, ...] = ()) -> Any:
    """The model that was loaded, if nothing of it is missing but what begins with `unused`."""
    model, info = loaded
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(unused))
    if missing:  # transformers would go on with random numbers in their place
        raise BackendError(
            f"the weights of {place} lack {len(missing)} tensors, among them {missing[0]}; the file is damaged "
            "or of another model"
        )
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without progress bars and load reports: what they warn of is raised as an error here."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
