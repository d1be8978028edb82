"""Particles of a masked language model: texts that are written at all places at once, and drawn anew by similarity."""

import dataclasses
import itertools
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hardprompts.encoders import Backend, LanguageModel, LanguageModelKind
from hardprompts.errors import BackendError
from hardprompts.search.rows import Ids
from hardprompts_transformers.writing import Rated, Reading, Writer, check_finite

#: Any word that a tokenizer is likely to know.
_WORD = "a"


@dataclasses.dataclass(frozen=True)
class MaskedParticles(Writer):
    """Writes texts at all places at once, with a model that fills in masks, and goes on from those like the target.

    Each particle begins as masks of some number, with one of the words nearest to the target among them. In each round
    the masks are filled by chance, by what the language model finds likely; the text is scored; of each target's
    particles as many as before are drawn, each by exp(guidance * (similarity now - similarity in the round before)),
    which over the rounds multiplies to what the last text deserves; and the places that were filled least certainly are
    masked again, fewer with each round.

    Attributes:
        language_model: a masked one, by its name for `load_backend` or open.
        particles: texts of each target.
        rounds: in which they are written.
        guidance: of the similarity in the weights of particles.
        temperature: of what is drawn for a mask; 1 as the model has it.
        min_tokens: of the language model in a text; the most are those that there is room for, and each particle has
            its own number in between.
        seed_words: words nearest to the target, of which each particle begins with one; 0: with masks alone.

    Source: Devulapally et al. 2026, "Interpretable Prompts made Edit-Friendly" (CVPR): a discrete diffusion model
    steered by telescoping potentials, as of https://arxiv.org/abs/2501.06848 (Feynman-Kac steering). Deviations: any
    masked language model takes the place of a diffusion model, and what is masked again is chosen as in MaskGIT
    (arXiv 2202.04200); particles are resampled systematically, which has less variance than multinomially; lengths
    differ; there is no reward for being easy to edit; a seed word is given, since a small model's chance to meet a
    rare one among few particles is low.
    """

    KIND: ClassVar[LanguageModelKind] = "masked"

    language_model: str | Backend = "emoji:emoji-mlm"
    particles: int = 64
    rounds: int = 8
    guidance: float = 30.0
    temperature: float = 1.0
    min_tokens: int = 2
    seed_words: int = 16

    def __post_init__(self) -> None:
        for name, least in (("particles", 1), ("rounds", 1), ("min_tokens", 1), ("seed_words", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.guidance < math.inf or not 0 < self.temperature < math.inf:
            raise ValueError(
                f"guidance must be 0 or more, temperature above 0, both finite; got {self.guidance}, {self.temperature}"
            )

    @torch.no_grad()
    def write(
        self, model: LanguageModel, reading: Reading, seeds: Sequence[Sequence[str]], generator: torch.Generator
    ) -> Iterator[Rated]:
        """The texts of every particle in every round; by value, the more similar the better."""
        tasks = [task for task in range(len(seeds)) for _ in range(self.particles)]
        texts, writable = self._begun(model, reading.max_tokens, seeds, generator), writable_tokens(model)
        before = torch.zeros(len(tasks))
        for left in reversed(range(self.rounds)):
            texts.fill(writable, self.temperature, generator)
            written = texts.texts()
            found = reading.ids_of(written)
            first = {
                (task, ids): at for at, (task, ids) in enumerate(zip(tasks, found, strict=True)) if ids is not None
            }
            owners, ids_of, places = [task for task, _ in first], [ids for _, ids in first], list(first.values())
            scores = reading.rated([written[at] for at in places], ids_of, owners)
            yield Rated(owners, [written[at] for at in places], ids_of, scores, scores)
            of = dict(zip(first, scores.tolist(), strict=True))
            now = torch.tensor(
                [-math.inf if ids is None else of[task, ids] for task, ids in zip(tasks, found, strict=True)]
            )
            chosen = resampled(self.guidance * (now - before), self.particles, generator)
            texts.choose(chosen)
            before = now[chosen].nan_to_num(neginf=0.0)
            texts.hide(left / self.rounds)

    def _begun(
        self, model: LanguageModel, max_tokens: int, seeds: Sequence[Sequence[str]], generator: torch.Generator
    ) -> "_Texts":
        """Particles of masks, each of a length of its own and with one of its target's seed words, in turn."""
        if model.mask_id is None:
            raise BackendError(f"{model.name} has no mask token, so it cannot fill in masks; use another model")
        most = min(max_tokens, model.max_tokens - sum(map(len, model.frame)))
        if most < 1:
            raise BackendError(f"{model.name} reads {model.max_tokens} tokens, which leaves no room for a text")
        lengths = torch.randint(
            min(self.min_tokens, most), most + 1, (len(seeds) * self.particles,), generator=generator
        ).tolist()
        given: list[Ids] = []
        for own in seeds:
            words = [ids for word in own if (ids := _written(model, word))] or [()]
            given += [words[place % len(words)] for place in range(self.particles)]
        fitting = [ids if len(ids) <= length else () for ids, length in zip(given, lengths, strict=True)]
        return _Texts.of_masks(model, lengths, fitting, generator)


def writable_tokens(model: LanguageModel) -> Bool[Tensor, " vocab"]:
    """The tokens that are text, found once for each model: no special ones, nor parts of characters."""
    if model not in _WRITABLE:
        vocabulary = model.vocabulary
        texts = vocabulary.token_texts(range(len(vocabulary)))
        text = [bool(own.strip()) and "\ufffd" not in own for own in texts]
        _WRITABLE[model] = torch.tensor(text, device=vocabulary.table.device)
        _WRITABLE[model][[model.mask_id, *itertools.chain(*model.frame)]] = False
    return _WRITABLE[model]


_WRITABLE: "weakref.WeakKeyDictionary[LanguageModel, Tensor]" = weakref.WeakKeyDictionary()


def _written(model: LanguageModel, word: str) -> Ids:
    """The tokens of a word behind another, or none where the model does not know it."""
    vocabulary = model.vocabulary
    ids = tuple(vocabulary.encode(f"{_WORD} {word}")[len(vocabulary.encode(_WORD)) :])
    return ids if ids and vocabulary.decode(ids).strip().lower() == word.lower() else ()


def resampled(weights: Float[Tensor, " rows"], particles: int, generator: torch.Generator) -> Int[Tensor, " rows"]:
    """The rows that go on, drawn systematically within each task by the exponentials of their weights.

    Where all of a task's weights are minus infinity, each of its rows goes on.
    """
    own = weights.reshape(-1, particles)
    own = torch.where(own.isneginf().all(dim=1, keepdim=True), torch.zeros_like(own), own)
    shares = own.double().softmax(dim=1).cumsum(dim=1)
    offsets = torch.rand(len(own), 1, generator=generator, dtype=torch.double)
    marks = (torch.arange(particles) + offsets) / particles * shares[:, -1:]
    places = torch.searchsorted(shares, marks).clamp_max(particles - 1)
    return (places + particles * torch.arange(len(own))[:, None]).flatten()


@dataclasses.dataclass
class _Texts:
    """Particles on their way, as tokens of the language model between those that it puts around every text.

    Attributes:
        ids: (rows, places) padded behind.
        seen: (rows, places) False where a row is padded.
        certain: (rows, places) log p of what was drawn there; infinite where a place is given, or outside of the text.
        hidden: (rows, places) True where it is to be filled.
        bounds: of each row, where its text begins and ends.
    """

    model: LanguageModel
    ids: Int[Tensor, "rows places"]
    seen: Bool[Tensor, "rows places"]
    certain: Float[Tensor, "rows places"]
    hidden: Bool[Tensor, "rows places"]
    bounds: list[tuple[int, int]]

    @classmethod
    def of_masks(
        cls, model: LanguageModel, lengths: Sequence[int], given: Sequence[Ids], generator: torch.Generator
    ) -> "_Texts":
        """Rows of masks, among which the given tokens stand somewhere."""
        before, behind = model.frame
        assert model.mask_id is not None, "that is looked at before"
        rows, free = [], []
        for length, own in zip(lengths, given, strict=True):
            first = int(torch.randint(length - len(own) + 1, (), generator=generator))
            text = [model.mask_id] * length
            text[first : first + len(own)] = own
            rows.append([*before, *text, *behind])
            free.append([len(before) + place for place in range(length) if not first <= place < first + len(own)])
        width, device = max(map(len, rows)), model.vocabulary.table.device
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        for row, places in enumerate(free):
            hidden[row, places] = True
        seen = torch.arange(width, device=device) < torch.tensor(list(map(len, rows)), device=device)[:, None]
        certain = torch.full(ids.shape, math.inf, device=device).masked_fill(hidden, 0.0)
        bounds = [(len(before), len(before) + length) for length in lengths]
        return cls(model, ids, seen, certain, hidden, bounds)

    def fill(self, writable: Bool[Tensor, " vocab"], temperature: float, generator: torch.Generator) -> None:
        """Draws a token for every hidden place, by what the language model finds likely there."""
        if not bool(self.hidden.any()):
            return
        states = self.model.states(self.model.vocabulary.embed(self.ids), self.seen)
        logits = self.model.logits(states[self.hidden]).float()
        check_finite(logits, self.model.name)
        likely = logits.masked_fill(~writable, -torch.inf).log_softmax(dim=-1)
        drawn = _drawn((likely / temperature).softmax(dim=-1), generator)
        self.ids = self.ids.masked_scatter(self.hidden, drawn)
        self.certain = self.certain.masked_scatter(self.hidden, likely.gather(1, drawn[:, None]))
        self.hidden = torch.zeros_like(self.hidden)

    def texts(self) -> list[str]:
        """What each row says."""
        rows = [row[first:last] for row, (first, last) in zip(self.ids.tolist(), self.bounds, strict=True)]
        return [" ".join(self.model.vocabulary.decode(row).split()) for row in rows]

    def choose(self, rows: Int[Tensor, " rows"]) -> None:
        """Goes on from these rows instead."""
        self.bounds = [self.bounds[row] for row in rows.tolist()]
        rows = rows.to(self.ids.device)
        self.ids, self.seen, self.certain = self.ids[rows], self.seen[rows], self.certain[rows]
        self.hidden = self.hidden[rows]

    def hide(self, share: float) -> None:
        """Masks the least certain places of each row again: this share of those that may change."""
        free = self.certain.isfinite()
        counts = (share * free.sum(dim=1)).ceil().long()
        ranks = self.certain.argsort(dim=1).argsort(dim=1)
        self.hidden = free & (ranks < counts[:, None])
        assert self.model.mask_id is not None, "that is looked at before"
        self.ids = self.ids.masked_fill(self.hidden, self.model.mask_id)


def _drawn(shares: Float[Tensor, "places vocab"], generator: torch.Generator) -> Int[Tensor, " places"]:
    """One token for each place; of the same generator the same on every device but for rounding."""
    numbers = torch.rand(len(shares), 1, generator=generator).to(shares.device)
    summed = shares.cumsum(dim=1)
    return torch.searchsorted(summed, numbers * summed[:, -1:]).squeeze(1).clamp_max(shares.shape[1] - 1)
