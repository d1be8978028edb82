"""Originals to distill: a text of any length, or a soft prompt, as token embeddings."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.errors import BackendError, VocabularyError
from hardprompts.prompts import HardPrompt
from hardprompts.search.markup import PlainPrompt, read_markup
from hardprompts.softprompts import SoftPrompt
from hardprompts.vocabulary import Vocabulary

#: What can be turned into a hard prompt. A `str` is always a prompt; a file goes by its `Path`.
OriginalInput: TypeAlias = "str | os.PathLike[str] | HardPrompt | SoftPrompt | Tensor"

#: The name that a bare tensor goes by in messages.
_BARE = "the tensor"


@dataclasses.dataclass(frozen=True, eq=False)
class Original:
    """An original as the embeddings of a model's vocabulary.

    Attributes:
        embeddings: (tokens, dim); of several encoders side by side, as in the vocabulary's table.
        text: the text that they are of, or None for a soft prompt.
        ids: likewise its tokens.
        name: what it is called in results.
        markup: what was read of a text with markup; None if it had none.
    """

    embeddings: Float[Tensor, "tokens dim"]
    text: str | None = None
    ids: tuple[int, ...] = ()
    name: str = ""
    markup: PlainPrompt | None = None

    @classmethod
    def of(cls, given: OriginalInput, vocabulary: Vocabulary, model: str, markup: str = "auto") -> "Original":
        """The original for a model's vocabulary.

        Args:
            markup: how a `str` is read; see `hardprompts.search.read_markup`. A `HardPrompt` is meant as it stands.

        Raises:
            ValueError: an empty text, or one of markup alone, or a tensor that is not (tokens, dim) of finite
                floating-point numbers.
            BackendError: a soft prompt of other widths than the model's.
            FileFormatError: a file without a soft prompt.
        """
        if isinstance(given, HardPrompt):
            given, markup = given.filled, "none"
        if isinstance(given, str):
            plain = read_markup(given, markup)
            ids = tuple(vocabulary.encode(plain.text))
            if not ids:
                raise ValueError(f"the prompt {given!r} has no tokens that {model} knows; give a text with words")
            embeddings = vocabulary.embed_ids(ids)
            return cls(embeddings, plain.text, ids, given, plain if plain != PlainPrompt(given) else None)
        if isinstance(given, os.PathLike):
            given = SoftPrompt.from_file(given)
        prompt = SoftPrompt({_BARE: given}) if isinstance(given, Tensor) else given
        if not isinstance(prompt, SoftPrompt):
            raise TypeError(
                "a prompt (str or HardPrompt), a SoftPrompt, the Path of its file, or a (tokens, dim) tensor is "
                f"distilled, got {type(given).__name__}"
            )
        parts = [prompt.embeddings[encoder] for encoder in encoders_for(prompt, vocabulary.widths, model)]
        return cls(torch.cat(parts, dim=1).to(vocabulary.table.device), name=prompt.name or "soft prompt")

    def __len__(self) -> int:
        return len(self.embeddings)

    def windows(self, room: int, vocabulary: Vocabulary) -> list[Float[Tensor, "_ dim"]]:
        """The embeddings in as many pieces as a context with `room` tokens takes; a soft prompt is never cut.

        A long text is cut behind a comma if there is one in the second half of a piece, else between words.
        """
        if self.text is None or len(self) <= room or room < 1:
            return [self.embeddings]
        device = vocabulary.table.device
        pieces = windows_of(self.text, room, vocabulary)
        return [vocabulary.embed(torch.tensor(ids, device=device)) for ids in pieces]


def encoders_for(prompt: SoftPrompt, widths: Sequence[int], model: str) -> tuple[str, ...]:
    """The encoders of a soft prompt that a model's vocabulary has, one for each width, in the vocabulary's order.

    Raises:
        BackendError: there is none of some width.
    """
    free, found = dict(zip(prompt.encoders, prompt.widths, strict=True)), []
    for width in widths:
        encoder = next((name for name, own in free.items() if own == width), None)
        if encoder is None:
            held = ", ".join(f"{name} {own}" for name, own in zip(prompt.encoders, prompt.widths, strict=True))
            raise BackendError(
                f"the token embeddings of {model} are {' + '.join(map(str, widths))} wide, and the soft prompt's are "
                f"not ({held}); open a model that it was made for: {' or '.join(prompt.families)}"
            )
        del free[encoder]
        found.append(encoder)
    return tuple(found)


def soft_prompt_of(
    embeddings: Float[Tensor, "tokens dim"],
    vocabulary: Vocabulary,
    name: str = "",
    metadata: Mapping[str, str | int | float | bool | None] | None = None,
) -> SoftPrompt:
    """Embeddings side by side, as in the vocabulary's table, as a soft prompt of its encoders.

    Encoders go by the names that their widths are known for: clip_l, clip_g; others by text_encoder.
    """
    from hardprompts.softprompts.families import OTHER_ENCODERS, encoder_of_width

    names: list[str] = []
    for width in vocabulary.widths:
        known = encoder_of_width(width)
        spare = (one for one in (known, *OTHER_ENCODERS, f"text_encoder_{len(names) + 1}") if one not in names)
        names.append(next(spare))
    parts = embeddings.detach().cpu().split(vocabulary.widths, dim=1)
    return SoftPrompt(dict(zip(names, parts, strict=True)), name=name, metadata=metadata or {})


# --- long texts ---------------------------------------------------------------------------


def words_of(text: str, vocabulary: Vocabulary) -> tuple[tuple[int, ...], ...]:
    """The ids of each word of a text, as it stands behind another word; words are what white space parts."""
    before = vocabulary.encode("a")
    found = (vocabulary.encode(f"a {word}") for word in text.split())
    return tuple(tuple(ids[len(before) :]) for ids in found if len(ids) > len(before))


def windows_of(text: str, room: int, vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    """The ids of a text in pieces of at most `room` tokens, each as its own text is encoded.

    Raises:
        VocabularyError: the text has no tokens.
    """
    pieces: list[tuple[int, ...]] = []
    words = text.split()
    while words:
        taken = _fitting(words, room, vocabulary)
        ids = vocabulary.encode(" ".join(words[:taken]))
        # A word that is longer than the context has no better place to be cut at.
        pieces += [tuple(ids[start : start + room]) for start in range(0, len(ids), room)]
        words = words[taken:]
    pieces = [piece for piece in pieces if piece]
    if not pieces:
        raise VocabularyError(f"the prompt {text!r} has no tokens; give a text with words")
    return pieces


def _fitting(words: Sequence[str], room: int, vocabulary: Vocabulary) -> int:
    """How many of the words make the next window: as many as fit, back to the last comma of its second half."""
    # A longer beginning is looked at only where a shorter one fits, so that a long text is not encoded again and again.
    low, high = 1, min(len(words), max(2, room))
    while high < len(words) and len(vocabulary.encode(" ".join(words[:high]))) <= room:
        low, high = high, min(len(words), 2 * high)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(vocabulary.encode(" ".join(words[:middle]))) <= room else (low, middle - 1)
    if low == len(words):
        return low
    commas = [count for count in range(low // 2 + 1, low + 1) if words[count - 1].endswith((",", ".", ";"))]
    return commas[-1] if commas else low


def phrases_of(text: str, size: int = 3) -> list[str]:
    """The phrases of a prompt: between commas, or `size` words each where there is no comma."""
    phrases = [" ".join(phrase.split()) for phrase in text.split(",")]
    phrases = [phrase for phrase in phrases if phrase]
    if len(phrases) > 1:
        return phrases
    words = text.split()
    return [" ".join(words[start : start + size]) for start in range(0, len(words), size)]
