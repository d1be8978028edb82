"""The cause that a message names is the cause: faults are injected at every door, and each is named and passed on."""

import ast
import builtins
import errno
import io
import json
import os
import pathlib
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import errors
from PIL import Image
from tiny_tokenizers import OLDER

import hardprompts_emoji
from hardprompts import HardPrompt, PromptInverter, load_backend
from hardprompts.batch.output import JsonLines
from hardprompts.causes.failures import cause_of, chain, import_cause
from hardprompts.classification import ClassifierPromptTuner
from hardprompts.cli.classify import read_column
from hardprompts.errors import HardPromptsError
from hardprompts.hub.reasons import loading_cause
from hardprompts.images import load_images
from hardprompts.softprompts import SoftPrompt
from hardprompts.wording import read_phrases

# --- the doors that open models -----------------------------------------------------------


def embedded(name: str) -> str:
    return str(hardprompts_emoji.path(name))


def captioner(place: str) -> object:
    from hardprompts_transformers.captions import ImageCaptioner

    return ImageCaptioner.from_pretrained(place, device="cpu")


#: What opens a model, and the function of a library that is broken meanwhile.
DOORS: dict[str, tuple[str, Callable[[str], object]]] = {
    "config": ("transformers.AutoConfig", lambda place: load_backend(f"transformers:{place}", device="cpu")),
    "tokenizer": ("transformers.AutoTokenizer", lambda place: load_backend(f"transformers:{place}", device="cpu")),
    "clip": ("transformers.CLIPModel", lambda place: load_backend(f"transformers:{place}", device="cpu")),
    "processor": ("transformers.AutoImageProcessor", lambda place: load_backend(f"transformers:{place}", device="cpu")),
    "sentences": (
        "transformers.AutoConfig",
        lambda place: load_backend(f"sentence-transformers:{place}", device="cpu"),
    ),
    "pipeline": ("diffusers.DiffusionPipeline", lambda place: load_backend(f"diffusers:{place}", device="cpu")),
    "captioner": ("transformers.AutoModelForImageTextToText", captioner),
}


def wrapped(error: BaseException, text: str = "Can't load the model") -> OSError:
    """As transformers passes on what happened."""
    outer = OSError(text)
    outer.__cause__ = error
    return outer


