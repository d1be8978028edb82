"""Soft prompts as values: the embeddings that stand where tokens would, for each text encoder of a model."""

import dataclasses
import functools
import json
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from hardprompts import plugins
from hardprompts.atomic import write_files_atomically
from hardprompts.errors import FileFormatError, HubError, UnknownName
from hardprompts.hub.card import DEFAULT_TASK, CardPart, facts_list, python_block
from hardprompts.hub.client import PullOptions, pull_files
from hardprompts.hub.machine import Clearance
from hardprompts.hub.mixin import HubMixin
from hardprompts.hub.names import SOFT_PROMPT_FILE, embedding_files, is_repo_id
from hardprompts.softprompts.containers import (
    Match,
    Renaming,
    SoftPromptFile,
    all_keys,
    describe_model,
    described,
    open_file,
)
from hardprompts.softprompts.families import ENCODER_DECODER, ENCODER_WIDTHS, FAMILIES, LANGUAGE_MODEL
from hardprompts.softprompts.folder import FORMAT_VERSION, has_soft_prompt, read_facts, soft_prompt_files
from hardprompts.softprompts.names import (
    NAME_IN_FILE,
    check_name,
    cleaned_note,
    escaped_name,
    name_note,
    readable_name,
    same_name,
)

#: What one soft prompt may hold; anything larger is not a prompt.
MAX_TOKENS = 4096
MAX_WIDTH = 2**16

#: What of the metadata a person wrote.
_WORDS = frozenset(("classification_template", NAME_IN_FILE))


