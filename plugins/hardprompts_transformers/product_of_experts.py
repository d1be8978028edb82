"""VGD: beams of a language model's own next tokens, times the likelihood of the text so far under the image."""

import dataclasses
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hardprompts.encoders import Backend, LanguageModel, LanguageModelKind, Prefix, PrefixReader
from hardprompts.errors import BackendError
from hardprompts.inversion.readability import STARTS
from hardprompts.search.rows import Ids
from hardprompts_transformers.writing import Rated, Reading, Writer, check_finite

#: Any word that a tokenizer is likely to know.
_WORD = "a"


@dataclasses.dataclass(frozen=True)
class ProductOfExperts(Writer):
    """Writes from left to right what a language model finds likely and the searched model finds like the target.

    Each text so far goes on with the language model's likeliest next tokens, and with the words that are nearest to the
    target. Of all these the ones go on that are best by

        log p_LM(text) + weight * log softmax(logit_scale * similarity(text, target)),

    the softmax being over what was tried for that target at that length. A text may end where the language model
    may end it: at a line break, a full stop, or its end token.

    Attributes:
        language_model: a causal one, by its name for `load_backend` or open.
        beams: texts of each target that go on.
        expand: next tokens of each, on average; the likeliest continuations of all texts of a target are tried.
        weight: of the searched model, against the language model's 1.
        logit_scale: what similarities are multiplied with.
        seed_words: words nearest to the target, which every text is also continued with; 0: the language model's own
            tokens alone.
        min_words: of a text that is proposed.
        length_penalty: by how much longer texts are favored; 0: not.
        instruction: what the language model reads before it writes; "{}" in it stands for the words nearest to the
            target. "": what its tokenizer puts before every text, or a line break.

    Source: Kim et al. 2025 (VGD), arXiv 2505.08622, and https://github.com/DonghoonKim-1938/VGD, `vgd/wrapper.py`:
    beams, expansions, weights and penalty are those of `vgd.yaml`. Deviations: features are unit vectors, as in the
    paper's formula, where the code leaves those of images as they are; keys and values are kept; the word nearest to
    the target, which VGD puts into an instruction to a chat model, is one of those that texts are continued with, since
    small models follow no instruction; texts that the searched model cannot read, or reads as it did without their last
    token, are left out; texts of all lengths are proposed, best first by the penalized likelihood and the similarity,
    not the likeliest alone.
    """

    KIND: ClassVar[LanguageModelKind] = "causal"

    language_model: str | Backend = "emoji:emoji-lm"
    beams: int = 10
    expand: int = 10
    weight: float = 1.5
    logit_scale: float = 100.0
    seed_words: int = 16
    min_words: int = 1
    length_penalty: float = 1.2
    instruction: str = ""

    def __post_init__(self) -> None:
        for name, least in (("beams", 1), ("expand", 1), ("seed_words", 0), ("min_words", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("weight", "logit_scale", "length_penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, and finite, got {getattr(self, name)}")

    @torch.no_grad()
    def write(
        self, model: LanguageModel, reading: Reading, seeds: Sequence[Sequence[str]], generator: torch.Generator
    ) -> Iterator[Rated]:
        """Every text that is tried, one token longer with each step; those that go on are given a value."""
        kinds = _TokenKinds.of(model)
        starts = [_start(model, self.instruction, own) for own in seeds]
        room = min(reading.max_tokens, model.max_tokens - max(map(len, starts)))
        if room < 1:
            raise BackendError(
                f"{model.name} reads {model.max_tokens} tokens, and the instruction alone has {max(map(len, starts))}; "
                "shorten it"
            )
        reader = _Reader(model)
        extra = [_written(model, own) for own in seeds]
        beams = [_Beam(task, (), (), "", 0.0) for task in range(len(seeds))]
        likely, _ = reader.read(list(range(len(seeds))), starts)
        for _ in range(room):
            tried = self._tried(kinds, beams, likely, extra, room)
            tried = _readable(tried, beams, model, reading)
            if not tried:
                return
            texts, ids, tasks = [one.text for one in tried], [one.ids for one in tried], [one.task for one in tried]
            scores = reading.rated(texts, ids, tasks)
            chosen = self._chosen(tried, scores)
            likely, rest = reader.read(
                [tried[place].parent for place in chosen],
                [tried[place].tokens[tried[place].known :] for place in chosen],
            )
            beams = [
                dataclasses.replace(tried[place], likelihood=tried[place].likelihood + more)
                for place, more in zip(chosen, rest.tolist(), strict=True)
            ]
            values = torch.full((len(tried),), -torch.inf)
            ends = likely[:, kinds.ends].logsumexp(dim=1) if bool(kinds.ends.any()) else torch.zeros(len(beams))
            for place, beam, end in zip(chosen, beams, ends.tolist(), strict=True):
                if len(beam.text.split()) >= self.min_words:
                    penalty = ((5 + len(beam.tokens)) / 6) ** self.length_penalty
                    similar = self.weight * self.logit_scale * float(scores[place])
                    values[place] = (beam.likelihood + end) / penalty + similar
            yield Rated(tasks, texts, ids, scores, values)

    def _tried(
        self,
        kinds: "_TokenKinds",
        beams: Sequence["_Beam"],
        likely: Float[Tensor, "beams vocab"],
        extra: Sequence[Sequence[Ids]],
        room: int,
    ) -> list["_Beam"]:
        """The likeliest continuations of each task's texts, and those with the words nearest to its target."""
        own = likely.masked_fill(~kinds.writable, -torch.inf)
        found: list[_Beam] = []
        for task in sorted({beam.task for beam in beams}):
            places = [place for place, beam in enumerate(beams) if beam.task == task]
            before = torch.tensor([beams[place].likelihood for place in places])
            whole = before[:, None] + own[places]
            count = min(self.beams * self.expand, int(whole.isfinite().sum()))
            values, flat = whole.flatten().topk(count)
            found += [
                beams[places[at // whole.shape[1]]].longer(places[at // whole.shape[1]], (at % whole.shape[1],), value)
                for value, at in zip(values.tolist(), flat.tolist(), strict=True)
            ]
            found += [
                beams[place].longer(place, tokens, float(before[number] + likely[place, tokens[0]]))
                for number, place in enumerate(places)
                for tokens in extra[task]
                if len(beams[place].tokens) + len(tokens) <= room and not _holds(beams[place].tokens, tokens)
            ]
        return found

    def _chosen(self, tried: Sequence["_Beam"], scores: Float[Tensor, " tried"]) -> list[int]:
        """The places of those that go on: the best of each task by both models."""
        found: list[int] = []
        for task in sorted({one.task for one in tried}):
            places = [place for place, one in enumerate(tried) if one.task == task]
            likelihoods = torch.tensor([tried[place].likelihood for place in places])
            # Where no pass is left all scores are minus infinity.
            alike = (self.logit_scale * scores[places]).log_softmax(dim=0).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
            both = likelihoods + (self.weight * alike if self.weight else 0.0)
            found += [places[at] for at in both.topk(min(self.beams, len(places))).indices.tolist()]
        return found


@dataclasses.dataclass(frozen=True)
class _Beam:
    """A text on its way.

    Attributes:
        tokens: of the language model.
        ids: of the searched model.
        likelihood: log p of the tokens; of one that was only tried, of all but the last of several new ones.
        parent: the place of the text that it goes on from.
        known: how many of the tokens that one has.
    """

    task: int
    tokens: Ids
    ids: Ids
    text: str
    likelihood: float
    parent: int = 0
    known: int = 0

    def longer(self, place: int, tokens: Ids, likelihood: float) -> "_Beam":
        whole = (*self.tokens, *tokens)
        return dataclasses.replace(self, tokens=whole, likelihood=likelihood, parent=place, known=len(self.tokens))


def _readable(tried: Sequence[_Beam], beams: Sequence[_Beam], model: LanguageModel, reading: Reading) -> list[_Beam]:
    """Those that the searched model reads, each reading once for each task, and otherwise than what they go on from."""
    texts = [" ".join(model.vocabulary.decode(one.tokens).split()) for one in tried]
    seen: set[tuple[int, Ids]] = set()
    found: list[_Beam] = []
    for one, text, ids in zip(tried, texts, reading.ids_of(texts), strict=True):
        if ids is not None and ids != beams[one.parent].ids and (one.task, ids) not in seen:
            seen.add((one.task, ids))
            found.append(dataclasses.replace(one, text=text, ids=ids))
    return found


def _holds(tokens: Ids, word: Ids) -> bool:
    """Whether a text has a word already."""
    return any(tokens[place : place + len(word)] == word for place in range(len(tokens) - len(word) + 1))


def _start(model: LanguageModel, instruction: str, seeds: Sequence[str]) -> Ids:
    """What a language model reads before it writes."""
    vocabulary, frame = model.vocabulary, model.frame[0]
    if instruction:
        return (*frame, *vocabulary.encode(instruction.replace("{}", ", ".join(seeds))))
    return tuple(frame) or next((tuple(ids) for text in STARTS if (ids := vocabulary.encode(text))), ())


def _written(model: LanguageModel, words: Sequence[str]) -> list[Ids]:
    """The tokens of words, at the beginning of a text and behind another word, where the two differ."""
    vocabulary = model.vocabulary
    before = len(vocabulary.encode(_WORD))
    both = (ids for word in words for ids in (vocabulary.encode(word), vocabulary.encode(f"{_WORD} {word}")[before:]))
    return list(dict.fromkeys(tuple(ids) for ids in both if ids))


@dataclasses.dataclass(frozen=True, eq=False)
class _TokenKinds:
    """Which tokens of a language model are text, and which end one: its special ones, line breaks and full stops."""

    writable: Bool[Tensor, " vocab"]
    ends: Bool[Tensor, " vocab"]

    @classmethod
    def of(cls, model: LanguageModel) -> "_TokenKinds":
        """Found once for each model."""
        if model not in _KINDS:
            vocabulary = model.vocabulary
            (word,) = vocabulary.encode(_WORD)[-1:] or [int(vocabulary.allowed_ids[0])]
            size = len(vocabulary)
            alone = vocabulary.token_texts(range(size))
            nothing = vocabulary.decode([word, word])
            inside = [vocabulary.decode([word, i, word]) for i in range(size)]
            text = torch.tensor([bool(own.strip()) and "\ufffd" not in own for own in alone])
            line = torch.tensor(["\n" in whole for whole in inside])
            special = torch.tensor([whole == nothing for whole in inside]) & ~text
            special[list(model.frame[0])] = True
            stop = torch.tensor([own.strip() in (".", "\u3002") for own in alone])
            ends = line | special | stop
            _KINDS[model] = cls(text & ~ends, ends)
        return _KINDS[model]


_KINDS: "weakref.WeakKeyDictionary[LanguageModel, _TokenKinds]" = weakref.WeakKeyDictionary()


class _Reader:
    """Reads texts on, with the keys and values of what was read before, where the model keeps them."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.rows: list[Ids] = []
        self.prefix: Prefix | None = None

    def read(
        self, chosen: Sequence[int], new: Sequence[Ids]
    ) -> tuple[Float[Tensor, "rows vocab"], Float[Tensor, " rows"]]:
        """What comes next, in log p, and log p of the new tokens but the first of each row.

        Args:
            chosen: the rows of the last call that go on; at first nothing was read.
            new: their further tokens, one or more.
        """
        model, device = self.model, self.model.vocabulary.table.device
        before = [self.rows[place] for place in chosen] if self.rows else [()] * len(chosen)
        self.rows = [(*own, *more) for own, more in zip(before, new, strict=True)]
        keeps = isinstance(model, PrefixReader) and max(map(len, self.rows)) <= model.max_shared_tokens
        given = new if keeps else self.rows
        width = max(map(len, given))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in given], device=device)
        lengths = torch.tensor(list(map(len, given)), device=device)
        mask = torch.arange(width, device=device) < lengths[:, None]
        embedded = model.vocabulary.embed(ids)
        if keeps:
            assert isinstance(model, PrefixReader)
            places = torch.tensor(chosen, device=device)
            behind = None if self.prefix is None else self.prefix.of_rows(places)
            states, self.prefix = model.read_on(embedded, mask, behind)
        else:
            states = model.states(embedded, mask)
        # Only the places from the last token that was known: each says what comes next.
        first = lengths - torch.tensor(list(map(len, new)), device=device)
        longest = max(map(len, new))
        at = (first[:, None] + torch.arange(longest, device=device)).clamp_max(width - 1)
        logits = model.logits(states.gather(1, at[:, :, None].expand(-1, -1, states.shape[-1]))).float()
        check_finite(logits, model.name)
        told = logits.log_softmax(dim=-1).cpu()
        counts = list(map(len, new))
        rest = [
            sum(float(told[row, place, token]) for place, token in enumerate(own[1:])) for row, own in enumerate(new)
        ]
        return told[torch.arange(len(counts)), torch.tensor(counts) - 1], torch.tensor(rest)
