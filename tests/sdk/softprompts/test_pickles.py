"""What `torch.save` wrote, against torch itself, and pickles that would run something: none of them does."""

import io
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hardprompts import FileFormatError
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts.containers import open_file
from hardprompts.softprompts.pickles import read_legacy_torch, read_torch_zip
from hardprompts.softprompts.prompt import read_soft_prompts
from hardprompts.softprompts.tensors import StoredTensor


def rows(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


SHARED = rows(3, 4)


TREES: dict[str, Any] = {
    "matrix": {"a": rows(3, 4)},
    "row of a matrix": {"a": rows(3, 4)[1]},
    "transposed": {"a": rows(3, 4).T},
    "every other": {"a": rows(4, 6)[::2, ::3]},
    "expanded": {"a": rows(1, 4).expand(3, 4)},
    "shared": {"a": SHARED, "b": SHARED[1:], "c": SHARED},
    "parameter": {"a": torch.nn.Parameter(rows(2, 2))},
    "empty": {"a": torch.empty(0, 4)},
    "scalar": {"a": torch.tensor(3.0)},
    "bare": rows(2, 3),
    "list": [{"a": rows(1, 2)}, {"b": rows(1, 3)}],
    "ints": {"a": torch.arange(4), "b": torch.arange(3, dtype=torch.int16)},
    "values": {"a": rows(1, 1), "n": None, "t": True, "i": 2**40, "neg": -7, "f": 0.25, "s": "é" * 300, "l": [1, [2]]},
    "ordered": torch.nn.Linear(2, 3).state_dict(),
    "half": {"a": rows(2, 2).half(), "b": rows(2, 2).bfloat16(), "d": rows(2, 2).double()},
    "parameters": {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(rows(2, 2))})},
}


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, StoredTensor):
        tensor = ours.read()
        return tensor.dtype == theirs.dtype and tensor.shape == theirs.shape and torch.equal(tensor, theirs)
    if isinstance(ours, dict):
        return list(ours) == list(theirs.keys()) and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("kind", TREES)
