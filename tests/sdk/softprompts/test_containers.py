"""Files that soft prompts are read from: nothing in a damaged file is half-read, and sizes are checked first."""

import json
import os
import random
import struct
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hardprompts import FileFormatError
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts import pickles as pickled_module
from hardprompts.softprompts import tensors as stored_module
from hardprompts.softprompts.prompt import read_soft_prompts


def rows(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


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


def archive(path: Path, program: bytes, records: dict[str, bytes] | None = None, **options: Any) -> Path:
    """An archive like torch.save's, with any pickle in it."""
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in {"data.pkl": program, "byteorder": b"little", **(records or {})}.items():
            file.writestr(f"archive/{name}", content)
    return path


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
        ("page.bin", "it is a web page"),
        ("short.safetensors", "header should have"),
        ("other.zip", "damaged"),
        ("other.pt", "a zip archive .first in it: readme.txt., and not the file itself"),
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
        header({"a": {"dtype": "F32", "shape": [2, 2, 1, 768], "data_offsets": [0, 12288]}}, bytes(12288)),
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
