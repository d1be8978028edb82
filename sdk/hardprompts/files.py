"""Soft prompts in files: opened safely, recognised by what is in them, written whole or not at all.

A format is a small object that a plugin adds by the hook `soft_prompt_formats`. This module does what all of them
share: it opens the container without running anything, asks every format whether it knows the file, and writes.

How a file finds its format: every format is asked (`detect`), in no order. If some answer `Match.CERTAIN`, since
they saw keys that no other format has, the others are not considered. Otherwise weights of a model or a LoRA are
refused with what they are, and those that answer `Match.FITS` are considered. Exactly one must be left; of two,
the caller chooses with `format=`.
"""

import dataclasses
import enum
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from hardprompts.errors import FileFormatError, UnknownName
from hardprompts.softprompts.pickled import LEGACY_MAGIC, is_torch_zip, read_legacy_torch, read_torch_zip
from hardprompts.softprompts.prompt import SoftPrompt
from hardprompts.softprompts.stored import StoredTensor, brief, quoted, read_safetensors

Container = Literal["safetensors", "torch", "image", "folder", "unknown"]

#: The first bytes of images that a soft prompt may be hidden in, and of others that people mistake for them.
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")

#: What the keys of files that are no soft prompts begin with or contain, and what these are.
_MODELS = (
    (
        r"(^|[._])lora[._](up|down|[aAbB]|mid|unet|t\w\d?|transformer|linear_layer|magnitude)|\.alpha$|\.(hada|lokr)_w\d",
        "a LoRA or one of its kin, which changes a model's weights",
    ),
    (r"^(state_dict\.)?conditioner\.embedders\.", "a checkpoint of SDXL"),
    (r"^(state_dict\.)?model\.diffusion_model\.|^cond_stage_model\.", "a checkpoint of a Stable Diffusion model"),
    (r"^(control_model|controlnet|input_hint_block)", "a ControlNet"),
    (r"^(double_blocks|single_blocks|joint_blocks|transformer_blocks)\.", "the transformer of a diffusion model"),
    (r"^(down_blocks|up_blocks|mid_block|input_blocks)\.", "the U-Net of a diffusion model"),
    (r"^(first_stage_model|decoder\.(conv_in|mid|up)|encoder\.(conv_in|mid|down)|post_quant_conv)", "a VAE"),
    (r"^(vision_model|visual)\.", "a CLIP model"),
    (r"^(text_model|transformer\.text_model|text_encoder)\.|token_embedding\.weight$", "a text encoder"),
    (r"^(model\.layers|transformer\.h|lm_head|encoder\.block|decoder\.block|gpt_neox)\b", "a language model"),
    (r"\.(weight|bias|weight_v|running_mean)$", "the weights of a network"),
)


class Match(enum.IntEnum):
    """What a format says of a file."""

    #: It is another format.
    NO = 0
    #: It can be read, though it may be another format.
    FITS = 1
    #: It has what only this format has.
    CERTAIN = 2


