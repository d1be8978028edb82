"""What `torch.save` wrote, read as data: nothing in it is ever run.

Such a file is a pickle beside the tensors' bytes, and a pickle is a program for a small machine that may call any
function of Python. Here that program is not run, not even by torch's restricted unpickler: its instructions are
taken one by one (`pickletools.genops`), and what they would build is written down as plain values. The few calls
that tensors are made with are known; a file that names anything else is refused, with the name.

Source: the instructions are those of Python's `pickletools`, the calls those of torch/_utils.py, and the
containers those of torch/serialization.py. Where torch.load(weights_only=True) reads a file, the values are equal.

Why not `torch.load(file, weights_only=True, mmap=True, map_location="cpu")`? It was tried on the 1,005 files that the
tests read, damaged ones for the most part, each in a process of its own (torch 2.14). What it reads and this does not
are five files whose checksums are wrong and one of complex numbers. It refuses 76 that are read here, among them
- one of 13 files of users, and whatever else the first code of textual inversion wrote: its embeddings are a
  `torch.nn.ParameterDict`; where that is allowed it is read from archives, and not from the older container;
- pickles of protocols 3 and 4.
`torch.serialization.get_unsafe_globals_in_checkpoint`, which names what is refused, does not read the older container.
Before torch 2.6, files can make `weights_only` run code (CVE-2025-32434), and hardprompts works with torch 2.4.
"""

import contextlib
import dataclasses
import io
import os
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardprompts.causes.failures import cause_of
from hardprompts.errors import FileFormatError, brief, quoted
from hardprompts.softprompts.plain_calls import CALLS, CLASSES, DICTS, WITH_STATE
from hardprompts.softprompts.tensors import StoredTensor

#: Bytes of a pickle's instructions; those of a checkpoint of Stable Diffusion have half a million.
MAX_PICKLE_BYTES = 2**22

#: Instructions of a pickle: a second's work. A checkpoint of Stable Diffusion has some fifty thousand.
MAX_INSTRUCTIONS = 300_000

#: Bytes of an old file of torch.save, which is read as a whole.
MAX_LEGACY_BYTES = 2**28

#: Bytes of the storage that a tensor lies in, which is read as a whole: a row of a table brings the table along.
MAX_STORAGE_BYTES = 2**28

#: How deep values may lie within each other.
MAX_DEPTH = 16

#: The first bytes of files that torch.save wrote before version 1.6: a pickled number.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

#: What zipfile raises on damaged archives.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, struct.error)

#: Storage classes of torch, and the dtypes that they hold.
_STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip
_UNTYPED = "torch.storage.UntypedStorage"
_DTYPES = {
    str(dtype): dtype
    for dtype in (
        *_STORAGES.values(), torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz
    )
}  # fmt: skip

_SETS = ("builtins.set", "__builtin__.set")
_PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"
_REBUILT = {
    f"torch._utils._rebuild_{name}": name
    for name in ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state")
}
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_TENSOR_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch._tensor.Tensor")

