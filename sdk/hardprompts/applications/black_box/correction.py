"""Words that a generator draws as something else, corrected by what its pictures show."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.applications.black_box.mutations import SIGNS, PhraseFeatures, Phrases
from hardprompts.encoders import normalize
from hardprompts.prompts import PromptTemplate


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """One place in a prompt, and what could stand there.

    Attributes:
        words: the phrase that stands there, then others; "" is none.
        texts: the prompt with each of them.
        features: of these texts.
    """

    words: tuple[str, ...]
    texts: tuple[str, ...]
    features: Float[Tensor, "words features"]


class Correction:
    """A phrase that is not drawn as it reads becomes one that may be drawn as what the images show.

    For each phrase of a prompt, a model reads from the prompt's pictures what was drawn for it, and from the images
    what should be, by comparing them with the prompt with other phrases in this place. The more the two differ, the
    likelier is the phrase exchanged, for one that is the likelier drawn as it should be. What a phrase was drawn as is
    remembered. One that was not drawn yet is expected to be drawn as it reads as often as others were, and else as
    something related; so a generator's words are learned while it draws.

    Args:
        phrases: that prompts are made of.
        features: of phrases, and of texts; its model also reads the pictures.
        target: the images' features in that model, a unit vector.
        count: phrases that are compared in each place: half of them those most like the images, half of them those
            most like the phrase that stands there.
        sharpness: of what is read: softmax(sharpness * similarity).
        kinship: of what is related: softmax(kinship * similarity).
    """

    name = "correct"

    def __init__(
        self,
        phrases: Phrases,
        features: PhraseFeatures,
        target: Float[Tensor, " features"],
        template: PromptTemplate | None = None,
        count: int = 64,
        sharpness: float = 100.0,
        kinship: float = 20.0,
    ) -> None:
        self.phrases, self.features, self.target = phrases, features, target
        self.template = PromptTemplate() if template is None else template
        self.count, self.sharpness, self.kinship = count, sharpness, kinship
        self._seen: dict[str, list[Tensor]] = {}
        self._places: dict[str, list[_Place]] = {}
        self._standing: dict[str, list[tuple[_Place, int]]] = {}
        self._drawn_as: dict[str, dict[str, float]] = {}

    def drawn(self, text: str, picture: Image.Image) -> None:
        """Takes in a picture of a prompt."""
        (seen,) = self.features.backend.encode_images([picture])
        self._seen.setdefault(text, []).append(seen)
        for place, index in self._standing.get(text, ()):
            self._remember(place, index, seen)

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        text = parents[0]
        if text not in self._seen:
            return None
        places, shown = self._places_of(text), normalize(torch.stack(self._seen[text]).mean(dim=0))
        missing = torch.stack([self._missing(place, shown) for place in places])
        # What is missing because a phrase is drawn as something else is missing at the end, too.
        missing[-1] *= 1 - missing[:-1].max()
        chosen = _drawn_by(missing, generator)
        if chosen is None:
            return None
        gains = self._gains(places[chosen])
        texts = places[chosen].texts
        for index, changed in enumerate(texts):
            if not changed or changed in self._seen:
                gains[index] = 0.0
        other = _drawn_by(gains, generator)
        return None if other is None else texts[other]

    def _missing(self, place: _Place, shown: Float[Tensor, " features"]) -> Float[Tensor, ""]:
        """How much of what the images show in this place the prompt's pictures do not."""
        missing = (self._read(place, self.target) - self._read(place, shown)).clamp(min=0)
        # Where nothing stands, and nothing should, nothing is wrong.
        return missing[1:].sum() if not place.words[0] else missing.sum()

    def _read(self, place: _Place, picture: Float[Tensor, " features"]) -> Float[Tensor, " words"]:
        """How likely a picture shows each of the phrases in this place."""
        return (self.sharpness * (place.features @ picture).float()).softmax(dim=0).cpu()

    def _remember(self, place: _Place, index: int, picture: Float[Tensor, " features"]) -> None:
        if not place.words[index]:
            return
        known = self._drawn_as.setdefault(place.words[index], {})
        for word, share in zip(place.words, self._read(place, picture).tolist(), strict=True):
            known[word] = known.get(word, 0.0) + share

    def _gains(self, place: _Place) -> Float[Tensor, " words"]:
        """How likely each phrase is drawn as what the images show in this place."""
        wanted, trust = self._read(place, self.target), self._trust()
        rows = self.features.of(place.words)
        alike = (self.kinship * (rows @ rows.T).float()).cpu().fill_diagonal_(-torch.inf).softmax(dim=1)
        gains = trust * wanted + (1 - trust) * (alike @ wanted)
        for index, word in enumerate(place.words):
            if not word:
                gains[index] = wanted[index]
            elif known := self._drawn_as.get(word):
                shares = torch.tensor([known.get(other, 0.0) for other in place.words])
                gains[index] = shares @ wanted / sum(known.values())
        return gains

    def _trust(self) -> float:
        """The share of phrases that are drawn as they read, of those that were drawn; 1 in 2 before any was."""
        shares = [known.get(word, 0.0) / sum(known.values()) for word, known in self._drawn_as.items()]
        return (1 + sum(shares)) / (2 + len(shares))

    def _places_of(self, text: str) -> list[_Place]:
        """The places of a prompt: one for each phrase, and the end, where one more may stand."""
        if text not in self._places:
            own = self.phrases.split(text)
            self._places[text] = [self._place(own, number) for number in range(len(own) + 1)]
        return self._places[text]

    def _place(self, own: Sequence[str], number: int) -> _Place:
        standing = own[number] if number < len(own) else ""
        words = self._words_for(standing.rstrip(SIGNS))
        sign = standing[len(standing.rstrip(SIGNS)) :]
        texts = tuple(
            " ".join(part for part in (*own[:number], word + sign if word else "", *own[number + 1 :]) if part)
            for word in words
        )
        # A model reads nothing as well as any text, but an empty template may hold no words at all.
        place = _Place(
            words, texts, self.features.backend.encode_texts([self.template.fill(one or " ") for one in texts])
        )
        for index, one in enumerate(texts):
            self._standing.setdefault(one, []).append((place, index))
            for seen in self._seen.get(one, ()):
                self._remember(place, index, seen)
        return place

    def _words_for(self, standing: str) -> tuple[str, ...]:
        """What could stand in the place of a phrase, itself first, and none last."""
        kin = self.phrases.alternatives(standing) or self.features.every
        rows, most = self.features.of(kin), min(self.count // 2, len(kin))
        wanted = rows @ self.target
        near = rows @ self.features.of([standing])[0] if standing else wanted
        order = [*wanted.topk(most).indices.tolist(), *near.topk(most).indices.tolist()]
        others = [kin[place] for place in order if kin[place].lower() != standing.lower()]
        return tuple(dict.fromkeys([standing, *others, ""]))


def _drawn_by(weights: Float[Tensor, " places"], generator: torch.Generator) -> int | None:
    """A place by chance, as likely as its weight; None where all are 0."""
    return int(torch.multinomial(weights, 1, generator=generator)) if float(weights.sum()) > 0 else None
