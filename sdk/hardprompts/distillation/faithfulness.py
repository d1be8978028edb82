"""How much of what a soft prompt, or a long one, does is kept by the hard prompt that it was turned into."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.distillation.features import FeatureMatch
from hardprompts.distillation.matching import Match, MeanMatch
from hardprompts.distillation.originals import phrases_of, windows_of
from hardprompts.distillation.quantities import HeldOutMatch, Matches, room
from hardprompts.encoders import Backend, normalize
from hardprompts.errors import FileFormatError, VocabularyError
from hardprompts.prompts import HardPrompt, PromptTemplate
from hardprompts.search.markup import PlainPrompt
from hardprompts.vocabulary import Vocabulary

#: A phrase of which the short prompt keeps less than this is lost; at most so many are listed.
KEPT, MAX_LOST = 0.5, 10

#: A phrase without which the features move less than this (squared) has no tokens.
NOTHING = 1e-12

#: Phrases that are left out in one batch, between two looks at the clock.
PHRASES_AT_ONCE = 64

#: A gap below this is none: what is decoded does what nothing does.
NO_GAP = 1e-6


@dataclasses.dataclass(frozen=True)
class Share:
    """The share of the gap between nothing and the original that a prompt closes, in one quantity.

    Attributes:
        quantity: what was compared, in words.
        templates: the texts with one slot in which it was compared.
        distance: of the prompt from the original, the mean over the templates; 0 where both do the same.
        empty: likewise of the template with nothing in its slot.
        random: likewise of random words, the mean over several draws.

    Nothing is whichever of `empty` and `random` is nearer to the original, so that the share is not
    raised by an empty text that is odd in the model's eyes, or by words of any kind being better than none.
    """

    quantity: str
    templates: tuple[str, ...]
    distance: float
    empty: float
    random: float

    @property
    def nothing(self) -> float:
        """The distance of nothing from the original."""
        return min(self.empty, self.random)

    @property
    def value(self) -> float:
        """1 - distance / nothing: 1 as the original, 0 as nothing. Not clipped: below 0 it is farther than nothing."""
        return 1 - self.distance / max(self.nothing, NO_GAP)


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """The share of an original's effect that a hard prompt keeps, where it was searched and elsewhere.

    Attributes:
        matched: in what the search followed.
        held_out: in what it did not see (other templates, or other noises and noise levels); None where
            the original leaves no room for them.
    """

    matched: Share
    held_out: Share | None = None

    def __str__(self) -> str:
        held_out = "not measured" if self.held_out is None else f"{self.held_out.value:.2f}"
        return f"faithfulness {self.matched.value:.2f} ({self.matched.quantity}), held out {held_out}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the shares, as JSON values."""
        values = dataclasses.asdict(self)
        for name in ("matched", "held_out"):
            share = getattr(self, name)
            if share is not None:
                values[name] |= {"templates": list(share.templates), "value": share.value}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Faithfulness":
        """The faithfulness that `to_dict` described.

        Raises:
            FileFormatError: fields are missing or of the wrong kind.
        """
        try:
            return cls(*(None if values[name] is None else _share(values[name]) for name in ("matched", "held_out")))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"not a faithfulness: {error!r}") from error


def _share(values: Mapping[str, Any]) -> Share:
    numbers = [float(values[name]) for name in ("distance", "empty", "random")]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"a distance is not finite: {numbers}")
    return Share(str(values["quantity"]), tuple(map(str, values["templates"])), *numbers)


@dataclasses.dataclass(frozen=True)
class LostPhrase:
    """A phrase of a long prompt that the short one does not say.

    Attributes:
        text: the phrase.
        cost: how far the original's features move when the phrase is taken out: 1 - cosine.
        kept: how far the short prompt's features lie along that way: 0 as the original without the phrase,
            1 as the original; it may be outside of both.
    """

    text: str
    cost: float
    kept: float


