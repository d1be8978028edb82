"""What a decoder is trained on: the tokens and features of many texts, read in parts and kept in files.

Texts themselves are never held together, so that a million of them take no more memory than their tokens, and features
lie in a file that is mapped. A reading that was interrupted goes on behind the last part that was done.
"""

import array
import contextlib
import dataclasses
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.atomic import json_text, write_text_atomically
from hardprompts.causes.standins import read_json
from hardprompts.encoders import Backend
from hardprompts.errors import FileFormatError, NonFiniteError, VocabularyError
from hardprompts.towers.tokenizers import BatchTokenizer
from hardprompts_decoder.files import TowerMark

#: Files of a training that is not done, in the folder of its decoder: numbers in half precision, and what they are of.
FEATURES, READING = "features.bin", "reading.json"

#: Texts that are read at once.
CHUNK = 4096

#: Called now and then with what was done, of how much (0: not known), and the loss: "reading texts", "training".
Progress = Callable[[str, int, int, float], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The texts of a training that can be used, as tokens, and their features.

    Attributes:
        known: the model's ids of the tokens that occur.
        tokens: of all texts one behind another, as places in `known`.
        starts: (texts,) where each text begins in them.
        lengths: (texts,) tokens of each text.
        features: unit features in half precision, mapped from a file.
        table: the model's own embeddings of the known tokens.
        left_out: texts that cannot be used, and repeats.
        hash: of the texts and the model.
    """

    known: Int[Tensor, " known"]
    tokens: Int[Tensor, " tokens"]
    starts: Int[Tensor, " texts"]
    lengths: Int[Tensor, " texts"]
    features: Float[Tensor, "texts features"]
    table: Float[Tensor, "known dim"]
    left_out: int
    mark: TowerMark
    hash: str

    @classmethod
    def read(
        cls, backend: Backend, texts: Iterable[str], max_tokens: int, folder: Path, progress: Progress
    ) -> "Corpus":
        """Reads texts, in parts, with the text tower of a model.

        Args:
            max_tokens: longer texts are left out.
            folder: for the features.

        Raises:
            VocabularyError: no text can be used.
            NonFiniteError: features are NaN or infinite.
        """
        mark = TowerMark.of(backend)
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(mark.tokens.encode())
        ids, counts = array.array("i"), array.array("i")
        total, done, seen = len(texts) if isinstance(texts, Sequence) else 0, 0, set[int]()
        with FeatureFile(folder, backend, mark) as file:
            for part in _parts(texts, CHUNK):
                done += len(part)
                kept = _usable(part, backend, max_tokens, seen)
                if kept:
                    written = "\n".join(("", *kept)).encode("utf-8", "surrogatepass")
                    digest.update(written)
                    file.add(list(kept), hashlib.sha256(written).hexdigest())
                for row in kept.values():
                    ids.extend(row)
                    counts.append(len(row))
                progress("reading texts", done, total, math.nan)
        if not counts:
            raise VocabularyError(
                f"none of the {done:,} texts can be used: they are empty, or have more than {max_tokens} tokens of "
                f"{backend.name}; give other texts, or a larger max_tokens"
            )
        lengths = torch.frombuffer(counts, dtype=torch.int32).long()
        tokens = torch.frombuffer(ids, dtype=torch.int32)
        occurs = torch.zeros(len(backend.vocabulary.table), dtype=torch.bool)
        for part_of in tokens.split(1 << 20):
            occurs[part_of.long()] = True
        places = occurs.cumsum(0, dtype=torch.int32) - 1
        for part_of in tokens.split(1 << 20):
            part_of.copy_(places[part_of.long()])
        known = occurs.nonzero().flatten()
        features = torch.from_file(
            os.fspath(folder / FEATURES), shared=False, size=len(lengths) * mark.features.shape[1], dtype=torch.half
        ).view(len(lengths), -1)
        table = backend.vocabulary.table[known.to(backend.device)].float().cpu()
        return cls(
            known, tokens, lengths.cumsum(0) - lengths, lengths, features, table, done - len(lengths), mark,
            digest.hexdigest(),
        )  # fmt: skip

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.lengths.max())

    def rows(self, chosen: Int[Tensor, " rows"]) -> Int[Tensor, "rows longest"]:
        """The tokens of some texts, behind which the end stands."""
        lengths = self.lengths[chosen]
        columns = torch.arange(int(lengths.max()))
        places = (self.starts[chosen][:, None] + columns).clamp_max(len(self.tokens) - 1)
        return torch.where(columns < lengths[:, None], self.tokens[places].long(), len(self.known))


class FeatureFile:
    """Features of texts in a file, part behind part; those that an earlier reading wrote are not computed again."""

    def __init__(self, folder: Path, backend: Backend, mark: TowerMark) -> None:
        self.path, self.about, self.backend, self.mark = folder / FEATURES, folder / READING, backend, mark
        self.digests: list[str] = []
        self.before = self._read()

    def __enter__(self) -> "FeatureFile":
        self.file = open(self.path, "r+b" if self.path.exists() else "w+b")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, texts: Sequence[str], digest: str) -> None:
        """Features of one more part.

        Raises:
            NonFiniteError: they are NaN or infinite.
        """
        part, width = len(self.digests), 2 * self.backend.feature_width
        end = self.file.tell() + len(texts) * width
        self.digests.append(digest)
        if self.before[part : part + 1] == [digest] and os.fstat(self.file.fileno()).st_size >= end:
            self.file.seek(end)
            return
        self.before = []  # from here on everything is new
        features = self.backend.encode_texts(list(texts)).half().cpu()
        if not features.isfinite().all():
            raise NonFiniteError(
                f"{self.backend.name}: features of the texts are NaN or infinite; load it with dtype=float32"
            )
        self.file.write(features.contiguous().numpy().tobytes())
        self.file.flush()
        told = {"tokens": self.mark.tokens, "mark": self.mark.features.tolist(), "parts": self.digests}
        write_text_atomically(self.about, json_text(told))

    def _read(self) -> list[str]:
        """What an earlier reading with the same text tower wrote down of its parts; nothing if there was none."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, FileFormatError):
            told = read_json(self.about)
            tower = TowerMark(str(told["tokens"]), torch.tensor(told["mark"]))
            return [] if self.mark.difference(tower) else [str(part) for part in told["parts"]]
        return []


def _parts(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Texts in lists of at most `size`."""
    every = iter(texts)
    while part := list(itertools.islice(every, size)):
        yield part


def _usable(part: Sequence[str], backend: Backend, max_tokens: int, seen: set[int]) -> dict[str, list[int]]:
    """The texts of a part that can be used and were not seen before, with their tokens, the shortest first."""
    fresh: dict[str, None] = {}
    for text in (" ".join(one.split()) for one in part):
        mark = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        if text and mark not in seen:
            seen.add(mark)
            fresh[text] = None
    encoded = zip(fresh, _encoded(backend, list(fresh)), strict=True)
    kept = [(text, ids) for text, ids in encoded if 0 < len(ids) <= max_tokens]
    return dict(sorted(kept, key=lambda one: len(one[1])))  # texts of like length are read together


def _encoded(backend: Backend, texts: Sequence[str]) -> list[list[int]]:
    tokenizer = backend.vocabulary.tokenizer
    if isinstance(tokenizer, BatchTokenizer):
        return tokenizer.encode_batch(list(texts))
    return [tokenizer.encode(text) for text in texts]