def test_what_is_read_equals_what_torch_reads(kind: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(TREES[kind], path, _use_new_zipfile_serialization=not legacy)
    theirs = TREES[kind]
    refused = legacy or not hasattr(torch.serialization, "safe_globals")  # of torch 2.4, which refuses both
    if kind != "parameters" or not refused:
        torch.serialization.add_safe_globals([torch.nn.ParameterDict])
        theirs = torch.load(path, weights_only=True, map_location="cpu")
    found = (read_legacy_torch if legacy else read_torch_zip)(path)
    assert not found.code and same(found.tree, theirs)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    for kind, tree in TREES.items():
        torch.save(tree, tmp_path / "a.pt", pickle_protocol=protocol)
        assert same(read_torch_zip(tmp_path / "a.pt").tree, tree), kind


def archive(path: Path, program: bytes, records: dict[str, bytes] | None = None, **options: Any) -> Path:
    """An archive like torch.save's, with any pickle in it."""
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in {"data.pkl": program, "byteorder": b"little", **(records or {})}.items():
            file.writestr(f"archive/{name}", content)
    return path


def tensor_program(
    key: str = "0", count: int = 4, shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)
) -> bytes:
    """The pickle of one tensor whose sizes may be lies."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", count) if isinstance(item, Storage) else None

    class Built:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, shape, stride, False, {})

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"emb_params": Built()})
    return buffer.getvalue()


def test_the_hand_made_archive_is_like_torchs(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor_program(), {"data/0": struct.pack("<4f", 1, 2, 3, 4)})
    assert open_file(path).tree["emb_params"].floats().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("program", "record"),
    [
        (tensor_program(count=4), bytes(15)),  # cut off
        (tensor_program(count=1000), bytes(16)),  # reads beyond its storage
        (tensor_program(shape=(8,)), bytes(16)),
        (tensor_program(shape=(2, 3), stride=(3, 1)), bytes(16)),
        (tensor_program(shape=(4,), stride=(-1,)), bytes(16)),
        (tensor_program(shape=(4,), stride=(2**60,)), bytes(16)),
        (tensor_program(key="../../etc/passwd"), bytes(16)),
        (tensor_program(shape=(1, 1), stride=(1,)), bytes(16)),
    ],
)
def test_tensors_that_lie_about_their_place_are_refused(program: bytes, record: bytes, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", program, {"data/0": record})
    with pytest.raises(FileFormatError):
        open_file(path)  # before any of it is read


def test_one_value_seen_for_ever_is_not_unrolled(tmp_path: Path) -> None:
    program = tensor_program(shape=(2**61, 2**61), stride=(0, 0))
    path = archive(tmp_path / "a.pt", program, {"data/0": bytes(16)})
    with pytest.raises(FileFormatError, match="too large for a soft prompt"):
        read_soft_prompts(path)


def test_a_lie_in_the_checksum_is_found(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.pt", tensor_program(count=768, shape=(1, 768), stride=(768, 1)), {"data/0": bytes(3072)}
    )
    assert read_soft_prompts(path)[0].num_tokens == 1
    content = path.read_bytes()
    place = content.index(bytes(3072))
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    with pytest.raises(FileFormatError, match="damaged archive"):
        read_soft_prompts(path)


class Attack:
    """Unpickled by anything that runs it, leaves a file behind."""

    def __init__(self, canary: Path, function: Callable[..., Any] = os.system) -> None:
        self.call = function, (f"touch {canary}",)

    def __reduce__(self) -> Any:
        return self.call


def attacks(canary: Path) -> Iterator[bytes]:
    """Pickles that leave a file behind when they are run, in several spellings."""
    for protocol in range(6):
        for carrier in (lambda x: x, lambda x: {"emb_params": x}, lambda x: {"string_to_param": {"*": x}}):
            yield pickle.dumps(carrier(Attack(canary)), protocol=protocol)
    yield (
        pickle.dumps({"a": Attack(canary, exec)}, protocol=2)
        .replace(b"touch ", b"open('")
        .replace(b"canary", b"canary','w')#")
    )
    yield b"(S'touch %s'\nios\nsystem\n." % bytes(canary)
    yield b"\x80\x02cposix\nsystem\nX%s%s\x85R." % (
        struct.pack("<I", len(f"touch {canary}")),
        f"touch {canary}".encode(),
    )


def test_the_attacks_are_real(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for attack in attacks(canary):
        if b"exec" not in attack:
            pickle.loads(attack)
            assert canary.exists()
            canary.unlink()


@pytest.mark.parametrize("place", ["plain", "archive", "legacy", "peft"])
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors", ".pti", ""])
def test_no_attack_runs(place: str, suffix: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / f"attack{suffix}"
    for attack in attacks(canary):
        if place == "plain":
            path.write_bytes(attack)
        elif place == "legacy":
            buffer = io.BytesIO()
            torch.save({}, buffer, _use_new_zipfile_serialization=False)
            # In the place of the fourth pickle, the tree.
            head = buffer.getvalue().index(b"}q\x00.\x80\x02]") - 2
            path.write_bytes(buffer.getvalue()[:head] + attack + buffer.getvalue()[head + 6 :])
        elif place == "archive":
            archive(path, attack)
        else:
            (tmp_path / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 1}')
            path = archive(tmp_path / "adapter_model.bin", attack)
        with pytest.raises(FileFormatError) as caught:
            read_soft_prompts(path)
        assert str(path) in str(caught.value)
        assert not canary.exists()


@pytest.mark.parametrize("place", ["archive", "legacy"])
def test_the_message_names_what_would_have_run(place: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(
        {"emb_params": rows(1, 768), "x": Attack(tmp_path / "canary")},
        path,
        _use_new_zipfile_serialization=place == "archive",
    )
    with pytest.raises(FileFormatError, match=r"pickle names 'posix\.system'.*Nothing of it was run"):
        SoftPrompt.from_file(path)


def test_what_a_message_quotes_cannot_steer_a_terminal(tmp_path: Path) -> None:
    program = b"\x80\x02c\x1b[2J" + b"x" * 5000 + b"\ny\n)R."
    with pytest.raises(FileFormatError, match="Nothing of it was run") as caught:
        read_soft_prompts(archive(tmp_path / "a.pt", program))
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000


def test_chosen_memo_places_do_not_take_for_ever(tmp_path: Path) -> None:
    places = b"".join(b"p%d\n" % ((2**61 - 1) * i) for i in range(50_000))  # all of one hash
    with pytest.raises(FileFormatError, match="memo"):
        read_soft_prompts(archive(tmp_path / "a.pt", b"\x80\x02N" + places + b"."))


def test_tensors_with_attributes_are_not_mixed_up(tmp_path: Path) -> None:
    tree = {}
    for i in range(20):
        tree[f"t{i}"] = rows(1, 3, seed=i)
        tree[f"t{i}"].label = f"number {i}"  # type: ignore[attr-defined]
    torch.save(tree, tmp_path / "a.pt")
    assert same(read_torch_zip(tmp_path / "a.pt").tree, tree)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    zeros = bytes(2**20)
    path = tmp_path / "bomb.pt"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for shape, message in [((2**16, 2**10), "limit is 33554432 values"), ((2, 768), "at most 268435456 are read")]:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr("archive/data.pkl", tensor_program(count=2**27, shape=shape, stride=(768, 1)))
            with file.open("archive/data/0", "w") as record:
                for _ in range(2**9):  # half a gigabyte of zeros, in a few megabytes
                    record.write(zeros)
        assert path.stat().st_size < 2**23
        with pytest.raises(FileFormatError, match=message):
            read_soft_prompts(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("archive/data.pkl", "w") as record:
        for _ in range(2**6):
            record.write(zeros)
    with pytest.raises(FileFormatError, match="pickle has 67108864 bytes"):
        read_soft_prompts(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # KiB


def nested(levels: int, width: int) -> bytes:
    """A list of `width` times the same list, and so on: small in a file, and endless to walk through."""
    opcodes = [b"\x80\x02", b"X\x01\x00\x00\x00a", b"q\x00"]
    for level in range(levels):
        opcodes += [b"](", *([b"h" + bytes([level])] * width), b"e", b"q" + bytes([level + 1])]
    return b"".join([*opcodes, b"."])


@pytest.mark.parametrize(
    "program",
    [
        nested(12, 100),  # 100 ** 12 values
        nested(200, 2),
        b"\x80\x02]q\x00" + b"h\x00a" * 1000 + b".",  # a list within itself
        b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
        b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".",
        b"\x80\x02" + b"(" * 10_000 + b"t" * 10_000 + b".",
        b"\x80\x02(" + b"\x8a\xff" + b"\x7f" * 255 + b"t.",
        b"\x80\x02c" + b"x" * 100_000 + b"\ny\n.",
        b"\x80\x02ccollections\nOrderedDict\n](X\x01\x00\x00\x00aX\x01\x00\x00\x00be\x85R.",
        b"\x80\x02cbuiltins\nset\nX\x01\x00\x00\x00a\x85R.",
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",  # two gigabytes
        b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_qtensor\n(t R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R.",
        b"\x80\x02\x95" + b"\xff" * 8 + b".",
        b"\x80\x02X\xff\xff\xff\xffabc",
        b"\x80\x02j\xff\xff\xff\xff.",
        b"\x80\x020.",
        b"\x80\x02.",
        b"",
        b".",
        b"hello",
        b"\x80\x02N.",
        b"\x80\x02K\x01.",
        b"\x80\x02X\x03\x00\x00\x00abc.",
        b"\x80\x02}(]N.",
        b"\x80\x02}]Ns.",
        b"\x80\x02}K\x01Ns.",
        b"\x80\x02NNR.",
        b"\x80\x02cos\nsystem\n)Rb.",
        b"\x80\x02NQ.",
        b"\x80\x02(X\x06\x00\x00\x00modulet Q.",
    ],
)
def test_odd_pickles_are_one_clear_error_at_once(program: bytes, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", program)
    start = time.process_time()
    with pytest.raises(FileFormatError, match=r"a\.pt"):
        read_soft_prompts(path)
    assert time.process_time() - start < 2
