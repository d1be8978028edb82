"""Soft prompts as values: the embeddings that stand where tokens would, for each text encoder of a model."""

import dataclasses
import os
import types
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from hardprompts.encoders import Backend
    from hardprompts.hub import Pushed
    from hardprompts.softprompts.faithfulness import DistilledPrompt

#: The text encoders that soft prompts are shared for, by the names that UIs store them under, and the
#: widths of their token embeddings. Any other name may be used too, with any width.
ENCODER_WIDTHS: Mapping[str, tuple[int, ...]] = types.MappingProxyType(
    {
        "clip_l": (768,),
        "clip_g": (1280,),
        "clip_h": (1024,),
        "t5xxl": (4096, 1024),  # of Cosmos: the first T5 of 11 billion parameters
        "t5base": (768,),
        "pile_t5xl": (2048,),
        "umt5xxl": (4096,),
        "umt5base": (768,),
        "t5gemma_9b": (3584,),
        "gemma2_2b": (2304,),
        "gemma3_12b": (3840,),
        "llama": (4096,),
        "mistral3_24b": (5120,),
        "qwen25_7b": (3584,),
        "qwen3_06b": (1024,),
        "qwen3_4b": (2560,),
        "qwen3_8b": (4096,),
    }
)

#: The encoder that a width means where a file does not name it: soft prompts of no other encoders are common.
ENCODER_OF_WIDTH: Mapping[int, str] = types.MappingProxyType(
    {768: "clip_l", 1024: "clip_h", 1280: "clip_g", 4096: "t5xxl"}
)

#: An encoder whose width says nothing, and the second one beside it.
OTHER_ENCODERS = ("text_encoder", "text_encoder_2")

#: A language model; the two halves of an encoder-decoder, each with soft tokens of its own.
LANGUAGE_MODEL = ("lm",)
ENCODER_DECODER = ("lm_encoder", "lm_decoder")

_FAMILIES: Mapping[frozenset[str], tuple[str, ...]] = types.MappingProxyType(
    {
        frozenset(encoders.split()): names
        for encoders, names in {
            "clip_l": ("SD 1.x",),
            "clip_h": ("SD 2.x",),
            "clip_l clip_g": ("SDXL",),
            "clip_g": ("SDXL refiner", "Stable Cascade"),
            "clip_l clip_g t5xxl": ("SD3",),
            "clip_l t5xxl": ("FLUX.1",),
            "clip_l clip_g t5xxl llama": ("HiDream",),
            "clip_l llama": ("HunyuanVideo",),
            "t5xxl": ("DeepFloyd IF", "PixArt", "Chroma"),
            "pile_t5xl": ("AuraFlow",),
            "umt5xxl": ("Wan",),
            "gemma2_2b": ("Lumina 2", "Sana"),
            "qwen25_7b": ("Qwen-Image",),
            "qwen3_4b": ("Z-Image",),
            "mistral3_24b": ("FLUX.2",),
        }.items()
    }
)

#: What one soft prompt may hold; anything larger is no prompt.
MAX_TOKENS = 4096
MAX_WIDTH = 2**16
MAX_NAME_LENGTH = 200


