"""What prompts are as text, and how much they say of what a true prompt says."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.encoders import Backend
from hardprompts.evaluation.statements import Match
from hardprompts.evaluation.tables import markdown_row
from hardprompts.prompts import HardPrompt, PromptTemplate
from hardprompts.vocabulary import Vocabulary

#: Letters with hyphens and apostrophes among them: "new-born", "cat's".
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


@dataclasses.dataclass(frozen=True)
class TextStatistics:
    """What some prompts are as text.

    Attributes:
        count: prompts.
        tokens, words: of a prompt, the mean; a word is letters, with hyphens and apostrophes among them.
        dictionary_share: of all words, those in the word list; None without one.
        round_trip_rate: share of the prompts whose text is encoded to their ids again, in their template.
        repeated_share: of all words, those that stood in the same prompt before.
    """

    count: int
    tokens: float
    words: float
    dictionary_share: float | None
    round_trip_rate: float
    repeated_share: float

    HEAD = ("prompts", "tokens", "words", "in the dictionary", "round trip", "repeated words")

    def row(self) -> tuple[str, ...]:
        """The cells of a table under `HEAD`."""
        shares = (self.dictionary_share, self.round_trip_rate, self.repeated_share)
        return (
            str(self.count),
            f"{self.tokens:.1f}",
            f"{self.words:.1f}",
            *("" if share is None else f"{100 * share:.1f} %" for share in shares),
        )

    def __str__(self) -> str:
        """The row of a Markdown table."""
        return markdown_row(self.row())


def text_statistics(
    prompts: Sequence[HardPrompt | str], vocabulary: Vocabulary, words: Collection[str] | None = None
) -> TextStatistics:
    """What prompts are as text: length, words, repetition, and whether they keep the promise of the round trip.

    Args:
        prompts: texts have no ids of their own: they keep the promise if decoding the ids that they are
            encoded to, and encoding once more, gives the same ids.
        vocabulary: of the model that the prompts are for.
        words: a word list; case does not count.

    Raises:
        ValueError: there are no prompts.
    """
    if not prompts:
        raise ValueError("there are no prompts to count; give at least one")
    known = None if words is None else {word.casefold() for word in words}
    lengths, kept = [], 0
    spoken: list[list[str]] = []
    for prompt in prompts:
        if isinstance(prompt, HardPrompt):
            text, ids = prompt.text, list(prompt.token_ids)
            before, after = vocabulary.template_ids(PromptTemplate(prompt.template))
            kept += vocabulary.encode(prompt.filled) == [*before, *ids, *after]
        else:
            text, ids = prompt, vocabulary.encode(prompt)
            kept += vocabulary.encode(vocabulary.decode(ids)) == ids
        lengths.append(len(ids))
        spoken.append(_spoken(text))
    total = sum(map(len, spoken))
    return TextStatistics(
        count=len(prompts),
        tokens=sum(lengths) / len(prompts),
        words=total / len(prompts),
        dictionary_share=None if known is None else _share(sum(w in known for own in spoken for w in own), total),
        round_trip_rate=kept / len(prompts),
        repeated_share=_share(sum(len(own) - len(set(own)) for own in spoken), total),
    )


def _share(part: int, total: int) -> float:
    return part / total if total else 0.0


def nats_per_word(
    prompts: Sequence[HardPrompt | str], likelihood: Callable[[Sequence[str]], Float[Tensor, " texts"]]
) -> tuple[float, ...]:
    """How surprising each word of a prompt is on average, in nats: the less, the more it reads like written text.

    Words are what stands between spaces, so the figure compares texts of any length, for any tokenizer; an empty text
    counts as one word.

    Args:
        likelihood: log p of whole texts, such as `hardprompts.inversion.open_likelihood("transformers:gpt2")`; of a
            model that took no part in finding the prompts.

    Raises:
        ValueError: it does not give one finite number for each text.
    """
    texts = [filled(prompt) for prompt in prompts]
    if not texts:
        return ()
    found = likelihood(texts).double().flatten().tolist()
    if len(found) != len(texts) or not all(map(math.isfinite, found)):
        raise ValueError(f"the likelihood gave {found} for {len(texts)} texts; it must be one finite number for each")
    return tuple(-value / max(1, len(text.split())) for value, text in zip(found, texts, strict=True))


def filled(prompt: HardPrompt | str) -> str:
    """The text that a model gets: a prompt in its template."""
    return prompt.filled if isinstance(prompt, HardPrompt) else prompt


# --- against true prompts -----------------------------------------------------------------


def text_similarities(
    prompts: Sequence[HardPrompt | str], references: Sequence[str], encoder: Backend
) -> tuple[float, ...]:
    """How much each prompt means what a true prompt does: the cosine of their features, in [-1, 1].

    Args:
        encoder: any text encoder that took no part in finding the prompts; a sentence encoder says most.

    Raises:
        ValueError: there are not as many prompts as references.
    """
    _check_pairs(prompts, references)
    if not prompts:
        return ()
    said = encoder.encode_texts([filled(prompt) for prompt in prompts]).double()
    return tuple((said * encoder.encode_texts(list(references)).double()).sum(dim=1).tolist())


def word_matches(prompts: Sequence[HardPrompt | str], references: Sequence[str], encoder: Backend) -> tuple[Match, ...]:
    """How many words of each prompt have one like them in a true prompt, and the other way round.

    Each word counts by its likeness to the most similar word of the other text, cosines below 0 as 0; the words are
    encoded one by one.

    Args:
        encoder: any text encoder that took no part in finding the prompts.

    Raises:
        ValueError: there are not as many prompts as references.

    Source: BERTScore, Zhang et al. 2020, arXiv 1904.09675, equation 1. It matches words in their context by the
    layers of a language model; here are words alone, so that any encoder will do and a word out of place still counts.
    """
    _check_pairs(prompts, references)
    said = [_spoken(filled(prompt)) for prompt in prompts]
    true = [_spoken(reference) for reference in references]
    words = list(dict.fromkeys(word for own in [*said, *true] for word in own))
    places = {word: place for place, word in enumerate(words)}
    features = encoder.encode_texts(words).double() if words else torch.zeros(0, 1, dtype=torch.double)

    def match(one: list[str], other: list[str]) -> Match:
        if not one or not other:
            return Match(float(not one and not other), float(not other))
        first, second = (features[[places[word] for word in own]] for own in (one, other))
        likeness = (first @ second.T).clamp(0, 1)
        return Match(float(likeness.amax(dim=1).mean()), float(likeness.amax(dim=0).mean()))

    return tuple(match(one, other) for one, other in zip(said, true, strict=True))


def _spoken(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _check_pairs(prompts: Sequence[object], references: Sequence[object]) -> None:
    if len(prompts) != len(references):
        raise ValueError(
            f"each prompt needs its true prompt, got {len(prompts)} prompts and {len(references)} true ones"
        )