@dataclasses.dataclass(frozen=True, eq=False)
class SoftPrompt(HubMixin):
    """Token embeddings that no text has: a textual inversion, or the prompt of prompt tuning.

    Attributes:
        embeddings: for each text encoder, in order, (tokens, dim) values in float32, without gradient.
            All encoders have the same number of tokens. Names as in `ENCODER_WIDTHS`; "lm" for a
            language model, "lm_encoder" and "lm_decoder" for the halves of an encoder-decoder.
        name: the word that calls it in a prompt (its trigger), if it is known.
        step: the training step that it was taken at.
        base_models: what is known of the models that it was trained on: names or hashes.
        source_format: the format that it was read from, or "".
        metadata: whatever else was stored with it: texts, numbers, booleans and None.
        notes: what reading it changed or had to assume, a sentence each; they are not written to files.

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
    notes: tuple[str, ...] = ()

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

    def __reduce__(self) -> tuple[Any, ...]:
        # Mappings that nobody can change cannot be pickled or copied as they are.
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= {"embeddings": dict(self.embeddings), "metadata": dict(self.metadata)}
        return functools.partial(type(self), **fields), ()

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
        known = FAMILIES.get(frozenset(self.encoders))
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

    def cleared(self) -> "tuple[SoftPrompt, Clearance]":
        """The same as it may be shared, and what was changed for that: what trainers store of the machine they ran on.

        Of paths in `base_models` and `metadata` the last part stays. Every file that is written has this alone.
        """
        clearance = Clearance()
        cleared = dataclasses.replace(
            self,
            base_models=clearance.values("base_models", self.base_models),
            metadata=clearance.values("metadata", self.metadata, _WORDS),
        )
        return (cleared if clearance.shortened else self), clearance

    # --- files ----------------------------------------------------------------------------

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str = "",
        format: str = "",
        rename: Mapping[str, str] = types.MappingProxyType({}),
    ) -> "SoftPrompt":
        """The soft prompt in a file, whatever its format; nothing in the file is ever run.

        Args:
            path: a file, or the folder of an adapter. Of a pair of files for SDXL either one.
            name: which one, if the file holds several; its trigger otherwise stays as it is.
            format: one of `hardprompts.soft_prompt_formats()`; default: found by what is in the file.
            rename: keys that are wrong, and what they should be: {"clip_g": "clip_l"}. They are looked for in the
                file, in the other half of a pair, in an adapter's folder, and in what a LoRA bundles.

        A name that could not be written (hidden characters, parts of a path, too long) is cleaned, and
        `metadata["name_in_file"]` says how it stood there. Where a file has two readings, one is taken, and `notes`
        says which, and what else it may be.

        Raises:
            FileFormatError: missing, damaged, of no known format, or without token embeddings
                (a model, a LoRA, an adapter of prefix tuning); or several are in it, and none was chosen.
            UnknownName: there is no such format.
        """

        return choose(read_soft_prompts(path, format=format, rename=rename), name, path)

    def save(self, path: str | os.PathLike[str], *, format: str) -> tuple[Path, ...]:
        """Writes it in one format, whole or not at all; returns the files written.

        Paths in its metadata are written as `cleared` has them.

        Args:
            path: the file, with one of the format's suffixes; for "peft" the adapter's folder.
            format: one of `hardprompts.soft_prompt_formats()`, "diffusers" say.

        Raises:
            FileFormatError: the format has no place for these encoders, or another suffix.
            UnknownName: there is no such format.
        """

        return save_soft_prompt(self, path, format=format)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Writes all of it into a folder, which is made if need be, whole or not at all; returns the files written.

        They are `soft_prompt.json` and, in the first format that has a place for it, the embeddings: diffusers'
        `learned_embeds.safetensors`, an adapter of PEFT, or ComfyUI's names. Paths in its metadata are written as
        `cleared` has them.

        Raises:
            FileFormatError: no format has a place for it.
        """
        from hardprompts.atomic import write_files_atomically

        folder = Path(save_directory)
        return write_files_atomically({folder / name: content for name, content in soft_files(self).items()})

    def hub_files(self, repo_id: str) -> dict[str, bytes]:
        """The files that hold it in a repository, by name; a soft prompt without a name is called as the repository.

        Raises:
            FileFormatError: no format has a place for it.
        """
        return soft_files(self if self.name else _renamed(self, repo_id))

    def card_part(self, repo_id: str) -> CardPart:
        """What the repository's card says of it."""
        of_language_model = self.encoders in (LANGUAGE_MODEL, ENCODER_DECODER)
        named = (self if self.name else _renamed(self, repo_id)).cleared()[0]
        return CardPart(
            _card_section(repo_id, named),
            ("soft-prompt", "prompt-tuning" if of_language_model else "textual_inversion"),
            "text-generation" if of_language_model else DEFAULT_TASK,
            next(filter(is_repo_id, named.base_models), ""),
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Unpack[PullOptions]
    ) -> "SoftPrompt":
        """The soft prompt in a folder, or in a repository of the Hub: of `push_to_hub`, or of a training script.

        Args:
            pretrained_model_name_or_path: a folder; or "user/name", if there is no folder of that name.
            options: revision, token, cache_dir and local_files_only: see `hardprompts.hub.PullOptions`.

        Raises:
            FileFormatError: there is no soft prompt in that folder, several are, or it is damaged.
            HubError: there is no such repository, no soft prompt is in it, or it cannot be reached and is not in the
                cache.
        """
        place = pretrained_model_name_or_path
        folder = pull_files(place, soft_prompt_files(), **options)
        if folder == Path(place):
            return soft_prompt_in(folder)
        if not has_soft_prompt(folder):
            raise HubError(
                f"reading {os.fspath(place)!r}: it holds no soft prompt ({', '.join(embedding_files())}); a file of "
                "another name can be downloaded and read by SoftPrompt.from_file"
            )
        return soft_prompt_in(folder, os.fspath(place).rpartition("/")[2])


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
            FileFormatError: what is in it is not a soft prompt.
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


@runtime_checkable
class RepositoryFormat(SoftPromptFormat, Protocol):
    """A format that soft prompts are kept in by `save_pretrained` and on the Hub.

    Attributes:
        repository_files: the names of all files that it may write there, the one that is always written first.
    """

    @property
    def repository_files(self) -> tuple[str, ...]: ...


