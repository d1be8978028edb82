"""The tokens of a model: their embeddings, which of them a search may use, and their text."""

import dataclasses
import functools
import itertools
import operator
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hardprompts.errors import TemplateError, VocabularyError, listed, warn_user
from hardprompts.prompts import SLOT, PromptTemplate
from hardprompts.towers.frozen import FrozenTable
from hardprompts.towers.tokenizers import BatchTokenizer, Tokenizer
from hardprompts.wording import (
    NO_LIST,
    Bans,
    bad_words,
    check_text,
    dominant_script,
    is_real_word,
    words_in,
)

Metric = Literal["cosine", "l2"]

#: Rows of `query @ table.T` that are held at once: 2**25 floats are 128 MiB.
MAX_TABLE_ENTRIES = 2**25


class TokenTable:
    """The embeddings of the tokens as an encoder sees them, which of them a search may use, and what lies near what.

    The attributes are those of `Vocabulary`, which adds the text.
    """

    table: Float[Tensor, "vocab dim"]
    allowed: Bool[Tensor, " vocab"]
    widths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.table)

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

    def neighbors(
        self, ids: Int[Tensor, " tokens"], count: int, metric: Metric = "cosine"
    ) -> Int[Tensor, "tokens neighbors"]:
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


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary(TokenTable):
    """The token table as the encoder sees it, and the tokens that a search may use.

    Attributes:
        table: (vocab, dim) embeddings, `embedding(arange(vocab))` rather than `.weight`,
            since some models scale them. Of several encoders that share one tokenizer the
            tables stand side by side, and `dim` is the sum of their widths.
        tokenizer: the text side.
        allowed: (vocab,) True where the search may use the token.
        widths: how `dim` is divided among the encoders; they add up to `dim`.
        banned: what must not occur in the decoded text; see `without` and `without_bad_words`.
        compounds: words of several tokens that a search may use too, as the ids that they have behind another
            word; see `with_words`.

    Build one with `Vocabulary.create`, which allows the tokens that survive decode -> encode.
    """

    table: Float[Tensor, "vocab dim"]
    tokenizer: Tokenizer
    allowed: Bool[Tensor, " vocab"]
    widths: tuple[int, ...]
    banned: Bans = Bans()
    compounds: tuple[tuple[int, ...], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # What is found out of the table and kept for the next question is found out again.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

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
            banned=functools.reduce(operator.or_, (v.banned for v in vocabularies)),
            compounds=tuple(
                dict.fromkeys(ids for v in vocabularies for ids in v.compounds if all(i < size for i in ids))
            ),
        )

    # --- what may be used -----------------------------------------------------------------

    def without(self, banned: Iterable[str]) -> "Vocabulary":
        """The same vocabulary, where nothing `banned` may appear in the text.

        Tokens that contain something banned are masked; since a word can be rebuilt from pieces, and a phrase from
        words, the text of every candidate is checked too (`admits`).

        Args:
            banned: see `hardprompts.wording.Bans.of`.

        Raises:
            VocabularyError: no token is left; or see `Bans.of`.
            UnknownName, FileFormatError, OSError: see `Bans.of`.
        """
        given = [banned] if isinstance(banned, str) else list(banned)
        bans = Bans.of(given)
        return self._keeping(
            lambda text: not bans.found_in(text),
            f"banning {', '.join(map(repr, given))}",
            banned=self.banned | bans,
        )

    def only(self, phrases: Iterable[str]) -> "Vocabulary":
        """The same vocabulary, restricted to the words of some phrases: a keyword bank.

        It may lack some of their words; see `lacking`.

        Raises:
            VocabularyError: no token that may be used is one of their words.
        """
        phrases = [phrases] if isinstance(phrases, str) else list(phrases)
        whole = dataclasses.replace(self, compounds=()).with_words(phrases)
        written = self._behind_a_word([word for phrase in phrases for word in phrase.split()])
        keep = torch.zeros_like(self.allowed)
        # The pieces of a word of several tokens, such as "cyberpunk", say something else by themselves.
        keep[[i for ids in written if ids not in whole._compound_ids for i in ids]] = True
        return whole._allowing(keep & self.allowed, f"the {len(phrases)} phrases of the keyword bank")

    def lacking(self, phrases: Iterable[str]) -> list[str]:
        """The words of some phrases that a search cannot write: they have tokens that it may not use, or none."""
        texts = [phrases] if isinstance(phrases, str) else phrases
        words = list(dict.fromkeys(word for phrase in texts for word in phrase.split()))
        usable = set(self.allowed_ids.tolist())
        return [
            word
            for word, ids in zip(words, self._behind_a_word(words), strict=True)
            if ids not in self._compound_ids and (not ids or not usable.issuperset(ids))
        ]

    def words(self) -> "Vocabulary":
        """The same vocabulary, restricted to real words: letters of its main script alone; see `is_real_word`.

        Raises:
            VocabularyError: no token that may be used is a word.
        """
        return self._real_words

    @functools.cached_property
    def _real_words(self) -> "Vocabulary":
        script = self._script
        return self._keeping(lambda text: is_real_word(text, script), "leaving out all that are not words")

    @functools.cached_property
    def has_words_enough(self) -> bool:
        """Whether prompts can be made of real words alone: 1,000 tokens are such, or half of those allowed."""
        ids = self.allowed_ids.tolist()
        texts, script = self._texts, self._script
        words = itertools.islice((i for i in ids if is_real_word(texts[i], script)), ENOUGH_WORDS)
        count = sum(1 for _ in words)
        return count >= ENOUGH_WORDS or 2 * count >= len(ids) > 0

    @functools.cached_property
    def _script(self) -> str:
        return dominant_script(self._texts[i] for i in self.allowed_ids.tolist())

    @property
    def _texts(self) -> list[str]:
        return _token_texts(self.tokenizer, len(self))

    def without_bad_words(self) -> "Vocabulary":
        """The same vocabulary, where no slur or swear word may appear in the text; see `bad_words`.

        Other than banned strings these are looked for as whole words: "grass" stays.

        Raises:
            VocabularyError: no token is left.
        """
        return self._decent

    @functools.cached_property
    def _decent(self) -> "Vocabulary":
        bans = Bans(words=bad_words())
        return self._keeping(lambda text: not bans.found_in(text), "leaving out bad words", banned=self.banned | bans)

    def _keeping(self, keeps: Callable[[str], bool], reason: str, **changes: Any) -> "Vocabulary":
        """The tokens and words whose text is kept, with other fields changed too."""
        texts = self._texts
        keep = torch.zeros_like(self.allowed)
        keep[[i for i in self.allowed_ids.tolist() if keeps(texts[i])]] = True
        spelled = _decode_all(self.tokenizer, [list(ids) for ids in self.compounds])
        compounds = tuple(ids for ids, text in zip(self.compounds, spelled, strict=True) if keeps(text))
        return self._allowing(keep, reason, compounds=compounds, **changes)

    def with_words(self, words: Iterable[str]) -> "Vocabulary":
        """The same vocabulary, whose search may also use these words where they have several tokens.

        Kept are words of two to four tokens that are written as one behind another word and read back as these
        tokens, and that are not banned; of texts, each word is taken by itself. Words of one token need no
        mention: whether they may be used is said by `allowed`.
        """
        texts = list(
            dict.fromkeys(word for text in ([words] if isinstance(words, str) else words) for word in words_in(text))
        )
        kept = [
            (text, ids)
            for text, ids in zip(texts, self._behind_a_word(texts), strict=True)
            if 2 <= len(ids) <= MAX_WORD_TOKENS and all(map(self._joined, ids, ids[1:]))
        ]
        before = self.encode(_WORD)
        spelled = _decode_all(self.tokenizer, [[*before, *ids] for _, ids in kept])
        found = [
            ids
            for (text, ids), behind in zip(kept, spelled, strict=True)
            if behind.lower() == f"{_WORD} {text.lower()}" and not self.spells_banned(ids)
        ]
        new = [ids for ids in dict.fromkeys(found) if ids not in self._compound_ids]
        return dataclasses.replace(self, compounds=(*self.compounds, *new)) if new else self

    def _behind_a_word(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The ids of each text as it stands behind another word; none, if that word is then written otherwise."""
        before = self.encode(_WORD)
        encoded = _encode_all(self.tokenizer, [f"{_WORD} {text}" for text in texts])
        return [tuple(ids[len(before) :]) if ids[: len(before)] == before else () for ids in encoded]

    def unrestricted(self, special_ids: Iterable[int] = ()) -> "Vocabulary":
        """Every token but `special_ids`, as in the PEZ reference; most prompts then have no text."""
        keep = torch.ones_like(self.allowed)
        keep[list(special_ids)] = False
        return dataclasses.replace(self, allowed=keep)

    def _allowing(self, allowed: Bool[Tensor, " vocab"], reason: str, **changes: Any) -> "Vocabulary":
        if not allowed.any():
            raise VocabularyError(f"no token is left to search over after {reason}; allow more words")
        return dataclasses.replace(self, allowed=allowed, **changes)

    @functools.cached_property
    def units(self) -> list[tuple[int, ...]]:
        """What a search puts together: each allowed token by itself, then the words of several tokens."""
        return [*((i,) for i in self.allowed_ids.tolist()), *self.compounds]

    def narrowed(
        self,
        to: "Sequence[str] | Vocabulary | None",
        banned: Sequence[str] = (),
        words: bool | None = False,
    ) -> "Vocabulary":
        """The vocabulary that a search was asked to use.

        Args:
            to: phrases whose words alone may be used (see `only`), or a vocabulary, which is used as it is.
            banned: what must not occur: strings, /regular expressions/, categories; see `without`. Slurs and swear
                words must not occur either (`without_bad_words`), unless one of these is "none", which lifts that list.
            words: whether to use real words alone (see `words`); None: if nothing is said of `to`, and there are
                enough (`has_words_enough`).

        Raises:
            VocabularyError: no token is left.
        """
        strings = [banned] if isinstance(banned, str) else list(banned)
        found = to if isinstance(to, Vocabulary) else self if to is None else self.only(to)
        if to is not None and not isinstance(to, Vocabulary):
            warn_of_missing(found.lacking(to))
        if NO_LIST not in strings and not isinstance(to, Vocabulary):
            found = found.without_bad_words()
        if words or (words is None and to is None and found.has_words_enough):
            found = found.words()
        own = [string for string in strings if string != NO_LIST]
        return found.without(own) if own else found

    # --- text -----------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens.

        Raises:
            ValueError: half of a character is in it, which tokenizers answer in many ways.
        """
        check_text("the text", text)
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return self.tokenizer.decode(ids)

    def embed_ids(self, ids: Sequence[int]) -> Float[Tensor, "tokens dim"]:
        """The embeddings of the ids of a text.

        Raises:
            TemplateError: a token has none, since it was added to the tokenizer alone.
        """
        beyond = next((i for i in ids if i >= len(self)), None)
        if beyond is not None:
            raise TemplateError(
                f"the token {self.decode([beyond])!r} (id {beyond}) has no embedding in the model, whose table has "
                f"{len(self)} rows; add it there (model.resize_token_embeddings(len(tokenizer))), or leave it out"
            )
        return self.embed(torch.tensor(ids, dtype=torch.long, device=self.table.device))

    def signs_in(self, text: str) -> list[str]:
        """The words of a text that the tokenizer takes whole for one of its signs or added tokens: "<|endoftext|>"."""
        encoded = [(word, self.encode(word)) for word in dict.fromkeys(text.split())]
        return [
            word
            for word, ids in encoded
            if len(ids) == 1 and not word.isalnum() and (ids[0] >= len(self) or not self.allowed[ids[0]])
        ]

    def sample_that_survives(self, template: PromptTemplate) -> tuple[int, ...] | None:
        """The first of some tokens that survives in a template; None, if none of them does."""
        ids = self.allowed_ids.tolist()
        some = ((token,) for token in ids[:: max(1, len(ids) // TRIED_WORDS)])
        return next((one for one in some if self.survives_round_trip(one, template)), None)

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
        """True if pieces of the `compounds` stand in `ids` otherwise than in one of them: "cyberpun", say.

        Without compounds there is nothing to tear, since no token that is allowed by default is a piece.
        """
        if not self.compounds:
            return False
        for place, word in enumerate(self.split(ids)):
            if not self._is_whole(word):
                # Some tokenizers write the first word of a text with other ids than the same word further on.
                (own,) = [()] if place else self._behind_a_word([self.decode(word)])
                if not own or not self._is_whole(own):
                    return True
        return False

    def _is_whole(self, word: tuple[int, ...]) -> bool:
        """Whether joined tokens are one of the compounds, or a single token is more than a piece of one."""
        if len(word) > 1:
            return word in self._compound_ids
        return word[0] in self._allowed_set or word[0] not in self._pieces

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
    def _pieces(self) -> frozenset[int]:
        return frozenset(i for ids in self.compounds for i in ids)

    def spells_banned(self, ids: Sequence[int], template: PromptTemplate = PromptTemplate()) -> bool:
        """True if the text of `ids`, filled into `template`, has more of something banned than the template itself."""
        if not self.banned:
            return False  # without decoding, which is most of the time where words are many
        return self.bans(template.fill(self.decode(ids)), template.fill(""))

    def bans(self, text: str, own: str = "") -> bool:
        """True if a text has more of something banned than a part of it that is the user's `own`."""
        return bool(self.banned) and self.banned.found_in(text, own)

    def token_texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token by itself."""
        return tuple(_decode_all(self.tokenizer, [[i] for i in ids]))

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """What each token adds to the text, without white space, for display: "ma" and "u" of "mau".

        By itself a token may be spelled otherwise, as "##u" is; what adds nothing that can be seen by itself, such as a
        part of a character, is shown so.
        """
        ids = list(ids)
        so_far = ["", *_decode_all(self.tokenizer, [ids[: count + 1] for count in range(len(ids))])]
        pairs = zip(so_far, so_far[1:], self.token_texts(ids), strict=False)
        return tuple(
            text[len(before) :].strip() or alone if text.startswith(before) else alone for before, text, alone in pairs
        )


_MASKS: "weakref.WeakKeyDictionary[Tokenizer, Tensor]" = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddedTemplate:
    """The fixed text of a template as token embeddings, to be put around the embeddings of prompts.

    Attributes:
        before, after: (tokens, dim) the template's tokens on either side of its slot.
    """

    before: Float[Tensor, "before dim"]
    after: Float[Tensor, "after dim"]

    @classmethod
    def of(cls, vocabulary: Vocabulary, template: PromptTemplate) -> "EmbeddedTemplate":
        """The template as a vocabulary embeds it."""
        sides = vocabulary.template_ids(template) if template.text != SLOT else ([], [])
        return cls(*(vocabulary.embed_ids(ids) for ids in sides))

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch filled dim"]:
        """Prompts with the template's tokens around them, in the dtype of the prompts."""
        if not len(self):
            return embeddings
        before, after = (
            part.to(embeddings.dtype).expand(len(embeddings), -1, -1) for part in (self.before, self.after)
        )
        return torch.cat([before, embeddings, after], dim=1)

    def room(self, max_tokens: int) -> int:
        """Tokens that a context of `max_tokens` leaves for a prompt; negative where the template alone is too long."""
        return max_tokens - len(self)


def warn_of_missing(words: Iterable[str]) -> None:
    """Warns (UserWarning) of words that were asked for and that no prompt can have, if there are any."""
    missing = list(words)
    if missing:
        warn_user(
            f"{len(missing):,} of the words that were given are left out, since the model has no tokens for them that "
            f"may be used: {listed(missing)}"
        )


def round_trip_mask(tokenizer: Tokenizer, size: int) -> Bool[Tensor, " vocab"]:
    """(size,) True for the ids whose text, as a word behind another word, is encoded to that id alone.

    Behind another word, since some tokenizers (SigLIP 2's, GPT-2's) write the first word of a text
    with other tokens than the same word further on. For the others (CLIP's, T5's) it is the same as
    by itself.
    """
    mask = _MASKS.get(tokenizer)
    if mask is None or len(mask) != size:
        mask = torch.zeros(size, dtype=torch.bool)
        texts = _token_texts(tokenizer, size)
        # Half a UTF-8 character decodes to the replacement character: no text that anyone can type.
        ids = [i for i, text in enumerate(texts) if text and "\ufffd" not in text and text.isprintable()]
        before = tokenizer.encode(_WORD)
        encoded = _encode_all(tokenizer, [f"{_WORD} {texts[i]}" for i in ids])
        mask[[i for i, found in zip(ids, encoded, strict=True) if found == [*before, i]]] = True
        _MASKS[tokenizer] = mask
    return mask


_TEXTS: "weakref.WeakKeyDictionary[Tokenizer, list[str]]" = weakref.WeakKeyDictionary()


def _token_texts(tokenizer: Tokenizer, size: int) -> list[str]:
    """The text of each id by itself."""
    texts = _TEXTS.get(tokenizer)
    if texts is None or len(texts) != size:
        texts = _TEXTS[tokenizer] = _decode_all(tokenizer, [[i] for i in range(size)])
    return texts


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


#: So many words are enough to say anything.
ENOUGH_WORDS = 1000

#: Tokens that are tried for one that survives in a template.
TRIED_WORDS = 64

#: Tokens that a word may have at most; what takes more is not a word that the model knows.
MAX_WORD_TOKENS = 4

#: Any words that a tokenizer is likely to know.
_WORD, _OTHER_WORD = "a", "the"


def _encode_all(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    check_text("a text", texts)
    if isinstance(tokenizer, BatchTokenizer):
        return tokenizer.encode_batch(texts)
    return [tokenizer.encode(text) for text in texts]


def _decode_all(tokenizer: Tokenizer, batch: list[list[int]]) -> list[str]:
    if isinstance(tokenizer, BatchTokenizer):
        return tokenizer.decode_batch(batch)
    return [tokenizer.decode(ids) for ids in batch]
