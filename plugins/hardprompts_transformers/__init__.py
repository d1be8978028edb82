"""`transformers:` and `sentence-transformers:` models, from a local folder or the Hugging Face hub.

The first are CLIP, SigLIP, SigLIP 2 and language models, the second encoders of text alone.
"""

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


def open_sentence_backend(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    prompt: str | None = None,
    prompt_name: str | None = None,
) -> Backend:
    """Sentence encoders, by hub id or local folder, for example `sentence-transformers:all-MiniLM-L6-v2`.

    See `hardprompts_transformers.sentences.open_backend`.
    """
    from hardprompts_transformers import sentences

    return sentences.open_backend(name, device=device, dtype=dtype, prompt=prompt, prompt_name=prompt_name)


@hookimpl
def backends() -> Mapping[str, OpenBackend]:
    """The schemes "transformers" and "sentence-transformers"."""
    return {"transformers": open_backend, "sentence-transformers": open_sentence_backend}
