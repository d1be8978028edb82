"""Soft prompts as values, and the files that they come from: nothing in a file runs, and nothing is half-read."""

import io
import json
import os
import pickle
import random
import resource
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hardprompts import FileFormatError, UnknownName, hookimpl, plugins
from hardprompts import files as files_module
from hardprompts.files import (
    Match,
    SoftPromptFile,
    choose,
    describe_model,
    open_file,
    read_soft_prompts,
    write_files_atomically,
)
from hardprompts.softprompts import ENCODER_WIDTHS, SoftPrompt
from hardprompts.softprompts import pickled as pickled_module
from hardprompts.softprompts import stored as stored_module
from hardprompts.softprompts.pickled import read_legacy_torch, read_torch_zip
from hardprompts.softprompts.stored import StoredTensor
from hardprompts.testing import check_format


def rows(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


# --- values -------------------------------------------------------------------------------


def test_a_soft_prompt_says_what_it_is() -> None:
    prompt = SoftPrompt(
        {"clip_l": rows(3, 768), "clip_g": rows(3, 1280)}, name="<cat>", step=500, source_format="kohya"
    )
    assert repr(prompt) == "SoftPrompt('<cat>': 3 tokens, clip_l 768, clip_g 1280, SDXL, step 500, from kohya)"
    assert prompt.encoders == ("clip_l", "clip_g") and prompt.widths == (768, 1280) and prompt.num_tokens == 3


@pytest.mark.parametrize(
    ("encoders", "families"),
    [
        ({"clip_l": 768}, ("SD 1.x",)),
        ({"clip_h": 1024}, ("SD 2.x",)),
        ({"clip_l": 768, "clip_g": 1280}, ("SDXL",)),
        ({"clip_g": 1280, "clip_l": 768}, ("SDXL",)),  # in either order
        ({"clip_g": 1280}, ("SDXL refiner", "Stable Cascade")),
        ({"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}, ("SD3",)),
        ({"clip_l": 768, "t5xxl": 4096}, ("FLUX.1",)),
        ({"t5xxl": 4096}, ("DeepFloyd IF", "PixArt", "Chroma")),
        ({"t5xxl": 1024}, ("Cosmos",)),
        ({"lm": 768}, ("language model of width 768",)),
        ({"lm_encoder": 512, "lm_decoder": 512}, ("encoder-decoder of width 512",)),
        ({"text_encoder": 32}, ("a model with text_encoder 32",)),
        ({"clip_h": 1024, "clip_g": 1280}, ("a model with clip_h 1024 + clip_g 1280",)),
    ],
)
def test_the_family_follows_from_all_encoders(encoders: dict[str, int], families: tuple[str, ...]) -> None:
    assert SoftPrompt({name: rows(1, width) for name, width in encoders.items()}).families == families


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ({}, "at least one text encoder"),
        ({"clip_l": rows(0, 768)}, "not empty"),
        ({"clip_l": rows(1, 768)[0]}, r"\(tokens, dim\)"),
        ({"clip_l": rows(1, 768)[None]}, r"\(tokens, dim\)"),
        ({"clip_l": rows(1, 1280)}, "clip_l has token embeddings of width 768, and these have 1280"),
        ({"t5xxl": rows(1, 512)}, "width 4096 or 1024"),
        ({"clip_l": rows(1, 768), "clip_g": rows(2, 1280)}, r"number of tokens \(clip_l 1, clip_g 2\)"),
        ({"lm": torch.full((2, 4), torch.nan)}, "NaN or infinity"),
        ({"lm": torch.tensor([[1e39]], dtype=torch.float64)}, "NaN or infinity"),  # in float32
        ({"lm": torch.full((2, 4), -torch.inf)}, "NaN or infinity"),
        ({"lm": rows(5000, 2)}, "at most 4096 tokens"),
        ({"lm": rows(1, 2**16 + 1)}, "width 65536"),
        ({"": rows(1, 4)}, "by their names"),
    ],
)
def test_what_is_no_soft_prompt_is_refused(embeddings: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftPrompt(embeddings)


def test_whole_numbers_are_refused() -> None:
    check = sys.modules["hardprompts.softprompts.prompt"]._checked
    with pytest.raises(ValueError, match=r"floating point, got torch\.int64"):
        check("lm", torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="floating point, got list"):
        check("lm", [[0.0]])


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "line\nbreak", "\u202etxt", "..", "../up", "c:\\x", "n" * 201, "\udc80"])
def test_names_that_could_steer_a_screen_or_a_path_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="its name"):
        SoftPrompt({"lm": rows(1, 4)}, name=name)


