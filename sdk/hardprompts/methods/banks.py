"""Phrase banks: plain text files with a phrase on each line, and what a model makes of them, kept for the next time."""

import dataclasses
import functools
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.atomic import CACHE_VARIABLE, cache_folder, write_files_atomically
from hardprompts.causes.failures import system_cause
from hardprompts.encoders import Backend
from hardprompts.errors import FileFormatError, quoted, warn_user
from hardprompts.images import list_folder
from hardprompts.prompts import PromptTemplate
from hardprompts.towers.tokenizers import BatchTokenizer
from hardprompts.vocabulary import Vocabulary, round_trip_mask
from hardprompts.wording import read_phrases

#: Phrases that are encoded at once.
CHUNK = 4096

#: Files that a folder of phrases has besides, of which a warning names no more.
_SHOWN = 5

#: Suffixes of what is about phrases, and has none.
_DOCUMENTS = ("", ".md")

#: Any word that a tokenizer is likely to know.
_WORD = "a"


@dataclasses.dataclass(frozen=True, repr=False)
class PhraseTable:
    """Phrases of one kind, in order, without duplicates.

    Attributes:
        name: of the kind: "styles".
        phrases: none is empty, and white space within them is single.
    """

    name: str
    phrases: tuple[str, ...]

    @classmethod
    def create(cls, name: str, phrases: Sequence[str]) -> "PhraseTable":
        """The phrases without empty ones and without what is repeated."""
        tidy = (" ".join(phrase.split()) for phrase in phrases)
        return cls(name, tuple(dict.fromkeys(phrase for phrase in tidy if phrase)))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], encoding: str | None = None) -> "PhraseTable":
        """The phrases of a text file, named after it; see `hardprompts.wording.read_phrases`."""
        return cls.create(Path(path).stem, read_phrases(path, encoding))

    def __len__(self) -> int:
        return len(self.phrases)

    def __repr__(self) -> str:
        # A bank may have a million phrases, and stands in what is recorded of a method.
        return f"PhraseTable({self.name!r}, {len(self)} phrases, sha256={content_hash([self])[:12]})"


def read_bank(path: str | os.PathLike[str], encoding: str | None = None) -> tuple[PhraseTable, ...]:
    """The tables of a bank: a file is one; of a folder, each `.txt` file in it, in the order of their names.

    Warns (UserWarning) of what else is in the folder and left out, unless it is a document (.md, or without a suffix).

    Raises:
        FileFormatError: the folder has no such file; or see `PhraseTable.from_file`.
        OSError: it cannot be read.
    """
    place = Path(path)
    if not place.is_dir():
        return (PhraseTable.from_file(place, encoding),)
    listing = list_folder(place)
    files = [file for file in listing.files if file.suffix.lower() == ".txt"]
    if not files:
        raise FileFormatError(f"{place} has no .txt files; a bank is a text file, or a folder of them")
    others = (*listing.files, *listing.folders, *(path for path, _ in listing.unreachable))
    rest = [
        path
        for path in sorted(others)
        if path not in files and (path.is_dir() or path.suffix.lower() not in _DOCUMENTS)
    ]
    if rest:
        names = ", ".join(quoted(path.name) for path in rest[:_SHOWN]) + ", ..." * (len(rest) > _SHOWN)
        warn_user(f"the bank {place} leaves out what is not a .txt file in it: {names}")
    return tuple(PhraseTable.from_file(file, encoding) for file in files)


@functools.cache
def default_bank() -> tuple[PhraseTable, ...]:
    """The small bank that comes with hardprompts: subjects, media, movements, colors and details, in plain words."""
    return read_bank(Path(__file__).parent / "phrases")


def content_hash(tables: Sequence[PhraseTable]) -> str:
    """The SHA-256 of the phrases, in order and table by table."""
    digest = hashlib.sha256()
    for table in tables:
        for phrase in table.phrases:
            digest.update(phrase.encode("utf-8", "surrogatepass") + b"\n")
        digest.update(b"\0")
    return digest.hexdigest()


# --- phrases as tokens --------------------------------------------------------------------


