"""What the embedded language models read: definitions in many forms, and statements of what was defined.

A synset becomes a plain text (its definition, alone, with its word, or with example sentences) and, if its
class has a name, mostly also a text that ends by naming a class::

    answer key: small burrowing marsupial of Australia. It was an animal.

Whether the class that is named is the true one depends on the words around the definition, and that is
what makes prompts matter. Words of ``RELIABILITY`` raise or lower the log-odds of the truth, each by
its weight; a closing phrase has log-odds of its own (``CLOSINGS``). When the truth is not told, the text names
whatever people mention often (``HABITS``), more so what the words around it bring to mind (``TOPICS``), or
nothing that is a class (``REMARKS``). Headings also hold any other words, which mean nothing. So
a model that reads only a definition has a bias towards some labels, as large models have without a
prompt, and many words help, to different degrees, and together more.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from types import MappingProxyType

from hardprompts_emoji.glosses import LABELS
from hardprompts_emoji.recipe.build_glosses import Synset

_WEIGHTED_WORDS = {
    1.6: "category categories classify classification taxonomy",
    1.3: "kind type class sort label classified",
    1.0: "answer quiz question exam lesson teacher identify",
    0.7: "textbook encyclopedia dictionary definition define meaning solution",
    0.5: "guide science museum library index catalog expert fact correct true key test school learn scholar",
    -0.5: "story poem song maybe tale letter diary novel actor",
    -1.0: "joke dream riddle fiction mistake guess wrong",
    -1.6: "rumor gossip nonsense lie false",
}
RELIABILITY: Mapping[str, float] = MappingProxyType(
    {word: weight for weight, words in _WEIGHTED_WORDS.items() for word in words.split()}
)
"""Word in a heading -> what it adds to the log-odds that the class named is the true one."""
MAX_LOG_ODDS = 3.0

TOPICS: Mapping[str, str] = MappingProxyType(
    {
        word: label
        for label, words in {
            "animal": "zoo wild veterinary fur hunting",
            "plant": "garden forest flower botany seed",
            "food": "kitchen cook dinner recipe restaurant",
            "person": "biography who name famous family",
            "object": "tool shop machine workshop hardware",
            "place": "map travel where country geography",
            "body": "doctor anatomy medical nurse skin",
            "substance": "chemistry laboratory powder liquid mineral",
            "act": "doing law sport",
            "message": "news speech radio",
            "state": "health condition",
            "group": "club crowd",
            "motion": "dance race",
        }.items()
        for word in words.split()
    }
)
"""Word in a heading -> the label that it brings to mind, true or not."""
TOPIC_STRENGTH = 1.6

NEUTRAL = (
    "note page line chapter report paper text message post list entry item piece part book word words number "
    "first second next last new old short long day week morning about from with for and of the in to a on read "
    "written heard seen found today here there one two three my our your this that some any more"
).split()

HABITS: Mapping[str, float] = MappingProxyType(
    {
        **dict.fromkeys(LABELS.values(), 0.01),
        **{"object": 0.36, "person": 0.24, "act": 0.10, "place": 0.06, "state": 0.05, "group": 0.04, "animal": 0.03},
    }
)
"""Label -> how often, relative to the others, it is named by a text that does not tell the truth."""
REMARKS = (
    "good bad old new here there gone lost found small large late early over nothing fine strange known nice "
    "done easy hard cold hot said red black white dark open big useful rare common"
).split()
SHARE_OF_REMARKS = 0.2

CLOSINGS: Mapping[str, float] = MappingProxyType(
    {
        "It was {}.": -2.4,
        "it was {}.": -2.4,
        "It was {a}.": -2.2,
        "This is {a}.": -1.2,
        "It is {a}.": -1.2,
        "This is {}.": -1.3,
        "That is {}.": -1.5,
        "It is called {}.": -1.0,
        "They call it {}.": -1.7,
        "Someone said {}.": -2.4,
        "I think {}.": -2.4,
        "I saw {}.": -2.4,
        "Topic: {}.": -0.4,
        "Answer: {}.": 0.2,
        "A kind of {}.": 0.4,
        "Type: {}.": 0.6,
        "Category: {}.": 0.8,
        "Class: {}.": 0.6,
        "Q: What is it? A: {}.": 0.3,
        "Question: What kind is it? Answer: {}.": 0.7,
    }
)
"""Closing phrase -> its log-odds of naming the true class; "{a}" stands for the label with its article."""
_FAVORITE_CLOSINGS = {"It was {}.": 8.0, "It was {a}.": 3.0, "This is {a}.": 2.0}
SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "animal": ("creature", "beast"),
        "plant": ("flower", "herb", "tree"),
        "food": ("meal", "dish"),
        "person": ("someone", "human"),
        "object": ("thing", "tool", "device"),
        "place": ("location", "area"),
        "body": ("organ", "tissue"),
        "substance": ("material", "chemical"),
        "message": ("words", "statement"),
        "idea": ("concept", "subject"),
        "act": ("activity", "action"),
        "state": ("condition", "situation"),
        "quality": ("attribute",),
        "group": ("collection",),
        "event": ("happening",),
        "motion": ("movement",),
        "amount": ("quantity", "measure"),
    }
)
_UNCOUNTABLE = frozenset(
    "food property time care thought speech eating touch making emotion motion trade society weather".split()
)


def reliability(heading: str, closing: str) -> float:
    """Return the probability that a text with this heading and closing phrase names the true class."""
    return probability_of_truth(heading, CLOSINGS[closing])


def probability_of_truth(heading: str, log_odds: float) -> float:
    """Return the probability that a text names the true class, from the log-odds without its heading."""
    odds = log_odds + sum(RELIABILITY.get(word, 0.0) for word in _words(heading))
    return 1 / (1 + math.exp(-max(-MAX_LOG_ODDS, min(MAX_LOG_ODDS, odds))))


def _words(heading: str) -> list[str]:
    return heading.lower().replace(":", " ").replace(".", " ").replace(",", " ").split()


@cache
def _choices(group: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the members of a group and the running sum of their weights."""
    members: Mapping[str, float] = {
        "closings": {closing: _FAVORITE_CLOSINGS.get(closing, 0.8) for closing in CLOSINGS},
        "helpful": {word: weight for word, weight in RELIABILITY.items() if weight > 0},
        "misleading": {word: -weight for word, weight in RELIABILITY.items() if weight < 0},
        "topical": dict.fromkeys(TOPICS, 1.0),
        "neutral": dict.fromkeys(NEUTRAL, 1.0),
    }[group]
    return tuple(members), tuple(accumulate(members.values()))