def read_soft_prompts(
    path: str | os.PathLike[str], *, format: str = "", rename: Mapping[str, str] = types.MappingProxyType({})
) -> tuple[SoftPrompt, ...]:
    """All soft prompts in a file, or in the folder of an adapter.

    Args:
        format: its format; default: found by what is in the file, as the module's docstring says.
        rename: keys that are wrong, and what they should be: of the file, of those beside it that belong to it, and
            behind the name of what a LoRA bundles.

    Raises:
        FileFormatError: missing, damaged, of no known format, or without token embeddings; or without such a key.
        UnknownName: there is no such format.
    """

    known = soft_prompt_formats()
    if format and format not in known:
        raise UnknownName("soft prompt format", format, known)
    opened, renaming = open_file(path), Renaming(rename)
    try:
        try:
            chosen, prompts = _prompts_in(renaming.applied(opened), format, known)
        finally:  # a key that is not there is the cause of whatever else is wrong
            renaming.check_found(opened)
    except ValueError as error:
        raise FileFormatError(f"{os.fspath(path)!r}: {error}") from error
    return tuple(dataclasses.replace(prompt, source_format=chosen) for prompt in prompts)


def _prompts_in(
    file: SoftPromptFile, format: str, known: "Mapping[str, SoftPromptFormat]"
) -> tuple[str, Sequence[SoftPrompt]]:
    chosen = format or _format_of(file, known)
    if format and known[format].detect(file) is Match.NO:
        raise FileFormatError(f"it is not of the format {format!r}; {described(file)}")
    prompts = known[chosen].read(file)
    if not prompts:
        raise FileFormatError(f"the format {chosen!r} found no soft prompt in it")
    return chosen, prompts


