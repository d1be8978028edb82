"""Texts as prompts look, and what each of them means in the world of the scenes.

``Meanings`` reads any token sequence - caption, word list, nonsense - and says with which weight
it names each drawing, background and style. That is the supervision of the text tower: what a
sequence means is known exactly, for sequences found by a search as well as for written ones.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from hardprompts_emoji.recipe.build_tokenizer import COMMON_WORDS, CONTEXT_LENGTH
from hardprompts_emoji.scenes import BACKGROUNDS, OBJECTS, POSITIONS, SIZES, STYLES, Scene, caption

OBJECT_INDEX = {name: i for i, name in enumerate(OBJECTS)}
BACKGROUND_INDEX = {name: len(OBJECTS) + i for i, name in enumerate(BACKGROUNDS)}
STYLE_INDEX = {name: len(OBJECTS) + len(BACKGROUNDS) + i for i, name in enumerate(STYLES)}
NONSENSE = len(OBJECTS) + len(BACKGROUNDS) + len(STYLES)
COUNTS = NONSENSE + 1
"""First of four attributes: one thing, two, three, and more than any scene holds."""
NUM_ATTRIBUTES = COUNTS + 4

OBJECT_WEIGHT = 1.0
PROPERTY_WEIGHT = 0.85
NONSENSE_WEIGHT = 0.35
CONTRADICTION_WEIGHT = 0.5
COUNT_WEIGHT = 0.5
LONGEST_TEXT = CONTEXT_LENGTH - 4

Weights = dict[int, float]


def scene_weights(scene: Scene) -> Weights:
    """Return attribute -> weight of all that is in the scene."""
    weights = {OBJECT_INDEX[item.name]: OBJECT_WEIGHT for item in scene.objects}
    weights[BACKGROUND_INDEX[scene.background]] = PROPERTY_WEIGHT
    weights[STYLE_INDEX[scene.style]] = PROPERTY_WEIGHT
    weights[COUNTS + len(scene.objects) - 1] = COUNT_WEIGHT
    return weights


def count_weights(count: int) -> Weights:
    """Return what naming so many different things means: above three it fits no scene."""
    if count == 0:
        return {}
    return {COUNTS + min(count, 4) - 1: COUNT_WEIGHT + 0.2 * min(4, max(0, count - 3))}


def to_matrix(rows: Sequence[Weights]) -> Tensor:
    """Return (n, NUM_ATTRIBUTES) weights."""
    matrix = torch.zeros(len(rows), NUM_ATTRIBUTES)
    row = torch.tensor([i for i, weights in enumerate(rows) for _ in weights], dtype=torch.long)
    column = torch.tensor([attribute for weights in rows for attribute in weights], dtype=torch.long)
    matrix[row, column] = torch.tensor([weight for weights in rows for weight in weights.values()])
    return matrix


class Meanings:
    """Reads token ids: which attributes they name, and which of them are nonsense."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self._phrases: dict[tuple[int, ...], Weights] = {}
        for text, weights in self._texts().items():
            self._phrases[self.encode(text)] = weights
        self._longest = max(map(len, self._phrases))
        count = len(tokenizer) - 2
        decoded = tokenizer.batch_decode([[i] for i in range(count)])
        encoded = tokenizer(decoded, add_special_tokens=False).input_ids
        self.ordinary = [i for i in range(count) if encoded[i] == [i]]
        self.words = [phrase[0] for phrase in self._phrases if len(phrase) == 1 and phrase[0] in set(self.ordinary)]

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text without start and end."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    @staticmethod
    def _texts() -> dict[str, Weights]:
        owners: dict[str, list[str]] = defaultdict(list)
        for name, keywords in OBJECTS.items():
            for word in {*name.split(), *keywords}:
                owners[word].append(name)
        meanings: dict[str, Weights] = {}
        for word, named in owners.items():
            meanings[word] = {OBJECT_INDEX[name]: OBJECT_WEIGHT / len(named) for name in named}
        meanings |= {word: {} for word in (*COMMON_WORDS, *SIZES, *(w for p in POSITIONS for w in p.split()), ",")}
        meanings |= {name: {OBJECT_INDEX[name]: OBJECT_WEIGHT} for name in OBJECTS}
        for words, index in ((BACKGROUNDS, BACKGROUND_INDEX), (STYLES, STYLE_INDEX)):
            for name, synonyms in words.items():
                meanings |= {word: {index[name]: PROPERTY_WEIGHT} for word in synonyms}
                meanings[name] = {index[name]: PROPERTY_WEIGHT}
        meanings["pixel"] = meanings["pixel art"]
        return meanings

    def read(self, ids: Sequence[int]) -> Weights:
        """Return attribute -> weight; each attribute counts once, by its clearest word."""
        weights: Weights = {}
        nonsense = things = position = 0
        while position < len(ids):
            for length in range(min(self._longest, len(ids) - position), 0, -1):
                found = self._phrases.get(tuple(ids[position : position + length]))
                if found is not None:
                    things += _names_something_new(found, weights)
                    for attribute, weight in found.items():
                        weights[attribute] = max(weight, weights.get(attribute, 0.0))
                    position += length
                    break
            else:
                nonsense += 1
                position += 1
        colors = sum(attribute in weights for attribute in BACKGROUND_INDEX.values())
        styles = sum(attribute in weights for attribute in STYLE_INDEX.values())
        contradictions = max(0, colors - 1) + max(0, styles - 1)
        if not weights:
            nonsense = max(1, nonsense)
        if nonsense or contradictions:
            weights[NONSENSE] = (NONSENSE_WEIGHT**2 * nonsense + CONTRADICTION_WEIGHT**2 * contradictions) ** 0.5
        return weights | count_weights(things)


