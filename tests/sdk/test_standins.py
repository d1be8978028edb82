"""What lies in a file's place is called what it is, wherever files are read."""

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import hardprompts_emoji
from hardprompts import HardPrompt, load_backend
from hardprompts.batch.output import JsonLines, Output
from hardprompts.batch.records import Record
from hardprompts.batch.shards import shard_records
from hardprompts.causes.standins import kind_of, read_json, stand_in, stand_in_at, stand_in_inside
from hardprompts.classification import ClassifierPromptTuner
from hardprompts.cli.classify import read_column
from hardprompts.errors import FileFormatError, HardPromptsError
from hardprompts.images import load_images
from hardprompts.softprompts import SoftPrompt
from hardprompts.wording import read_phrases


def zipped(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, b"\1" * 100)
    return content.getvalue()


def tarred(name: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return content.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 3819\n"
PAGE = b"\n<!-- saved -->\n<!DOCTYPE html>\n<html lang=en><head><title>Log in\n</title></head></html>"
S3 = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>'

#: What lies there, and what is said of it.
KINDS: dict[str, tuple[bytes, str]] = {
    "pointer": (POINTER, "pointer of Git LFS.*git lfs pull"),
    "page": (PAGE, r'web page \("Log in"\).*download the file itself'),
    "marked page": (b"\xef\xbb\xbf<html>", "web page, and not"),
    "empty": (b"", "it is empty; get it again"),
    "zeros": (bytes(2000), "nothing but zero bytes"),
    "store": (S3, r'a server answered in place of the file \("AccessDenied"\); log in'),
    "json": (b'{"error":"Repository not found"}', r'server answered.*\("Repository not found"\); check its address'),
    "json of two": (b'{"message":"API rate limit exceeded for 1.2.3.4","documentation_url":"https"}', "wait some min"),
    "text": (b"Entry not found", r'server answered.*\("Entry not found"\)'),
    "gated": (b"Access to model x/y is restricted. You must have access to it and be authenticated", "ask for access"),
    "login": (b"Invalid username or password.", "log in"),
    "status": (b"404: Not Found\n", "check its address"),
    "address": (b"https://huggingface.co/x/y/resolve/main/cat.safetensors\n", "a text with an address"),
    "shortcut": (b"[InternetShortcut]\r\nURL=https://a.b/cat.pt\r\n", r"an address \(https://a.b/cat.pt\)"),
    "link": (b"../../blobs/" + b"3f" * 32, "a link to another file"),
    "link of Windows": (b"..\\shared\\cat.safetensors", "a link to another file"),
    "link of macOS": (b"XSym\n0012\n" + b"a" * 40, "a link to another file"),
    "macOS": (b"\0\5\x16\7\0\2\0\0Mac OS X", "what macOS keeps beside a file"),
    "gzip": (gzip.compress(b"\1" * 100), "a gzip archive.*unpack it"),
    "zip": (zipped("cat.safetensors"), r"a zip archive \(first in it: cat.safetensors\).*unpack it"),
    "tar": (tarred("cat.safetensors"), r"a tar archive \(first in it: cat.safetensors\).*unpack it"),
    "7z": (b"7z\xbc\xaf'\x1c\0\4", "a 7z archive"),
}
ARCHIVES = {"gzip", "zip", "tar", "7z"}

READERS: dict[str, Callable[[Path], object]] = {
    "cat.safetensors": SoftPrompt.from_file,
    "cat.pt": SoftPrompt.from_file,
    "cat.bin": SoftPrompt.from_file,
    "cat.png": lambda path: load_images([path]),
    "phrases.txt": read_phrases,
    "prompt.json": lambda path: HardPrompt.from_pretrained(path.parent),
    "tuner.json": lambda path: ClassifierPromptTuner.from_pretrained(path.parent),
    "soft_prompt.json": lambda path: SoftPrompt.from_pretrained(path.parent),
    "adapter_config.json": lambda path: SoftPrompt.from_pretrained(path.parent),
    "texts.csv": lambda path: read_column(path, ["text"]),
    "part-000000.jsonl": lambda path: JsonLines().read(path, ["key"]),
    "_settings.json": lambda path: Output(path.parent, {}),
    "pictures.tar": lambda path: [record.load() for record in shard_records(path, "pictures", None)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_says_what_lies_there(name: str, kind: str, tmp_path: Path) -> None:
    content, said = KINDS[kind]
    if name == "phrases.txt" and kind == "empty":
        said = "no phrases; write one on each line"  # nobody meant another file
    if name == "texts.csv" and kind == "empty":
        said = "no rows below its head"
    if name == "pictures.tar" and kind in {"tar", "zip", "7z", "gzip", "zeros", "empty"}:
        pytest.skip("a shard is an archive itself, and zeros are the end of one")
    if name == "adapter_config.json":
        (tmp_path / "adapter_model.safetensors").write_bytes(
            safetensors.torch.save({"prompt_embeddings": torch.ones(2, 8)})
        )
    if name == "_settings.json":
        (tmp_path / "part-000000.jsonl").write_text("{}\n")
    (tmp_path / name).write_bytes(content)
    with pytest.raises((HardPromptsError, ValueError), match=f"(?s){'' if name.endswith('tar') else name}.*{said}"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_a_picture_are_called_what_they_are(kind: str) -> None:
    content, said = KINDS[kind]
    with pytest.raises(HardPromptsError, match=said if content else "image is empty"):
        Record("a", content).load()


def test_tables_are_called_what_they_are(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from hardprompts.batch.tables import table_records

    for name in ("pictures.parquet", "pictures.arrow"):
        for kind in KINDS.keys() - ARCHIVES:
            content, said = KINDS[kind]
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FileFormatError, match=f"(?s){name}.*{said}"):
                table_records(tmp_path / name, name, None, None)


# --- the folders of models ----------------------------------------------------------------

CUT = safetensors.torch.save({"a": torch.ones(100)})[:-200]
IN_FOLDERS = {
    **{kind: KINDS[kind] for kind in ("pointer", "page", "empty", "zeros", "json", "link", "gzip")},
    "cut": (CUT, "it is cut short: 272 of its 472 bytes are there"),
}


def linked(name: str, place: Path) -> Path:
    """The folder of an embedded model, of which files can be replaced."""
    shutil.copytree(hardprompts_emoji.path(name), place, copy_function=os.symlink)
    return place


@pytest.mark.parametrize("kind", IN_FOLDERS)
@pytest.mark.parametrize(
    "scheme, model, bad",
    [
        ("transformers:", "emoji-clip", "config.json"),
        ("transformers:", "emoji-clip", "model.safetensors"),
        ("transformers:", "emoji-clip", "tokenizer.json"),
        ("transformers:", "emoji-clip", "preprocessor_config.json"),
        ("transformers:", "emoji-lm", "model.safetensors"),
        ("transformers:", "emoji-lm", "tokenizer.json"),
        ("diffusers:", "emoji-sd", "model_index.json"),
        ("diffusers:", "emoji-sd", "unet/diffusion_pytorch_model.safetensors"),
        ("diffusers:", "emoji-sd", "unet/config.json"),
        ("diffusers:", "emoji-sd", "text_encoder/model.safetensors"),
        ("diffusers:", "emoji-sd", "tokenizer/tokenizer.json"),
        ("diffusers:", "emoji-sd", "scheduler/scheduler_config.json"),
    ],
)
def test_models_name_the_file(scheme: str, model: str, bad: str, kind: str, tmp_path: Path) -> None:
    folder = linked(model, tmp_path / "model")
    file = folder / bad
    if not file.exists():
        pytest.skip("the model is made of other files")
    if kind == "cut" and not bad.endswith(".safetensors"):
        content, said = b'{"a": [1, 2', "it is not whole JSON"
    else:
        content, said = IN_FOLDERS[kind]
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(HardPromptsError, match=f"(?s){file}.*{said}"):
        load_backend(f"{scheme}{folder}", device="cpu")


@pytest.mark.parametrize("kind", ["pointer", "page", "empty", "cut"])
@pytest.mark.parametrize("bad", ["open_clip_config.json", "model.safetensors"])
def test_folders_of_open_clip_name_the_file(bad: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": {}, "vision_cfg": {}}}))
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    content, said = IN_FOLDERS[kind] if kind != "cut" or bad.startswith("model") else (b'{"a', "not JSON")
    (tmp_path / bad).write_bytes(content)
    with pytest.raises(HardPromptsError, match=f"(?s){bad}.*{said}"):
        load_backend(f"open_clip:local-dir:{tmp_path}", device="cpu")


@pytest.mark.parametrize("kind", IN_FOLDERS)
def test_a_file_of_open_clip_s_weights_is_named(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    content, said = IN_FOLDERS[kind]
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(HardPromptsError, match=f"(?s)weights.safetensors.*{said}"):
        load_backend(f"open_clip:ViT-B-32/{tmp_path}/weights.safetensors", device="cpu")


def test_weights_that_nobody_reads_are_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    for unread in ("pytorch_model.bin", "model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors"):
        (tmp_path / unread).write_bytes(POINTER)
    (tmp_path / "README.md").write_bytes(PAGE)
    (tmp_path / "merges.txt").write_bytes(b"")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "config.json").write_bytes(POINTER)
    assert stand_in_inside(tmp_path) == ""
    (tmp_path / "model.safetensors").unlink()
    assert "pytorch_model.bin: it is a pointer" in stand_in_inside(tmp_path)


def test_an_index_names_what_is_not_there(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    assert "index.json: it names model-00001-of-00002.safetensors, which is not" in stand_in_inside(tmp_path)


# --- halves of downloads, and what is kept elsewhere --------------------------------------


def test_halves_of_downloads_are_called_so(tmp_path: Path) -> None:
    file = tmp_path / "cat.safetensors"
    whole = safetensors.torch.save({"cat": torch.ones(2, 768)})
    for beside in ("cat.safetensors.part", "cat.safetensors.crdownload", "cat.safetensors.aria2"):
        (tmp_path / beside).write_bytes(whole[:500])
        with pytest.raises(FileFormatError, match=f"download is not finished.* {beside}"):
            SoftPrompt.from_file(file)
        with pytest.raises(FileFormatError, match="half of a download"):
            SoftPrompt.from_file(tmp_path / beside)
        (tmp_path / beside).unlink()
    file.write_bytes(whole[:-100])
    with pytest.raises(FileFormatError, match=f"it is cut short: {len(whole) - 100} of its {len(whole)} bytes"):
        SoftPrompt.from_file(file)
    (tmp_path / "cat.safetensors.aria2").write_bytes(b"\0\1")
    with pytest.raises(FileFormatError, match="not finished, as cat.safetensors.aria2 beside it says"):
        SoftPrompt.from_file(file)
    file.write_bytes(whole)
    assert SoftPrompt.from_file(file).num_tokens == 2  # what can be read is read, whatever lies beside it


def test_an_archive_of_torch_that_is_cut_short_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "cat.pt"
    torch.save({"emb_params": torch.ones(1, 768)}, file)
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(FileFormatError, match="cut short: the end of it is missing"):
        SoftPrompt.from_file(file)


def test_files_that_are_elsewhere_are_called_so(tmp_path: Path) -> None:
    (tmp_path / ".cat.png.icloud").write_bytes(b"bplist00")
    with pytest.raises(HardPromptsError, match="cat.png.*in iCloud"):
        load_images(tmp_path / "cat.png")
    (tmp_path / "dog.png").symlink_to("../blobs/gone")
    with pytest.raises(HardPromptsError, match="dog.png.*a link to ../blobs/gone, which does not exist"):
        load_images(tmp_path / "dog.png")


# --- another kind of file -----------------------------------------------------------------

OTHERS: dict[str, tuple[bytes, str]] = {
    "gguf": (b"GGUF\3\0\0\0" + b"\1" * 90, "a GGUF model"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + b"\1" * 90, "a model of ONNX"),
    "index": (b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}', "the index of weights"),
    "json": (b'{"prompt": "a cat"}', "a JSON file"),
    "numpy": (b"\x93NUMPY\1\0v\0{'descr'" + b" " * 90, "an array of numpy"),
    "parquet": (b"PAR1\x15\4" + b"\1" * 90, "a parquet table"),
    "pdf": (b"%PDF-1.7\n" + b"\1" * 90, "a PDF document"),
    "program": (b"MZ\x90\0" + b"\1" * 90, "a program for Windows"),
}


@pytest.mark.parametrize("name", ["cat.safetensors", "cat.pt", "cat.bin", "cat.png", "cat.txt"])
@pytest.mark.parametrize("kind", OTHERS)
def test_another_kind_of_file_is_called_what_it_is(kind: str, name: str, tmp_path: Path) -> None:
    content, said = OTHERS[kind]
    if (name, kind) in {("cat.txt", "json"), ("cat.txt", "index")}:
        pytest.skip("phrases may be anything")
    content = content if kind in ("json", "index") else content + b"\0\xff"
    (tmp_path / name).write_bytes(content)
    read = {".png": load_images, ".txt": read_phrases}.get(Path(name).suffix, SoftPrompt.from_file)
    with pytest.raises(HardPromptsError, match=f"{name}.*{said}"):
        read(tmp_path / name)


def test_embeddings_and_images_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(safetensors.torch.save({"cat": torch.ones(2, 768)}))
    with pytest.raises(HardPromptsError, match="is a safetensors file, not an image"):
        load_images(tmp_path / "cat.png")
    torch.save({"cat": torch.ones(2)}, tmp_path / "dog.png")
    with pytest.raises(HardPromptsError, match="is a file of torch.save, not an image"):
        load_images(tmp_path / "dog.png")


def test_what_is_read_is_none_of_these(tmp_path: Path) -> None:
    """Heads of files that are read: nothing is said of them."""
    torch.save({"a": torch.ones(2)}, tmp_path / "new.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "a.safetensors").write_bytes(safetensors.torch.save({"a": torch.ones(2)}))
    for file in tmp_path.iterdir():
        assert stand_in_at(file) == ""
    assert kind_of((tmp_path / "old.pt").read_bytes()) == kind_of((tmp_path / "new.pt").read_bytes())
    assert kind_of(pickle.dumps({})) == "a pickle"


def test_phrases_may_begin_as_other_files_do(tmp_path: Path) -> None:
    for phrase in ("BMW i3", "MZ", "GGUF", "%PDF"):
        (tmp_path / "words.txt").write_text(f"{phrase}\n")
        assert read_phrases(tmp_path / "words.txt") == (phrase,)


@pytest.mark.parametrize(
    "head",
    [
        b"{}", b"a <html> tag", b"<htmlish", b"version 2", b"<svg xmlns='x'>", b"<!---->" * 140, b"\x89PNG",
        b"text,label\nfine,1\n", b"a photo of a cat/dog", b"/imagine prompt", b'{"error": "x", "prompt": "y"}',
        b"forbidden", b"not found", b"see https://a.b for more", b"\0" * 8 + b"{}", b'{"name": "cat"}',
    ],
)  # fmt: skip
def test_other_files_are_what_they_are(head: bytes) -> None:
    assert stand_in(head) == ""


def test_json_is_read_in_every_encoding_of_unicode_and_refused_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_text('{"a": "ü"}', encoding=encoding)
        assert read_json(file) == {"a": "ü"}
    for content, said in {
        b'{"a": ': "Expecting value.*damaged or cut off", b"[" * 100_000: "nested too deeply",
        b"\x89PNG\r\n\x1a\n\0": "it is a PNG image", b'{"a": "\xff"}': "damaged", b"9" * 5000: "damaged",
    }.items():  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(FileFormatError, match=f"a.json.*{said}"):
            read_json(file)
