"""Files of tensors: what the web UIs and the training scripts keep textual inversions in."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor as TorchTensor

from hardprompts.errors import FileFormatError, quoted
from hardprompts.softprompts import (
    ENCODER_OF_WIDTH,
    ENCODER_WIDTHS,
    OTHER_ENCODERS,
    Match,
    SoftPrompt,
    SoftPromptFile,
    StoredTensor,
    encoder_of_width,
)
from hardprompts_formats.common import (
    encoder_name,
    is_matrix,
    matrix,
    only_encoder,
    prompt_of,
    safetensors_bytes,
    torch_bytes,
)

SDXL = ("clip_l", "clip_g")

#: Added by OneTrainer: vectors that come in behind the text encoder, where no token can reach.
OUTPUT_SUFFIX = "_out"


#: Tensors in a file of soft prompts; one with more holds something else.
MAX_ENTRIES = 1024


#: The dicts in a file of the web UI.
_A1111 = ("string_to_param", "string_to_token")


class A1111:
    """`string_to_param` of AUTOMATIC1111's web UI, whose oldest files are of the first textual inversion code.

    Source: AUTOMATIC1111/stable-diffusion-webui, modules/textual_inversion; rinongal/textual_inversion. Files with
    several terms, which the web UI refuses, are read as several soft prompts.
    """

    suffixes = (".pt",)

    def detect(self, file: SoftPromptFile) -> Match:
        return Match.CERTAIN if self._parameters(file.tree) else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        parameters = self._parameters(file.tree)
        # Of a container that cannot nest, the terms are no names of encoders.
        left = {"left_out": ", ".join(others)} if (others := [key for key in file.others if key not in _A1111]) else {}
        prompts = []
        for term, tensor in parameters.items():
            embeddings = matrix(tensor)
            called = "" if len(parameters) == 1 else term
            part = file.inside({**file.facts, f"string_to_param.{term}": tensor}, file.name)
            prompts.append(prompt_of(part, {encoder_of_width(embeddings.shape[1]): embeddings}, called, **left))
        return prompts

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        names = {key: prompt.metadata.get(key) for key in ("sd_checkpoint", "sd_checkpoint_name")}
        content = {
            "string_to_token": {"*": 265},  # the id of "*", which the first code replaced
            "string_to_param": {"*": only_encoder(prompt, "a1111")},
            "name": prompt.name,
            "step": prompt.step,
            **names,
        }
        return {path: torch_bytes(content)}

    def _parameters(self, tree: Any) -> dict[str, StoredTensor]:
        if not isinstance(tree, dict):
            return {}
        nested = tree.get("string_to_param")
        if not isinstance(nested, dict):
            start = "string_to_param."  # of a container that cannot nest
            nested = {key.removeprefix(start): value for key, value in tree.items() if key.startswith(start)}
        return {term: value for term, value in nested.items() if isinstance(value, StoredTensor)}


class Kohya:
    """`emb_params` of kohya's sd-scripts; for SDXL `clip_l` and `clip_g`, in whichever order.

    Source: kohya-ss/sd-scripts, train_textual_inversion.py and sdxl_train_textual_inversion.py; Nerogar/OneTrainer,
    which spells it `emp_params`.
    """

    suffixes = (".safetensors", ".pt")
    _NAMES = ("emb_params", "emp_params")

    def detect(self, file: SoftPromptFile) -> Match:
        own = file.keys & {*self._NAMES, *(name + OUTPUT_SUFFIX for name in self._NAMES)} or file.tensors.keys() == set(
            SDXL
        )
        return Match.CERTAIN if own else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        if file.keys >= set(SDXL):
            pair, note = _unswapped({encoder: matrix(file.tensor(encoder)) for encoder in SDXL})
            _refuse_widths(pair)
            return [prompt_of(file, pair, **note)]
        name = next((name for name in self._NAMES if name in file.keys), "")
        _refuse_outputs_alone(name, file)
        embeddings = matrix(file.tensor(name))
        return [prompt_of(file, {encoder_of_width(embeddings.shape[1]): embeddings}, **_outputs(file))]

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        if set(prompt.encoders) == set(SDXL):
            content = {encoder: prompt.embeddings[encoder] for encoder in SDXL}
        else:
            content = {"emb_params": only_encoder(prompt, "kohya")}
        return {path: torch_bytes(content) if path.suffix.lower() == ".pt" else safetensors_bytes(content)}


class XTI:
    """Extended textual inversion: a soft prompt for each of the 16 layers of a U-Net that look at the text.

    They are read as 16 soft prompts, called by their layers, since no model has one place for all of them.

    Source: P+ (arXiv 2303.09522); kohya-ss/sd-scripts, train_textual_inversion_XTI.py.
    """

    suffixes = ()
    _LAYERS = (
        *("IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID"),
        *("OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"),
    )

    def detect(self, file: SoftPromptFile) -> Match:
        return Match.CERTAIN if file.tensors.keys() == set(self._LAYERS) else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        layers = {name: matrix(file.tensor(name)) for name in self._LAYERS}
        return [prompt_of(file, {encoder_of_width(rows.shape[1]): rows}, name) for name, rows in layers.items()]

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        raise _read_only("kohya-xti")


class Diffusers:
    """A tensor under its token: `learned_embeds.safetensors` or `.bin`; for SDXL a second file, `learned_embeds_2`.

    `<token>_1`, `<token>_2` and so on, the names that diffusers gives to further vectors, belong to `<token>`. Other
    tokens in the same file are soft prompts of their own.

    Source: huggingface/diffusers, loaders/textual_inversion.py and examples/textual_inversion.
    """

    suffixes = (".safetensors", ".bin")
    repository_files = ("learned_embeds.safetensors", "learned_embeds_2.safetensors")
    _FILES = ("learned_embeds.safetensors", "learned_embeds.bin")
    _PARTS = re.compile(
        r"(?P<stem>.+?)(?P<second>_2)?(?P<step>-steps-\d+)?(?P<suffix>\.safetensors|\.bin)", re.IGNORECASE
    )

    def detect(self, file: SoftPromptFile) -> Match:
        if file.container == "folder":
            return Match.FITS if any((file.path / name).is_file() for name in self._FILES) else Match.NO
        tensors = file.tensors
        return Match.FITS if 0 < len(tensors) <= MAX_ENTRIES and all(map(is_matrix, tensors.values())) else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        if file.container == "folder":
            found = next(inside for name in self._FILES if (inside := file.beside(name)) is not None)
            if self.detect(found) is Match.NO:
                raise FileFormatError(f"{found.path.name} is not of the format 'diffusers'")
            return self.read(found)
        tokens = _joined(file.tensors)
        other, is_second = self._other_half(file)
        prompts = []
        for token, rows in tokens.items():
            width = rows.shape[1]
            embeddings = {encoder_of_width(width): rows}
            if other and token in other and other[token].shape[1] != width:
                pair = (other[token], rows) if is_second else (rows, other[token])
                embeddings = _named_pair(*pair)
            own = {key: tensor for key, tensor in file.tree.items() if key not in file.tensors or _is_of(key, token)}
            prompts.append(prompt_of(file.inside(own, file.name), embeddings, token))
        return prompts

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        if not prompt.name:
            raise FileFormatError("diffusers keeps a soft prompt under its token; give it a name")
        if set(prompt.encoders) in (set(SDXL), set(OTHER_ENCODERS)):
            names = SDXL if set(prompt.encoders) == set(SDXL) else OTHER_ENCODERS
            halves = [prompt.embeddings[encoder] for encoder in names]
            if halves[0].shape[1] == halves[1].shape[1] or tuple(_named_pair(*halves)) != names:
                raise FileFormatError(f"diffusers does not name text encoders, and these would be mistaken: {prompt!r}")
            files = [path, path.with_name(f"{path.stem}_2{path.suffix}")]
        else:
            halves, files = [only_encoder(prompt, "diffusers")], [path]
            self._refuse_old_half(prompt, path)
        contents = {}
        for place, rows in zip(files, halves, strict=True):
            binary = place.suffix.lower() == ".bin"
            tokens = {prompt.name: rows}
            contents[place] = torch_bytes(tokens) if binary else safetensors_bytes(tokens, {"format": "pt"})
        return contents

    def _refuse_old_half(self, prompt: SoftPrompt, path: Path) -> None:
        """Raises if the file would be read as a pair with one that lies there already."""
        own = StoredTensor.of(next(iter(prompt.embeddings.values())))
        other, _ = self._other_half(SoftPromptFile(path, "torch", {prompt.name: own}))
        if prompt.name in other and other[prompt.name].shape[1] != own.shape[1]:
            raise FileFormatError(
                f"beside {path.name} lies the other half of an SDXL pair with the token {prompt.name!r}, and the two "
                "would be read as one; remove it, or write to another name"
            )

    def _other_half(self, file: SoftPromptFile) -> tuple[dict[str, TorchTensor], bool]:
        """The tokens of the file that this one may be a pair with, and whether this one is the second."""
        parts = self._PARTS.fullmatch(file.path.name)
        if parts is None:
            return {}, False
        second = "" if parts["second"] else "_2"
        other = file.beside(f"{parts['stem']}{second}{parts['step'] or ''}{parts['suffix']}")
        fits = other is not None and self.detect(other) is not Match.NO
        # The tokens of another soft prompt do not matter, and are not read.
        return (_joined(other.tensors) if other and fits and other.keys & file.keys else {}), bool(parts["second"])


class PivotalTuning:
    """The text encoders of SDXL, FLUX.1 or SD3 in one file, under names that count them.

    Source: replicate/cog-sdxl and diffusers' first train_dreambooth_lora_sdxl_advanced.py (`text_encoders_0`);
    oss-roettger/XL-Textual-Inversion (`emb` and `emb2`).
    """

    suffixes = ()
    _NAMES = (tuple(f"text_encoders_{place}" for place in range(4)), ("emb", "emb2"))

    def detect(self, file: SoftPromptFile) -> Match:
        return Match.CERTAIN if self._keys(file) else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        parts = [matrix(file.tensor(key)) for key in self._keys(file)]
        if len(parts) == 2:
            return [prompt_of(file, _named_pair(*parts))]
        named = {encoder_of_width(rows.shape[1]): rows for rows in parts}
        if len(named) < len(parts):
            raise FileFormatError(
                f"its {len(parts)} text encoders are {', '.join(str(rows.shape[1]) for rows in parts)} wide, which does"
                " not tell which is which; name them with rename"
            )
        return [prompt_of(file, named)]

    def _keys(self, file: SoftPromptFile) -> tuple[str, ...]:
        """The keys of its parts, in order; () if there are others or none."""
        found = (names[: len(file.tensors)] for names in self._NAMES)
        return next((keys for keys in found if keys and file.tensors.keys() == set(keys)), ())

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        raise _read_only("pti")


class ComfyUI:
    """A tensor under the name of each text encoder: `clip_l`, `clip_g`, `clip_h`, `t5xxl`, `llama`, ...

    Source: comfyanonymous/ComfyUI, comfy/sd1_clip.py and comfy/text_encoders (the names and widths);
    Nerogar/OneTrainer (`t5` and `gemma`, and `_out` for vectors that no token has, which ComfyUI passes over too).
    """

    suffixes = (".safetensors", ".pt")
    repository_files = ("embeddings.safetensors",)

    def detect(self, file: SoftPromptFile) -> Match:
        """Certain if a tensor bears the name of an encoder, whatever stands beside it.

        A name that is a word too, as llama is, is one only with the encoder's width: else it is somebody's token.
        """
        named = {key: tensor for key, tensor in file.tensors.items() if _names_encoder(key, tensor)}
        if not named or not all(is_matrix(tensor) or key in named for key, tensor in file.tensors.items()):
            return Match.NO
        return Match.FITS if file.tensors.keys() == set(SDXL) else Match.CERTAIN  # kohya's for SDXL is the same

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        keys = [key for key in file.tensors if not key.endswith(OUTPUT_SUFFIX)]
        for key in file.keys - file.tensors.keys():
            if encoder_name(key) in ENCODER_WIDTHS:
                file.tensor(key)  # raises: an encoder without a tensor
        _refuse_outputs_alone(keys, file)
        embeddings, note = _unswapped({encoder_name(key): matrix(file.tensor(key)) for key in keys})
        if _is_flux_misnamed(embeddings):
            embeddings["clip_l"] = embeddings.pop("clip_g")
            note = {"read_as": "clip_g of width 768 beside t5xxl as clip_l: the two of FLUX.1"}
        _refuse_widths(embeddings)
        return [prompt_of(file, _ordered(embeddings), **_outputs(file), **note)]

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        unknown = [encoder for encoder in prompt.encoders if encoder not in ENCODER_WIDTHS]
        if unknown:
            raise FileFormatError(
                f"ComfyUI knows no text encoder {', '.join(unknown)}; it knows {', '.join(ENCODER_WIDTHS)}"
            )
        content = dict(prompt.embeddings)
        return {path: torch_bytes(content) if path.suffix.lower() == ".pt" else safetensors_bytes(content)}


class ListOfDicts:
    """A list of tensors, or of dicts of them, one behind the other; those of one width are for one text encoder.

    Source: comfyanonymous/ComfyUI, comfy/sd1_clip.py, load_embed.
    """

    suffixes = ()

    def detect(self, file: SoftPromptFile) -> Match:
        return Match.FITS if self._tensors(file.tree) else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        import torch

        rows: dict[str, list[TorchTensor]] = {}
        for tensor in self._tensors(file.tree):
            values = matrix(tensor)
            rows.setdefault(encoder_of_width(values.shape[1]), []).append(values)
        return [prompt_of(file, {encoder: torch.cat(parts) for encoder, parts in rows.items()})]

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        raise _read_only("list")

    def _tensors(self, tree: Any) -> list[StoredTensor]:
        if not isinstance(tree, list):
            return []
        found = [value for part in tree for value in (part.values() if isinstance(part, dict) else [part])]
        return found if len(found) <= MAX_ENTRIES and all(map(is_matrix, found)) else []


class Tensor:
    """A bare tensor, (tokens, dim) or (dim,), whose text encoder only its width tells."""

    suffixes = ()

    def detect(self, file: SoftPromptFile) -> Match:
        return Match.FITS if is_matrix(file.tree) else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        rows = matrix(file.tree)
        return [prompt_of(file, {encoder_of_width(rows.shape[1]): rows})]

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        raise _read_only("tensor")


# --- parts --------------------------------------------------------------------------------


def _read_only(format: str) -> FileFormatError:
    return FileFormatError(f"the format {format!r} is only read; write another one")


def _is_of(key: str, token: str) -> bool:
    """Whether a tensor is a token's, or one of its further vectors."""
    return key == token or (key.startswith(f"{token}_") and key.removeprefix(f"{token}_").isdecimal())


