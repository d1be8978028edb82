"""`transformers:` and `sentence-transformers:` models, from a local folder or the Hugging Face hub.

The first are CLIP, SigLIP, SigLIP 2 and language models, the second encoders of text alone. Language models of any
plugin also write prompts (`writing`): as proposers, `lm:` and `mlm:`, and as search methods.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from hardprompts.encoders import Backend, OpenBackend
from hardprompts.hookspecs import hookimpl

if TYPE_CHECKING:
    from hardprompts.inversion import Captioner, OpenCaptioner, OpenProposer, Proposer
    from hardprompts.search import Search


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


def open_captioner(
    name: str, *, device: torch.device, dtype: torch.dtype, instruction: str | None = None, max_new_tokens: int = 30
) -> "Captioner":
    """Image-to-text models of transformers, by hub id or local folder.

    For example `transformers:Salesforce/blip-image-captioning-base`; see
    `hardprompts_transformers.captions.ImageCaptioner`.
    """
    from hardprompts_transformers.captions import ImageCaptioner

    return ImageCaptioner.from_pretrained(
        name, instruction=instruction, max_new_tokens=max_new_tokens, device=device, dtype=dtype
    )


@hookimpl
def captioners() -> "Mapping[str, OpenCaptioner]":
    """The scheme "transformers"."""
    return {"transformers": open_captioner}


@hookimpl
def backends() -> Mapping[str, OpenBackend]:
    """The schemes "transformers" and "sentence-transformers"."""
    return {"transformers": open_backend, "sentence-transformers": open_sentence_backend}


def open_causal_proposer(name: str, *, backend: Backend) -> "Proposer | None":
    """What a causal language model writes for a model's features: `lm:emoji:emoji-lm`, `lm:transformers:gpt2`.

    The name is the language model's for `load_backend`. See `hardprompts_transformers.product_of_experts`.
    """
    from hardprompts_transformers.product_of_experts import ProductOfExperts

    return ProductOfExperts(name).for_model(backend) if name else None


def open_masked_proposer(name: str, *, backend: Backend) -> "Proposer | None":
    """What a masked language model writes for a model's features, as `mlm:emoji:emoji-mlm`.

    The name is the language model's for `load_backend`. See `hardprompts_transformers.masked_particles`.
    """
    from hardprompts_transformers.masked_particles import MaskedParticles

    return MaskedParticles(name).for_model(backend) if name else None


@hookimpl
def proposers() -> "Mapping[str, OpenProposer]":
    """The schemes "lm" and "mlm"; none comes with a model."""
    return {"lm": open_causal_proposer, "mlm": open_masked_proposer}


@hookimpl
def search_methods() -> "Mapping[str, Callable[[], Search]]":
    """The same two as methods, with the embedded language models."""
    from hardprompts_transformers.masked_particles import MaskedParticles
    from hardprompts_transformers.product_of_experts import ProductOfExperts

    return {"vgd": ProductOfExperts, "masked-particles": MaskedParticles}
