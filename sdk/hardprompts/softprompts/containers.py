"""Soft prompts in files: opened safely, recognized by what is in them, written whole or not at all.

A format is a small object that a plugin adds by the hook `soft_prompt_formats`. This module does what all of them
share: it opens the container without running anything, asks every format whether it knows the file, and writes.

How a file finds its format: every format is asked (`detect`), in no order. If some answer `Match.CERTAIN`, since
they saw keys that no other format has, the others are not considered. Otherwise weights of a model or a LoRA are
refused with what they are, and those that answer `Match.FITS` are considered. Exactly one must be left; of two,
the caller chooses with `format=`.
"""

import dataclasses
import enum
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from itertools import starmap
from pathlib import Path
from typing import Any, Literal

from hardprompts.causes.failures import cause_of
from hardprompts.causes.standins import HEAD_BYTES, kind_of, stand_in, stand_in_at
from hardprompts.errors import FileFormatError, brief, quoted
from hardprompts.softprompts.pickles import LEGACY_MAGIC, is_torch_zip, read_legacy_torch, read_torch_zip
from hardprompts.softprompts.tensors import StoredTensor, read_safetensors

#: What the keys of soft prompts begin with that lie inside of a LoRA: bundle_emb.NAME.KEY.
BUNDLED = "bundle_emb."

Container = Literal["safetensors", "torch", "image", "folder", "unknown"]

#: The first bytes of images that a soft prompt may be hidden in, and of others that people mistake for them.
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")