def choose(prompts: Sequence[SoftPrompt], name: str, path: str | os.PathLike[str]) -> SoftPrompt:
    """The only soft prompt of a file, or the one called `name`.

    Raises:
        FileFormatError: there are several and no name was given, or none is called so.
    """
    written = escaped_name(name)
    as_in_file = [prompt for prompt in prompts if name and prompt.metadata.get(NAME_IN_FILE, prompt.name) == written]
    fitting = as_in_file or [prompt for prompt in prompts if not name or same_name(prompt.name, name)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(repr(prompt.name) for prompt in prompts[:20]) + (", ..." if len(prompts) > 20 else "")
    wrong = f"none is called {name!r}" if name else "choose one with name=..."
    plural = "s" if len(prompts) > 1 else ""
    raise FileFormatError(f"{os.fspath(path)!r} holds {len(prompts)} soft prompt{plural} ({names}), and {wrong}")


def _format_of(file: SoftPromptFile, known: Mapping[str, SoftPromptFormat]) -> str:
    answers = {name: format.detect(file) for name, format in known.items()}
    found = sorted(name for name, answer in answers.items() if answer is Match.CERTAIN)
    if not found:
        model = describe_model(all_keys(file.tree))
        if model:
            raise FileFormatError(f"it is {model}, not a soft prompt")
        found = sorted(name for name, answer in answers.items() if answer is Match.FITS)
    if len(found) > 1:
        raise FileFormatError(f"it may be of the formats {', '.join(found)}; choose with format=...")
    if not found:
        raise FileFormatError(f"{described(file)}; the known formats are {', '.join(sorted(known)) or 'none'}")
    return found[0]


def save_soft_prompt(prompt: SoftPrompt, path: str | os.PathLike[str], *, format: str) -> tuple[Path, ...]:
    """Writes a soft prompt in one format; returns the files written.

    Raises:
        FileFormatError: the format only reads, has another suffix, or no place for these encoders.
        UnknownName: there is no such format.
    """

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
    return write_files_atomically(known[format].write(prompt.cleared()[0], place))


def soft_prompt_formats() -> dict[str, SoftPromptFormat]:
    """The formats that soft prompts are read from and written in, by name."""
    return plugins.collect("soft_prompt_formats")


def soft_files(prompt: SoftPrompt) -> dict[str, bytes]:
    """The files that hold a soft prompt in a folder or repository, by name: in the first format with a place for it.

    Raises:
        FileFormatError: no format has a place for it; the message says why, of each.
    """
    prompt, reasons = prompt.cleared()[0], []
    for name, format in _repository_formats().items():
        # A folder that is not there: what lies in the current one is nothing to the format.
        folder = Path("hub") / os.urandom(8).hex()
        try:
            written = format.write(prompt, _place_in(folder, format))
        except (FileFormatError, ValueError) as error:
            reasons.append(f"{name}: {error}")
            continue
        facts = {
            "format_version": FORMAT_VERSION,
            "format": name,
            "name": prompt.name,
            "encoders": dict(zip(prompt.encoders, prompt.widths, strict=True)),
            "num_tokens": prompt.num_tokens,
            "step": prompt.step,
            "base_models": list(prompt.base_models),
            "metadata": dict(prompt.metadata),
        }
        text = json.dumps(facts, ensure_ascii=True, indent=2) + "\n"
        return {SOFT_PROMPT_FILE: text.encode(), **{path.name: content for path, content in written.items()}}
    raise FileFormatError(f"no format has a place for {prompt!r}: {'; '.join(reasons) or 'none is installed'}")


def soft_prompt_in(folder: Path, repo_name: str = "") -> SoftPrompt:
    """The soft prompt in a folder, with what `soft_prompt.json` says of it, if there is one.

    Args:
        repo_name: what a prompt without a name of its own is called.

    Raises:
        FileFormatError: there is none, several are, or it is damaged.
    """
    formats = _repository_formats()
    facts = read_facts(folder / SOFT_PROMPT_FILE, formats)
    format = facts.get("format", "")
    prompts = read_soft_prompts(_place_in(folder, formats[format]) if format else folder, format=format)
    if len(prompts) > 1:
        listed = ", ".join(repr(prompt.name) for prompt in prompts[:20])
        raise FileFormatError(
            f"{os.fspath(folder)!r} holds {len(prompts)} soft prompts ({listed}); read one by its file"
        )
    prompt = prompts[0]
    if not facts:
        # An adapter is called as its folder, and in the cache that is a commit's hash.
        return _renamed(prompt, repo_name) if repo_name and prompt.name == folder.resolve().name else prompt
    name = prompt.name if facts["name"] is None else facts["name"]
    try:
        return dataclasses.replace(
            prompt,
            name=readable_name(name),
            step=facts["step"],
            base_models=tuple(facts["base_models"]),
            metadata={**facts["metadata"], **name_note(name)},
            notes=tuple(filter(None, [cleaned_note(name)])),
        )
    except ValueError as error:
        raise FileFormatError(f"{os.fspath(folder / SOFT_PROMPT_FILE)!r}: {error}") from error


def _repository_formats() -> dict[str, RepositoryFormat]:
    """The formats that have files in a repository, in the order in which they are tried for writing."""
    return {name: format for name, format in soft_prompt_formats().items() if isinstance(format, RepositoryFormat)}


def _place_in(folder: Path, format: RepositoryFormat) -> Path:
    """Where a format writes in a folder: to its first file, or to the folder itself."""
    return folder if "" in format.suffixes else folder / format.repository_files[0]


def _renamed(prompt: SoftPrompt, repo_id: str) -> SoftPrompt:
    return dataclasses.replace(prompt, name=readable_name(repo_id.rpartition("/")[2]))


def _card_section(repo_id: str, prompt: SoftPrompt) -> str:
    widths = ", ".join(f"{name} {width}" for name, width in zip(prompt.encoders, prompt.widths, strict=True))
    facts: list[tuple[str, object]] = [
        ("trigger", prompt.name),
        ("fits", " or ".join(prompt.families)),
        ("tokens", prompt.num_tokens),
        ("text encoders", widths),
        ("training step", prompt.step),
        ("trained on", ", ".join(prompt.base_models)),
    ]
    parts = ["A soft prompt: token embeddings that no text has.", facts_list(facts)]
    if prompt.encoders in (LANGUAGE_MODEL, ENCODER_DECODER):
        parts.append(
            python_block("from peft import PeftModel", "", f'model = PeftModel.from_pretrained(model, "{repo_id}")')
        )
    elif len(prompt.encoders) == 1:
        parts.append(python_block(f'pipe.load_textual_inversion("{repo_id}")  # a pipeline of diffusers'))
    elif set(prompt.encoders) == {"clip_l", "clip_g"}:
        parts.append(
            python_block(
                f'pipe.load_textual_inversion("{repo_id}")',
                "pipe.load_textual_inversion(",
                f'    "{repo_id}", weight_name="learned_embeds_2.safetensors",',
                "    text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2,",
                ")",
            )
        )
    parts.append(
        python_block("from hardprompts import SoftPrompt", "", f'prompt = SoftPrompt.from_pretrained("{repo_id}")')
    )
    return "\n\n".join(parts)