def _names_encoder(key: str, tensor: StoredTensor) -> bool:
    encoder = encoder_name(key.removesuffix(OUTPUT_SUFFIX))
    widths = ENCODER_WIDTHS.get(encoder, ())
    return bool(widths) and (not key.isalpha() or tensor.shape[-1:] in {(width,) for width in widths})


def _unswapped(embeddings: dict[str, TorchTensor]) -> tuple[dict[str, TorchTensor], dict[str, str]]:
    """The two of CLIP under each other's names put right, which their widths tell; and what to say of it."""
    widths = {encoder: embeddings[encoder].shape[1] for encoder in SDXL if encoder in embeddings}
    if widths != {"clip_l": 1280, "clip_g": 768}:
        return embeddings, {}
    swapped = {"clip_l": embeddings["clip_g"], "clip_g": embeddings["clip_l"]}
    return {**embeddings, **swapped}, {"read_as": "clip_l of width 1280 as clip_g, and clip_g of width 768 as clip_l"}


def _is_flux_misnamed(embeddings: Mapping[str, TorchTensor]) -> bool:
    """Whether a trainer called the smaller half for FLUX.1 clip_g: no model has a clip_g of this width."""
    widths = {encoder: rows.shape[1] for encoder, rows in embeddings.items()}
    return widths == {"clip_g": 768, "t5xxl": 4096}