#: The first bytes of archives that people put files into.
_ARCHIVES = (b"PK", b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b")

#: Where classes come from that people save as a whole by mistake.
_LIBRARIES = ("torch.", "numpy.", "diffusers.", "transformers.", "pytorch_lightning.", "omegaconf.", "pathlib.")

#: What tensors are kept in, as `kind_of` calls it: read, or refused for a reason of their own.
_TENSORS = ("a safetensors file", "a file of torch.save", "a zip archive", "a pickle")
_ACCEPTED = "accepted are files of safetensors and torch.save, cards in images, and folders of PEFT"

#: What the keys of files other than soft prompts begin with or contain, and what these are.
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
        renaming: what its keys were called before, and those of the files beside it.
    """

    path: Path
    container: Container
    tree: Any = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    name: str = ""
    renaming: "Renaming | None" = None

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the outermost dict; none if there is no such dict."""
        return frozenset(self.tree) if isinstance(self.tree, dict) else frozenset()

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """The tensors in the outermost dict that have more than one value."""
        items = self.tree.items() if isinstance(self.tree, dict) else ()
        return {key: value for key, value in items if isinstance(value, StoredTensor) and not _is_number(value)}

    @property
    def facts(self) -> dict[str, Any]:
        """What stands beside the tensors: texts and numbers, tensors of one value among them; then the metadata."""
        items = self.tree.items() if isinstance(self.tree, dict) else ()
        found = {key: value for key, value in items if isinstance(value, str | int | float | bool | None)}
        numbers = {key: value for key, value in items if isinstance(value, StoredTensor) and _is_number(value)}
        return {**self.metadata, **found, **{key: value.read().item() for key, value in numbers.items()}}

    @property
    def others(self) -> tuple[str, ...]:
        """The keys of the outermost dict that hold neither tensors nor facts: the state of an optimizer, say."""
        items = self.tree.items() if isinstance(self.tree, dict) else ()
        return tuple(key for key, value in items if not isinstance(value, StoredTensor | str | int | float | None))

    def tensor(self, key: str) -> StoredTensor:
        """The tensor under a key of the outermost dict.

        Raises:
            FileFormatError: there is none.
        """
        if key not in self.tensors:
            value = self.tree.get(key) if isinstance(self.tree, dict) else None
            shape = f" of (tokens, dim): its shape is {value.shape}" if isinstance(value, StoredTensor) else ""
            raise FileFormatError(f"its entry {key!r} is not a tensor{shape}")
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
        if not path.is_file():
            return None
        return open_file(path) if self.renaming is None else self.renaming.applied(open_file(path))


@dataclasses.dataclass(frozen=True)
class Renaming:
    """Keys that are wrong, and what they should be: in a file, in the files beside it, and in what a LoRA bundles.

    Attributes:
        names: what each wrong key should be called.
        found: those of them that were found somewhere.
    """

    names: Mapping[str, str]
    found: set[str] = dataclasses.field(default_factory=set)

    def applied(self, file: SoftPromptFile) -> SoftPromptFile:
        """The file with its keys as they should be; as it was if it has none of them.

        Raises:
            FileFormatError: two of its keys would have the same name.
        """
        if not isinstance(file.tree, dict):
            return dataclasses.replace(file, renaming=self)
        keys = [self._name(key) for key in file.tree]
        twice = ", ".join(sorted({repr(key) for key in keys if keys.count(key) > 1}))
        if twice:
            raise FileFormatError(
                f"with rename={dict(self.names)} two of its keys would be called {twice}; rename both"
            )
        return dataclasses.replace(file, tree=dict(zip(keys, file.tree.values(), strict=True)), renaming=self)

    def check_found(self, file: SoftPromptFile) -> None:
        """Raises unless every wrong key was found.

        Raises:
            FileFormatError: one was not.
        """
        missing = ", ".join(repr(key) for key in self.names if key not in self.found)
        if missing:
            raise FileFormatError(f"it has no key {missing} to rename; {described(file)}")

    def _name(self, key: str) -> str:
        before, _, entry = key.rpartition(".") if key.startswith(BUNDLED) else ("", "", key)
        old = next((name for name in (key, entry) if name in self.names), None)
        if old is None:
            return key
        self.found.add(old)
        return f"{before}.{self.names[old]}" if old == entry != key else self.names[old]


# --- reading ------------------------------------------------------------------------------


def open_file(path: str | os.PathLike[str]) -> SoftPromptFile:
    """A file, opened if its container is known. Nothing in it is run, and no tensor is read yet.

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
            head = file.read(HEAD_BYTES)
        if found := stand_in(head):
            raise FileFormatError(found)
        return _opened(place, head)
    except FileNotFoundError as error:
        found = stand_in_at(place)
        raise FileFormatError(
            f"{os.fspath(path)!r}: {found}" if found else f"{os.fspath(path)!r} does not exist; check the path"
        ) from error
    except FileFormatError as error:
        # What is damaged may be no more than half of a download.
        raise FileFormatError(f"{os.fspath(path)!r}: {stand_in_at(place) or error}") from error
    except (OSError, ValueError, MemoryError) as error:
        raise FileFormatError(f"{os.fspath(path)!r} cannot be read: {cause_of(error) or brief(error)}") from error


def _opened(path: Path, head: bytes) -> SoftPromptFile:
    kind = kind_of(head)
    # The length of a header may happen to be the letters that a BMP begins with.
    if kind != _TENSORS[0] and (head.startswith(_IMAGES) or head[8:12] == b"WEBP" or head[4:8] == b"ftyp"):
        return SoftPromptFile(path, "image", name=path.stem)
    if kind and kind not in (*_TENSORS, "a JSON file"):
        raise FileFormatError(f"it is {kind}, and not a soft prompt; {_ACCEPTED}")
    if head.startswith(b"PK") and is_torch_zip(path):  # whatever the file's name says
        found = read_torch_zip(path)
    elif head.startswith(LEGACY_MAGIC):
        found = read_legacy_torch(path)
    elif head.startswith(_ARCHIVES):
        raise FileFormatError("it is an archive (zip, rar, 7z or gzip) in which the file may be; unpack it")
    elif path.suffix.lower() == ".safetensors" or (head[8:9] == b"{" and head[4:8] == bytes(4)):
        if kind == "a JSON file":
            raise FileFormatError("its name says safetensors, and it is a JSON file; get the file itself")
        tensors, metadata = read_safetensors(path)
        return SoftPromptFile(path, "safetensors", tensors, metadata, path.stem)
    elif head[:1] == b"\x80":
        raise FileFormatError(
            "it is a plain pickle, which could run anything and is never loaded; save its tensors with safetensors"
        )
    elif path.suffix.lower() in (".pt", ".ckpt", ".pth"):
        raise FileFormatError(
            f"its name says torch, and it is {kind or 'nothing that torch.save writes'}; get it again"
        )
    else:
        return SoftPromptFile(path, "unknown", name=path.stem)
    if found.code:
        model = describe_model(found.keys)
        if model:
            raise FileFormatError(f"it is {model}, not a soft prompt")
        names = ", ".join(map(quoted, found.code[:3]))
        if all(name.startswith(_LIBRARIES) for name in found.code):
            raise FileFormatError(
                f"it holds whole objects of Python ({names}), and not only tensors, which cannot be read without "
                "running code; where you trust it, load it and save its tensors with safetensors"
            )
        raise FileFormatError(
            f"its pickle names {names}, which no tensor needs: perhaps an attack. Nothing of it was run. If you trust "
            "it, load it elsewhere and save its tensors with safetensors"
        )
    return SoftPromptFile(path, "torch", found.tree, name=path.stem)


def describe_model(keys: Iterable[str]) -> str:
    """What a file with these keys is, if it holds the weights of some network; else "".

    For example "a LoRA or one of its kin, which changes a model's weights".
    """
    listed = list(keys)
    for pattern, what in _MODELS:
        if any(re.search(pattern, key) for key in listed):
            return what
    return ""


def _is_number(tensor: StoredTensor) -> bool:
    return math.prod(tensor.shape) == 1


def all_keys(tree: Any) -> list[str]:
    """The keys of a dict, and those one level below."""
    if not isinstance(tree, dict):
        return []
    below = [key for value in tree.values() if isinstance(value, dict) for key in value]
    return [*tree, *below]


def described(file: SoftPromptFile) -> str:
    if isinstance(file.tree, dict):
        shown = ", ".join(starmap(_entry, list(file.tree.items())[:5])) + (", ..." if len(file.tree) > 5 else "")
        return (
            f"it has {len(file.tree)} entries ({shown}) that are not a soft prompt" if shown else "it holds no tensor"
        )
    if isinstance(file.tree, StoredTensor):
        return f"it is a bare tensor of {file.tree.dtype} and shape {file.tree.shape}, which is not a soft prompt"
    if file.container == "folder":
        return "it is a folder without an adapter (adapter_config.json) or embeddings (learned_embeds.safetensors)"
    known = ""
    if file.container == "unknown":
        with open(file.path, "rb") as opened:
            known = kind_of(opened.read(HEAD_BYTES))
    kinds = {"image": "an image", "unknown": known or "neither safetensors, nor torch.save's, nor an image"}
    kind = kinds.get(file.container, f"{type(file.tree).__name__} instead of tensors")
    return f"it is {kind}, and no soft prompt was found in it"


def _entry(key: str, value: Any) -> str:
    return f"{quoted(key)}: {value.dtype} {value.shape}" if isinstance(value, StoredTensor) else quoted(key)
