"""The embedded models as backends: `emoji`, `emoji:emoji-clip` and `emoji:emoji-clip-reference`."""

import torch

from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, UnknownName

#: The model that is searched through, first, and the neutral judge.
MODELS = ("emoji-clip", "emoji-clip-reference")

NOTE = "it knows emoji scenes; for photos pass another model, e.g. --model open_clip:ViT-L-14/openai"


def open_backend(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
    """An embedded CLIP that knows emoji scenes.

    Args:
        name: "" or "emoji-clip", or "emoji-clip-reference", the judge that no search should follow.

    Raises:
        UnknownName: there is no embedded model of that name.
        BackendError: its files are damaged or were not installed.
    """
    chosen = name or MODELS[0]
    if chosen not in MODELS:
        raise UnknownName("embedded model", name, MODELS)
    from hardprompts_emoji import path
    from hardprompts_transformers.backend import open_model

    try:
        folder = path(chosen)
    except ValueError as error:
        raise BackendError(f"emoji:{chosen}: {error}; install hardprompts again") from error
    return open_model(folder, name=f"emoji:{chosen}", device=device, dtype=dtype, note=f"{chosen}: {NOTE}")