def _refuse_widths(embeddings: Mapping[str, TorchTensor]) -> None:
    """Raises if an encoder has a width that it never has: another one's embeddings under its name."""
    for encoder, rows in embeddings.items():
        width, accepted = rows.shape[1], ENCODER_WIDTHS.get(encoder, (rows.shape[1],))
        if width not in accepted:
            likely = ENCODER_OF_WIDTH.get(width, "the right name")
            raise FileFormatError(
                f"{encoder} has token embeddings of width {' or '.join(map(str, accepted))}, and these have {width}; "
                f'if the file has a wrong name for them, read it with rename={{"{encoder}": "{likely}"}}'
            )


def _outputs(file: SoftPromptFile) -> dict[str, str]:
    """The tensors that are passed over, since they come in behind the text encoder."""
    left = ", ".join(sorted(key for key in file.tensors if key.endswith(OUTPUT_SUFFIX)))
    return {"left_out": left} if left else {}


def _refuse_outputs_alone(keys: object, file: SoftPromptFile) -> None:
    if not keys:
        listed = ", ".join(map(quoted, sorted(file.keys)))
        raise FileFormatError(
            f"it holds only vectors that come in behind the text encoder ({listed}): no token has these"
        )


def _named_pair(first: TorchTensor, second: TorchTensor) -> dict[str, TorchTensor]:
    """The two text encoders of a model: SDXL's by their widths, in whichever order; others as they come."""
    widths = (first.shape[1], second.shape[1])
    if all(width in ENCODER_OF_WIDTH for width in widths):
        named = {encoder_of_width(rows.shape[1]): rows for rows in (first, second)}
        if len(named) < 2:
            raise FileFormatError(
                f"its two text encoders have the same width, {widths[0]}; those of SDXL have 768 and 1280"
            )
        return _ordered(named)
    return dict(zip(OTHER_ENCODERS, (first, second), strict=True))


