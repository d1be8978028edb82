"""open_clip's tokenizers as hardprompts' `Tokenizer`: text to ids and back, without special tokens."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from open_clip import tokenizer as open_clip_tokenizer
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer
from tokenizers.models import BPE

from hardprompts.errors import BackendError
from hardprompts.towers import Tokenizer


class BytePairTokenizer:
    """CLIP's own byte-pair encoding: the ids of `SimpleTokenizer.encode`, merged by the tokenizers package.

    Words are found by open_clip's own pattern: the patterns of the tokenizers package know another version of
    Unicode. Each word is merged once; a whole tokenizer of that package merges the words of every text anew, and
    takes 68 microseconds in the place of 25 for a text of eight tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        merges = [pair for pair in tokenizer.bpe_ranks if pair]  # an empty last line of the file is one, too
        self._pairs = BPE(tokenizer.encoder, merges, end_of_word_suffix="</w>")
        self._words: dict[str, list[int]] = {tokenizer.decoder[i]: [i] for i in tokenizer.all_special_ids}
        self._clean: Callable[[str], str] = tokenizer.clean_fn
        self._clean_ascii = _CLEAN_ASCII.get(tokenizer.clean_fn, tokenizer.clean_fn)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, special tokens left out."""
        # Mojibake and HTML entities, which cleaning repairs at length, need other characters than these.
        plain = text.isascii() and text.isprintable() and "&" not in text
        text = self._clean_ascii(text) if plain else self._clean(text)
        return [token_id for word in self._tokenizer.pat.findall(text) for token_id in self._encode_word(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without white space at either end; "" for ids that the encoding does not have."""
        try:
            return str(self._tokenizer.decode(ids)).strip()
        except KeyError:  # some tables are padded to a round number of rows
            return ""

    def _encode_word(self, word: str) -> list[int]:
        ids = self._words.get(word)
        if ids is None:
            symbols = "".join(self._tokenizer.byte_encoder[byte] for byte in word.encode("utf-8"))
            ids = self._words[word] = [token.id for token in self._pairs.tokenize(symbols)]
        return ids


def _lower(text: str) -> str:
    return " ".join(text.split()).lower()


#: What is left of open_clip's cleaning where there is nothing to repair.
_CLEAN_ASCII: dict[Callable[[str], str], Callable[[str], str]] = {
    open_clip_tokenizer.get_clean_fn("lower"): _lower,
    open_clip_tokenizer.get_clean_fn("whitespace"): open_clip_tokenizer.whitespace_clean,
    open_clip_tokenizer.get_clean_fn("canonicalize"): open_clip_tokenizer.canonicalize_text,
}


class TransformersTokenizer:
    """A transformers tokenizer with open_clip's cleaning before it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer.tokenizer
        # SigLipTokenizer has its cleaning built in.
        self._clean: Callable[[str], str] = getattr(
            tokenizer, "clean_fn", open_clip_tokenizer.get_clean_fn("canonicalize")
        )

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, special tokens left out."""
        return list(self._tokenizer(self._clean(text), add_special_tokens=False, verbose=False).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without white space at either end."""
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text).strip()


def adapt(tokenizer: Any) -> tuple[Tokenizer, Iterable[int]]:
    """An open_clip tokenizer as hardprompts' `Tokenizer`, and the ids of its special tokens.

    Raises:
        BackendError: a tokenizer of an unknown kind.
    """
    if isinstance(tokenizer, SimpleTokenizer):
        standard = open_clip_tokenizer._tokenizer
        if tokenizer.clean_fn is standard.clean_fn and tokenizer.encoder == standard.encoder:
            return _standard(), tokenizer.all_special_ids
        return BytePairTokenizer(tokenizer), tokenizer.all_special_ids
    if isinstance(tokenizer, HFTokenizer | SigLipTokenizer):
        return TransformersTokenizer(tokenizer), tokenizer.tokenizer.all_special_ids
    raise BackendError(
        f"a tokenizer of type {type(tokenizer).__name__} is not known; pass what open_clip.get_tokenizer(...) returns"
    )


@functools.cache
def _standard() -> BytePairTokenizer:
    # One for all models, since what survives its round trip is found once per tokenizer.
    return BytePairTokenizer(open_clip_tokenizer._tokenizer)
