"""What several formats share: matrices, hints in metadata, and bytes."""

import io
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.errors import FileFormatError
from hardprompts.softprompts import SoftPrompt, SoftPromptFile, StoredTensor, encoder_of_width
from hardprompts.softprompts.names import name_note, readable_name

#: Texts in metadata longer than this are lists of training images and the like.
MAX_TEXT = 1000

#: Keys of metadata that name the model that was trained on.
_BASE_MODELS = (
    "ss_sd_model_name",
    "ss_base_model_version",
    "modelspec.architecture",
    "sd_checkpoint_name",
    "sd_checkpoint",
)


def matrix(stored: StoredTensor) -> Float[Tensor, "tokens dim"]:
    """The (tokens, dim) values of a stored tensor, which may be (dim,) for one token.

    Raises:
        FileFormatError: it has another shape, or is damaged.
    """
    if len(stored.shape) not in (1, 2):
        reason = "; it may be the output of a text encoder, which no token has" if len(stored.shape) == 3 else ""
        raise FileFormatError(f"a tensor of shape {stored.shape} is not (tokens, dim){reason}")
    values = stored.floats()
    return values[None] if values.ndim == 1 else values


def is_matrix(value: Any) -> bool:
    """True for a tensor of floats, (dim,) or (tokens, dim)."""
    return isinstance(value, StoredTensor) and len(value.shape) in (1, 2) and "float" in value.dtype


def hints(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a SoftPrompt that metadata fills: step, base_models, and the short values of the rest."""
    plain = {
        key: value
        for key, value in values.items()
        if isinstance(value, str | int | float | bool | None) and len(str(value)) <= MAX_TEXT
    }
    step = plain.pop("step", None)
    if not isinstance(step, int) or isinstance(step, bool):
        step = None
    named = (str(plain[key]) for key in _BASE_MODELS if plain.get(key))
    return {"step": step, "base_models": tuple(dict.fromkeys(named)), "metadata": plain}


def prompt_of(file: SoftPromptFile, embeddings: Mapping[str, Tensor], name: str = "", **values: Any) -> SoftPrompt:
    """A soft prompt from a file, called `name` or else as the file is; `values` are stored beside it."""
    stored = {key: value for key, value in file.metadata.items() if key != "format"}  # "pt", of every library
    called = name or file.name
    return SoftPrompt(
        embeddings,
        name=readable_name(called) or readable_name(file.name),
        **hints({**stored, **values, **name_note(called)}),
    )


def only_encoder(prompt: SoftPrompt, format: str) -> Float[Tensor, "tokens dim"]:
    """The embeddings of a soft prompt that has one text encoder, which a file without its name still tells.

    Raises:
        FileFormatError: it has several, or one that its width does not tell.
    """
    if len(prompt.encoders) > 1:
        raise FileFormatError(
            f"the format {format!r} has room for one text encoder, and this soft prompt has "
            f"{', '.join(prompt.encoders)}; use kohya (SDXL) or comfyui"
        )
    (encoder,), (width,) = prompt.encoders, prompt.widths
    if encoder_of_width(width) != encoder:
        raise FileFormatError(
            f"the format {format!r} does not name the text encoder: {encoder} {width} would be read as "
            f"{encoder_of_width(width)}; use comfyui, or peft for a language model"
        )
    return prompt.embeddings[encoder]


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file."""
    content: bytes = safetensors.torch.save(dict(tensors), dict(metadata) if metadata else None)
    return content


def torch_bytes(value: Any) -> bytes:
    """The content of a file of torch.save."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
