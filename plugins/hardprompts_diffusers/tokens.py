"""Tokenizers as pipelines use them: with instructions or a chat template around the prompt."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hardprompts.towers import BatchTokenizer, Tokenizer

#: Words without a common beginning or end; what stands around both is the context.
WORDS = ("a", "the")


class InContext:
    """A tokenizer that encodes a prompt as it stands among a pipeline's own words.

    Many tokenizers write the first word of a text in another way than the same word behind a space
    or a line break, so that a prompt's ids depend on what the pipeline puts before it.
    """

    def __init__(
        self, tokenizer: Tokenizer, before: str = "", behind: str = "", change: Callable[[str], str] | None = None
    ) -> None:
        self.tokenizer, self.before, self.behind, self.change = tokenizer, before, behind, change
        self._head, self._tail = self._edges()

    @classmethod
    def around(
        cls, tokenizer: Tokenizer, before: str, behind: str, change: Callable[[str], str] | None = None
    ) -> "InContext":
        """The tokenizer between a pipeline's words, of which the nearest few decide."""
        last = re.search(r"(\S+\s+)?\S*\s*$", before)
        first = re.match(r"\s*\S*", behind)
        return cls(tokenizer, last.group() if last else "", first.group() if first else "", change)

    def _edges(self) -> tuple[list[int], list[int]]:
        """The ids of the context, before and behind the prompt: what two different words leave as it is."""
        one, other = (self.tokenizer.encode(self.before + word + self.behind) for word in WORDS)
        shorter = min(len(one), len(other))
        head = next(i for i in range(shorter + 1) if i == shorter or one[i] != other[i]) if self.before else 0
        room = shorter - head
        tail = next(i for i in range(room + 1) if i == room or one[-1 - i] != other[-1 - i]) if self.behind else 0
        return one[:head], one[len(one) - tail :]

    def _inner(self, ids: list[int]) -> list[int]:
        head, end = len(self._head), len(ids) - len(self._tail)
        if ids[:head] != self._head or ids[end:] != self._tail:
            return ids  # the prompt runs into the context: the prompt could not have these ids by itself
        return ids[head:end]

    def _filled(self, text: str) -> str:
        return self.before + (self.change(text) if self.change else text) + self.behind

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt in its context, without the context's own."""
        return self._inner(self.tokenizer.encode(self._filled(text))) if text else []

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each prompt."""
        if not isinstance(self.tokenizer, BatchTokenizer):
            return [self.encode(text) for text in texts]
        found = self.tokenizer.encode_batch([self._filled(text) for text in texts])
        return [self._inner(ids) if text else [] for text, ids in zip(texts, found, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return self.tokenizer.decode(ids)

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence of ids."""
        if isinstance(self.tokenizer, BatchTokenizer):
            return self.tokenizer.decode_batch(batch)
        return [self.decode(ids) for ids in batch]


@dataclasses.dataclass
class TextRecorder:
    """The texts that a tokenizer was called with."""

    texts: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def recorded(tokenizer: Any) -> Iterator[TextRecorder]:
    """The texts that a tokenizer of transformers is called with meanwhile."""
    heard, kind = TextRecorder(), type(tokenizer)

    def call(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        heard.texts.extend([text] if isinstance(text, str) else [one for one in text or () if isinstance(one, str)])
        return kind.__call__(self, text, *args, **kwargs)

    tokenizer.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
    try:
        yield heard
    finally:
        tokenizer.__class__ = kind