@dataclasses.dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Token embeddings that no text has: a textual inversion, or the prompt of prompt tuning.

    Attributes:
        embeddings: for each text encoder, in order, (tokens, dim) values in float32, without gradient.
            All encoders have the same number of tokens. Names as in `ENCODER_WIDTHS`; "lm" for a
            language model, "lm_encoder" and "lm_decoder" for the halves of an encoder-decoder.
        name: the word that calls it in a prompt (its trigger), as far as it is known.
        step: the training step that it was taken at.
        base_models: what is known of the models that it was trained on: names or hashes.
        source_format: the format that it was read from, or "".
        metadata: whatever else was stored with it: texts, numbers, booleans and None.

    Raises:
        ValueError: no encoder; a tensor that is not (tokens, dim) of floating point, is empty, or holds
            NaN or infinity; encoders that differ in their number of tokens; a width that a known encoder
            does not have; more than 4096 tokens; a name with control characters or parts of a path.
    """

    embeddings: Mapping[str, Float[Tensor, "..."]]  # (tokens, dim); what is not is refused below
    name: str = ""
    step: int | None = None
    base_models: tuple[str, ...] = ()
    source_format: str = ""
    metadata: Mapping[str, str | int | float | bool | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.embeddings:
            raise ValueError("a soft prompt needs the embeddings of at least one text encoder, and there are none")
        held = {encoder: _checked(encoder, values) for encoder, values in self.embeddings.items()}
        counts = {encoder: len(values) for encoder, values in held.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{encoder} {count}" for encoder, count in counts.items())
            raise ValueError(f"its encoders differ in their number of tokens ({listed}); they must agree")
        check_name(self.name)
        object.__setattr__(self, "embeddings", types.MappingProxyType(held))
        object.__setattr__(self, "metadata", types.MappingProxyType(dict(self.metadata)))

    # --- what it is -----------------------------------------------------------------------

    @property
    def encoders(self) -> tuple[str, ...]:
        """The names of its text encoders, in order."""
        return tuple(self.embeddings)

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each encoder's embeddings, in order."""
        return tuple(values.shape[1] for values in self.embeddings.values())

    @property
    def num_tokens(self) -> int:
        """How many tokens it takes the place of."""
        return len(next(iter(self.embeddings.values())))

    @property
    def families(self) -> tuple[str, ...]:
        """The families of models that it fits, by its encoders and widths: ("SDXL",), say."""
        known = _FAMILIES.get(frozenset(self.encoders))
        if self.embeddings.keys() == {"t5xxl"} and self.widths != (4096,):
            return ("Cosmos",)
        if known:
            return known
        if self.encoders in (LANGUAGE_MODEL, ENCODER_DECODER):
            kind = "encoder-decoder" if self.encoders == ENCODER_DECODER else "language model"
            return (f"{kind} of width {self.widths[0]}",)
        listed = " + ".join(f"{encoder} {width}" for encoder, width in zip(self.encoders, self.widths, strict=True))
        return (f"a model with {listed}",)

    def __repr__(self) -> str:
        parts = [f"{self.num_tokens} token{'s' * (self.num_tokens != 1)}"]
        parts += [f"{encoder} {width}" for encoder, width in zip(self.encoders, self.widths, strict=True)]
        parts.append(" or ".join(self.families))
        if self.step is not None:
            parts.append(f"step {self.step}")
        if self.source_format:
            parts.append(f"from {self.source_format}")
        return f"SoftPrompt({self.name!r}: {', '.join(parts)})"

    # --- text -----------------------------------------------------------------------------

    def to_hard(self, model: "str | Backend", num_tokens: int | None = None, **options: Any) -> "DistilledPrompt":
        """The text that makes a model do what this soft prompt makes it do, and how faithfully.

        Args:
            model: a model that the soft prompt was made for, or its name for `load_backend`.
            num_tokens: the most tokens of the text; default: 8, or as many as the soft prompt has if these are more.
            options: `method` of `PromptDistiller`, and whatever `PromptDistiller.distill` takes.

        Raises: as `PromptDistiller` and its `distill`.
        """
        from hardprompts.distiller import PromptDistiller

        chosen = {"method": options.pop("method")} if "method" in options else {}
        return PromptDistiller(model, **chosen).distill(self, num_tokens, **options)

    # --- files ----------------------------------------------------------------------------

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, name: str = "", format: str = "") -> "SoftPrompt":
        """The soft prompt in a file, whatever its format; nothing in the file is ever run.

        Args:
            path: a file, or the folder of an adapter. Of a pair of files for SDXL either one.
            name: which one, if the file holds several; its trigger otherwise stays as it is.
            format: one of `hardprompts.plugins.soft_prompt_formats()`; default: found by what is in the file.

        Raises:
            FileFormatError: missing, damaged, of no known format, or without token embeddings
                (a model, a LoRA, an adapter of prefix tuning); or several are in it, and none was chosen.
            UnknownName: there is no such format.
        """
        from hardprompts.files import choose, read_soft_prompts

        return choose(read_soft_prompts(path, format=format), name, path)

    def save(self, path: str | os.PathLike[str], *, format: str) -> tuple[Path, ...]:
        """Writes it in one format, whole or not at all; returns the files written.

        Args:
            path: the file, with one of the format's suffixes; for "peft" the adapter's folder.
            format: one of `hardprompts.plugins.soft_prompt_formats()`, "diffusers" say.

        Raises:
            FileFormatError: the format has no place for these encoders, or another suffix.
            UnknownName: there is no such format.
        """
        from hardprompts.files import save_soft_prompt

        return save_soft_prompt(self, path, format=format)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Writes all of it into a folder, which is made if need be, whole or not at all; returns the files written.

        They are `soft_prompt.json` and, in the first format that has a place for it, the embeddings: diffusers'
        `learned_embeds.safetensors`, an adapter of PEFT, or ComfyUI's names.

        Raises:
            FileFormatError: no format has a place for it.
        """
        from hardprompts.files import write_files_atomically
        from hardprompts.hub import soft_files

        folder = Path(save_directory)
        return write_files_atomically({folder / name: content for name, content in soft_files(self).items()})

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a soft prompt",
        create_pr: bool = False,
        revision: str | None = None,
        license: str | None = None,
    ) -> "Pushed":
        """Puts what `save_pretrained` writes and a card into a repository of the Hub; tells where they are.

        Plain `pipe.load_textual_inversion(repo_id)` of diffusers reads it from there. A soft prompt without a name is
        called as the repository.

        The arguments and the errors are those of `hardprompts.hub.push`.
        """
        from hardprompts import hub

        return hub.push(
            repo_id,
            soft_prompt=self,
            private=private,
            token=token,
            commit_message=commit_message,
            create_pr=create_pr,
            revision=revision,
            license=license,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> "SoftPrompt":
        """The soft prompt in a folder, or in a repository of the Hub: of `push_to_hub`, or of a training script.

        Args:
            pretrained_path: a folder; or "user/name", if there is no folder of that name.
            revision: a branch, tag or commit of the repository. Default: "main".
            token: default the one that `hf auth login` stored, or HF_TOKEN.
            cache_dir: where downloads are kept. Default: the Hub's cache.
            local_files_only: read the cache alone, and never reach for the Hub.

        Raises:
            FileFormatError: there is no soft prompt in that folder, several are, or it is damaged.
            HubError: there is no such repository, no soft prompt is in it, or it cannot be reached and is not in the
                cache.
        """
        from hardprompts import hub

        return hub.read_soft_prompt(
            pretrained_path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )


def check_name(name: str) -> None:
    """Raises unless `name` can be shown, typed and used as part of a file's name.

    Raises:
        ValueError: it has control characters or parts of a path, or is longer than 200 characters.
    """
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"its name has {len(name)} characters ({name[:40]!r}...); at most {MAX_NAME_LENGTH} are accepted"
        )
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in name):
        raise ValueError(f"its name {name!r} has control characters")
    if "/" in name or "\\" in name or name in (".", ".."):
        raise ValueError(f"its name {name!r} has parts of a path")


def _checked(encoder: Any, values: Any) -> Float[Tensor, "tokens _"]:
    if not isinstance(encoder, str) or not encoder:
        raise ValueError(f"text encoders go by their names, got {encoder!r}")
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"the embeddings of {encoder} must be a tensor of floating point, got {kind}")
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"the embeddings of {encoder} must be (tokens, dim), not empty, got {tuple(values.shape)}")
    tokens, width = values.shape
    if tokens > MAX_TOKENS or width > MAX_WIDTH:
        raise ValueError(
            f"the embeddings of {encoder} are {tokens} x {width}; at most {MAX_TOKENS} tokens of width {MAX_WIDTH} are "
            "accepted"
        )
    known = ENCODER_WIDTHS.get(encoder, (width,))
    if width not in known:
        accepted = " or ".join(map(str, known))
        raise ValueError(f"{encoder} has token embeddings of width {accepted}, and these have {width}")
    held = values.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not held.isfinite().all():
        raise ValueError(f"the embeddings of {encoder} hold NaN or infinity")
    return held


def encoder_of_width(width: int) -> str:
    """The text encoder that embeddings of this width are for, where the file does not name it."""
    return ENCODER_OF_WIDTH.get(width, OTHER_ENCODERS[0])
