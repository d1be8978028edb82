"""Tensors in a file, read when they are asked for and after their size has been looked at; and safetensors."""

import contextlib
import dataclasses
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hardprompts.errors import FileFormatError, brief

#: Values of one tensor that is read: 128 MiB in float32, a hundred times the largest soft prompt seen.
MAX_VALUES = 2**25

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
            raise FileFormatError(f"a tensor of {self.dtype} cannot hold embeddings; they are of floating point")
        if math.prod(self.shape) > MAX_VALUES:
            raise FileFormatError(
                f"a tensor of shape {self.shape} is too large for a soft prompt; the limit is {MAX_VALUES} values"
            )
        try:
            return self.read().detach().to("cpu", torch.float32)
        except (RuntimeError, NotImplementedError, MemoryError) as error:
            raise FileFormatError(
                f"a tensor of {self.dtype} and shape {self.shape} cannot be read: {brief(error)}"
            ) from error


#: What safetensors calls the dtypes that torch calculates with.
_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
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

    tensors = {}
    with _safetensors(), safe_open(path, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118  (not a mapping)
            part = opened.get_slice(name)
            stored = part.get_dtype()
            tensors[name] = StoredTensor(tuple(part.get_shape()), _SAFETENSORS_DTYPES.get(stored, stored), reader(name))
        return tensors, dict(opened.metadata() or {})


@contextlib.contextmanager
def _safetensors() -> Iterator[None]:
    """Turns the errors of the safetensors library into ours."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise FileFormatError(f"it is a damaged safetensors file: {brief(error)}; get it again") from error
