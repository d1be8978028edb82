"""A pointer of Git LFS or a web page in a file's place is called what it is, wherever files are read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hardprompts import HardPrompt, load_backend
from hardprompts.classification import ClassifierPromptTuner
from hardprompts.errors import HardPromptsError, stand_in, stand_in_inside
from hardprompts.images import load_images
from hardprompts.softprompts import SoftPrompt
from hardprompts.wording import read_phrases

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 3819\n"
PAGE = b"\n<!-- saved -->\n<!DOCTYPE html>\n<html lang=en><head><title>cat.safetensors</title></head></html>"
KINDS = {POINTER: "pointer of Git LFS.*git lfs pull", PAGE: "web page.*download the file itself"}

READERS: dict[str, Callable[[Path], object]] = {
    "cat.safetensors": SoftPrompt.from_file,
    "cat.pt": SoftPrompt.from_file,
    "cat.bin": SoftPrompt.from_file,
    "cat.png": lambda path: load_images([path]),
    "phrases.txt": read_phrases,
    "prompt.json": lambda path: HardPrompt.from_pretrained(path.parent),
    "tuner.json": lambda path: ClassifierPromptTuner.from_pretrained(path.parent),
    "soft_prompt.json": lambda path: SoftPrompt.from_pretrained(path.parent),
}


@pytest.mark.parametrize("content", KINDS, ids=["pointer", "page"])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_says_what_lies_there(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HardPromptsError, match=f"{name}.*{KINDS[content]}"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("content", KINDS, ids=["pointer", "page"])
@pytest.mark.parametrize("bad", ["config.json", "model.safetensors", "open_clip_config.json"])
def test_folders_of_models_name_the_file(bad: str, content: bytes, tmp_path: Path) -> None:
    scheme = "open_clip:local-dir:" if bad.startswith("open_clip") else "transformers:"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / bad).write_bytes(content)
    with pytest.raises(HardPromptsError, match=f"{bad}.*{KINDS[content]}"):
        load_backend(f"{scheme}{tmp_path}", device="cpu")


def test_weights_that_nobody_reads_are_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (tmp_path / "pytorch_model.bin").write_bytes(POINTER)
    (tmp_path / "README.md").write_bytes(PAGE)
    assert stand_in_inside(tmp_path) == ""
    (tmp_path / "model.safetensors").unlink()
    assert "pytorch_model.bin: it is a pointer" in stand_in_inside(tmp_path)


@pytest.mark.parametrize(
    "head", [b"", b"{}", b"a <html> tag", b"<htmlish", b"version 2", b"<svg xmlns='x'>", b"<!---->" * 140, b"\x89PNG"]
)
def test_other_files_are_what_they_are(head: bytes) -> None:
    assert stand_in(head) == ""
