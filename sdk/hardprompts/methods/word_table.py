"""What each word of a vocabulary means by itself, once for each model."""

import hashlib
import json
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from hardprompts.allowance import clock
from hardprompts.atomic import CACHE_VARIABLE, cache_folder, write_files_atomically
from hardprompts.causes.failures import system_cause
from hardprompts.encoders import TextEncoder, normalize
from hardprompts.search.memory import BatchMemory

#: Ids of one token, or of a word of several tokens.
Word = tuple[int, ...]

#: Words, and the unit features of each by itself, (words, features).
Known = tuple[Sequence[Word], Tensor]

#: Words that are read at once.
BATCH = 512

#: Seconds of reading that are worth a file for the next time.
WORTH_KEEPING = 3.0

#: Words that the model is asked for again before a file is believed.
PROBES = 16

#: Of how many words, the commonest, the meaning of the others is predicted where there is no time to read them all.
FEWEST = 512


class WordTable:
    """The unit features of words that stand alone, for the words that were asked for.

    Reading tens of thousands of words takes seconds to a minute on a CPU, so it is done once for each model: the
    table is kept in memory as long as the encoder is, and, where it took more than a few seconds, in a file of the
    user's cache folder (see `cache_folder`), named by the model's own embeddings and features. A model may come with
    a table of its own (`supply`), so that its first search on a machine is as fast as any.

    Args:
        encoder: the text tower.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        # The table belongs to the encoder and must not keep it alive.
        self._encoder = weakref.ref(encoder)
        self._rows: dict[Word, int] = {}
        self._features: Tensor | None = None
        # Where features are looked up before words are read, each once and only if words are missing until then.
        self._sources: list[Callable[[], Known | None]] = [self._kept]

    @classmethod
    def of(cls, encoder: TextEncoder) -> "WordTable":
        """The table of an encoder: the same one at every call."""
        table = _TABLES.get(encoder)
        if table is None:
            table = _TABLES[encoder] = cls(encoder)
        return table

    def supply(self, known: Callable[[], Known]) -> None:
        """Gives the table what the model came with, which is asked for where words are first wanted.

        It goes before a file of the cache, so that searches find the same on all machines. It is believed if the model
        says nearly the same of a few of the words.
        """
        self._sources.insert(0, known)

    def features(
        self,
        words: Sequence[Word],
        *,
        seconds: float | None = None,
        progress: bool = True,
        memory: BatchMemory | None = None,
    ) -> Float[Tensor, "words features"]:
        """The unit features of words, (words, features) in float32; those that are new are read now.

        Args:
            seconds: that reading may take; what it does not suffice for is predicted from the embeddings of the
                words by a linear map, learned on the words that were read: the first of `words`, which tokenizers
                put in the order of how common they are. None: all are read.
            progress: shows a bar on a terminal while words are read.
            memory: that they are read in; default: all that there is.
        """
        missing = [word for word in dict.fromkeys(words) if word not in self._rows]
        while missing and self._sources:
            self._take(self._sources.pop(0)())
            missing = [word for word in missing if word not in self._rows]
        if missing:
            self._read(missing, seconds, progress, memory or BatchMemory())
        known = [word in self._rows for word in words]
        if all(known):
            return self._of(words)
        return self._predicted(words, torch.tensor(known))

    def _of(self, words: Iterable[Word]) -> Float[Tensor, "words features"]:
        assert self._features is not None
        rows = torch.tensor([self._rows[word] for word in words], device=self._features.device)
        return self._features[rows].float()

    @property
    def _tower(self) -> TextEncoder:
        encoder = self._encoder()
        assert encoder is not None, "whoever asks holds the encoder"
        return encoder

    @torch.no_grad()
    def _read(self, words: Sequence[Word], seconds: float | None, progress: bool, memory: BatchMemory) -> None:
        """Adds words, by their number of tokens, until the seconds are used up."""
        start, device = clock(), self._tower.vocabulary.table.device
        read: list[Word] = []
        parts: list[Tensor] = []
        with tqdm(
            total=len(words), disable=None if progress else True, desc="reading words, once", unit="word", leave=False
        ) as bar:
            for length in sorted({len(word) for word in words}):
                same = [word for word in words if len(word) == length]
                for first in range(0, len(same), BATCH):
                    if seconds is not None and len(read) >= FEWEST and clock() - start > seconds:
                        break
                    part = same[first : first + BATCH]
                    ids = torch.tensor(part, device=device)
                    parts += memory.in_parts(self._one_batch, ids, torch.zeros_like(ids[:, 0]), "score")
                    read += part
                    bar.update(len(part))
        self._add(read, torch.cat(parts))
        if clock() - start > WORTH_KEEPING and len(read) == len(words):
            self._save()

    def _one_batch(self, ids: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return (normalize(self._tower.encode(self._tower.vocabulary.embed(ids))).half(),)

    def _add(self, words: Sequence[Word], features: Tensor) -> None:
        first = len(self._rows)
        self._rows.update({word: first + place for place, word in enumerate(words)})
        self._features = features if self._features is None else torch.cat([self._features, features])

    def _predicted(self, words: Sequence[Word], known: Tensor) -> Float[Tensor, "words features"]:
        """The features that are known, and for the others what a ridge regression makes of their embeddings."""
        vocabulary = self._tower.vocabulary
        device = vocabulary.table.device
        known = known.to(device)
        embeddings = torch.stack([vocabulary.table[list(word)].float().mean(dim=0) for word in words])
        read = self._of(word for word in words if word in self._rows)
        given = embeddings[known]
        center, mean = given.mean(dim=0), read.mean(dim=0)
        given = given - center
        gram = given.T @ given
        gram.diagonal().add_(0.1 * gram.diagonal().mean())
        weights = torch.linalg.solve(gram, given.T @ (read - mean))
        found = normalize((embeddings - center) @ weights + mean)
        found[known] = read
        return found

    # --- the file -------------------------------------------------------------------------

    def _path(self) -> Path:
        """Named by what the model is: its embeddings, and what it makes of a few words."""
        vocabulary = self._tower.vocabulary
        content = hashlib.sha256()
        content.update(str((tuple(vocabulary.table.shape), str(vocabulary.table.dtype))).encode())
        content.update(vocabulary.table[:: max(1, len(vocabulary) // 997)].float().cpu().numpy().tobytes())
        return cache_folder() / "words" / f"{content.hexdigest()[:32]}.safetensors"

    def _kept(self) -> Known | None:
        """What an earlier run has kept."""
        try:
            with safetensors.safe_open(self._path(), "pt") as file:
                return [tuple(word) for word in json.loads(file.metadata()["words"])], file.get_tensor("features")
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError):
            return None

    @torch.no_grad()
    def _take(self, known: Known | None) -> None:
        """Takes in features of words that are new, if the model still says the same of a few of them."""
        words, features = known or ((), torch.empty(0, 0))
        vocabulary, device = self._tower.vocabulary, self._tower.vocabulary.table.device
        if not words or features.ndim != 2 or len(features) != len(words):
            return
        if any(not word or not all(isinstance(i, int) and 0 <= i < len(vocabulary) for i in word) for word in words):
            return
        for place in range(0, len(words), max(1, len(words) // PROBES)):
            ids = torch.tensor([words[place]], device=device)
            own = normalize(self._tower.encode(vocabulary.embed(ids)))[0]
            if own.shape != features[place].shape or float((own.cpu() - features[place].float()).norm()) > 0.05:
                return
        new = [place for place, word in enumerate(words) if word not in self._rows]
        if new:
            self._add([words[place] for place in new], features[new].to(device))

    def _save(self) -> None:
        assert self._features is not None
        words = json.dumps([list(word) for word in self._rows])
        content = safetensors.torch.save({"features": self._features.cpu().contiguous()}, {"words": words})
        try:
            write_files_atomically({self._path(): content})
        except OSError as error:
            warnings.warn(
                f"the features of {len(self._rows)} words are not kept for the next time: "
                f"{system_cause(error) or error}; or set {CACHE_VARIABLE} to another folder",
                RuntimeWarning,
                stacklevel=2,
            )


_TABLES: "weakref.WeakKeyDictionary[TextEncoder, WordTable]" = weakref.WeakKeyDictionary()
