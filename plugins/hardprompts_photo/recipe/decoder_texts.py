"""What the decoder of MiniLM's features learns from: captions, prompts, lists of things, and definitions of words.

The words are WordNet's, those of ImageNet's classes, CLDR's for emoji, and the lists of `decoder_words.txt`; grammars
put them together. Signs are left out: a search has words alone.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType

from hardprompts.wording import bad_words, commonness

WORDNET = Path("/usr/share/wordnet")
LISTS = Path(__file__).with_name("decoder_words.txt")

#: Words of one text, at most.
MOST_WORDS = 16

#: How common each word of a noun or adjective must be; see `hardprompts.wording.commonness`.
LEAST_COMMON = 2.6

#: WordNet's lexicographer's files whose nouns are things that can be seen, by their numbers.
KINDS: Mapping[str, str] = MappingProxyType(
    {"05": "animal", "06": "artifact", "13": "food", "15": "place", "17": "landscape", "18": "person", "20": "plant"}
)

#: Of the texts, how many are made by which grammar.
SHARES: Mapping[str, float] = MappingProxyType(
    {"caption": 0.34, "prompt": 0.34, "things": 0.1, "described": 0.1, "mixture": 0.12}
)


@functools.cache
def lists() -> dict[str, tuple[list[str], list[float]]]:
    """The lists of `decoder_words.txt`: for each heading its entries, and the running sum of their weights."""
    found: dict[str, tuple[list[str], list[float]]] = {}
    for block in re.split(r"\n\[", LISTS.read_text(encoding="utf-8").partition("\n[")[2]):
        heading, _, body = block.partition("]")
        entries = [entry.strip() for entry in body.replace("\n", " ").split(",") if entry.strip()]
        parts = [entry.partition(":") if ":" in entry else ("1", ":", entry) for entry in entries]
        found[heading] = _weighted([text for _, _, text in parts], [float(weight) for weight, _, _ in parts])
    return found


def _weighted(texts: Sequence[str], weights: Sequence[float]) -> tuple[list[str], list[float]]:
    return list(texts), list(accumulate(weights))


# --- WordNet ------------------------------------------------------------------------------


@functools.cache
def wordnet_lines(part: str) -> tuple[str, ...]:
    """The lines of one of WordNet's data files, without its license."""
    lines = (WORDNET / f"data.{part}").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("  "))


