"""`transformers:` models: CLIP, SigLIP, SigLIP 2 and language models, from a local folder or the Hugging Face hub."""

from collections.abc import Mapping

import torch

from hardprompts.encoders import Backend, OpenBackend
from hardprompts.hookspecs import hookimpl


def open_backend(
    name: str, *, device: torch.device, dtype: torch.dtype, gradient_checkpointing: bool = False
) -> Backend:
    """CLIP, SigLIP, SigLIP 2 and language models of transformers, by hub id or local folder.

    For example `transformers:openai/clip-vit-large-patch14`, `transformers:google/siglip2-base-patch16-224`
    or `transformers:/models/clip`; see `hardprompts_transformers.backend.open_backend`.
    """
    from hardprompts_transformers import backend

    return backend.open_backend(name, device=device, dtype=dtype, gradient_checkpointing=gradient_checkpointing)


@hookimpl
def backends() -> Mapping[str, OpenBackend]:
    """The scheme "transformers"."""
    return {"transformers": open_backend}