def answer(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    response = types.SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("no", response=response)  # type: ignore[arg-type]


#: What all errors of the client's connections are, whichever of its libraries it uses.
CONNECTION = errors.HfHubHTTPError.__bases__[0]

FAULTS: dict[str, tuple[Callable[[], BaseException], str]] = {
    "rights": (lambda: PermissionError(13, "Permission denied", "a.bin"), "'a.bin': permission denied; look at the rights"),
    "rights below": (lambda: wrapped(PermissionError(13, "Permission denied", "a.bin")), "permission denied"),
    "full disk": (lambda: OSError(errno.ENOSPC, "No space left on device"), "the disk is full; make room"),
    "open files": (lambda: OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
    "memory": (MemoryError, "too little memory; use a smaller model"),
    "device's memory": (lambda: torch.OutOfMemoryError("CUDA out of memory."), "too little memory on the device"),
    "CPU's memory": (lambda: RuntimeError("DefaultCPUAllocator: not enough memory"), "too little memory on the device"),
    "nesting": (lambda: RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    "package": (
        lambda: ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece"),
        "the package sentencepiece is not installed; pip install sentencepiece",
    ),
    "versions": (
        lambda: ImportError("cannot import name 'x' from 'tokenizers'", name="tokenizers"),
        "the package tokenizers is installed and cannot be imported",
    ),
    "part of a package": (
        lambda: ModuleNotFoundError("No module named 'torch.foo'", name="torch.foo"), "torch that is installed has no",
    ),
    "config": (lambda: KeyError("hidden_size"), "KeyError: 'hidden_size'"),
    "shapes": (lambda: RuntimeError("size mismatch for a: 2 and 3"), "RuntimeError: size mismatch for a: 2 and 3"),
    "gated": (lambda: wrapped(answer(errors.GatedRepoError, 403)), "its owner gives access on request"),
    "unknown": (lambda: wrapped(answer(errors.RepositoryNotFoundError, 404)), "there is no such repository"),
    "offline": (lambda: wrapped(errors.OfflineModeIsEnabled("off")), "offline mode is on"),
    "limit": (lambda: wrapped(answer(errors.HfHubHTTPError, 429)), "asks for fewer requests"),
    "trouble": (lambda: wrapped(answer(errors.HfHubHTTPError, 503)), "the Hub has trouble"),
    "network": (lambda: wrapped(CONNECTION("no route")), "the connection broke off"),
}  # fmt: skip
OF_THE_HUB = ("gated", "unknown", "offline", "limit", "trouble", "network")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("door", DOORS)
def test_models_name_what_happened(door: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, opening = DOORS[door]
    make, said = FAULTS[fault]
    module, _, name = broken.partition(".")
    library = pytest.importorskip(module)
    error = make()
    if not isinstance(error, (OSError, LookupError, ValueError, RuntimeError, ImportError, MemoryError)):
        pytest.skip("not what a library raises")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(getattr(library, name), "from_pretrained", fail)
    place = "owner/name" if fault in OF_THE_HUB else embedded("emoji-sd" if door == "pipeline" else "emoji-clip")
    if fault in OF_THE_HUB and door in ("tokenizer", "clip", "processor", "sentences"):
        pytest.skip("asked of the Hub before")
    with pytest.raises(HardPromptsError) as caught:
        opening(place)
    assert said in str(caught.value)
    assert error in set(chain(caught.value))


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"config", "shapes"}))
def test_open_clip_names_what_happened(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = pytest.importorskip("open_clip")
    make, said = FAULTS[fault]
    error = make()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", fail)
    with pytest.raises(HardPromptsError) as caught:
        load_backend("open_clip:hf-hub:owner/name", device="cpu")
    assert said in str(caught.value) and error in set(chain(caught.value))


def test_an_error_in_a_model_s_own_pass_is_passed_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load_backend("emoji", device="cpu")
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("mask"), ValueError("own")):

        def fail(*_: Any, own: Exception = error, **__: Any) -> None:
            raise own

        with monkeypatch.context() as patch:
            patch.setattr(type(backend.image_encoder), "encode_images", fail)
            with pytest.raises(type(error)) as caught:
                PromptInverter(backend).invert(Image.new("RGB", (64, 64)), max_steps=1, progress=False)
            assert caught.value is error


# --- the doors that read files ------------------------------------------------------------

READERS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "cat.safetensors": (SoftPrompt.from_file, safetensors.torch.save({"cat": torch.ones(1, 768)})),
    "cat.png": (load_images, b""),
    "words.txt": (read_phrases, b"a cat\n"),
    "texts.csv": (lambda path: read_column(path, ["text"]), b"text\nfine\n"),
    "prompt.json": (lambda path: HardPrompt.from_pretrained(path.parent), b""),
    "tuner.json": (lambda path: ClassifierPromptTuner.from_pretrained(path.parent), b"{}"),
    "soft_prompt.json": (lambda path: SoftPrompt.from_pretrained(path.parent), b"{}"),
    "part-000000.jsonl": (lambda path: JsonLines().read(path, ["key"]), b'{"key": "a"}\n'),
}
SYSTEM = {
    errno.EACCES: "(?i)permission denied", errno.EIO: "(?i)input/output error|drive could not be read",
    errno.EMFILE: "(?i)too many (open files|files are open)", errno.ENAMETOOLONG: "(?i)too long|longer than",
}  # fmt: skip


