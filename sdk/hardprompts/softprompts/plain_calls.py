"""Calls in pickles that make plain values: bytes, sizes, devices, numbers and arrays of numpy. None of them is made.

What they would make is worked out from their arguments instead, as `hardprompts.softprompts.pickles` says. Trainers
write such values beside the embeddings: the loss as a number of numpy, the device, the shape.

Source: the calls are those that torch.Size, torch.device, numpy and bytes answer `__reduce_ex__` with.
"""

import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from hardprompts.errors import FileFormatError
from hardprompts.softprompts.tensors import MAX_VALUES, StoredTensor

#: Where Python 3 and pickles of protocol 2 have them.
_BUILTINS = ("builtins", "__builtin__")

#: Classes that are only passed on as arguments; none is called.
CLASSES = frozenset(
    (
        *(f"{module}.{name}" for module in _BUILTINS for name in ("list", "dict", "int", "float", "str")),
        "numpy.ndarray",
    )
)

#: What stands for a dict, whatever it would be in Python.
DICTS = frozenset(("collections.OrderedDict", "collections.defaultdict", "collections.Counter"))

_NUMBERS = "biufc"  # the kinds of numpy's dtypes that are numbers


def _encoded(text: str, encoding: str = "utf-8") -> bytes:
    if encoding not in ("latin1", "utf-8"):
        raise TypeError(f"bytes in the encoding {encoding!r}")
    return text.encode(encoding)


def _dtype(text: str, *_: Any, state: Any = None) -> "np.dtype[Any]":
    order = state[1] if isinstance(state, list) and len(state) > 1 and state[1] in ("<", ">") else "="
    if not isinstance(text, str) or text[:1] not in _NUMBERS or not text[1:].isdecimal():
        raise TypeError(f"numbers of the kind {text!r}")
    return np.dtype(f"{order}{text}")


def _scalar(dtype: "np.dtype[Any]", content: bytes) -> Any:
    return np.frombuffer(content, dtype, count=1)[0].item()


def _array(*_: Any, state: Any = None) -> StoredTensor:
    _version, shape, dtype, by_columns, content = state
    if math.prod(shape) > MAX_VALUES:
        raise FileFormatError(f"an array of shape {tuple(shape)} is too large; the limit is {MAX_VALUES} values")
    values = np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")
    return StoredTensor.of(torch.from_numpy(np.array(values, dtype.newbyteorder("="), order="C")))


#: What each call makes of its arguments, which are plain values, and of its state, where it has one.
CALLS: Mapping[str, Callable[..., Any]] = types.MappingProxyType(
    {
        "torch.Size": list,
        "torch.device": lambda *parts: ":".join(map(str, parts)),
        "_codecs.encode": _encoded,
        **{
            f"{module}.{name}": made
            for module in _BUILTINS
            for name, made in (
                ("bytes", lambda *parts: bytes(parts[0]) if parts else b""),
                ("bytearray", lambda *parts: bytes(parts[0]) if parts and isinstance(parts[0], bytes) else b""),
                ("complex", lambda *parts: list(parts)),
            )
        },
        "numpy.dtype": _dtype,
        **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
        **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    }
)

#: Those that are told the state that is set on what they make.
WITH_STATE = frozenset(name for name, made in CALLS.items() if made in (_dtype, _array))
