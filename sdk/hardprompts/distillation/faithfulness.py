"""How much of what a soft prompt, or a long one, does is kept by the hard prompt that it was turned into."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hardprompts.errors import FileFormatError
from hardprompts.prompts import HardPrompt

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

    It is stored as any `HardPrompt`; what is more is in `provenance`, so that `HardPrompt.from_pretrained`
    reads it, and `DistilledPrompt.from_pretrained` all of it.
    """

    @property
    def faithfulness(self) -> Faithfulness | None:
        """The share of the original's effect that the prompt keeps; None if nobody measured it.

        Raises:
            FileFormatError: what is stored is not a faithfulness.
        """
        values = self.provenance.get("faithfulness")
        return None if values is None else Faithfulness.from_dict(values)

    @property
    def lost(self) -> tuple[LostPhrase, ...]:
        """The phrases of a long prompt that this one does not say, those that matter most first.

        Raises:
            FileFormatError: what is stored is not a list of phrases.
        """
        stored: Sequence[Mapping[str, Any]] = self.provenance.get("lost", ())
        try:
            return tuple(LostPhrase(str(one["text"]), float(one["cost"]), float(one["kept"])) for one in stored)
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"not the phrases that were lost: {error!r}") from error
