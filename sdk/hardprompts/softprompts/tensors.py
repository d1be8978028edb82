"""Tensors in a file, read when they are asked for and after their size has been looked at; and safetensors."""

import contextlib
import dataclasses
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hardprompts.causes.failures import cause_of
from hardprompts.errors import FileFormatError, brief

#: Values of one tensor that is read: 128 MiB in float32, a hundred times the largest soft prompt seen.
MAX_VALUES = 2**25

#: Bytes of a safetensors file that is read as a whole, since its metadata has to be mended.
MAX_REWRITTEN_BYTES = 2**28

#: Bytes of a safetensors header; those of the largest models have a million.
MAX_HEADER_BYTES = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file that has not been read yet.

    Attributes:
        shape: its shape.
        dtype: what it is stored as: "float32", "bfloat16", "int64", ...
        read: reads it; raises FileFormatError if it is damaged.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> "StoredTensor":
        """A tensor that is in memory already."""
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), lambda: tensor)

    def floats(self) -> Float[Tensor, "..."]:
        """Its values in float32.

        Raises:
            FileFormatError: it is damaged, has more values than `MAX_VALUES`, or is not of floating point.
        """
        if not self.dtype.startswith(("float", "bfloat")):
            raise FileFormatError(
                f"a tensor of {self.dtype} cannot hold embeddings, which are of floating point; if it was quantized, "
                "save it as float16 by the tool that wrote it, since the numbers alone do not say what they stand for"
            )
        if math.prod(self.shape) > MAX_VALUES:
            raise FileFormatError(
                f"a tensor of shape {self.shape} is too large for a soft prompt; the limit is {MAX_VALUES} values"
            )
        try:
            return self.read().detach().to("cpu", torch.float32)
        except (RuntimeError, NotImplementedError, MemoryError) as error:
            raise FileFormatError(
                f"a tensor of {self.dtype} and shape {self.shape} cannot be read: {cause_of(error) or brief(error)}"
            ) from error


#: What safetensors calls the dtypes that torch calculates with.
_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip


def read_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a safetensors file, by name, and its metadata; only the header is read.

    Raises:
        FileFormatError: the header is damaged, too large, or does not fit the file.
    """
    with open(path, "rb") as file:
        prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    rest = os.path.getsize(path) - 8
    if not 0 < length <= rest:
        raise FileFormatError(
            f"its header should have {length} bytes, and the file has {max(rest, 0)} more; get it again"
        )
    if length > MAX_HEADER_BYTES:
        raise FileFormatError(f"its header has {length} bytes; at most {MAX_HEADER_BYTES} are accepted")

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with _safetensors(), safe_open(path, "pt") as again:
                tensor: Tensor = again.get_tensor(name)
            return tensor

        return read

    if (texts := _as_texts(path, length)) is not None:
        return _with_metadata(path, length, texts)
    tensors = {}
    with _safetensors(), safe_open(path, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118  (not a mapping)
            part = opened.get_slice(name)
            stored = part.get_dtype()
            tensors[name] = StoredTensor(tuple(part.get_shape()), _SAFETENSORS_DTYPES.get(stored, stored), reader(name))
        return tensors, dict(opened.metadata() or {})


def _header(path: Path, length: int) -> Any:
    with open(path, "rb") as file:
        file.seek(8)
        try:
            return json.loads(file.read(length))
        except (ValueError, RecursionError):
            return None  # the library says what is wrong with it


def _as_texts(path: Path, length: int) -> dict[str, str] | None:
    """The metadata as texts if some of it is not, which the library refuses together with the tensors; else None."""
    header = _header(path, length)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if metadata is None or (isinstance(metadata, dict) and all(isinstance(each, str) for each in metadata.values())):
        return None
    values = metadata if isinstance(metadata, dict) else {"metadata": metadata}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _with_metadata(path: Path, length: int, metadata: dict[str, str]) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file whose metadata stands as `metadata` instead; they are read at once."""
    size = os.path.getsize(path)
    if size > MAX_REWRITTEN_BYTES:
        raise FileFormatError(
            f"its metadata has values that are not texts, and of such files at most {MAX_REWRITTEN_BYTES} bytes are "
            f"read, not {size}; save it again without metadata"
        )
    header = json.dumps({**_header(path, length), "__metadata__": metadata}).encode()
    with open(path, "rb") as file:
        file.seek(8 + length)
        content = struct.pack("<Q", len(header)) + header + file.read()
    with _safetensors():
        tensors = safetensors.torch.load(content)
    return {name: StoredTensor.of(tensor) for name, tensor in tensors.items()}, metadata


@contextlib.contextmanager
def _safetensors() -> Iterator[None]:
    """Turns the errors of the safetensors library into ours."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        found = cause_of(error) or f"it is a damaged safetensors file: {brief(error)}; get it again"
        raise FileFormatError(found) from error
