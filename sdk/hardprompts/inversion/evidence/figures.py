"""What a phrase has to do with pictures by itself: its standing among all known words, in the whole and in parts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.inversion.evidence.known_words import Contrast
from hardprompts.inversion.evidence.looks import PARTS, Looks
from hardprompts.wording import Region

#: No spread of similarities counts as smaller.
LEAST_SPREAD = 1e-6

#: Of the spread of all words' similarities, the temperature at which they share what a picture says.
TEMPERATURE = 0.33

#: How many spreads of known words nearer a part of a picture must be than the mean part for a phrase to hold there.
HOLDS = 0.5

#: Added to how likely a classifier holds something, before the logarithm.
LEAST_RECOGNIZED = 0.003

#: Figures that need the parts of a picture.
OF_PARTS = frozenset({"part", "mean part", "part said", "part recognized"})


@dataclasses.dataclass(frozen=True, eq=False)
class Backdrop:
    """How near all known words are to each look at a picture: what a phrase stands out from, or does not.

    Attributes:
        mean, spread: of the similarities of the words of each category that has enough, and, last, of all words.
        heat: the temperature at which words share what a look says.
        shared: the logarithm of the sum of what all words say at that temperature.
    """

    mean: Float[Tensor, "looks groups"]
    spread: Float[Tensor, "looks groups"]
    heat: Float[Tensor, "looks 1"]
    shared: Float[Tensor, "looks 1"]

    @classmethod
    def of(cls, looks: Float[Tensor, "looks features"], contrast: Contrast) -> "Backdrop":
        """The backdrop of some looks."""
        every = looks @ contrast.features.T
        groups = [*(every[:, places] for places in contrast.groups.values()), every]
        mean = torch.stack([own.mean(dim=1) for own in groups], dim=1)
        spread = torch.stack([own.std(dim=1) for own in groups], dim=1).clamp_min(LEAST_SPREAD)
        heat = TEMPERATURE * spread[:, -1:]
        return cls(mean, spread, heat, torch.logsumexp(every / heat, dim=1, keepdim=True))

    def standing(
        self, similar: Float[Tensor, "looks phrases"], groups: Int[Tensor, " phrases"]
    ) -> tuple[Float[Tensor, "looks phrases"], Float[Tensor, "looks phrases"]]:
        """How many spreads phrases are above the words of their categories, and the logarithm of what they share."""
        # A phrase that is none of the words may be nearer than all of them: it has no more than the whole share.
        said = (similar / self.heat - self.shared).clamp_max(0.0)
        return (similar - self.mean[:, groups]) / self.spread[:, groups], said


#: The backdrops of a picture: of its views, of their mean, and of its parts.
Backdrops: TypeAlias = tuple[Backdrop, Backdrop, Backdrop | None]


def spread_of(own: Backdrops) -> float:
    """The spread of the similarities of all words with a picture."""
    return float(own[1].spread[0, -1])


def backdrops(looks: Looks, model: int, contrast: Contrast, allowance: Allowance) -> list[Backdrops] | None:
    """What phrases are measured against, for each picture; None, with a note, where there is no time for it."""
    found: list[Backdrops] = []
    for places in allowance.batches(range(looks.pictures), size=16, passes=0):
        for picture in places:
            whole = looks.whole[model][picture]
            parts = None if looks.parts is None else Backdrop.of(looks.parts[model][picture], contrast)
            found.append((Backdrop.of(whole, contrast), Backdrop.of(whole.mean(dim=0, keepdim=True), contrast), parts))
    allowance.leave_out("pictures that bear witness", len(found), looks.pictures)
    return found if len(found) == looks.pictures else None


@dataclasses.dataclass(frozen=True, eq=False)
class Figures:
    """What one model says of some phrases.

    Attributes:
        of_pictures: for each picture the figures of all phrases by name.
        spreads: for each picture, the spread of the similarities of all words.
        parts: how phrases stand in the parts of the first picture; None where it has none.
    """

    of_pictures: tuple[Mapping[str, Float[Tensor, " phrases"]], ...]
    spreads: tuple[float, ...]
    parts: Float[Tensor, "parts phrases"] | None

    @classmethod
    def of(
        cls,
        looks: Looks,
        model: int,
        phrases: Float[Tensor, "phrases features"],
        categories: Sequence[str],
        contrast: Contrast,
        behind: Sequence[Backdrops],
    ) -> "Figures":
        """The figures of phrases with the first pictures, as many as there are backdrops.

        "alone" and "least alone" say how a phrase stands in all views of the whole picture, and in the worst of them;
        "said" the logarithm of its share if all words share what the picture says; "part", "mean part" and "part said"
        the same of its best part and of all parts; "similarity" its own; "common" how near it is to all words;
        "recognized" and "part recognized", of a classifier, the logarithm of how likely a class of its name is there.
        """
        prefix = "judge " if model else ""
        groups, common = contrast.places(categories), phrases @ contrast.mean
        found, first = [], None
        for picture, (views, middle, pieces) in enumerate(behind):
            whole = looks.whole[model][picture] @ phrases.T
            similar = whole.mean(dim=0, keepdim=True)
            alone, said = middle.standing(similar, groups)
            named = {
                "alone": alone[0], "least alone": views.standing(whole, groups)[0].amin(dim=0),
                "similarity": similar[0], "said": said[0], "common": common,
            }  # fmt: skip
            if looks.parts is not None and pieces is not None:
                z, said = pieces.standing(looks.parts[model][picture] @ phrases.T, groups)
                named |= {"part": z.amax(dim=0), "mean part": z.mean(dim=0), "part said": said.amax(dim=0)}
                first = z if picture == 0 else first
            recognized = looks.recognized(model, picture, phrases)
            if recognized is not None:
                odds = torch.log(recognized + LEAST_RECOGNIZED)
                named |= {"recognized": odds[0], "part recognized": odds[1:].amax(dim=0)}
            found.append({prefix + name: values for name, values in named.items()})
        return cls(tuple(found), tuple(map(spread_of, behind)), first)

    def of_phrase(self, phrase: int) -> tuple[dict[str, float], ...]:
        """The figures of one phrase with each picture."""
        return tuple({name: float(values[phrase]) for name, values in own.items()} for own in self.of_pictures)

    def regions(self, phrase: int) -> tuple[Region, ...]:
        """The parts of the first picture in which a phrase holds."""
        if self.parts is None:
            return ()
        own = self.parts[:, phrase]
        held = own >= torch.maximum(own.mean() + HOLDS, own.amax() - HOLDS)
        return tuple(region for region, holds in zip(PARTS, held.tolist(), strict=True) if holds)