#: All that a pickle of tensors names; anything else would be code of somebody's choice.
_KNOWN = frozenset(
    (
        *_STORAGES,
        _UNTYPED,
        *_DTYPES,
        *DICTS,
        *_SETS,
        _PARAMETER_DICT,
        *_REBUILT,
        _FROM_TYPE,
        *_TENSOR_TYPES,
        *CALLS,
        *CLASSES,
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Global:
    """A function or class that the pickle names."""

    name: str


@dataclasses.dataclass(eq=False)
class _Call:
    """A call that the pickle would make, and the state that it would set on the result."""

    function: _Global
    arguments: tuple[Any, ...]
    state: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Persistent:
    """A reference to a storage, which lies outside of the pickle."""

    reference: Any


@dataclasses.dataclass(frozen=True, eq=False)
class TorchFile:
    """What `torch.save` wrote.

    Attributes:
        tree: dicts with text keys, lists, scalars and `StoredTensor`s; None if `code` is not empty.
        keys: the keys of all dicts that are texts; of refused files too.
        code: the functions and classes that the pickle names and no tensor needs.
    """

    tree: Any
    keys: tuple[str, ...]
    code: tuple[str, ...]


def is_torch_zip(path: Path) -> bool:
    """True for an archive with a pickle in it, as torch.save has written since version 1.6."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") or name == "data.pkl" for name in archive.namelist())
    except _ZIP_ERRORS:
        return False


def read_torch_zip(path: Path) -> TorchFile:
    """What an archive of torch.save holds; tensors are read when they are asked for.

    Raises:
        FileFormatError: the archive or its pickle is damaged or too large.
    """
    with _archive(path) as archive:
        pickles = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise FileFormatError(f"it has {len(pickles)} pickles instead of one")
        prefix = pickles[0].filename.removesuffix("data.pkl")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise FileFormatError(
                f"its pickle has {pickles[0].file_size} bytes; at most {MAX_PICKLE_BYTES} are accepted"
            )
        program = archive.read(pickles[0])
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if sizes.get(f"{prefix}byteorder") == len(b"big") and archive.read(f"{prefix}byteorder") == b"big":
            raise FileFormatError("it was written on a machine of the other byte order, which is not supported")

    def read(key: str) -> bytes:
        with _archive(path) as again:
            return again.read(f"{prefix}data/{key}")

    machine = _Machine(io.BytesIO(program))
    return _torch_file(
        machine,
        _Tensors(
            {name[len(prefix) + 5 :]: size for name, size in sizes.items() if name.startswith(f"{prefix}data/")}, read
        ),
    )


def read_legacy_torch(path: Path) -> TorchFile:
    """What torch.save wrote before version 1.6, or without its archive: five pickles and the storages.

    Raises:
        FileFormatError: it is damaged or too large.
    """
    size = os.path.getsize(path)
    if size > MAX_LEGACY_BYTES:
        raise FileFormatError(f"it has {size} bytes; of this old kind of file at most {MAX_LEGACY_BYTES} are read")
    with open(path, "rb") as file:
        data = io.BytesIO(file.read())
    number, version, system, tree, keys = (_Machine(data) for _ in range(5))
    tree.code += [*number.code, *version.code, *system.code, *keys.code]
    found: dict[str, tuple[int, int]] = {}  # of each storage, where its bytes begin and end
    widths = {str(p.reference[2]): _itemsize(p) for p in tree.storages if _is_storage(p)}
    for key in keys.value if isinstance(keys.value, list) else ():
        count = int.from_bytes(data.read(8), "little")
        begin = data.tell()
        end = begin + count * widths.get(str(key), size)
        if end > size:
            raise FileFormatError("its storages are cut off or not those that its pickle names; get it again")
        found[str(key)] = (begin, end)
        data.seek(end)
    content = data.getbuffer()
    sizes = {key: end - begin for key, (begin, end) in found.items()}
    return _torch_file(tree, _Tensors(sizes, lambda key: bytes(content[slice(*found[key])])))


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open zip archive, whose errors are ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileFormatError:
        raise
    except (*_ZIP_ERRORS, KeyError) as error:
        found = cause_of(error) or f"it is a damaged archive: {brief(error)}; get it again"
        raise FileFormatError(found) from error


class _Machine:
    """The value of one pickle, with every call in it written down instead of made.

    Attributes:
        value: plain values, `_Call`s, `_Global`s and `_Persistent`s.
        keys: the keys of all dicts.
        code: the names that are not in `_KNOWN`.
        storages: the references to storages.

    Raises:
        FileFormatError: the pickle is cut off, damaged, or uses what no pickle of tensors does.
    """

    def __init__(self, file: io.BytesIO) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self.keys: list[str] = []
        self.code: list[str] = []
        self.storages: list[_Persistent] = []
        start = file.tell()
        try:
            for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
                if count > MAX_INSTRUCTIONS or (position or start) - start > MAX_PICKLE_BYTES:
                    raise FileFormatError(
                        f"its pickle has more than {MAX_INSTRUCTIONS} instructions or {MAX_PICKLE_BYTES} bytes, and a "
                        "soft prompt a few hundred"
                    )
                self._step(opcode.name, argument)
            self.value = self._stack.pop()
        except FileFormatError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
            raise FileFormatError(
                f"its pickle is damaged: {type(error).__name__}: {brief(error)}; get the file again"
            ) from error

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            count = _TUPLES[name]
            self._stack[-count:] = [tuple(self._stack[-count:])]
        elif name in _PUTS:
            place = len(self._memo) if argument is None else argument
            if not 0 <= place < 2**32:  # greater ones can be chosen such that a dict of them takes for ever
                raise ValueError(f"the place {place} of its memo")
            self._memo[place] = self._stack[-1]
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif name not in _IGNORED:
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise FileFormatError(f"its pickle has the instruction {name}, which no file of tensors needs")
            step(argument)

    def _empty_list(self, _: None) -> None:
        self._stack.append([])

    _empty_set = _empty_list  # none of their values is needed

    def _empty_dict(self, _: None) -> None:
        self._stack.append({})

    def _mark(self, _: None) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self, _: None) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    _additems = _appends

    def _append(self, _: None) -> None:
        self._extend([self._stack.pop()])

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError("it appends to something other than a list")
        self._stack[-1].extend(items)

    def _setitems(self, _: None) -> None:
        self._update(self._since_mark())

    def _setitem(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise TypeError("it sets an item of something other than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Numbers as texts, for the same reason as in the memo.
            name = _name_of(key)
            target[name] = value
            self.keys.append(name)

    def _global(self, argument: str) -> None:
        self._name(".".join(argument.split(" ", 1)))

    def _stack_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("it names something other than a text")
        self._name(f"{module}.{name}")

    def _inst(self, argument: str) -> None:
        self._since_mark()
        self._global(argument)

    def _name(self, name: str) -> None:
        if name not in _KNOWN:
            self.code.append(name)
        self._stack.append(_Global(name))

    def _reduce(self, _: None) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, _Global):
            raise TypeError("it calls something other than a function")
        if function.name in DICTS and not (arguments and isinstance(arguments[-1], list)):
            items = arguments[-1] if arguments and isinstance(arguments[-1], dict) else {}
            self._stack.append(dict(items))
        else:
            self._stack.append(_Call(function, arguments))

    _newobj = _reduce

    def _build(self, _: None) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], _Call):
            self._stack[-1].state = state
        elif not isinstance(self._stack[-1], dict):
            raise TypeError("it sets the state of what has none")

    def _binpersid(self, _: None) -> None:
        reference = self._stack.pop()
        if isinstance(reference, tuple) and reference[:1] == ("module",):
            self._stack.append(reference[1])  # a class, with its source code behind it, in the old container
            return
        self.storages.append(_Persistent(reference))
        self._stack.append(self.storages[-1])


def _name_of(key: Any) -> str:
    """A key of a dict as a text: numbers, None and tuples of such stand as Python writes them."""
    if isinstance(key, _Call) and key.function.name == "_codecs.encode" and isinstance(key.arguments[0], str):
        return key.arguments[0]
    parts = key if isinstance(key, tuple) and len(key) <= 8 else (key,)
    if not all(isinstance(part, str | int | float | bytes | None) for part in parts):
        raise FileFormatError(
            f"one of its keys is {quoted(type(key).__name__)}, and no text; a soft prompt has none such"
        )
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


_LITERALS = frozenset(
    "BININT BININT1 BININT2 INT LONG LONG1 LONG4 FLOAT BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 UNICODE "
    "BINSTRING SHORT_BINSTRING STRING BINBYTES SHORT_BINBYTES".split()
)
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset("PUT BINPUT LONG_BINPUT MEMOIZE".split())
_GETS = frozenset("GET BINGET LONG_BINGET".split())
_IGNORED = frozenset("PROTO FRAME STOP".split())


def _torch_file(machine: _Machine, tensors: "_Tensors") -> TorchFile:
    code = tuple(dict.fromkeys(machine.code))
    tree = None if code else _Resolver(tensors).value(machine.value)
    return TorchFile(tree, tuple(dict.fromkeys(machine.keys)), code)


class _Resolver:
    """Makes plain values and `StoredTensor`s of what a `_Machine` wrote down."""

    def __init__(self, tensors: "_Tensors") -> None:
        self._tensors = tensors
        self._done: dict[int, Any] = {}  # a value that occurs many times is looked at once
        self._made: list[_Call] = []
        self._depth = 0

    def value(self, node: Any) -> Any:
        if node is None or isinstance(node, str | int | float | bytes):
            return node
        if id(node) not in self._done:
            self._depth += 1
            if self._depth > MAX_DEPTH:  # of a value within itself too
                raise FileFormatError(f"its values lie more than {MAX_DEPTH} deep within each other")
            self._done[id(node)] = self._compound(node)
            self._depth -= 1
        return self._done[id(node)]

    def _compound(self, node: Any) -> Any:
        if isinstance(node, dict):
            return {key: self.value(item) for key, item in node.items()}
        if isinstance(node, list | tuple):
            return [self.value(item) for item in node]
        if isinstance(node, _Call):
            return self._call(node)
        if isinstance(node, _Global) and node.name in (*_DTYPES, *CLASSES):
            return node.name
        raise FileFormatError("its pickle is damaged: it refers to something that is not there; get the file again")

    def _call(self, call: _Call) -> Any:
        name, arguments = call.function.name, call.arguments
        kind = _REBUILT.get(name, "")
        try:
            if kind.startswith("tensor"):
                return self._tensors.tensor(arguments, arguments[6] if kind == "tensor_v3" else None)
            if kind.startswith("parameter"):
                return self.value(arguments[0])
            if name == _FROM_TYPE:
                self._made.append(_Call(arguments[0], arguments[2]))  # kept, since `_done` goes by its id
                return self.value(self._made[-1])
            if name == _PARAMETER_DICT:
                state = self.value(call.state)
                kept = state.get("_parameters") or {}
                return {**kept, **{key: state[key] for key in state.get("_keys") or {} if key in state}}
            if name in _SETS:
                return [self.value(item) for item in arguments]
            if name in CALLS:
                plain = [self.value(item) for item in arguments if not isinstance(item, _Global)]
                return CALLS[name](*plain, **({"state": self.value(call.state)} if name in WITH_STATE else {}))
        except (IndexError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(
                f"its pickle is damaged: {type(error).__name__}: {brief(error)}; get the file again"
            ) from error
        raise FileFormatError(
            f"its pickle calls {name} with {len(arguments)} arguments, which no file of tensors needs"
        )


class _Tensors:
    """Makes `StoredTensor`s of references to storages.

    Args:
        sizes: the bytes of each storage, by its key.
        read: reads one.
    """

    def __init__(self, sizes: Mapping[str, int], read: Callable[[str], bytes]) -> None:
        self._sizes = sizes
        self._read = read

    def tensor(self, arguments: tuple[Any, ...], dtype: "_Global | None") -> StoredTensor:
        """The tensor of (storage, offset, shape, stride, ...), which must lie within its storage."""
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, _Persistent) or not _is_storage(storage):
            raise TypeError("a tensor without a storage")
        _, kind, key, _, count = storage.reference[:5]
        held = _DTYPES[dtype.name] if dtype is not None else _STORAGES[kind.name]
        if kind.name == _UNTYPED:
            count //= held.itemsize
        if not all(isinstance(n, int) and 0 <= n < 2**62 for n in (offset, *shape, *stride)) or len(shape) != len(
            stride
        ):
            raise TypeError("a tensor of an impossible shape")
        end = 0 if 0 in shape else offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1
        size = self._sizes.get(str(key), -1)
        if end > count or size != count * held.itemsize:
            raise FileFormatError(
                f"a tensor of shape {tuple(shape)} should lie in {count} values, of which the file has "
                f"{max(size, 0)} bytes; get it again"
            )

        def read() -> Tensor:
            if size > MAX_STORAGE_BYTES:
                raise FileFormatError(f"a tensor lies in {size} bytes; at most {MAX_STORAGE_BYTES} are read")
            if not end:
                return torch.empty(tuple(shape), dtype=held)
            data = torch.frombuffer(bytearray(self._read(str(key))), dtype=torch.uint8).view(held)
            return data.as_strided(tuple(shape), tuple(stride), offset).clone()

        return StoredTensor(tuple(shape), str(held).removeprefix("torch."), read)


def _is_storage(persistent: _Persistent) -> bool:
    reference = persistent.reference
    return (
        isinstance(reference, tuple)
        and len(reference) >= 5
        and reference[0] == "storage"
        and isinstance(reference[1], _Global)
        and (reference[1].name in _STORAGES or reference[1].name == _UNTYPED)
        and isinstance(reference[2], str | int)
        and isinstance(reference[4], int)
        and reference[4] >= 0
        and not any(reference[5:])  # a view of another storage, as torch had them once
    )


def _itemsize(persistent: _Persistent) -> int:
    dtype = _STORAGES.get(persistent.reference[1].name)
    return 1 if dtype is None else dtype.itemsize