@dataclasses.dataclass(frozen=True)
class DistilledPrompt(HardPrompt):
    """A hard prompt that stands for a soft or a longer one, and how faithfully.

    It is stored as any `HardPrompt`, what is more among its provenance: `HardPrompt.from_pretrained` reads it too, and
    `DistilledPrompt.from_pretrained` all of it.

    Attributes:
        faithfulness: the share of the original's effect that the prompt keeps; None if nobody measured it.
        lost: the phrases of a long prompt that this one does not say, those that matter most first.
    """

    faithfulness: Faithfulness | None = None
    lost: tuple[LostPhrase, ...] = ()

    @property
    def markup(self) -> PlainPrompt | None:
        """What was read of the long prompt's markup: its plain text, weights, and what was set aside; None without.

        Raises:
            FileFormatError: the prompt was read from a file that was damaged there.
        """
        values = self.provenance.get("markup")
        try:
            return None if values is None else PlainPrompt.from_dict(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"not what was read of a prompt's markup: {error!r}") from error

    def pasted(self, syntax: Literal["comfyui", "a1111"]) -> str:
        """The prompt as a UI must be given it, with the files behind it that the long prompt named: <lora:name:0.8>.

        Raises:
            ValueError: an unknown syntax.
        """
        aside = () if self.markup is None else self.markup.set_aside
        return " ".join((self.escaped(syntax), *aside))

    def to_dict(self) -> dict[str, Any]:
        """All fields as the JSON values of a `HardPrompt`; `faithfulness` and `lost` stand in the provenance."""
        values = super().to_dict()
        told, lost = values.pop("faithfulness"), values.pop("lost")
        if self.faithfulness is not None:
            told = self.faithfulness.to_dict()
        further = {name: value for name, value in (("faithfulness", told), ("lost", list(lost))) if value}
        return {**values, "provenance": {**values["provenance"], **further}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DistilledPrompt":
        """The prompt that `to_dict` described; of a plain hard prompt without faithfulness.

        Raises:
            FileFormatError: fields are missing or of the wrong kind.
        """
        provenance = values.get("provenance", {})
        if not isinstance(provenance, Mapping):
            raise FileFormatError(f"not a hard prompt: its provenance is {provenance!r}")
        told = dict(provenance)
        faithfulness, lost = told.pop("faithfulness", None), told.pop("lost", ())
        prompt = super().from_dict({**values, "provenance": told})
        assert isinstance(prompt, cls)
        return dataclasses.replace(
            prompt,
            faithfulness=None if faithfulness is None else Faithfulness.from_dict(faithfulness),
            lost=_lost_of(lost),
        )


def _lost_of(values: Any) -> tuple[LostPhrase, ...]:
    try:
        return tuple(LostPhrase(str(one["text"]), float(one["cost"]), float(one["kept"])) for one in values)
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"not the phrases that were lost: {error!r}") from error


# --- measuring ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FaithfulnessMeasurement:
    """What is measured of how much of the effect of an original a text keeps.

    Attributes:
        task: the original's place among those of `matches`.
        randoms: texts of random words, as what any words do.
    """

    text: str
    matches: Matches
    task: int
    randoms: Sequence[str]

    @property
    def passes(self) -> int:
        """Passes that all of it takes."""
        return (len(self._followed) + len(self.matches.held_out)) * (2 + len(self.randoms))

    @property
    def _followed(self) -> tuple[HeldOutMatch, ...]:
        own = self.matches.followed
        parts = own.parts if isinstance(own, MeanMatch) else (own,)
        return tuple(HeldOutMatch(lambda _: None, part) for part in parts)

    def matched(self, allowance: Allowance) -> Share | None:
        """The share in what the search followed; None, with a note, where there is no room for it."""
        found = self._distances(self._followed, allowance)
        if len(found) < len(self._followed):
            allowance.leave_out("faithfulness", 0, 1)
            return None
        return self._share(self.matches.described[0], found)

    def held_out(self, allowance: Allowance) -> Share | None:
        """The share in what it did not see, in as many templates as there is room for; None of none."""
        found = self._distances(self.matches.held_out, allowance)
        allowance.leave_out("held-out matches of faithfulness", len(found), len(self.matches.held_out))
        return self._share(self.matches.described[1], found) if found else None

    def _distances(self, parts: Sequence[HeldOutMatch], allowance: Allowance) -> list[tuple[Match, list[float]]]:
        """What each match says of the text, of an empty one and of the random ones, up to where there is no room."""
        texts = [self.text, "", *self.randoms]
        found: list[tuple[Match, list[float]]] = []
        for part in parts:
            match: Match | None = None
            each: list[float] | None = None
            with allowance.reporting():
                if allowance.affords(len(texts)):  # else it is not even built
                    match = part.within(allowance)
                    if match is not None:
                        distances = functools.partial(match.distances, group=self.task)
                        each = allowance.measured("", texts, distances, size=self.matches.texts_at_once)
            if match is None or each is None:
                break
            found.append((match, each))
        return found

    @staticmethod
    def _share(quantity: str, found: Sequence[tuple[Match, list[float]]]) -> Share:
        each = torch.tensor([distances for _, distances in found], dtype=torch.float64).mean(dim=0)
        templates = tuple(one.text for part, _ in found for one in getattr(part, "templates", (part.template,)))
        return Share(quantity, templates, float(each[0]), float(each[1]), float(each[2:].mean()))