@functools.cache
def nouns() -> dict[str, tuple[list[str], list[float]]]:
    """For each kind of `KINDS` the nouns that have it in their commonest sense; commoner ones are drawn more often."""
    lines = {line[:8]: line for line in wordnet_lines("noun")}
    found: dict[str, dict[str, float]] = {kind: {} for kind in KINDS.values()}
    for line in (WORDNET / "index.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        fields = line.split()
        own = lines[fields[-int(fields[2])]]
        kind, word = KINDS.get(own[9:11]), fields[0].replace("_", " ")
        if kind and re.fullmatch("[a-z ]{3,}", word) and not bad_words() & set(word.split()):
            common = min(map(commonness, word.split()))
            if common >= LEAST_COMMON:
                # Nouns of several words are as rare as they are together.
                found[kind][word] = 3.0 ** (common - 2 * word.count(" "))
    return {kind: _weighted(list(words), list(words.values())) for kind, words in found.items()}


@functools.cache
def adjectives() -> tuple[list[str], list[float]]:
    """Common adjectives."""
    words = (
        line.split()[0] for line in (WORDNET / "index.adj").read_text(encoding="utf-8").splitlines() if line[0] != " "
    )
    kept = [word for word in words if re.fullmatch("[a-z]{3,}", word) and 3.5 <= commonness(word) < 6]
    return _weighted(sorted(set(kept) - bad_words()), [1.0] * len(set(kept) - bad_words()))


@functools.cache
def painters() -> list[str]:
    """Names of painters: the shortest and the longest that WordNet has of each."""
    found = []
    for line in wordnet_lines("noun"):
        head, _, gloss = line.partition(" | ")
        if head[9:11] == "18" and re.search(r"\b(painter|sculptor|printmaker)\b", gloss):
            fields = head.split()
            names = [fields[4 + 2 * at].replace("_", " ") for at in range(int(fields[3], 16))]
            if names[0][0].isupper():
                found += [min(names, key=len), max(names, key=len)]
    return found


def definitions() -> Iterator[str]:
    """WordNet's definitions of words, alone and with their word, and its example sentences."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in wordnet_lines(part):
            head, _, gloss = line.partition(" | ")
            word = re.sub(r"\(\w+\)$", "", head.split()[4]).replace("_", " ")
            meaning = re.split(r'(?:^|;)\s*"', gloss)[0]
            meaning = re.sub(r"\([^)]*\)", " ", meaning)
            yield meaning.partition(";")[0]
            yield word
            if part == "noun":
                yield f"{word} {meaning.partition(';')[0]}"
            yield from re.findall(r'"([^"]+)"', gloss)


# --- grammars -----------------------------------------------------------------------------


class Grammar:
    """Writes texts of several kinds, all by one generator."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self.random = random.Random(seed)
        self.names = list(names)  # of ImageNet's classes and of emoji

    def one(self, heading: str) -> str:
        """An entry of a list of `decoder_words.txt`."""
        texts, sums = lists()[heading]
        return self.random.choices(texts, cum_weights=sums)[0]

    def noun(self, *kinds: str) -> str:
        """A noun of WordNet of one of these kinds, or a class of ImageNet or an emoji."""
        if self.random.random() < 0.15:
            return self.random.choice(self.names)
        texts, sums = nouns()[self.random.choice(kinds)]
        return self.random.choices(texts, cum_weights=sums)[0]

    def likely(self, probability: float) -> bool:
        """Whether something happens that has a probability."""
        return self.random.random() < probability

    def text(self) -> str:
        """A text of any kind."""
        kind = self.random.choices(list(SHARES), list(SHARES.values()))[0]
        written: Callable[[], str] = getattr(self, kind)
        return written()

    # --- captions ---

    def caption(self) -> str:
        """What a photograph shows, as a sentence, or as its words alone."""
        kind = self.random.random()
        if kind < 0.42:
            parts = [self._person(), self._doing("acts"), self.one("places") if self.likely(0.65) else ""]
        elif kind < 0.62:
            parts = [self._several(), self._doing("acts", plural=True), self.one("places") if self.likely(0.65) else ""]
        elif kind < 0.82:
            parts = [self._pet(), self._doing("pet acts"), self.one("places") if self.likely(0.6) else ""]
        elif kind < 0.9:
            parts = [self._person(), self._doing("acts"), f"while {self._person()} {self.one('acts')}"]
        else:
            thing = self.noun("artifact", "food", "plant", "animal", "landscape")
            verb = self.random.choice(("", "is", ""))
            beside = [self.one("places"), *(f"{word} {_a(self._thing())}" for word in ("with", "next to", "and"))]
            parts = [_a(thing), verb, self.random.choice(beside)]
        text = " ".join(part for part in parts if part)
        return keywords(text) if self.likely(0.45) else text

    def _person(self) -> str:
        person = self.one("people") if self.likely(0.92) else self.noun("person")
        text = _a(person)
        if self.likely(0.5):
            worn = " and ".join(self._worn() for _ in range(1 + self.likely(0.3)))
            text += f" {self.random.choice(('in', 'wearing', 'in', 'with'))} {worn}"
        return text

    def _worn(self) -> str:
        clothes = self.one("clothes")
        described = f"{self.one('colors')} {clothes}" if self.likely(0.75) else clothes
        return described if clothes.endswith("s") else _a(described)

    def _several(self) -> str:
        group = self.one("groups")
        text = f"{self.one('counts')} {group}" if self.likely(0.85) else group
        return f"{text} in {self.one('colors')} {self.one('clothes')}" if self.likely(0.2) else text

    def _pet(self) -> str:
        pet = self.one("pets") if self.likely(0.85) else self.noun("animal")
        text = f"{self.random.choice(('a', 'a', 'the', 'one'))} {pet}" if self.likely(0.85) else pet
        if self.likely(0.25):
            worn = self.one("collared")
            if worn in ("collar", "leash", "harness", "muzzle", "shirt"):
                worn = f"{self.one('colors')} {worn}"
            text += f" with {worn if worn.startswith('its') else _a(worn)}"
        return text

    def _doing(self, heading: str, *, plural: bool = False) -> str:
        act = self.one(heading)
        if self.likely(0.45):
            return f"{'are' if plural else 'is'} {act}"
        return f"{act} and {self.one(heading)}" if self.likely(0.08) else act

    # --- prompts ---

    def prompt(self) -> str:
        """What people write for pictures: a subject, and words for style, light and quality."""
        kind = self.random.random()
        text = self._subject()
        if kind < 0.3:
            text = f"{self.one('openings')} {text}"
        elif kind < 0.42:
            text = f"{self.one('styles')} {text}"
        if self.likely(0.3):
            text = f"{text} {self.random.choice(('in', 'in a', 'at the', 'inside', 'on', ''))} {self.one('scenes')}"
        behind = []
        if self.likely(0.4):
            behind.append(self.one("styles"))
        if self.likely(0.12):
            behind.append(f"by {self.random.choice(painters())}")
        if self.likely(0.1):
            behind.append(
                f"in the style of {self.one('styles') if self.likely(0.5) else self.random.choice(painters())}"
            )
        if self.likely(0.35):
            behind.append(self.one("lights"))
        behind += [self.one("qualities") for _ in range(self.random.choices((0, 1, 2, 3, 4), (30, 25, 20, 15, 10))[0])]
        self.random.shuffle(behind)
        return " ".join((text, *behind))

    def _subject(self) -> str:
        kind = self.random.random()
        if kind < 0.2:
            return f"{self.one('traits')} {self.one('scenes')}" if self.likely(0.7) else self.one("scenes")
        subject = self.one("figures") if self.likely(0.55) else self._thing()
        if self.likely(0.45):
            subject = f"{self.one('traits')} {subject}"
        if self.likely(0.25):
            subject = _a(subject)
        if self.likely(0.15):
            subject += f" wearing {self.one('wearing')}"
        if self.likely(0.15):
            subject += f" with {self.one('with')}"
        if self.likely(0.25):
            subject += f" {self.one('deeds')}"
        if self.likely(0.12):
            subject += (
                f" {self.random.choice(('and', 'as', 'made of', 'with', 'inside', 'on top of'))} {_a(self._thing())}"
            )
        return subject

    # --- things ---

    def _thing(self) -> str:
        thing = self.noun(*KINDS.values(), "animal", "artifact")
        if self.likely(0.2):
            thing = f"{self.one('colors')} {thing}"
        return thing

    def things(self) -> str:
        """Names of things side by side, as what is seen in a photograph is said."""
        count = self.random.choice((1, 2, 2, 3, 3, 4))
        found = [self.noun("animal", "artifact", "food", "plant", "artifact") for _ in range(count)]
        found += ["person"] * self.likely(0.3)
        if len(found) == 2 and self.likely(0.4):
            return f"{_a(found[0])} {self.random.choice(('and', 'with', 'on', 'near', 'in'))} {_a(found[1])}"
        return " ".join(found)

    def described(self) -> str:
        """Adjectives and nouns of any kind, in twos and threes."""
        adjective = self.random.choice(adjectives()[0])
        parts = [adjective, self._thing()]
        if self.likely(0.5):
            parts += [self.random.choice(("in", "on", "of", "and", "for", "with", "")), self._thing()]
        return " ".join(parts)

    def mixture(self) -> str:
        """Words of two texts of any kind, in any order: what is asked for may belong to no grammar."""
        first = self.prompt() if self.likely(0.5) else self.caption()
        words = keywords(f"{first} {self.described()}").split()
        self.random.shuffle(words)
        return " ".join(words[: self.random.randint(3, 10)])


#: Words that say nothing of what is seen.
SMALL_WORDS = frozenset("a an the is are of in on at to with and its it by for some while into from as".split())


def keywords(text: str) -> str:
    """The words of a text that say something."""
    return " ".join(word for word in text.split() if word not in SMALL_WORDS)


def _a(thing: str) -> str:
    if thing.endswith("s") and not thing.endswith("ss"):
        return thing
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def tidy(text: str) -> str:
    """A text without signs, in lower case, and not longer than `MOST_WORDS`."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("'s", ""))[:MOST_WORDS])


def texts(count: int, defined: int, seed: int, names: Sequence[str]) -> list[str]:
    """So many different texts by the grammars, and of definitions, in common words and not too long, so many."""
    grammar = Grammar(seed, names)
    found: dict[str, None] = {}
    while len(found) < count:
        found[tidy(grammar.text())] = None
    usable = sorted({tidy(text) for text in definitions() if is_plain(text)})
    return [*found, *random.Random(seed).sample(usable, min(defined, len(usable)))]


def is_plain(text: str) -> bool:
    """Whether a definition has common words alone, no slur or swear word, and at most `MOST_WORDS`."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return (
        0 < len(words) <= MOST_WORDS
        and not bad_words() & set(words)
        and all(commonness(word) >= LEAST_COMMON for word in words)
    )


def of_common_tokens(
    written: Sequence[str], encode: Callable[[Sequence[str]], Sequence[Sequence[int]]], count: int
) -> list[str]:
    """The texts that consist of the `count` commonest tokens of all."""
    ids = encode(written)
    often = Counter(token for row in ids for token in row)
    known = {token for token, _ in often.most_common(count)}
    return [text for text, row in zip(written, ids, strict=True) if row and known.issuperset(row)]