@pytest.mark.parametrize("name", ["", "<cat-toy>", "gasai yuno", "虎.v2", "a, b: {c}", "...", '"; rm -rf ~'])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert SoftPrompt({"lm": rows(1, 4)}, name=name).name == name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_soft_prompt_is_a_value(dtype: torch.dtype) -> None:
    given = rows(2, 4).to(dtype).requires_grad_()
    table = {"lm": given}
    prompt = SoftPrompt(table)
    held = prompt.embeddings["lm"].clone()
    assert held.dtype == torch.float32 and not prompt.embeddings["lm"].requires_grad
    with torch.no_grad():
        given.zero_()
    table["other"] = given
    assert torch.equal(prompt.embeddings["lm"], held) and prompt.encoders == ("lm",)
    with pytest.raises(TypeError):
        prompt.embeddings["lm"] = held  # type: ignore[index]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("container", ["safetensors", "torch"])
def test_other_floats_are_read_exactly(dtype: torch.dtype, container: str, tmp_path: Path) -> None:
    stored = rows(2, 768).to(dtype)
    path = tmp_path / ("a.safetensors" if container == "safetensors" else "a.pt")
    if container == "torch":
        torch.save({"emb_params": stored}, path)
    else:
        safetensors.torch.save_file({"emb_params": stored}, path)
    assert torch.equal(SoftPrompt.from_file(path).embeddings["clip_l"], stored.float())


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_tensors_that_are_no_floats_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({"emb_params": torch.ones(2, 768).to(dtype)}, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=r"floating point|ComplexFloatStorage"):
        SoftPrompt.from_file(tmp_path / "a.pt")


# --- what torch.save wrote, against torch itself ----------------------------------------------

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
    if (kind, legacy) != ("parameters", True):  # which torch refuses
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):
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


# --- attacks ------------------------------------------------------------------------------


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


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.txt").write_text("a cat, in the style of <nobody>\n" * 30)
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello there, this is text")
    (tmp_path / "page.bin").write_text('<!DOCTYPE html><html>{"error": "Access denied"}</html>')
    (tmp_path / "short.safetensors").write_bytes(b"\x10\x00")
    archive(tmp_path / "other.zip", b"")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("readme.txt", "x")
    for name, message in [
        ("", "a folder without an adapter"),
        ("pipe.pt", "a device or a pipe"),
        ("missing.pt", "does not exist"),
        ("empty.pt", "is empty"),
        ("text.txt", "neither safetensors"),
        ("text.pt", "nothing that torch.save writes"),
        ("text.safetensors", "header should have"),
        ("page.bin", "neither safetensors"),
        ("short.safetensors", "header should have"),
        ("other.zip", "damaged"),
        ("other.pt", "nothing that torch.save writes"),
        ("text.txt/inside", "cannot be read"),
    ]:
        with pytest.raises(FileFormatError, match=message) as caught:
            SoftPrompt.from_file(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def header(tensors: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


F32 = {"dtype": "F32", "shape": [1, 768], "data_offsets": [0, 3072]}


@pytest.mark.parametrize(
    "content",
    [
        header({"a": F32}, bytes(3071)),  # cut off
        header({"a": F32}, bytes(4000)),  # too long
        header({"a": F32}, bytes(3072), length=2**40),
        header({"a": F32}, bytes(3072), length=2**63),
        header({"a": F32}, bytes(3072), length=10),
        header({"a": F32}, bytes(3072), length=0),
        header({"a": {**F32, "shape": [2**40, 2**40]}}, bytes(3072)),
        header({"a": {**F32, "shape": [1, -768]}}, bytes(3072)),
        header({"a": {**F32, "shape": [2, 768]}}, bytes(3072)),
        header({"a": {**F32, "data_offsets": [0, 2**50]}}, bytes(3072)),
        header({"a": {**F32, "data_offsets": [3072, 0]}}, bytes(3072)),
        header({"a": F32, "b": F32}, bytes(3072)),  # one upon the other
        header({"a": {**F32, "dtype": "X9"}}, bytes(3072)),
        header({"a": {"dtype": "F32"}}, bytes(3072)),
        header({"a": 3}),
        header([]),
        header(b"{" * 10_000),
        header(b"[" * 10_000),
        header(b'{"a\xff": 1}'),
        header({}),
        header({"__metadata__": {"a": "b"}}),
        header({"__metadata__": {"a": [1]}}),
        header({"a": {"dtype": "F32", "shape": [0, 768], "data_offsets": [0, 0]}}),
        header({"a": {"dtype": "I64", "shape": [1, 768], "data_offsets": [0, 6144]}}, bytes(6144)),
        header({"a": {"dtype": "F32", "shape": [1, 1, 1, 768], "data_offsets": [0, 3072]}}, bytes(3072)),
        header({"a": {"dtype": "F32", "shape": [5000, 2], "data_offsets": [0, 40000]}}, bytes(40000)),
    ],
)
def test_headers_that_lie_are_one_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"a\.safetensors"):
        read_soft_prompts(path)


def test_nan_in_a_file_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"emb_params": torch.full((1, 768), torch.nan)}, tmp_path / "a.safetensors")
    with pytest.raises(FileFormatError, match=r"a\.safetensors.*NaN or infinity"):
        SoftPrompt.from_file(tmp_path / "a.safetensors")