@pytest.mark.parametrize("number", SYSTEM)
@pytest.mark.parametrize("name", READERS)
def test_files_name_what_the_system_says(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, content = READERS[name]
    file = tmp_path / name
    file.write_bytes(content)
    if name == "cat.png":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    own = builtins.open

    def fail(path: Any, *more: Any, **options: Any) -> Any:
        if str(path) == str(file):
            raise OSError(number, os.strerror(number), str(path))
        return own(path, *more, **options)

    monkeypatch.setattr(builtins, "open", fail)
    monkeypatch.setattr(io, "open", fail)
    if sys.version_info < (3, 11):  # where pathlib keeps its own reference to it
        monkeypatch.setattr(pathlib._NormalAccessor, "open", staticmethod(fail))  # type: ignore[attr-defined]
    with pytest.raises((HardPromptsError, OSError), match=SYSTEM[number]) as caught:
        read(file)
    assert name in str(caught.value)
    assert any(isinstance(one, OSError) and one.errno == number for one in chain(caught.value))


@pytest.mark.parametrize("name", READERS)
def test_a_folder_in_a_file_s_place_is_called_so(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises((HardPromptsError, OSError), match="(?i)is a (directory|folder)|it is a folder"):
        READERS[name][0](tmp_path / name)


def test_a_picture_for_which_memory_is_too_small_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(HardPromptsError, match="cat.png' cannot be read: there is too little memory") as caught:
        load_images(tmp_path / "cat.png")
    assert isinstance(caught.value.__cause__, MemoryError)


# --- the list itself ----------------------------------------------------------------------


def test_causes_are_found_below_what_was_raised() -> None:
    error = wrapped(wrapped(OSError(errno.ENOSPC, "No space left on device", "/x/y")))
    assert cause_of(error) == "'/x/y': the disk is full; make room"
    assert cause_of(FileNotFoundError(2, "No such file", "x")) == cause_of(ValueError("x")) == ""
    error = OSError("once")
    error.__cause__ = error  # as careless code makes it
    assert list(chain(error)) == [error]


def test_files_of_a_cloud_are_called_so() -> None:
    error = OSError(22, "The cloud file provider is not running", "cat.pt")
    error.winerror = 362  # type: ignore[attr-defined]
    assert "'cat.pt': it is kept in a cloud (OneDrive, say)" in cause_of(error)


def test_packages_are_called_as_they_are_installed() -> None:
    assert "pip install scikit-learn" in import_cause(ModuleNotFoundError("x", name="sklearn"))
    assert "a package is missing or does not fit (x needs y)" in import_cause(ImportError("x needs y"))


def test_what_lies_in_a_folder_goes_before_packages_that_a_library_tried(tmp_path: Path) -> None:
    """transformers looks for sentencepiece when it cannot read a tokenizer.json: that is not what is missing."""
    (tmp_path / "tokenizer.json").write_bytes(b"")
    error = ValueError("no tokenizer")
    error.__context__ = ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece")
    assert "tokenizer.json: it is empty" in loading_cause(error, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "sentencepiece is not installed" in loading_cause(error, tmp_path)
    assert loading_cause(OSError(errno.ENOSPC, "full"), tmp_path) == "the disk is full; make room"


def test_a_broken_field_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded("emoji-clip"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = "wide"
    (folder / "config.json").write_text(json.dumps(config))
    # Before transformers 5 no config is checked, and torch is the first to see it.
    with pytest.raises(HardPromptsError, match="ints,but got str" if OLDER else "hidden_size"):
        load_backend(f"transformers:{folder}", device="cpu")


# --- every clause that turns an error into another ----------------------------------------

ROOT = Path(__file__).parent.parent
SOURCES = [file for place in ("sdk", "plugins", "comfyui_nodes") for file in sorted((ROOT / place).rglob("*.py"))]

#: Kinds of errors that many things cause: who catches one must say what it was, or ask `hardprompts.causes`.
BROAD = {"Exception", "BaseException", "OSError", "RuntimeError", "ImportError", "MemoryError"}

#: Clauses of such a kind whose cause is known all the same.
KNOWN = {"devices.py: (RuntimeError, TypeError)"}  # what torch.device says of a name


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_clause_guesses(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    for clause in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ExceptHandler)):
        assert clause.type is not None, f"line {clause.lineno}: a bare except"
        kinds = ast.unparse(clause.type)
        names = {node.id for node in ast.walk(clause.type) if isinstance(node, ast.Name)}
        again = any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(clause))
        if names & {"Exception", "BaseException"} and not again:
            assert "# " in lines[clause.lineno - 1], f"line {clause.lineno}: say why {kinds} is caught"
        raises = [node for node in ast.walk(clause) if isinstance(node, ast.Raise) and node.exc is not None]
        broad = names & BROAD or any(name.endswith(("_FAILURES", "_ERRORS", "_DAMAGE")) for name in names)
        if raises and broad and f"{file.name}: {kinds}" not in KNOWN:
            causes = {id(one.cause) for one in raises}
            said = [
                node
                for part in clause.body
                for node in ast.walk(part)
                if isinstance(node, ast.Name) and node.id == clause.name and id(node) not in causes
            ]
            assert said, f"line {clause.lineno}: {kinds} becomes another error that does not say what happened"


def test_the_client_of_large_files_says_what_happened() -> None:
    from hardprompts.hub.reasons import reason_of

    full = RuntimeError("Data processing error: IO Error: No space left on device (os error 28)")
    assert reason_of(full, "owner/name", None) == "the disk is full; make room"
    assert "could not be transferred: CAS service error" in reason_of(RuntimeError("CAS service error"), "a/b", None)


def test_the_command_line_says_in_a_line_that_memory_ran_out(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    from hardprompts.cli.screen import clear_errors

    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")):
        with pytest.raises(typer.Exit), clear_errors():
            raise error
        assert "error: there is too little memory" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(RecursionError), clear_errors():  # a defect of the program keeps its traceback
        raise RecursionError("maximum recursion depth exceeded")
