"""Readability: what a language model makes of prompts as text, words that cost something, and words that are real."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend, LanguageModel, load_backend
from hardprompts.errors import BackendError, NonFiniteError, VocabularyError
from hardprompts.inversion.options import InversionOptions
from hardprompts.objectives import Score
from hardprompts.prompts import Candidate, PromptTemplate, TradeOff
from hardprompts.vocabulary import Vocabulary, warn_of_missing

#: What stands before a text for a model whose tokenizer puts nothing there: the end of what came before.
STARTS = ("\n", ".")


@runtime_checkable
class TextLikelihood(Protocol):
    """What says how likely texts are: any language model, with any tokenizer."""

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, " texts"]:
        """log p of each whole text, in nats, 0 or less."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModelLikelihood:
    """The log-likelihood of texts by a causal language model.

    A text is conditioned on what the tokenizer puts before every text, or, where that is nothing, on a line break.
    What does not fit into the model's context is cut off at its end.

    Attributes:
        batch_size: texts that go through the model together.
        backend: what the model is part of, by which a pickle opens it again.

    Raises:
        BackendError: the model is not causal.
    """

    model: LanguageModel
    batch_size: int = 32
    backend: Backend | None = None

    def __post_init__(self) -> None:
        if self.model.kind != "causal":
            raise BackendError(
                f"{self.model.name} does not read from left to right ({self.model.kind}), so it gives texts no "
                "likelihood; use a causal language model, such as transformers:gpt2"
            )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) if self.backend is None else {**vars(self), "model": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        backend = state["backend"]
        vars(self).update(state, model=state["model"] if backend is None else backend.language_model)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, " texts"]:
        """log p of each text, in nats; 0 for a text without tokens."""
        vocabulary = self.model.vocabulary
        start = list(self.model.frame[0]) or next((ids for text in STARTS if (ids := vocabulary.encode(text))), [])
        rows = [(start + vocabulary.encode(text))[: self.model.max_tokens] for text in texts]
        found = torch.zeros(len(texts))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for first in range(0, len(order), self.batch_size):
            part = order[first : first + self.batch_size]
            found[torch.tensor(part)] = self._of([rows[i] for i in part], max(len(start), 1))
        return found

    def _of(self, rows: Sequence[Sequence[int]], given: int) -> Float[Tensor, " rows"]:
        """The sum of log p of the tokens behind the first `given` ones."""
        width = max(map(len, rows))
        if width <= given:
            return torch.zeros(len(rows))
        device = self.model.vocabulary.table.device
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        places = torch.arange(width, device=device)
        mask = places < torch.tensor([len(row) for row in rows], device=device).unsqueeze(1)
        states = self.model.states(self.model.vocabulary.embed(ids), mask)[:, given - 1 : -1]
        likely = self.model.logits(states).float().log_softmax(dim=-1)
        told = likely.gather(2, ids[:, given:].unsqueeze(2)).squeeze(2)
        return told.masked_fill(~mask[:, given:], 0.0).sum(dim=1).cpu()


