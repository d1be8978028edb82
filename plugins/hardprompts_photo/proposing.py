"""The decoder that comes with the text tower of `photo`, for `photo` and for whatever else has this text tower."""

from pathlib import Path

from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, UnknownName
from hardprompts.inversion import Proposer, load_proposer, proposers
from hardprompts_photo import weights

NAME = "minilm-decoder"
FOLDER = Path(__file__).resolve().parent / NAME


def open_proposer(name: str, *, backend: Backend) -> Proposer | None:
    """The decoder of all-MiniLM-L6-v2's features; None for another model, or where the plugin "decoder" is not loaded.

    Args:
        name: "" or "minilm-decoder".

    Raises:
        UnknownName: there is no other decoder here.
        BackendError: it is for another model, or was not installed.
        FileFormatError: its files are damaged.
    """
    if name not in ("", NAME):
        raise UnknownName("decoder of photo", name, [NAME])
    if not name and ("decoder" not in proposers() or not FOLDER.is_dir() or not _may_fit(backend)):
        return None
    try:
        return load_proposer(f"decoder:{FOLDER}", backend)
    except BackendError:
        if name:
            raise
        return None  # a model with like sizes and other features


def _may_fit(backend: Backend) -> bool:
    """Whether a model is as large as the one that the decoder is for, which takes no time to see."""
    if backend.language_model is not None or len(backend.vocabulary.table) != weights.TEXT_TOKENS:
        return False
    return backend.feature_width == weights.TEXT_FEATURES