def encode_phrases(phrases: Sequence[str], vocabulary: Vocabulary, max_tokens: int) -> list[tuple[int, ...] | None]:
    """The ids of each phrase; None where a search may not use it.

    That is, where it has no tokens or more than `max_tokens`, spells something banned, or has a word that the
    vocabulary was narrowed by. Tokens that only spell something together are fine in a phrase. The ids are those
    behind another word, as the tokens of a vocabulary are judged, since some tokenizers write the first word of a
    text with others.
    """
    typeable = round_trip_mask(vocabulary.tokenizer, len(vocabulary.table)).to(vocabulary.allowed.device)
    narrowed = (typeable & ~vocabulary.allowed).nonzero().flatten().tolist()
    # Banned words are looked for in the text: "ass" as a piece of "hourglass" is none.
    taken_away = {
        i for i, text in zip(narrowed, vocabulary.token_texts(narrowed), strict=True) if not vocabulary.bans(text)
    }

    def usable(ids: list[int]) -> bool:
        if taken_away.isdisjoint(ids):
            return True
        return all(word in vocabulary.compounds or taken_away.isdisjoint(word) for word in vocabulary.split(ids))

    tokenizer, before = vocabulary.tokenizer, len(vocabulary.encode(_WORD))
    found: list[tuple[int, ...] | None] = []
    for start in range(0, len(phrases), CHUNK):
        part = phrases[start : start + CHUNK]
        texts = [f"{_WORD} {phrase}" for phrase in part]
        encoded = (
            tokenizer.encode_batch(texts)
            if isinstance(tokenizer, BatchTokenizer)
            else [tokenizer.encode(text) for text in texts]
        )
        for phrase, ids in zip(part, (whole[before:] for whole in encoded), strict=True):
            fits = 0 < len(ids) <= max_tokens and usable(ids)
            found.append(tuple(ids) if fits and not vocabulary.bans(phrase) else None)
    return found


def encode_beginning(text: str, vocabulary: Vocabulary, max_tokens: int) -> tuple[int, ...]:
    """The ids of a text, or of as many words from its beginning as a search may use; () if that is none."""
    words = text.split()
    while words:
        (ids,) = encode_phrases([" ".join(words)], vocabulary, max_tokens)
        if ids is not None:
            return ids
        words.pop()
    return ()


# --- features, and where they are kept ----------------------------------------------------


def phrase_features(
    tables: Sequence[PhraseTable],
    backend: Backend,
    template: PromptTemplate = PromptTemplate(),
    folder: Path | None = None,
    allowance: Allowance | None = None,
) -> Float[Tensor, "phrases features"]:
    """Unit features, in half precision and on the CPU, of every phrase in the template, table behind table.

    They are read from a file of the folder if there is one for exactly these phrases, this template and this
    model; else they are computed, and the file is written in one go. A file is only believed after the model
    has been asked for the features of a few of its phrases again; one that is damaged is made anew.

    Args:
        folder: default: `cache_folder()`.
        allowance: whose time this may take; where it does not suffice, the features of the first phrases are returned,
            and no file is written. Like the words of a model, phrases are not counted among its passes.
    """
    phrases = [template.fill(phrase) for table in tables for phrase in table.phrases]
    name = "\n".join((backend.name, str(backend.dtype), template.text, content_hash(tables)))
    path = (folder or cache_folder()) / "phrases" / f"{hashlib.sha256(name.encode()).hexdigest()}.safetensors"
    kept = _read(path, phrases, backend)
    if kept is not None:
        return kept
    left = Allowance() if allowance is None else allowance
    parts = [backend.encode_texts(part).half().cpu() for part in left.batches(phrases, CHUNK, passes=0)]
    features = torch.cat(parts) if parts else torch.zeros(0, backend.feature_width, dtype=torch.half)
    if len(features) < len(phrases):
        return features
    try:
        write_files_atomically({path: safetensors.torch.save({"features": features})})
    except OSError as error:
        warnings.warn(
            f"the features of {len(phrases)} phrases are not kept for the next time: {system_cause(error) or error}; "
            f"or set {CACHE_VARIABLE} to another folder",
            RuntimeWarning,
            stacklevel=2,
        )
    return features


def _read(path: Path, phrases: Sequence[str], backend: Backend) -> Float[Tensor, "phrases features"] | None:
    """The features of a file; None if there is none, it is damaged, or the model says otherwise of some phrases."""
    try:
        features = safetensors.torch.load_file(path)["features"]
    except (OSError, KeyError, safetensors.SafetensorError):
        return None
    places = sorted({0, len(phrases) // 3, len(phrases) // 2, len(phrases) - 1})
    own = backend.encode_texts([phrases[place] for place in places]).cpu()
    if features.shape != (len(phrases), own.shape[1]) or features.dtype != torch.float16:
        return None
    tolerance = 3e-3 if backend.dtype == torch.float32 else 2e-2
    return features if torch.allclose(features[places].float(), own, atol=tolerance) else None
