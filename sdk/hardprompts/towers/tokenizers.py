"""Tokenizers with the methods of transformers' own, as hardprompts' `Tokenizer`.

What is given is known by its methods alone: plugins bring such tokenizers along, and so do programs that
hardprompts runs inside of.
"""

import copy
import weakref
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from hardprompts.errors import BackendError


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back, without special tokens, padding or truncation."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, special tokens left out."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without white space at either end."""
        ...


@runtime_checkable
class BatchTokenizer(Tokenizer, Protocol):
    """A tokenizer that is faster at many texts at once; large vocabularies are then opened sooner."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, special tokens left out."""
        ...

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence of ids, without white space at either end."""
        ...


_ADAPTED: "weakref.WeakKeyDictionary[Any, tuple[dict[str, int], Tokenizer]]" = weakref.WeakKeyDictionary()


class SlowTokenizer:
    """A tokenizer of transformers that is written in Python (SigLIP 1's), as hardprompts' `Tokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens, padding or truncation."""
        # verbose=False: no warning when a text is longer than the context, which is checked elsewhere
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`: special tokens left out, no white space at either end; "" of ids without a token."""
        if any(i >= len(self._tokenizer) for i in ids):  # tables are often padded to a round number of rows
            return ""
        # The clean-up would take the space out of "do n't" and "cat .", which then encode differently.
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()


class FastTokenizer:
    """A tokenizer of transformers that is backed by the tokenizers package, as hardprompts' `Tokenizer`.

    It works on a copy, past transformers' own layer: several times as fast, and free of the padding
    and truncation that the original was last called with.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = tokenizer.backend_tokenizer
        self._tokenizer: Any = copy.deepcopy(backend)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = backend.encode_special_tokens
        # "</w>" of CLIP's tokens is not text; transformers, too, replaces it after the decoder.
        self._word_end: str = getattr(backend.model, "end_of_word_suffix", None) or ""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens, padding or truncation."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [encoded.ids for encoded in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`: special tokens left out, no white space at either end."""
        return self._tidy(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence of ids."""
        return [self._tidy(text) for text in self._tokenizer.decode_batch(list(batch), skip_special_tokens=True)]

    def _tidy(self, text: str) -> str:
        return (text.replace(self._word_end, " ") if self._word_end else text).strip()


def adapt(tokenizer: Any) -> Tokenizer:
    """A tokenizer with transformers' methods as hardprompts' `Tokenizer`, as it is now.

    Raises:
        BackendError: an object without them, such as a processor, or a function.
    """
    missing = [name for name in ("is_fast", "encode", "decode", "all_special_ids") if not hasattr(tokenizer, name)]
    if missing:
        inside = "; pass its .tokenizer" if hasattr(tokenizer, "tokenizer") else ""
        raise BackendError(
            f"a {type(tokenizer).__name__} is not a tokenizer of transformers (it has no {', '.join(missing)}), so its "
            f"tokens cannot be known{inside or '; pass one that transformers.AutoTokenizer opens'}"
        )
    return FastTokenizer(tokenizer) if tokenizer.is_fast else SlowTokenizer(tokenizer)


def tokenizer_of(tokenizer: Any) -> Tokenizer:
    """The same object for the same tokenizer, so that its round trips are tried once; until tokens are added to it."""
    adapted = _ADAPTED.get(tokenizer)
    added = dict(tokenizer.get_added_vocab()) if hasattr(tokenizer, "get_added_vocab") else {}
    if adapted is None or adapted[0] != added:
        adapted = _ADAPTED[tokenizer] = (added, adapt(tokenizer))
    return adapted[1]