@dataclasses.dataclass(frozen=True, eq=False)
class SoftPromptFile:
    """A file that has been opened, without running anything in it.

    Attributes:
        path: the file or folder.
        container: "safetensors" or "torch" with a `tree`; "image"; "folder"; or "unknown".
        tree: what it holds: dicts with text keys, lists, scalars and `StoredTensor`s; None of an image, a
            folder or an unknown file, which a format reads by itself.
        metadata: the texts in a safetensors header.
        name: what a soft prompt in it is called if nothing else says so: the file's stem.
    """

    path: Path
    container: Container
    tree: Any = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    name: str = ""

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the outermost dict; none if there is no such dict."""
        return frozenset(self.tree) if isinstance(self.tree, dict) else frozenset()

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """The tensors in the outermost dict."""
        items = self.tree.items() if isinstance(self.tree, dict) else ()
        return {key: value for key, value in items if isinstance(value, StoredTensor)}

    def tensor(self, key: str) -> StoredTensor:
        """The tensor under a key of the outermost dict.

        Raises:
            FileFormatError: there is none.
        """
        if key not in self.tensors:
            raise FileFormatError(f"its entry {key!r} is no tensor")
        return self.tensors[key]

    def inside(self, tree: Any, name: str) -> "SoftPromptFile":
        """A part of it, as if it were a file of its own called `name`."""
        return dataclasses.replace(self, tree=tree, name=name)

    def beside(self, file_name: str) -> "SoftPromptFile | None":
        """Another file in the same folder (of a folder: in it), or None if there is none.

        Raises:
            FileFormatError: it is damaged.
        """
        path = (self.path if self.container == "folder" else self.path.parent) / file_name
        return open_file(path) if path.is_file() else None


@runtime_checkable
class SoftPromptFormat(Protocol):
    """One way to keep soft prompts in a file. An object without state; `hardprompts.testing.check_format` checks it.

    Attributes:
        suffixes: what the files that it writes may end in, the usual one first; "" stands for a folder.
            () if it only reads.
    """

    @property
    def suffixes(self) -> tuple[str, ...]: ...

    def detect(self, file: SoftPromptFile) -> Match:
        """Whether `file` is of this format; looks at keys and shapes, and reads no tensor."""
        ...

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        """The soft prompts in it, in order; `source_format` is filled in afterwards.

        Raises:
            FileFormatError: what is in it is no soft prompt.
            ValueError: what SoftPrompt refuses; the message is passed on with the path.
        """
        ...

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        """The content of the file, or of several files, that hold `prompt`; nothing is written yet.

        The same prompt gives the same bytes.

        Raises:
            FileFormatError: the format has no place for these encoders.
        """
        ...


# --- reading ------------------------------------------------------------------------------


def read_soft_prompts(path: str | os.PathLike[str], *, format: str = "") -> tuple[SoftPrompt, ...]:
    """All soft prompts in a file, or in the folder of an adapter.

    Args:
        format: its format; default: found by what is in the file, as the module's docstring says.

    Raises:
        FileFormatError: missing, damaged, of no known format, or without token embeddings.
        UnknownName: there is no such format.
    """
    from hardprompts.plugins import soft_prompt_formats

    known = soft_prompt_formats()
    if format and format not in known:
        raise UnknownName("soft prompt format", format, known)
    file = open_file(path)
    try:
        chosen = format or _format_of(file, known)
        if format and known[format].detect(file) is Match.NO:
            raise FileFormatError(f"it is not of the format {format!r}; {_described(file)}")
        prompts = tuple(known[chosen].read(file))
        if not prompts:
            raise FileFormatError(f"the format {chosen!r} found no soft prompt in it")
    except ValueError as error:
        raise FileFormatError(f"{os.fspath(path)!r}: {error}") from error
    return tuple(dataclasses.replace(prompt, source_format=chosen) for prompt in prompts)


def choose(prompts: Sequence[SoftPrompt], name: str, path: str | os.PathLike[str]) -> SoftPrompt:
    """The only soft prompt of a file, or the one called `name`.

    Raises:
        FileFormatError: there are several and no name was given, or none is called so.
    """
    fitting = [prompt for prompt in prompts if not name or prompt.name == name]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(repr(prompt.name) for prompt in prompts[:20]) + (", ..." if len(prompts) > 20 else "")
    wrong = f"none is called {name!r}" if name else "choose one with name=..."
    plural = "s" if len(prompts) > 1 else ""
    raise FileFormatError(f"{os.fspath(path)!r} holds {len(prompts)} soft prompt{plural} ({names}), and {wrong}")


def open_file(path: str | os.PathLike[str]) -> SoftPromptFile:
    """A file, opened as far as its container is known. Nothing in it is run, and no tensor is read yet.

    Raises:
        FileFormatError: missing, empty, no regular file, damaged, or a pickle that is or carries code.
    """
    place = Path(path)
    try:
        mode = place.stat().st_mode
        if stat.S_ISDIR(mode):
            return SoftPromptFile(place, "folder", name=place.resolve().name)
        if not stat.S_ISREG(mode):
            raise FileFormatError("it is a device or a pipe, and no file")
        with open(place, "rb") as file:
            head = file.read(32)
        if not head:
            raise FileFormatError("it is empty; get the file again")
        return _opened(place, head)
    except FileNotFoundError as error:
        raise FileFormatError(f"{os.fspath(path)!r} does not exist; check the path") from error
    except FileFormatError as error:
        raise FileFormatError(f"{os.fspath(path)!r}: {error}") from error
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{os.fspath(path)!r} cannot be read: {brief(error)}") from error


def _opened(path: Path, head: bytes) -> SoftPromptFile:
    if head.startswith(_IMAGES) or head[8:12] == b"WEBP" or head[4:8] == b"ftyp":
        return SoftPromptFile(path, "image", name=path.stem)
    if path.suffix.lower() == ".safetensors" or (head[8:9] == b"{" and head[4:8] == bytes(4)):
        tensors, metadata = read_safetensors(path)
        return SoftPromptFile(path, "safetensors", tensors, metadata, path.stem)
    if head.startswith(b"PK") and is_torch_zip(path):
        found = read_torch_zip(path)
    elif head.startswith(LEGACY_MAGIC):
        found = read_legacy_torch(path)
    elif head[:1] == b"\x80":
        raise FileFormatError(
            "it is a plain pickle, which could run anything and is never loaded; save its tensors with safetensors"
        )
    elif path.suffix.lower() in (".pt", ".ckpt", ".pth"):
        raise FileFormatError("its name says torch, and it is nothing that torch.save writes; get the file again")
    else:
        return SoftPromptFile(path, "unknown", name=path.stem)
    if found.code:
        model = describe_model(found.keys)
        if model:
            raise FileFormatError(f"it is {model}, not a soft prompt")
        names = ", ".join(map(quoted, found.code[:3]))
        raise FileFormatError(
            f"its pickle names {names}, which no tensor needs: perhaps an attack. Nothing of it was run. If you trust "
            "it, load it elsewhere and save its tensors with safetensors"
        )
    return SoftPromptFile(path, "torch", found.tree, name=path.stem)


def _format_of(file: SoftPromptFile, known: Mapping[str, SoftPromptFormat]) -> str:
    answers = {name: format.detect(file) for name, format in known.items()}
    found = sorted(name for name, answer in answers.items() if answer is Match.CERTAIN)
    if not found:
        model = describe_model(_all_keys(file.tree))
        if model:
            raise FileFormatError(f"it is {model}, not a soft prompt")
        found = sorted(name for name, answer in answers.items() if answer is Match.FITS)
    if len(found) > 1:
        raise FileFormatError(f"it may be of the formats {', '.join(found)}; choose with format=...")
    if not found:
        raise FileFormatError(f"{_described(file)}; the known formats are {', '.join(sorted(known)) or 'none'}")
    return found[0]


def describe_model(keys: Iterable[str]) -> str:
    """What a file with these keys is, if it holds the weights of some network; else "".

    For example "a LoRA or one of its kin, which changes a model's weights".
    """
    listed = list(keys)
    for pattern, what in _MODELS:
        if any(re.search(pattern, key) for key in listed):
            return what
    return ""


def _all_keys(tree: Any) -> list[str]:
    """The keys of a dict, and those one level below."""
    if not isinstance(tree, dict):
        return []
    below = [key for value in tree.values() if isinstance(value, dict) for key in value]
    return [*tree, *below]


def _described(file: SoftPromptFile) -> str:
    if isinstance(file.tree, dict):
        shown = ", ".join(map(quoted, list(file.tree)[:5])) + (", ..." if len(file.tree) > 5 else "")
        return f"it has {len(file.tree)} entries ({shown}) that are no soft prompt" if shown else "it holds no tensor"
    if isinstance(file.tree, StoredTensor):
        return f"it is a bare tensor of {file.tree.dtype} and shape {file.tree.shape}, which is no soft prompt"
    if file.container == "folder":
        return "it is a folder without an adapter (adapter_config.json) or embeddings (learned_embeds.safetensors)"
    kinds = {"image": "an image", "unknown": "neither safetensors, nor torch.save's, nor an image"}
    kind = kinds.get(file.container, f"{type(file.tree).__name__} instead of tensors")
    return f"it is {kind}, and no soft prompt was found in it"


# --- writing ------------------------------------------------------------------------------


def save_soft_prompt(prompt: SoftPrompt, path: str | os.PathLike[str], *, format: str) -> tuple[Path, ...]:
    """Writes a soft prompt in one format; returns the files written.

    Raises:
        FileFormatError: the format only reads, has another suffix, or no place for these encoders.
        UnknownName: there is no such format.
    """
    from hardprompts.plugins import soft_prompt_formats

    known = soft_prompt_formats()
    if format not in known:
        raise UnknownName("soft prompt format", format, known)
    writable = {name: tuple(each.suffixes) for name, each in known.items() if each.suffixes}
    if format not in writable:
        raise FileFormatError(
            f"the format {format!r} is only read; written are {', '.join(sorted(writable)) or 'none'}"
        )
    place = Path(path)
    accepted = writable[format]
    if place.suffix.lower() not in accepted and "" not in accepted:
        raise FileFormatError(
            f"the format {format!r} is written to files that end in {' or '.join(accepted)}, not {place.name!r}"
        )
    return write_files_atomically(known[format].write(prompt, place))


def write_files_atomically(contents: Mapping[Path, bytes]) -> tuple[Path, ...]:
    """Writes files such that a reader, or a crash, never sees half of one; returns their paths.

    All are first written beside their places, and moved there when the last one is complete.
    """
    temporary = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary[path], "xb") as file:
                file.write(content)
        for path, part in temporary.items():
            os.replace(part, path)
    except BaseException:
        for part in temporary.values():
            part.unlink(missing_ok=True)
        raise
    return tuple(contents)