def open_likelihood(
    prior: "str | Backend | TextLikelihood",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> TextLikelihood:
    """What says how likely texts are: a causal language model by its name or open, or a function of texts.

    Raises:
        UnknownName, BackendError: see `load_backend`; or it is not a causal language model.
    """
    if isinstance(prior, str):
        prior = load_backend(prior, device=device, dtype=dtype)
    if not isinstance(prior, Backend):
        return prior
    if prior.language_model is None:
        raise BackendError(
            f"{prior.name} is not a language model, so it gives texts no likelihood; use one such as transformers:gpt2"
        )
    return LanguageModelLikelihood(prior.language_model, backend=prior)


def fluency(texts: Sequence[str], prior: TextLikelihood) -> Float[Tensor, " texts"]:
    """log p of each text divided by its number of words, in nats: comparable over lengths and tokenizers.

    Raises:
        NonFiniteError: the prior says NaN or infinity.
    """
    counts = torch.tensor([max(1, len(text.split())) for text in texts])
    found = prior(list(texts)).float().cpu() / counts
    if not found.isfinite().all():
        bad = texts[int((~found.isfinite()).nonzero()[0])]
        raise NonFiniteError(f"the prior gives {bad!r} a log-likelihood that is NaN or infinite; check that model")
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class ReadableScore:
    """A score with what a prompt gains as text: `base + prior_weight * fluency - costs`.

    Attributes:
        base: the score of the prompts' meaning.
        vocabulary: what the ids are of.
        template: the text that the prior reads, filled with the prompt.
        prior: see `TextLikelihood`; each text is asked for once.
        prior_weight: what a nat for each word is worth, in the unit of `base`.
        penalties: strings, in lower case, and what each occurrence in the prompt costs; below 0 it is a reward.
        repetition_penalty: what each word costs that stood in the prompt before, whatever its case.
    """

    base: Score
    vocabulary: Vocabulary
    template: PromptTemplate = PromptTemplate()
    prior: TextLikelihood | None = None
    prior_weight: float = 0.0
    penalties: tuple[tuple[str, float], ...] = ()
    repetition_penalty: float = 0.0
    _known: dict[str, float] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def unit(self) -> str:
        return f"{self.base.unit} and readability"

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        scores = self.base.score(ids, groups)
        texts = [self.vocabulary.decode(row) for row in ids.tolist()]
        gains = torch.tensor([-self._costs(text) for text in texts])
        if self.prior is not None and self.prior_weight:
            gains = gains + self.prior_weight * self._fluency(texts)
        return scores + gains.to(scores.device, scores.dtype)

    def _costs(self, text: str) -> float:
        lowered = " ".join(text.lower().split())
        words = lowered.split()
        costs = sum(cost * lowered.count(string) for string, cost in self.penalties)
        return costs + self.repetition_penalty * (len(words) - len(set(words)))

    def _fluency(self, texts: Sequence[str]) -> Float[Tensor, " texts"]:
        assert self.prior is not None
        filled = [self.template.fill(text) for text in texts]
        new = [text for text in dict.fromkeys(filled) if text not in self._known]
        if new:
            self._known.update(zip(new, fluency(new, self.prior).tolist(), strict=True))
        return torch.tensor([self._known[text] for text in filled])


def readable_score(
    score: Score,
    vocabulary: Vocabulary,
    template: PromptTemplate,
    prior: TextLikelihood | None,
    options: InversionOptions,
    spread: float,
) -> Score:
    """The score with what is asked of the text, whose options count in spreads; the score itself if nothing is."""
    weight = options.prior_weight if prior is not None else 0.0
    if not weight and not options.penalties and not options.repetition_penalty:
        return score
    penalties = tuple((" ".join(string.lower().split()), cost * spread) for string, cost in options.penalties.items())
    repetition = options.repetition_penalty * spread
    return ReadableScore(score, vocabulary, template, prior, weight * spread, penalties, repetition)


def real_words(vocabulary: Vocabulary, words: Iterable[str]) -> Vocabulary:
    """The same vocabulary, restricted to these words, whatever their case; some may have several tokens.

    Warns (UserWarning) of the words that it does not have.

    Raises:
        VocabularyError: no token that may be used is one of them: words of several tokens alone do not suffice.
    """
    known = {word.strip().lower() for word in words}
    ids = vocabulary.allowed_ids.tolist()
    texts = vocabulary.token_texts(ids)
    allowed = torch.zeros_like(vocabulary.allowed)
    allowed[[i for i, text in zip(ids, texts, strict=True) if text.lower() in known]] = True
    if not allowed.any():
        raise VocabularyError(
            f"none of the {len(ids)} tokens that may be used is one of the {len(known)} words; give more words"
        )
    found = dataclasses.replace(vocabulary, allowed=allowed, compounds=()).with_words(known)
    spelled = {text.strip().lower() for text in (*texts, *map(found.decode, found.compounds))}
    warn_of_missing(sorted(known - spelled - {""}))
    return found


def pareto_front(
    candidates: Iterable[Candidate],
    prior: TextLikelihood | None = None,
    template: PromptTemplate = PromptTemplate(),
    allowance: Allowance | None = None,
) -> tuple[TradeOff, ...]:
    """The candidates that no other one betters in similarity, length and fluency at once, most similar first.

    Args:
        candidates: with similarities as their scores.
        prior: for the fluency of the filled template; None: similarity and length alone.
        allowance: what the fluency may take; where it does not suffice, similarity and length alone are weighed.
    """
    unlike = list({candidate.text: candidate for candidate in candidates}.values())
    found: list[float | None] = [None] * len(unlike)
    if prior is not None and unlike:
        left, texts = Allowance() if allowance is None else allowance, [template.fill(one.text) for one in unlike]
        told = left.measured("fluency of candidates", texts, lambda part: list(fluency(part, prior).tolist()))
        found = found if told is None else [*told]
    offers = [TradeOff(c, c.score, len(c.token_ids), value) for c, value in zip(unlike, found, strict=True)]
    front = [offer for offer in offers if not any(other.dominates(offer) for other in offers)]
    return tuple(sorted(front, key=lambda offer: -offer.similarity))
