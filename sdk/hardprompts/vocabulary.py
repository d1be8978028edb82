"""The tokens of a model: their embeddings, which of them a search may use, and their text."""

import dataclasses
import functools
import weakref
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hardprompts.errors import VocabularyError
from hardprompts.frozen import FrozenTable
from hardprompts.prompts import SLOT, PromptTemplate

Metric = Literal["cosine", "l2"]

#: Rows of `query @ table.T` that are held at once: 2**25 floats are 128 MiB.
MAX_TABLE_ENTRIES = 2**25


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


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The token table as the encoder sees it, and the tokens that a search may use.

    Attributes:
        table: (vocab, dim) embeddings, `embedding(arange(vocab))` rather than `.weight`,
            since some models scale them. Of several encoders that share one tokenizer the
            tables stand side by side, and `dim` is the sum of their widths.
        tokenizer: the text side.
        allowed: (vocab,) True where the search may use the token.
        widths: how `dim` is divided among the encoders; they add up to `dim`.
        banned: strings, in lower case, that must not occur in the decoded text.
        compounds: words of several tokens that a search may use too, as the ids that they have behind another
            word; see `with_words`.

    Build one with `Vocabulary.create`, which allows the tokens that survive decode -> encode.
    """

    table: Float[Tensor, "vocab dim"]
    tokenizer: Tokenizer
    allowed: Bool[Tensor, " vocab"]
    widths: tuple[int, ...]
    banned: tuple[str, ...] = ()
    compounds: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def create(
        cls, table: Float[Tensor, "vocab dim"], tokenizer: Tokenizer, special_ids: Iterable[int] = ()
    ) -> "Vocabulary":
        """A vocabulary whose search may use every token that decodes to text that encodes to it.

        A sequence of such tokens nearly always survives as a whole, which a sequence of
        arbitrary tokens does not: of CLIP's, one in five at 16 tokens.
        """
        allowed = round_trip_mask(tokenizer, len(table)).clone()
        allowed[[i for i in special_ids if i < len(table)]] = False
        return cls(table.detach(), tokenizer, allowed.to(table.device), (table.shape[1],))

    @classmethod
    def joint(cls, vocabularies: Sequence["Vocabulary"]) -> "Vocabulary":
        """One vocabulary for several encoders that share their ids, of the tokens that all of them take.

        SDXL's second tokenizer, say, pads with "!", and so reads that sign in a text as another token than
        the first does. A single vocabulary is given back as it is.

        Raises:
            VocabularyError: the tokenizers disagree about the ids of other tokens too.
        """
        first = vocabularies[0]
        if len(vocabularies) == 1:
            return first
        size = min(len(v.table) for v in vocabularies)
        allowed = torch.stack([v.allowed[:size].to(first.allowed.device) for v in vocabularies]).all(0)
        common = allowed.nonzero().flatten().tolist()
        probe = common[:: max(1, len(common) // 257)]
        for other in vocabularies[1:]:
            text = first.decode(probe)
            if not common or other.encode(text) != first.encode(text):
                raise VocabularyError("encoders can only be joined when their tokenizers give the same ids")
        return dataclasses.replace(
            first,
            table=torch.cat([v.table[:size] for v in vocabularies], dim=1),
            allowed=allowed,
            widths=tuple(width for v in vocabularies for width in v.widths),
            banned=tuple(dict.fromkeys(word for v in vocabularies for word in v.banned)),
            compounds=tuple(
                dict.fromkeys(ids for v in vocabularies for ids in v.compounds if all(i < size for i in ids))
            ),
        )

    def __len__(self) -> int:
        return len(self.table)

    # --- what may be used -----------------------------------------------------------------

    def without(self, banned: Iterable[str]) -> "Vocabulary":
        """The same vocabulary, where none of the `banned` strings may appear in the text.

        A banned string is looked for anywhere in the text, whatever its case: "dog" also
        bans "hotdog". Tokens that contain one are masked; since a word can be rebuilt from
        pieces, the text of every candidate is checked too (`admits`).

        Raises:
            VocabularyError: an empty string, or no token is left.
        """
        words = [" ".join(word.lower().split()) for word in ([banned] if isinstance(banned, str) else banned)]
        if not all(words):
            raise VocabularyError("a banned string is empty, which would ban every text; remove it")
        ids = [int(i) for i in self.allowed_ids]
        keep = self.allowed.clone()
        keep[[i for i in ids if any(word in self.decode([i]).lower() for word in words)]] = False
        return self._allowing(keep, f"banning {', '.join(map(repr, words))}", banned=(*self.banned, *words))

    def only(self, phrases: Iterable[str]) -> "Vocabulary":
        """The same vocabulary, restricted to the tokens of some phrases: a keyword bank.

        Raises:
            VocabularyError: the phrases have no token that may be used.
        """
        keep = torch.zeros_like(self.allowed)
        phrases = [phrases] if isinstance(phrases, str) else list(phrases)
        ids = sorted({i for phrase in phrases for i in self.encode(phrase)})
        keep[ids] = True
        return self._allowing(keep & self.allowed, f"the {len(phrases)} phrases of the keyword bank")

    def words(self) -> "Vocabulary":
        """The same vocabulary, restricted to tokens that are words: letters alone, no digits and no signs.

        Raises:
            VocabularyError: no token that may be used is a word.
        """
        texts = _decode_all(self.tokenizer, [[i] for i in self.allowed_ids.tolist()])
        keep = torch.zeros_like(self.allowed)
        keep[[i for i, text in zip(self.allowed_ids.tolist(), texts, strict=True) if text.isalpha()]] = True
        return self._allowing(keep, "leaving out all that are not words")

    def with_words(self, words: Iterable[str]) -> "Vocabulary":
        """The same vocabulary, whose search may also use these words where they have several tokens.

        Kept are words of two to four tokens that are written as one behind another word and read back as these
        tokens, and that are not banned; of phrases, each word is taken by itself. Words of one token need no
        mention: whether they may be used is said by `allowed`.
        """
        texts = list(dict.fromkeys(text for phrase in words for text in phrase.split()))
        before = self.encode(_WORD)
        encoded = _encode_all(self.tokenizer, [f"{_WORD} {text}" for text in texts])
        kept = [
            (text, tuple(ids[len(before) :]))
            for text, ids in zip(texts, encoded, strict=True)
            if ids[: len(before)] == before and 2 <= len(ids) - len(before) <= MAX_WORD_TOKENS
        ]
        spelled = _decode_all(self.tokenizer, [[*before, *ids] for _, ids in kept])
        found = [
            ids
            for (text, ids), behind in zip(kept, spelled, strict=True)
            if behind.lower() == f"{_WORD} {text.lower()}" and not self.spells_banned(ids)
        ]
        return dataclasses.replace(self, compounds=tuple(dict.fromkeys((*self.compounds, *found))))

    def unrestricted(self, special_ids: Iterable[int] = ()) -> "Vocabulary":
        """Every token but `special_ids`, as in the PEZ reference; most prompts then have no text."""
        keep = torch.ones_like(self.allowed)
        keep[list(special_ids)] = False
        return dataclasses.replace(self, allowed=keep)

    def _allowing(
        self, allowed: Bool[Tensor, " vocab"], reason: str, banned: tuple[str, ...] | None = None
    ) -> "Vocabulary":
        if not allowed.any():
            raise VocabularyError(f"no token is left to search over after {reason}; allow more words")
        return dataclasses.replace(self, allowed=allowed, banned=self.banned if banned is None else banned)

    @functools.cached_property
    def units(self) -> list[tuple[int, ...]]:
        """What a search puts together: each allowed token by itself, then the words of several tokens."""
        return [*((i,) for i in self.allowed_ids.tolist()), *self.compounds]

    @functools.cached_property
    def allowed_ids(self) -> Int[Tensor, " allowed"]:
        """The ids that the search may use, in order."""
        return self.allowed.nonzero().squeeze(1)

    @functools.cached_property
    def allowed_table(self) -> Float[Tensor, "allowed dim"]:
        """The embeddings of `allowed_ids`, in float32."""
        return self.table[self.allowed_ids].float()

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Int[Tensor, "..."]:
        """Ids drawn uniformly from those allowed, on the vocabulary's device."""
        draw = torch.randint(len(self.allowed_ids), shape, generator=generator, device=generator.device)
        return self.allowed_ids[draw.to(self.allowed_ids.device)]

    def narrowed(self, to: "Sequence[str] | Vocabulary | None", banned: Sequence[str] = ()) -> "Vocabulary":
        """The vocabulary that a search was asked to use: `only` these phrases, or another vocabulary, `without` some.

        Raises:
            VocabularyError: no token is left.
        """
        words = to if isinstance(to, Vocabulary) else self if to is None else self.only(to)
        return words.without(banned) if banned else words

    # --- embeddings -----------------------------------------------------------------------

    def embed(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... dim"]:
        """The embeddings of `ids`, (...,) -> (..., dim), in the table's dtype."""
        return self.table[ids]

    def nearest(self, embeddings: Float[Tensor, "*batch dim"], metric: Metric = "cosine") -> Int[Tensor, "*batch"]:
        """The allowed token nearest to each embedding, (..., dim) -> (...,).

        Of several encoders, the cosines (or the squared distances) of the parts add up.
        """
        query = embeddings.detach().reshape(-1, embeddings.shape[-1]).float()  # (n, dim)
        found = []
        for part in query.split(max(1, MAX_TABLE_ENTRIES // len(self.allowed_ids))):
            found.append(self._closeness(part, metric).argmax(dim=1))
        return self.allowed_ids[torch.cat(found)].reshape(embeddings.shape[:-1])

    def _closeness(self, query: Float[Tensor, "n dim"], metric: Metric) -> Float[Tensor, "n allowed"]:
        """What is largest for the nearest token."""
        if metric == "cosine":
            return self._unit_rows.products(self._unit(query))
        # |q - t|^2 = |q|^2 - 2 (q.t - |t|^2 / 2), and |q|^2 is the same for every t
        return self._rows.products(query).sub_(self._half_squared_norms)

    def neighbours(
        self, ids: Int[Tensor, " tokens"], count: int, metric: Metric = "cosine"
    ) -> Int[Tensor, "tokens neighbours"]:
        """The `count` allowed tokens nearest to each token, itself left out, nearest first.

        All others, if fewer are allowed.
        """
        similarity = self._closeness(self.embed(ids).float(), metric)
        itself = ids.unsqueeze(1) == self.allowed_ids
        others = len(self.allowed_ids) - int(itself.any(dim=1).max()) if len(ids) else 0
        best = similarity.masked_fill(itself, -torch.inf).topk(min(count, others), dim=1).indices
        return self.allowed_ids[best]

    def slopes(self, gradients: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch allowed"]:
        """What a first-order step says of every allowed token in a place, given the gradient there: less is better."""
        return gradients.float() @ self.allowed_table.T

    def steepest(self, slopes: Float[Tensor, "*batch allowed"], count: int) -> Int[Tensor, "*batch tokens"]:
        """The `count` allowed tokens of lowest slope, the steepest descent first; all, if fewer are allowed."""
        count = min(count, len(self.allowed_ids))
        return self.allowed_ids[slopes.topk(count, dim=-1, largest=False).indices]

    @functools.cached_property
    def _unit_rows(self) -> FrozenTable:
        return FrozenTable(self._unit(self.allowed_table))

    @functools.cached_property
    def _rows(self) -> FrozenTable:
        return FrozenTable(self.allowed_table)

    @functools.cached_property
    def _half_squared_norms(self) -> Float[Tensor, " allowed"]:
        return self.allowed_table.square().sum(dim=1) / 2

    def _unit(self, rows: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        if len(self.widths) == 1:
            return torch.nn.functional.normalize(rows, dim=1)
        parts = rows.split(self.widths, dim=1)
        return torch.cat([torch.nn.functional.normalize(part, dim=1) for part in parts], dim=1)

    # --- text -----------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return self.tokenizer.decode(ids)

    def template_ids(self, template: PromptTemplate) -> tuple[list[int], list[int]]:
        """The ids before and after the slot of `template`."""
        after = self.encode(template.suffix)
        if template.suffix[:1].isspace():
            # As it stands behind a word: some tokenizers write the first word of a text with other ids.
            after = self.encode(_WORD + template.suffix)[len(self.encode(_WORD)) :]
        return self.ids_before(template.prefix), after

    def ids_before(self, text: str) -> list[int]:
        """The ids of a text that a word follows: a space at its end belongs to that word, a line break to the text."""
        kept = text.rstrip()
        if text[len(kept) :] in ("", " "):
            return self.encode(kept)
        # What two words have before them in common: how white space is read depends on what stands behind it.
        first, second = (self.encode(f"{text}{word}") for word in (_WORD, _OTHER_WORD))
        pairs = zip(first, second, strict=False)
        return first[: next((place for place, (one, other) in enumerate(pairs) if one != other), len(first))]

    def respelled(self, ids: Sequence[int], template: PromptTemplate = PromptTemplate()) -> tuple[int, ...] | None:
        """The ids that the text of `ids` is encoded to, filled into `template`.

        Of a prompt that survives the round trip they are its own. None if the template's own
        words would be encoded in another way beside this text, or nothing is left of the prompt.
        """
        before, after = self.template_ids(template) if template.text != SLOT else ([], [])
        found = self.encode(template.fill(self.decode(ids)))
        end = len(found) - len(after)
        if end <= len(before) or found[: len(before)] != before or found[end:] != after:
            return None
        return tuple(found[len(before) : end])

    def survives_round_trip(self, ids: Sequence[int], template: PromptTemplate = PromptTemplate()) -> bool:
        """True if the text of `ids`, filled into `template`, is encoded to exactly these ids."""
        return self.respelled(ids, template) == tuple(ids)

    def admits(self, ids: Sequence[int], template: PromptTemplate = PromptTemplate()) -> bool:
        """True if a prompt of `ids` may be returned: it survives, tears no word and spells nothing banned.

        Words of the template itself are the user's own and never count as banned.
        """
        return (
            self.survives_round_trip(ids, template)
            and not self.tears_words(ids)
            and not self.spells_banned(ids, template)
        )

    def split(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        """The words of `ids`: each allowed token by itself, and the runs of tokens that are joined to one word."""
        words: list[list[int]] = []
        for place, token in enumerate(ids):
            if place and self._joined(ids[place - 1], token):
                words[-1].append(token)
            else:
                words.append([token])
        return [tuple(word) for word in words]

    def tears_words(self, ids: Sequence[int]) -> bool:
        """True if pieces of words stand together in `ids` that are none of the `compounds`: "cyberpun", say.

        Without compounds there is nothing to tear, since no token that is allowed by default is a piece.
        """
        if not self.compounds:
            return False
        for place, word in enumerate(self.split(ids)):
            if len(word) > 1 and word not in self._compound_ids:
                # Some tokenizers write the first word of a text with other ids than the same word further on.
                if place or self.decode(word).lower() not in self._compound_texts:
                    return True
        return False

    def _joined(self, left: int, right: int) -> bool:
        """Whether two tokens that stand side by side spell parts of one word."""
        known = self._allowed_set
        if left in known and right in known:
            return False
        first, second = _edges(self.tokenizer, left), _edges(self.tokenizer, right)
        if not (first.ends_in_letter and second.begins_with_letter):
            return False
        return (first.is_open and left not in known) or (second.continues and right not in known)

    @functools.cached_property
    def _allowed_set(self) -> frozenset[int]:
        return frozenset(self.allowed_ids.tolist())

    @functools.cached_property
    def _compound_ids(self) -> frozenset[tuple[int, ...]]:
        return frozenset(self.compounds)

    @functools.cached_property
    def _compound_texts(self) -> frozenset[str]:
        return frozenset(text.lower() for text in _decode_all(self.tokenizer, [list(ids) for ids in self.compounds]))

    def spells_banned(self, ids: Sequence[int], template: PromptTemplate = PromptTemplate()) -> bool:
        """True if the text of `ids`, filled into `template`, has more of something banned than the template itself."""
        if not self.banned:
            return False
        fixed, text = template.fill("").lower(), template.fill(self.decode(ids)).lower()
        text = " ".join(text.split())
        return any(text.count(word) > fixed.count(word) for word in self.banned)

    def token_texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token by itself, for display."""
        return tuple(self.decode([i]) for i in ids)


_MASKS: "weakref.WeakKeyDictionary[Tokenizer, Tensor]" = weakref.WeakKeyDictionary()


def round_trip_mask(tokenizer: Tokenizer, size: int) -> Bool[Tensor, " vocab"]:
    """(size,) True for the ids whose text, as a word behind another word, is encoded to that id alone.

    Behind another word, since some tokenizers (SigLIP 2's, GPT-2's) write the first word of a text
    with other tokens than the same word further on. For the others (CLIP's, T5's) it is the same as
    by itself.
    """
    mask = _MASKS.get(tokenizer)
    if mask is None or len(mask) != size:
        mask = torch.zeros(size, dtype=torch.bool)
        texts = _decode_all(tokenizer, [[i] for i in range(size)])
        # Half a UTF-8 character decodes to the replacement character: no text that anyone can type.
        ids = [i for i, text in enumerate(texts) if text and "\ufffd" not in text and text.isprintable()]
        before = tokenizer.encode(_WORD)
        encoded = _encode_all(tokenizer, [f"{_WORD} {texts[i]}" for i in ids])
        mask[[i for i, found in zip(ids, encoded, strict=True) if found == [*before, i]]] = True
        _MASKS[tokenizer] = mask
    return mask


@dataclasses.dataclass(frozen=True)
class _Edges:
    """How a token meets its neighbors: whether it joins what stands before it, and what stands behind it."""

    continues: bool
    is_open: bool
    begins_with_letter: bool
    ends_in_letter: bool


_EDGES: "weakref.WeakKeyDictionary[Tokenizer, dict[int, _Edges]]" = weakref.WeakKeyDictionary()


def _edges(tokenizer: Tokenizer, token: int) -> _Edges:
    """How a token meets its neighbors, found by what becomes of it between two words."""
    known = _EDGES.setdefault(tokenizer, {})
    if token not in known:
        first, both = tokenizer.encode(_WORD), tokenizer.encode(f"{_WORD} {_OTHER_WORD}")
        behind = tokenizer.decode([*first, token])
        # Behind a word first: what stands at the beginning of a text is often decoded in another way.
        between = tokenizer.decode([*first, token, *both[len(first) :]])
        text = behind[len(_WORD) :]
        continues = behind.startswith(_WORD) and text[:1].strip() != ""
        is_open = between.endswith(_OTHER_WORD) and between[: -len(_OTHER_WORD)][-1:].strip() != ""
        text = text.strip()
        known[token] = _Edges(continues, is_open and text != "", text[:1].isalnum(), text[-1:].isalnum())
    return known[token]


#: Tokens that a word may have at most; what takes more is no word that the model knows.
MAX_WORD_TOKENS = 4

#: Any words that a tokenizer is likely to know.
_WORD, _OTHER_WORD = "a", "the"


def _encode_all(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    if isinstance(tokenizer, BatchTokenizer):
        return tokenizer.encode_batch(texts)
    return [tokenizer.encode(text) for text in texts]


def _decode_all(tokenizer: Tokenizer, batch: list[list[int]]) -> list[str]:
    if isinstance(tokenizer, BatchTokenizer):
        return tokenizer.decode_batch(batch)
    return [tokenizer.decode(ids) for ids in batch]
