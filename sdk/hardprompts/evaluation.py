"""How good prompts are: by the pictures that they make, by their text, and with intervals.

Judge with a model that no search has followed.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Sequence

import torch
from PIL import Image
from torch import Tensor

from hardprompts.encoders import Backend
from hardprompts.errors import MissingExtra
from hardprompts.prompts import HardPrompt, PromptTemplate
from hardprompts.vocabulary import Vocabulary

#: Letters with hyphens and apostrophes among them: "new-born", "cat's".
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


# --- intervals ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure, and where its true value lies with some confidence.

    Attributes:
        mean: the estimate.
        low, high: the ends; infinite where the data do not bound it.
        count: the values that it rests on.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        """The figure with its half width, or with its ends where they are not equally far away."""
        if not math.isfinite(self.half_width):
            return f"{self.mean:.3f} (no interval)"
        if math.isclose(self.high - self.mean, self.mean - self.low, rel_tol=0.02, abs_tol=5e-4):
            return f"{self.mean:.3f} ± {self.half_width:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent values with Student's interval, which is exact for normal ones.

    Raises:
        ValueError: there are no values, one is not finite, or `confidence` is not in (0, 1).
        MissingExtra: SciPy is not installed.
    """
    x = _checked(values)
    mean = float(x.mean())
    if len(x) == 1:
        _check_confidence(confidence)
        return Interval(mean, -math.inf, math.inf, 1)
    half = t_quantile(confidence, len(x) - 1) * float(x.std()) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half, len(x))


def t_quantile(confidence: float, degrees: int) -> float:
    """How many standard errors an interval reaches to either side: P(|T| <= it) = `confidence`.

    Args:
        degrees: of freedom, 1 or more.

    Raises:
        ValueError: `confidence` is not in (0, 1).
        MissingExtra: SciPy is not installed.
    """
    _check_confidence(confidence)
    try:
        from scipy import special  # without scipy.stats, which takes three times as long to import
    except ImportError as error:
        raise MissingExtra("an interval", "sklearn", error) from error
    return float(special.stdtrit(degrees, (1 + confidence) / 2))


def bootstrap_interval(
    values: Sequence[float], generator: torch.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The mean of independent values with the percentile bootstrap's interval, for values that are far from normal.

    Args:
        generator: draws the resamples.
        resamples: means of values drawn with replacement, whose quantiles are the ends.

    Raises:
        ValueError: as `t_interval`; `resamples` is below 1.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, section 13.3. With n values it is
    narrower than Student's by about the root of (n - 1) / n, and less besides for few of them. `scipy.stats.bootstrap`
    gives the same interval from a generator of NumPy's, in twice the time for 512 values.
    """
    x = _checked(values)
    _check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    means = []
    for part in torch.arange(resamples).split(max(1, 2**22 // len(x))):
        drawn = torch.randint(len(x), (len(part), len(x)), generator=generator)
        means.append(x[drawn].mean(dim=1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=x.dtype)).tolist()
    return Interval(float(x.mean()), low, high, len(x))


def _checked(values: Sequence[float]) -> Tensor:
    x = torch.tensor([float(value) for value in values], dtype=torch.float64)
    if not len(x):
        raise ValueError("an interval needs at least one value, got none")
    if not x.isfinite().all():
        raise ValueError(
            f"{int((~x.isfinite()).sum())} of {len(x)} values are NaN or infinite; leave their targets out"
        )
    return x


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")


# --- tables -------------------------------------------------------------------------------


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head.

    Raises:
        ValueError: there is no row, or they differ in length.
    """
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"a table needs rows of one length, got {sorted({len(row) for row in rows})}")
    widths = [max(3, *(len(_cell(row[i])) for row in rows)) for i in range(len(rows[0]))]
    lines = [markdown_row(row, widths) for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def markdown_row(cells: Sequence[str], widths: Sequence[int] | None = None) -> str:
    """The row of a Markdown table, padded to `widths`."""
    padded = [_cell(cell).ljust(width) for cell, width in zip(cells, widths or [0] * len(cells), strict=True)]
    return f"| {' | '.join(padded)} |"


def _cell(text: str) -> str:
    # A bar in a prompt would end the cell.
    return " ".join(text.replace("|", "\\|").split())


# --- pictures -----------------------------------------------------------------------------


def image_similarities(
    pictures: Sequence[Sequence[Image.Image]], targets: Sequence[Image.Image], judge: Backend
) -> tuple[float, ...]:
    """How alike each target and the pictures made for it are: the mean cosine over its pictures, in [-1, 1].

    Args:
        pictures: for each target, those that its prompt made with several seeds; RGB.
        targets: RGB.
        judge: a model that took no part in making or finding the prompts.

    Raises:
        ValueError: there are not as many lists as targets, or one is empty.
        BackendError: the judge has no image tower.
    """
    if len(pictures) != len(targets):
        raise ValueError(
            f"each target needs the pictures made for it, got {len(pictures)} lists and {len(targets)} targets"
        )
    if not pictures:
        return ()
    features = _features(pictures, 1, judge)
    wanted = judge.encode_images(list(targets)).double()
    return tuple(float((own @ target).mean()) for own, target in zip(features, wanted, strict=True))


def diversities(pictures: Sequence[Sequence[Image.Image]], judge: Backend) -> tuple[float, ...]:
    """How different the pictures of each prompt are: 1 less the mean cosine over its pairs, in [0, 2].

    Args:
        pictures: for each prompt, those that it made with several seeds, two or more; RGB.

    Raises:
        ValueError: a prompt has fewer than two pictures.
        BackendError: the judge has no image tower.
    """
    found = []
    for own in _features(pictures, 2, judge) if pictures else []:
        count = len(own)
        pairs = (own.sum(dim=0).square().sum() - own.square().sum()) / (count * (count - 1))
        found.append(1 - float(pairs))
    return tuple(found)


def _features(pictures: Sequence[Sequence[Image.Image]], at_least: int, judge: Backend) -> list[Tensor]:
    """The unit features of each list of pictures, all encoded in one go."""
    for index, own in enumerate(pictures):
        if len(own) < at_least:
            raise ValueError(f"entry {index} has {len(own)} pictures and needs at least {at_least}")
    features = judge.encode_images([picture for own in pictures for picture in own])
    return list(features.double().split([len(own) for own in pictures]))


# --- text ---------------------------------------------------------------------------------


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
        spoken.append([word.casefold() for word in _WORD.findall(text)])
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
