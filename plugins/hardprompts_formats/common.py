"""What several formats share: matrices, hints in metadata, and bytes."""

import io
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.errors import FileFormatError, quoted
from hardprompts.softprompts import ENCODER_OF_WIDTH, SoftPrompt, SoftPromptFile, StoredTensor, encoder_of_width
from hardprompts.softprompts.families import reading_of_width
from hardprompts.softprompts.folder import whole_number
from hardprompts.softprompts.names import cleaned_note, name_note, readable_name

#: Texts in metadata longer than this are lists of training images and the like.
MAX_TEXT = 1000

#: What trainers call text encoders, where ComfyUI calls them otherwise.
ENCODER_ALIASES = {"t5": "t5xxl", "gemma": "gemma2_2b"}

#: Places of CLIP's context: a tensor with so many rows is what a text encoder makes of a whole text.
CONTEXT = 77

#: Keys of metadata that name the model that was trained on.
_BASE_MODELS = (
    "ss_sd_model_name",
    "ss_base_model_version",
    "modelspec.architecture",
    "sd_checkpoint_name",
    "sd_checkpoint",
)


def rows_of(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The tokens and the width of a tensor of this shape; None if it has no rows of tokens.

    It may be (dim,) for one token, have further axes of length 1, or stand upright as (dim, tokens): a width that is
    known and a number of tokens that a context has room for leave no other reading.
    """
    if len(shape) > 2:
        shape = tuple(length for length in shape if length != 1)
        if len(shape) == 2 and shape[0] == CONTEXT:
            return None
    if len(shape) == 1:
        return (1, shape[0])
    if len(shape) != 2:
        return None
    tokens, width = shape
    return (width, tokens) if _is_upright(shape) else (tokens, width)


def _is_upright(shape: tuple[int, ...]) -> bool:
    return (
        len(shape) == 2 and shape[0] in ENCODER_OF_WIDTH and shape[1] not in ENCODER_OF_WIDTH and 0 < shape[1] < CONTEXT
    )


def shape_note(key: str, stored: StoredTensor) -> str:
    """What is done to a tensor that is not (tokens, dim) or (dim,), in a sentence; "" if nothing is."""
    rows = rows_of(stored.shape)
    if rows is None or rows == stored.shape or len(stored.shape) == 1:
        return ""
    return f"{quoted(key)} has the shape {stored.shape}, and is read as {rows[0]} tokens of width {rows[1]}."


def matrix(stored: StoredTensor) -> Float[Tensor, "tokens dim"]:
    """The (tokens, dim) values of a stored tensor, whose shape may be another one that `rows_of` reads.

    Raises:
        FileFormatError: it has another shape, or is damaged.
    """
    rows = rows_of(stored.shape)
    if rows is None:
        reason = "; it may be the output of a text encoder, which no token has" if CONTEXT in stored.shape else ""
        raise FileFormatError(f"a tensor of shape {stored.shape} is not (tokens, dim){reason}")
    values = stored.floats()
    return values.T if _is_upright(stored.shape) else values.reshape(rows)


def is_matrix(value: Any) -> bool:
    """True for a tensor of floats that `matrix` reads."""
    return isinstance(value, StoredTensor) and "float" in value.dtype and rows_of(value.shape) is not None


def hints(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a SoftPrompt that metadata fills: step, base_models, and the short values of the rest."""
    plain = {
        key: value
        for key, value in values.items()
        if isinstance(value, str | int | float | bool | None) and len(str(value)) <= MAX_TEXT
    }
    step = whole_number(plain.get("step"))
    if step is not None or plain.get("step", "") is None:
        del plain["step"]
    named = (str(plain[key]) for key in _BASE_MODELS if plain.get(key))
    return {"step": step, "base_models": tuple(dict.fromkeys(named)), "metadata": plain}


def prompt_of(file: SoftPromptFile, embeddings: Mapping[str, Tensor], name: str = "", **values: Any) -> SoftPrompt:
    """A soft prompt from a file, called `name` or else as the file says or is; `values` are stored beside it.

    Whatever stands beside the tensors becomes its metadata, and its notes say what was read and how.
    """
    stored = {
        key: value for key, value in file.facts.items() if key not in ("format", "name")
    }  # "pt", of every library
    told = file.facts.get("name")
    called = name or (str(told) if isinstance(told, str | int) and not isinstance(told, bool) else "") or file.name
    left = {"left_out": ", ".join(file.others)} if file.others else {}
    further = {**left, **values}
    return SoftPrompt(
        embeddings,
        name=readable_name(called) or readable_name(file.name),
        **hints({**stored, **further, **name_note(called)}),
        notes=tuple(_notes(file, embeddings, called, further)),
    )


def _notes(file: SoftPromptFile, embeddings: Mapping[str, Tensor], called: str, values: Mapping[str, Any]) -> list[str]:
    found = [note for key, tensor in file.tensors.items() if (note := shape_note(key, tensor))]
    if note := cleaned_note(called):
        found.append(note)
    if values.get("read_as"):
        found.append(f"Read {values['read_as']}.")
    if values.get("left_out"):
        found.append(f"Not embeddings of tokens, and left out: {values['left_out']}.")
    return found if values.get("read_as") else found + _width_notes(file, embeddings)


def _width_notes(file: SoftPromptFile, embeddings: Mapping[str, Tensor]) -> list[str]:
    """Which text encoders were recognized by their widths alone, and what else one by itself may be for."""
    named = {encoder_name(key.rpartition(".")[2]) for key in file.keys}
    told = {encoder: rows.shape[1] for encoder, rows in embeddings.items() if encoder not in named}
    if len(told) != 1:
        listed = ", ".join(f"{width} as {encoder}" for encoder, width in told.items())
        return [f"Its text encoders were recognized by their widths: {listed}."] if told else []
    ((_, width),) = told.items()
    if not reading_of_width(width):
        return []
    keys = (key for key, tensor in file.tensors.items() if (rows_of(tensor.shape) or (0, 0))[1] == width)
    key = next((key for key in keys if not key.startswith("string_to_param.")), "")
    otherwise = f'; then read it with rename={{"{key}": "t5base"}}, say' if key and key.isprintable() else ""
    return [
        f"The file does not name its text encoder. {width} values to a token are {reading_of_width(width)}{otherwise}."
    ]


def encoder_name(key: str) -> str:
    """What ComfyUI calls the text encoder that a trainer calls `key`."""
    return ENCODER_ALIASES.get(key, key)


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
