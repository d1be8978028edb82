"""Words that a generator draws as something else, corrected: what its pictures show is compared with what they should."""

import dataclasses
import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.applications.black_box.mutations import Phrases, _draw
from hardprompts.encoders import Backend, normalize
from hardprompts.prompts import PromptTemplate


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """One phrase of a prompt, and what else could stand there.

    Attributes:
        words: the phrase itself first, then others of its kind; "" stands for no phrase.
        texts: the prompt with each of them.
        features: of these texts.
    """

    words: tuple[str, ...]
    texts: tuple[str, ...]
    features: Float[Tensor, "words features"]


class Correction:
    """A phrase that is not drawn as it reads becomes one that may be drawn as what the images show.

    A model reads from the pictures of a prompt, phrase by phrase, what was drawn for it, as it reads from the images
    what should be: by comparing the prompt with each other phrase in this place. The phrase in whose place the two
    differ most is exchanged. What a phrase was drawn as is remembered; one that was not drawn yet is drawn as it reads
    as often as others were, and else as something related.

    Args:
        backend: reads pictures and texts.
        target: the images' features in it, a unit vector.
        count: phrases that are compared in each place.
        sharpness: of what is read: softmax(sharpness * similarity).
    """

    def __init__(
        self,
        phrases: Phrases,
        backend: Backend,
        target: Float[Tensor, " features"],
        template: PromptTemplate | None = None,
        count: int = 48,
        sharpness: float = 100.0,
        name: str = "correct",
    ) -> None:
        self.phrases, self.backend, self.target, self.name = phrases, backend, target, name
        self.template = PromptTemplate() if template is None else template
        self.count, self.sharpness = count, sharpness
        self._pictures: dict[str, list[Float[Tensor, " features"]]] = {}
        self._places: dict[str, list[_Place]] = {}
        self._variants: dict[str, list[tuple[_Place, int]]] = {}
        self._read: dict[str, dict[str, float]] = {}

    def drawn(self, text: str, picture: Image.Image) -> None:
        """Takes in a picture of a prompt."""
        features = self.backend.encode_images([picture])[0]
        self._pictures.setdefault(text, []).append(features)
        for place, index in self._variants.get(text, ()):
            self._remember(place, index, features)

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        text = parents[0]
        if text not in self._pictures:
            return None
        places = self._places_of(text)
        shown = normalize(torch.stack(self._pictures[text]).mean(dim=0))
        wrong = torch.stack([(self._is(place, self.target) - self._is(place, shown)).clamp(min=0).sum() for place in places]).cpu()
        if not float(wrong.sum()):
            return None
        place = places[int(torch.multinomial(wrong, 1, generator=generator))]
        gains = self._gains(place)
        for index, other in enumerate(place.texts):
            if other in self._pictures or not other:
                gains[index] = 0.0
        if not float(gains.sum()):
            return None
        return place.texts[int(torch.multinomial(gains, 1, generator=generator))]

    # --- reading --------------------------------------------------------------------------

    def _is(self, place: _Place, features: Float[Tensor, " features"]) -> Float[Tensor, " words"]:
        """How likely a picture shows each of the phrases in this place."""
        return (self.sharpness * (place.features @ features).float()).softmax(dim=0)

    def _remember(self, place: _Place, index: int, features: Float[Tensor, " features"]) -> None:
        read = self._is(place, features).tolist()
        known = self._read.setdefault(place.words[index], {})
        for word, share in zip(place.words, read, strict=True):
            known[word] = known.get(word, 0.0) + share

    def _gains(self, place: _Place) -> Float[Tensor, " words"]:
        """How likely each phrase is drawn as what the images show in this place."""
        wanted = self._is(place, self.target).cpu()
        understood = [own.get(word, 0.0) / total for word, own in self._read.items() if (total := sum(own.values())) and word]
        trust = (1 + sum(understood)) / (2 + len(understood))
        features = self._features(place.words)
        related = (20 * (features @ features.T).float()).cpu()
        related.fill_diagonal_(-torch.inf)
        related = related.softmax(dim=1)
        gains = []
        for index, word in enumerate(place.words):
            if known := self._read.get(word):
                total = sum(known.values())
                gains.append(sum(known.get(other, 0.0) / total * float(wanted[i]) for i, other in enumerate(place.words)))
            elif not word:
                gains.append(float(wanted[index]))
            else:
                gains.append(trust * float(wanted[index]) + (1 - trust) * float(related[index] @ wanted))
        gains[0] = 0.0
        return torch.tensor(gains)

    # --- places ---------------------------------------------------------------------------

    def _places_of(self, text: str) -> list[_Place]:
        if text in self._places:
            return self._places[text]
        own = self.phrases.split(text)
        found = []
        for number in range(len(own) + 1):
            word = own[number] if number < len(own) else ""
            words = self._alternatives(word)
            texts = tuple(" ".join(part for part in (*own[:number], one, *own[number + 1 :]) if part) for one in words)
            features = self.backend.encode_texts([self.template.fill(one) if one else " " for one in texts])
            place = _Place(words, texts, features)
            found.append(place)
            for index, one in enumerate(texts):
                self._variants.setdefault(one, []).append((place, index))
                for features_ in self._pictures.get(one, ()):
                    if index or number < len(own):
                        self._remember(place, index, features_)
        self._places[text] = found
        return found

    @functools.cached_property
    def _every(self) -> list[str]:
        return list(dict.fromkeys(phrase for table in self.phrases.tables for phrase in table.phrases))

    @functools.cached_property
    def _known(self) -> dict[str, Tensor]:
        return dict(zip(self._every, self.backend.encode_texts(self._every), strict=True))

    def _features(self, words: Sequence[str]) -> Tensor:
        missing = [word for word in words if word not in self._known]
        if missing:
            self._known.update(zip(missing, self.backend.encode_texts([word or " " for word in missing]), strict=True))
        return torch.stack([self._known[word] for word in words])

    def _alternatives(self, word: str) -> tuple[str, ...]:
        bare = word.rstrip(",.;:!?")
        among = list(self.phrases.alternatives(bare)) or self._every
        features = self._features(among)
        near = features @ self._features([bare])[0] if bare else features @ self.target
        wanted = features @ self.target
        places = dict.fromkeys(
            [*wanted.topk(min(self.count // 2, len(among))).indices.tolist(), *near.topk(min(self.count // 2, len(among))).indices.tolist()]
        )
        others = [among[place] for place in places if among[place].lower() != bare.lower()]
        return tuple(dict.fromkeys([bare, *others, ""]))