def test_limits_hold_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors.torch.save_file({"emb_params": rows(2, 768)}, tmp_path / "a.safetensors")
    torch.save({"emb_params": rows(2, 768)}, tmp_path / "a.pt")
    torch.save({"emb_params": rows(2, 768)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with monkeypatch.context() as patch:
        patch.setattr(stored_module, "MAX_VALUES", 1000)
        for name in ("a.safetensors", "a.pt", "old.pt"):
            with pytest.raises(FileFormatError, match="the limit is 1000 values"):
                SoftPrompt.from_file(tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr(stored_module, "MAX_HEADER_BYTES", 20)
        with pytest.raises(FileFormatError, match="at most 20"):
            SoftPrompt.from_file(tmp_path / "a.safetensors")
    for limit, name in [
        ("MAX_STORAGE_BYTES", "a.pt"),
        ("MAX_PICKLE_BYTES", "a.pt"),
        ("MAX_LEGACY_BYTES", "old.pt"),
        ("MAX_PICKLE_BYTES", "old.pt"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(pickled_module, limit, 100)
            with pytest.raises(FileFormatError, match="100"):
                SoftPrompt.from_file(tmp_path / name)


def originals(folder: Path) -> list[Path]:
    """One small file of each container."""
    content = {"string_to_param": {"*": rows(1, 768)}, "name": "cat", "step": 3}
    torch.save(content, folder / "archive.pt")
    torch.save(content, folder / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file({"clip_l": rows(1, 768), "t5xxl": rows(1, 4096)}, folder / "a.safetensors")
    return [folder / "archive.pt", folder / "old.pt", folder / "a.safetensors"]


def test_five_hundred_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(0)
    read = refused = 0
    for path in originals(tmp_path):
        original = path.read_bytes()
        # Most bytes are values, where damage means other values; most of the damage goes elsewhere.
        structure = [i for i in range(len(original)) if not (200 < i < len(original) - 1200 and i % 50)]
        for _ in range(170):
            content = bytearray(original)
            for _ in range(chance.choice((1, 1, 2, 8))):
                place = chance.choice(structure)
                action = chance.randrange(4)
                if action == 0 and place < len(content):
                    content[place] ^= 1 << chance.randrange(8)
                elif action == 1 and place < len(content):
                    content[place] = chance.choice((0, 1, 127, 128, 255, ord("."), ord("("), ord("c"), ord("R")))
                elif action == 2:
                    del content[place : place + chance.choice((1, 4, 100))]
                else:
                    content[place:place] = chance.randbytes(chance.choice((1, 4, 100)))
            if chance.random() < 0.1:
                del content[chance.randrange(len(content)) :]
            damaged = tmp_path / f"damaged{path.suffix}"
            damaged.write_bytes(content)
            start = time.process_time()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # zipfile's, about names
                    read_soft_prompts(damaged)
                read += 1
            except FileFormatError as error:
                assert str(damaged) in str(error) and len(str(error)) < 1000 and str(error).isprintable()
                refused += 1
            assert time.process_time() - start < 2
    assert read + refused == 510 and refused > 200, (read, refused)


# --- formats as plugins -------------------------------------------------------------------


class Numbers:
    """A format of somebody else: text, one token a line."""

    suffixes = (".numbers",)

    def detect(self, file: SoftPromptFile) -> Match:
        if file.container != "unknown":
            return Match.NO
        with open(file.path, "rb") as opened:
            return Match.CERTAIN if opened.read(8) == b"numbers\n" else Match.NO

    def read(self, file: SoftPromptFile) -> list[SoftPrompt]:
        lines = file.path.read_text(encoding="utf-8").splitlines()[1:]
        return [
            SoftPrompt(
                {"clip_l": torch.tensor([[float.fromhex(n) for n in line.split()] for line in lines])}, name=file.name
            )
        ]

    def write(self, prompt: SoftPrompt, path: Path) -> dict[Path, bytes]:
        if prompt.encoders != ("clip_l",):
            raise FileFormatError("numbers are of clip_l")
        lines = [" ".join(float.hex(n) for n in row) for row in prompt.embeddings["clip_l"].tolist()]
        return {path: ("numbers\n" + "\n".join(lines)).encode()}


@pytest.fixture
def numbers() -> Iterator[Numbers]:
    format = Numbers()

    class Plugin:
        soft_prompt_formats = staticmethod(hookimpl(lambda: {"numbers": format}))

    plugins.register(Plugin(), "numbers")
    yield format
    plugins.unregister("numbers")


def test_a_format_of_a_plugin_is_read_and_written(numbers: Numbers, tmp_path: Path) -> None:
    check_format(numbers)
    prompt = SoftPrompt({"clip_l": rows(2, 768)})
    assert prompt.save(tmp_path / "new" / "a.numbers", format="numbers") == (tmp_path / "new" / "a.numbers",)
    again = SoftPrompt.from_file(tmp_path / "new" / "a.numbers")
    assert again.source_format == "numbers" and again.name == "a"
    assert torch.equal(again.embeddings["clip_l"], prompt.embeddings["clip_l"])
    assert plugins.plugins()["numbers"] == ("numbers",)


def test_formats_that_break_their_contract_are_caught(tmp_path: Path) -> None:
    class Rounded(Numbers):
        def read(self, file: SoftPromptFile) -> list[SoftPrompt]:
            return [SoftPrompt({"clip_l": super().read(file)[0].embeddings["clip_l"].half()})]

    class Greedy(Numbers):
        def detect(self, file: SoftPromptFile) -> Match:
            return Match.FITS

    class Forgetful(Numbers):
        def read(self, file: SoftPromptFile) -> list[SoftPrompt]:
            return []

    class Useless(Numbers):
        def write(self, prompt: SoftPrompt, path: Path) -> dict[Path, bytes]:
            raise FileFormatError("no")

    class Direct(Numbers):
        def write(self, prompt: SoftPrompt, path: Path) -> dict[Path, bytes]:
            contents = super().write(prompt, path)
            write_files_atomically(contents)
            return contents

    class Changing(Numbers):
        def write(self, prompt: SoftPrompt, path: Path) -> dict[Path, bytes]:
            return {
                path: super().write(prompt, path)[path] + b"\n" * (id(object()) // 16 % 1000 + random.randrange(1000))
            }

    class ReadOnly(Numbers):
        suffixes = ()

    for broken, message in [
        (Rounded(), "other values"),
        (Greedy(), "claims to know"),
        (Forgetful(), "came back as 0"),
        (Useless(), "writes none"),
        (Direct(), "returns the bytes"),
        (Changing(), "other bytes"),
        (ReadOnly(), "samples"),
    ]:
        with pytest.raises(AssertionError, match=message):
            check_format(broken)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(AssertionError, match="does not know"):
        check_format(Numbers(), [tmp_path / "a.txt"])


def test_of_two_formats_that_fit_the_caller_chooses(tmp_path: Path) -> None:
    class Second(Numbers):
        pass

    class Plugin:
        soft_prompt_formats = staticmethod(hookimpl(lambda: {"first": Numbers(), "second": Second()}))

    path = tmp_path / "a.numbers"
    write_files_atomically(Numbers().write(SoftPrompt({"clip_l": rows(1, 768)}), path))
    plugins.register(Plugin(), "two")
    try:
        with pytest.raises(FileFormatError, match=r"formats first, second; choose with format="):
            SoftPrompt.from_file(path)
        assert SoftPrompt.from_file(path, format="second").source_format == "second"
    finally:
        plugins.unregister("two")


def test_wrong_formats_and_names_say_what_there_is(tmp_path: Path) -> None:
    prompt = SoftPrompt({"clip_l": rows(1, 768)}, name="cat")
    prompt.save(tmp_path / "a.pt", format="a1111")
    with pytest.raises(UnknownName, match=r"unknown soft prompt format 'webui'; available: .*a1111.*kohya"):
        SoftPrompt.from_file(tmp_path / "a.pt", format="webui")
    with pytest.raises(UnknownName, match="webui"):
        prompt.save(tmp_path / "b.pt", format="webui")
    with pytest.raises(FileFormatError, match="not of the format 'kohya'"):
        SoftPrompt.from_file(tmp_path / "a.pt", format="kohya")
    with pytest.raises(FileFormatError, match=r"written to files that end in \.pt, not 'b\.bin'"):
        prompt.save(tmp_path / "b.bin", format="a1111")
    with pytest.raises(FileFormatError, match="only read"):
        prompt.save(tmp_path / "b.pt", format="tensor")
    with pytest.raises(FileFormatError, match=r"holds 1 soft prompt \('cat'\), and none is called 'dog'"):
        SoftPrompt.from_file(tmp_path / "a.pt", name="dog")
    several = [SoftPrompt({"lm": rows(1, 4)}, name=f"n{i}") for i in range(30)]
    with pytest.raises(FileFormatError, match=r"30 soft prompts \('n0'.*'n19', \.\.\.\), and choose one"):
        choose(several, "", tmp_path)
    assert choose(several, "n7", tmp_path) is several[7]
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_failed_write_keeps_the_old_files_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = SoftPrompt({"clip_l": rows(1, 768), "clip_g": rows(1, 1280)}, name="<cat>")
    written = prompt.save(tmp_path / "learned_embeds.safetensors", format="diffusers")
    assert [path.name for path in written] == ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    before = [path.read_bytes() for path in written]

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files_module.os, "replace", full)
    other = SoftPrompt({"clip_l": rows(2, 768), "clip_g": rows(2, 1280)}, name="<cat>")
    with pytest.raises(OSError, match="no space left"):
        other.save(tmp_path / "learned_embeds.safetensors", format="diffusers")
    assert [path.read_bytes() for path in written] == before
    assert sorted(os.listdir(tmp_path)) == [path.name for path in written]


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["lora_unet_down_blocks_0_attentions_0.lora_down.weight", "lora_unet_down_blocks_0.alpha"], "LoRA"),
        (["transformer.single_blocks.0.lora_A.weight"], "LoRA"),
        (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "LoRA"),
        (["unet.down_blocks.0.lora.up.weight"], "LoRA"),
        (["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x"], "Stable Diffusion"),
        (["conditioner.embedders.0.transformer.x", "model.diffusion_model.x"], "SDXL"),
        (["first_stage_model.decoder.conv_in.weight"], "VAE"),
        (["down_blocks.0.resnets.0.conv1.weight"], "U-Net"),
        (["text_model.encoder.layers.0.mlp.fc1.bias"], "text encoder"),
        (["transformer.h.0.attn.c_attn.weight"], "language model"),
        (["double_blocks.0.img_attn.proj.weight"], "transformer of a diffusion model"),
        (["conv.weight"], "network"),
        (["<lora-style>"], ""),
        (["flora", "weightless", "<v1.5>", "my.token"], ""),
        (["clip_l", "clip_g", "emb_params"], ""),
        ([], ""),
    ],
)
def test_models_are_called_what_they_are(keys: list[str], what: str) -> None:
    found = describe_model(keys)
    assert what in found and bool(what) == bool(found)


def test_models_are_refused_with_what_they_are(tmp_path: Path) -> None:
    checkpoint = {"state_dict": {"model.diffusion_model.x": torch.zeros(2, 2)}, "global_step": 3}
    torch.save(checkpoint, tmp_path / "model.ckpt")
    torch.save({**checkpoint, "callback": warnings.catch_warnings}, tmp_path / "lightning.ckpt")
    safetensors.torch.save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 768)}, tmp_path / "l.safetensors")
    for name, what in [
        ("model.ckpt", "Stable Diffusion"),
        ("lightning.ckpt", "Stable Diffusion"),
        ("l.safetensors", "LoRA"),
    ]:
        with pytest.raises(FileFormatError, match=f"{what}.*not a soft prompt"):
            SoftPrompt.from_file(tmp_path / name)


def test_the_known_widths_are_told_apart() -> None:
    assert set(ENCODER_WIDTHS) >= {"clip_l", "clip_g", "clip_h", "t5xxl", "llama"}
    assert all(isinstance(width, int) for widths in ENCODER_WIDTHS.values() for width in widths)