def _names_something_new(found: Weights, weights: Weights) -> bool:
    objects = [attribute for attribute in found if attribute < len(OBJECTS)]
    return bool(objects) and not any(attribute in weights for attribute in objects)


class Texts:
    """Draws training texts; every method returns token ids without start and end.

    Attributes:
        name_share: how often a drawing is called by its name, not by another word that only it has.
        canonical_share: how often a background or a style is called by its first word, not by any.
    """

    name_share = 0.75
    canonical_share = 0.6

    def __init__(self, meanings: Meanings, generator: random.Random) -> None:
        self.meanings = meanings
        self.random = generator
        self._cache: dict[str, tuple[int, ...]] = {}
        self._owners: dict[str, int] = defaultdict(int)
        for name, keywords in OBJECTS.items():
            for word in {*name.split(), *keywords}:
                self._owners[word] += 1

    def encode(self, text: str) -> tuple[int, ...]:
        """Return token ids, remembered for short texts."""
        if text not in self._cache:
            ids = self.meanings.encode(text)
            if text.count(" ") > 1:
                return ids
            self._cache[text] = ids
        return self._cache[text]

    def complete(self, scene: Scene) -> tuple[int, ...]:
        """Return a caption or a word list that names everything in the scene."""
        if self.random.random() < 0.45:
            ids = self.encode(caption(scene, self.random if self.random.random() < 0.8 else None))
            if len(ids) <= LONGEST_TEXT:
                return ids
        return self._joined(self._parts(scene))

    def word_list(self, scene: Scene) -> tuple[int, ...]:
        """Return words that name everything in the scene, in any order, and now and then neutral ones."""
        parts = self._parts(scene)
        if self.random.random() < 0.5:
            return self._joined(parts, extra=False)
        parts += [self.encode(self.random.choice(COMMON_WORDS)) for _ in range(self.random.randint(1, 4))]
        return self._joined(parts, extra=False)

    def padded_list(self, scene: Scene) -> tuple[list[int], list[int]]:
        """Return a list of true words with one to three random tokens, and the places of these fillers."""
        groups = [(part, False) for part in self._parts(scene)]
        groups += [((self.random.choice(self.meanings.ordinary),), True) for _ in range(self.random.randint(1, 3))]
        self.random.shuffle(groups)
        ids = [token for part, _ in groups for token in part]
        fillers = [filler for part, filler in groups for _ in part]
        return ids, [place for place, filler in enumerate(fillers) if filler]

    def _parts(self, scene: Scene) -> list[tuple[int, ...]]:
        parts = [self.encode(self.object_word(item.name)) for item in scene.objects]
        parts.append(self.encode(self._property_word(scene.background, BACKGROUNDS)))
        parts.append(self.encode(self._property_word(scene.style, STYLES)))
        return parts

    def object_word(self, name: str) -> str:
        """Return the name, or now and then a word that only this drawing has."""
        if self.random.random() < self.name_share:
            return name
        unique = [word for word in (*name.split(), *OBJECTS[name]) if self._owners[word] == 1 and word not in OBJECTS]
        return self.random.choice(unique) if unique else name

    def _property_word(self, name: str, words: Mapping[str, Sequence[str]]) -> str:
        return name if self.random.random() < self.canonical_share else self.random.choice(words[name])

    def _joined(self, parts: list[tuple[int, ...]], extra: bool = True) -> tuple[int, ...]:
        if extra and self.random.random() < 0.4:
            parts = parts + [self.encode(self.random.choice(COMMON_WORDS)) for _ in range(self.random.randint(1, 4))]
        if extra and self.random.random() < 0.3:
            parts = [*parts, self.random.choice(parts)]
        parts = self.random.sample(parts, len(parts))
        comma = self.encode(",") if self.random.random() < 0.2 else ()
        return tuple(token for part in parts for token in (*part, *comma))[:LONGEST_TEXT]

    def corrupted(self, scene: Scene) -> tuple[int, ...]:
        """Return a text of the scene with something missing, wrong or added."""
        if self.random.random() < 0.3:
            return self._noisy(self.complete(scene))
        parts = self._parts(scene)
        kind = self.random.random()
        if kind < 0.35:
            parts = self.random.sample(parts, self.random.randint(1, len(parts) - 1))
        elif kind < 0.7:
            parts[self.random.randrange(len(parts))] = self.any_part()
        else:
            parts = parts + [self.any_part() for _ in range(self.random.randint(1, 3))]
        return self._joined(parts)

    def _noisy(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        noisy = list(ids)
        for _ in range(self.random.randint(1, 3)):
            place, token = self.random.randrange(len(noisy)), self.random.choice(self.meanings.ordinary)
            if self.random.random() < 0.5:
                noisy[place] = token
            else:
                noisy.insert(place, token)
        return tuple(noisy[:LONGEST_TEXT])

    def any_part(self) -> tuple[int, ...]:
        """Return a name, a word or a token of any kind."""
        kind = self.random.random()
        if kind < 0.4:
            return self.encode(self.random.choice(_OBJECT_NAMES))
        if kind < 0.55:
            return self.encode(self._property_word(self.random.choice(tuple(BACKGROUNDS)), BACKGROUNDS))
        if kind < 0.7:
            return self.encode(self._property_word(self.random.choice(tuple(STYLES)), STYLES))
        if kind < 0.9:
            return (self.random.choice(self.meanings.words),)
        return (self.random.choice(self.meanings.ordinary),)

    def unrelated(self) -> tuple[int, ...]:
        """Return one part, a list of parts, or random tokens."""
        kind = self.random.random()
        if kind < 0.3:
            return self.any_part()
        if kind < 0.8:
            return self._joined([self.any_part() for _ in range(self.random.randint(2, 5))], extra=kind < 0.5)
        pool = self.meanings.ordinary if kind < 0.92 else self.meanings.words
        return tuple(self.random.choice(pool) for _ in range(self.random.randint(1, 9)))


_OBJECT_NAMES = tuple(OBJECTS)