def _ordered(embeddings: Mapping[str, TorchTensor]) -> dict[str, TorchTensor]:
    """Text encoders in the order of `ENCODER_WIDTHS`, whatever their order in the file; then others as they come."""
    known = {encoder: embeddings[encoder] for encoder in ENCODER_WIDTHS if encoder in embeddings}
    return {**known, **embeddings}


def _joined(tensors: Mapping[str, StoredTensor]) -> dict[str, TorchTensor]:
    """The values under each token, `<token>_1` and so on joined to `<token>`."""
    import torch

    found: dict[str, TorchTensor] = {}
    used: set[str] = set()
    for token in tensors:
        stem, _, number = token.rpartition("_")
        if number.isdecimal() and stem in tensors and f"{stem}_1" in tensors:
            continue  # it belongs to another
        parts = [token]
        while f"{token}_{len(parts)}" in tensors:
            parts.append(f"{token}_{len(parts)}")
        rows = [matrix(tensors[part]) for part in parts]
        if len({row.shape[1] for row in rows}) > 1:
            raise FileFormatError(
                f"the vectors of its token {quoted(token)} differ in width: {[row.shape[1] for row in rows]}"
            )
        found[token] = torch.cat(rows)
        used.update(parts)
    lost = tensors.keys() - used
    if lost:
        listed = ", ".join(map(quoted, sorted(lost)))
        raise FileFormatError(f"the numbers of its tokens have gaps: {listed} belong to no token")
    return found