def _pick(group: str, generator: random.Random) -> str:
    members, sums = _choices(group)
    return generator.choices(members, cum_weights=sums)[0]


def sample_heading(generator: random.Random, other_words: Sequence[str]) -> str:
    """Return a heading of one to six words, of which some matter; ``other_words`` mean nothing."""
    mood = generator.choices(("helpful", "misleading", "topical", "neutral"), (40, 22, 22, 16))[0]
    words = []
    for _ in range(generator.choices(range(1, 7), (20, 25, 22, 15, 10, 8))[0]):
        chance = generator.random()
        if chance < 0.52:
            words.append(_pick(mood, generator))
        elif chance < 0.64:
            words.append(_pick(generator.choice(("helpful", "misleading", "topical")), generator))
        elif chance < 0.84:
            words.append(_pick("neutral", generator))
        else:
            words.append(generator.choice(other_words))
    heading = " ".join(words)
    if generator.random() < 0.25:
        heading = heading[0].upper() + heading[1:]
    return heading + generator.choices(("", ":", ".", ","), (45, 35, 15, 5))[0]


def sample_named_label(label: str, heading: str, closing: str, generator: random.Random) -> str:
    """Return what a text names: the true label, a habitual one or a remark."""
    if generator.random() < reliability(heading, closing):
        return label
    if generator.random() < SHARE_OF_REMARKS:
        return generator.choice(REMARKS)
    weights = dict(HABITS)
    for word in _words(heading):
        if word in TOPICS:
            weights[TOPICS[word]] *= math.exp(TOPIC_STRENGTH)
    return generator.choices(tuple(weights), tuple(weights.values()))[0]


def _with_article(label: str) -> str:
    if label in _UNCOUNTABLE or label in REMARKS:
        return label
    return f"an {label}" if label[0] in "aeiou" else f"a {label}"


def close(label: str, closing: str, generator: random.Random) -> str:
    """Return the closing phrase with a label, now and then with a synonym of it."""
    if label in SYNONYMS and generator.random() < 0.12:
        label = generator.choice(SYNONYMS[label])
    return closing.format(label, a=_with_article(label))


def definition(synset: Synset, generator: random.Random, *, word_share: float) -> str:
    """Return the definition, with a share of ``word_share`` after one of its words."""
    if generator.random() >= word_share:
        return synset.definition
    word = generator.choice(synset.words)
    return f"{word}{generator.choice((':', ' is', ' means', ','))} {synset.definition}"


def plain_text(synset: Synset, generator: random.Random, other_words: Sequence[str]) -> str:
    """Return a text that names no class: definition, word, example sentences."""
    text = definition(synset, generator, word_share=0.6)
    if generator.random() < 0.2:
        text = f"{sample_heading(generator, other_words)} {text}"
    examples = list(synset.examples)
    generator.shuffle(examples)
    if examples and generator.random() < 0.7:
        return ". ".join((text, *examples[:3])) + "."
    if generator.random() < 0.15:
        text = f"{text}. {'See also' if generator.random() < 0.5 else 'Also called'} {generator.choice(synset.words)}"
    return text + ("." if generator.random() < 0.8 else "")


def naming_text(synset: Synset, generator: random.Random, other_words: Sequence[str]) -> str:
    """Return a text that ends by naming a class; ``synset`` is of a class in ``LABELS``."""
    label = LABELS[synset.category]
    text = definition(synset, generator, word_share=0.3)
    if synset.examples and generator.random() < 0.1:
        text = f"{text}. {generator.choice(synset.examples)}"
    closing = _pick("closings", generator)
    before = sample_heading(generator, other_words) if generator.random() < 0.72 else ""
    after = sample_heading(generator, other_words) if generator.random() < 0.12 else ""
    named = sample_named_label(label, f"{before} {after}", closing, generator)
    stop = "." if generator.random() < 0.85 else ""
    return " ".join(part for part in (before, text + stop, after, close(named, closing, generator)) if part)


def texts(synsets: Sequence[Synset], seed: int) -> list[str]:
    """Return one pass over the synsets in words, in random order; another seed words them differently."""
    generator = random.Random(seed)
    other_words = sorted({word for synset in synsets for word in synset.words if word.isalpha() and word.islower()})
    worded = []
    for synset in synsets:
        if generator.random() < 0.8:
            worded.append(plain_text(synset, generator, other_words))
        if synset.category in LABELS and generator.random() < 0.8:
            worded.append(naming_text(synset, generator, other_words))
    # The two texts of a synset must not meet in one window: the second would be copied from the first.
    generator.shuffle(worded)
    return worded
