"""The statements of a prompt: its phrases that say something of a picture, and the prompt without them."""

import dataclasses
import re

from hardprompts.wording import Categories

#: Words that say nothing of a picture by themselves, and words for pictures as such: neither true nor false of one.
SILENT = frozenset(
    """
    a an the and or but nor so of to in on at by with without for from into onto over under near is are was were be been
    being has have had do does did this that these those it its he she they them his her their there here as than then
    very just only also too some any each every all both such own same other another more most no not who whom whose
    which what when where while about via per
    picture pictures image images background foreground scene scenes view depiction depicting depicted showing shown
    featuring style front behind between beside
    """.split()
)


@dataclasses.dataclass(frozen=True)
class Statement:
    """A phrase that says something of a picture, wherever it occurs in a text.

    Attributes:
        phrase: as it stands where it occurs first.
        category: of `Categories`, or "other".
        spans: where it occurs: begin and end.
    """

    phrase: str
    category: str
    spans: tuple[tuple[int, int], ...]

    def exchanged(self, text: str, other: str) -> str:
        """The text with other words in its place."""
        return _with(text, self.spans, other)


def statements(text: str, categories: Categories) -> list[Statement]:
    """The statements of a text in their order; each counts once, whatever its case."""
    found: dict[str, Statement] = {}
    for start, end, category in categories.spans(text):
        phrase = text[start:end]
        key = " ".join(phrase.lower().split())
        if key in SILENT:
            continue
        known = found.get(key, Statement(phrase, category, ()))
        found[key] = dataclasses.replace(known, spans=(*known.spans, (start, end)))
    return list(found.values())


def without(text: str, left_out: list[Statement]) -> str:
    """The text without some of its statements, and without the commas and small words that would be left over."""
    spans = sorted(_with_small_words(text, span) for one in left_out for span in one.spans)
    if not spans:
        return text
    left = tidy(_with(text, tuple(spans), ""))
    return left if _JOINS.match(text) else _JOINS.sub("", left)


def tidy(text: str) -> str:
    """A text without repeated, leading and trailing commas and spaces."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?:\s*,)+\s*(?=,|$)|^(?:\s*,)+", "", text)
    return re.sub(r"\s+,", ",", text).strip(" ,")


#: What a noun leaves hanging in front of it, and at the beginning of a text.
_CONNECTING = frozenset("a an the and or of on in at with without from to by near over under".split())
_SMALL_WORDS = re.compile(rf"(?:\b(?:{'|'.join(sorted(_CONNECTING))})\s+)+$", re.IGNORECASE)
_JOINS = re.compile(r"^(?:and|or|with)\s+", re.IGNORECASE)
_NEXT_WORD = re.compile(r"\s+([^\W_]+)")


def _with_small_words(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """A span with the small words in front of it, which stay where they belong to a word behind it."""
    start, end = span
    following = _NEXT_WORD.match(text, end)
    if following is not None and following.group(1).lower() not in _CONNECTING:
        return span
    before = _SMALL_WORDS.search(text[:start])
    return (before.start() if before else start), end


def _with(text: str, spans: tuple[tuple[int, int], ...], other: str) -> str:
    pieces, place = [], 0
    for start, end in spans:
        pieces += [text[place:start], other]
        place = end
    return "".join((*pieces, text[place:]))