def lost_phrases(
    backend: Backend, original: str, prompt: str, template: PromptTemplate, allowance: Allowance | None = None
) -> tuple[LostPhrase, ...]:
    """The phrases of a long prompt that a short one does not say, those that matter most first.

    A text that is longer than the context is read in windows of whole phrases, and a phrase is left out of its own
    window alone: time and memory grow with the length, not with its square.

    Args:
        allowance: what this may spend; of the phrases that there is no room for nothing is known, and it is noted how
            many were looked at.
    """
    left = Allowance() if allowance is None else allowance
    phrases, joint = phrases_of(original), ", " if "," in original else " "
    if len(phrases) < 2:
        return ()
    windows = _windows_of_phrases(phrases, joint, room(backend, template), backend.vocabulary)
    texts = [original] if len(windows) == 1 else [joint.join(phrases[i] for i in window) for window in windows]
    read = None
    if left.affords(len(texts) + 2):
        features = functools.partial(_weighted_features, backend, template=template)
        read = left.measured("", texts, lambda part: [*features(part)], size=PHRASES_AT_ONCE)
    if read is None:  # nothing can be said without it
        left.leave_out("phrases compared", 0, len(phrases))
        return ()
    parts = torch.stack(read)
    total = parts.sum(dim=0)
    whole = normalize(total)
    own = left.insist(lambda: backend.encode_texts([template.fill(prompt)])[0].to(parts), passes=1)
    said = set(prompt.lower().split())
    lost: list[LostPhrase] = []
    looked = 0
    places = [(place, phrase) for place, window in enumerate(windows) for phrase in window]
    with left.reporting():
        for batch in left.batches(places, PHRASES_AT_ONCE):
            shorter = [joint.join(phrases[i] for i in windows[place] if i != phrase) for place, phrase in batch]
            others = normalize(
                total - parts[[place for place, _ in batch]] + _weighted_features(backend, shorter, template)
            )
            for (_, phrase), other in zip(batch, others, strict=True):
                way = whole - other
                if float(way.square().sum()) < NOTHING:  # it says nothing to the model
                    continue
                kept = float((own - other) @ way / way.square().sum())
                if kept < KEPT and not said.issuperset(phrases[phrase].lower().split()):
                    lost.append(LostPhrase(phrases[phrase], float(1 - whole @ other), kept))
            looked += len(batch)
    left.leave_out("phrases compared", looked, len(phrases))
    return tuple(sorted(lost, key=lambda one: -one.cost)[:MAX_LOST])


def _windows_of_phrases(phrases: Sequence[str], joint: str, free: int, vocabulary: Vocabulary) -> list[list[int]]:
    """The places of the phrases, in groups that each fit into `free` tokens where a phrase by itself does."""
    windows: list[list[int]] = [[]]
    taken = 0
    extra = len(vocabulary.encode(joint.strip())) if joint.strip() else 0
    for place, phrase in enumerate(phrases):
        count = len(vocabulary.encode(phrase)) + extra
        if windows[-1] and taken + count > free:
            windows.append([])
            taken = 0
        windows[-1].append(place)
        taken += count
    return windows


def _windows_with_tokens(text: str, free: int, vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    """The ids of a text in windows; none of a text that has no tokens, as an emoji may in a small vocabulary."""
    try:
        return windows_of(text, free, vocabulary) if text else []
    except VocabularyError:
        return []


def _weighted_features(
    backend: Backend, texts: Sequence[str], template: PromptTemplate
) -> Float[Tensor, "texts features"]:
    """The sum of each text's unit features in the template, window by window, each weighted with its tokens.

    Nothing, of an empty text; a text of one window has its features times its tokens.
    """
    vocabulary, free = backend.vocabulary, room(backend, template)
    rows = [(place, ids) for place, text in enumerate(texts) for ids in _windows_with_tokens(text, free, vocabulary)]
    bare = FeatureMatch(backend.text_encoder, torch.zeros(1, 1, 1), torch.ones(1, 1), template)
    device = vocabulary.table.device
    found = torch.zeros(len(texts), backend.feature_width, device=device)
    with torch.no_grad():
        for length in sorted({len(ids) for _, ids in rows}):
            alike = [(place, ids) for place, ids in rows if len(ids) == length]
            features = bare.features(vocabulary.embed(torch.tensor([ids for _, ids in alike], device=device)))
            found.index_add_(0, torch.tensor([place for place, _ in alike], device=device), features.float() * length)
    return found
