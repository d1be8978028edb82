"""What the words of a prompt are about: subject, action, place, medium, style, color, artist, brand or quality."""

import dataclasses
import functools
import os
import string
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hardprompts.errors import UnknownName
from hardprompts.wording.words import WORD, read_phrases, words_in

#: The categories of the lists that come with the package, in the order in which prompts are usually written.
CATEGORIES = ("subject", "action", "place", "medium", "style", "color", "artist", "brand", "quality")

#: Which category counts where several have a phrase, first: a "painting" is a medium rather than a thing.
PRECEDENCE = ("artist", "brand", "quality", "medium", "style", "color", "place", "action", "subject")

#: What is in no list.
OTHER = "other"

_LISTS = Path(__file__).parent / "lists"


@dataclasses.dataclass(frozen=True)
class Categories:
    """Lists of phrases by category.

    Attributes:
        lists: the phrases of each category in lower case, words apart by single spaces; where several have a phrase,
            the first counts.
    """

    lists: Mapping[str, frozenset[str]]

    @classmethod
    @functools.cache
    def default(cls) -> "Categories":
        """The lists that come with the package: small, open and English."""
        return cls({name: category_words(name) for name in PRECEDENCE})

    def with_words(self, name: str, phrases: Iterable[str]) -> "Categories":
        """The same lists, with more phrases in one of them, or with one more list; they count before all others."""
        own = frozenset(map(_tidy, phrases)) - {""}
        others = {key: words - own for key, words in self.lists.items() if key != name}
        return Categories({name: self.lists.get(name, frozenset()) | own, **others})

    def with_file(self, name: str, path: str | os.PathLike[str]) -> "Categories":
        """The same lists, with the phrases of a text file, one a line, in one of them; see `with_words`.

        Raises:
            FileFormatError, OSError: it does not hold phrases; see `read_phrases`.
        """
        return self.with_words(name, read_phrases(path))

    def phrases(self, text: str) -> list[tuple[str, str]]:
        """The phrases of a text in their order, each with its category: the longest that is in a list, else a word.

        A plural is of the category of its word.
        """
        return list(self._read(words_in(text.lower())))

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """Where the phrases of `phrases` stand in a text, and their categories: (start, end, category)."""
        words = [match.span() for match in WORD.finditer(text)]
        found, place = [], 0
        for phrase, category in self._read([text[start:end].lower() for start, end in words]):
            last = place + phrase.count(" ")
            found.append((words[place][0], words[last][1], category))
            place = last + 1
        return found

    def _read(self, words: list[str]) -> Iterator[tuple[str, str]]:
        place = 0
        while place < len(words):
            for count in range(min(self._longest, len(words) - place), 0, -1):
                phrase = " ".join(words[place : place + count])
                category = self.category(phrase)
                if category != OTHER or count == 1:
                    yield phrase, category
                    place += count
                    break

    def category(self, phrase: str) -> str:
        """The category of one phrase; "other" if it is in no list."""
        for form in _forms(_tidy(phrase)):
            for name, known in self.lists.items():
                if form in known:
                    return name
        return OTHER

    def of(self, text: str) -> dict[str, tuple[str, ...]]:
        """The phrases of a text by category, in the order of `CATEGORIES`; categories without any are left out."""
        found: dict[str, list[str]] = {}
        for phrase, category in self.phrases(text):
            found.setdefault(category, []).append(phrase)
        order = [*CATEGORIES, *(name for name in self.lists if name not in CATEGORIES), OTHER]
        return {name: tuple(dict.fromkeys(found[name])) for name in order if name in found}

    def arranged(self, text: str, form: str) -> str:
        """The phrases of a text in a form such as "{subject}, {medium}, {style}".

        The phrases of one category are apart by spaces; where one has none, the signs that would be left over go, too.

        Raises:
            UnknownName: the form asks for a category that there is not.
            ValueError: the form has a brace that belongs to no name.
        """
        try:
            parts = list(string.Formatter().parse(form))
        except ValueError as error:
            raise ValueError(f"the form {form!r} is not text with names in braces: {error}") from error
        own = self.of(text)
        written: list[str] = []
        for before, name, _, _ in parts:
            if name is not None and name not in {*CATEGORIES, *self.lists, OTHER}:
                raise UnknownName("category", name, [*CATEGORIES, OTHER])
            said = "" if name is None else " ".join(own.get(name, ()))
            if name is None or said:
                written.append((before.lstrip(" ,.;:-/|") if not written else before) + said)
        return "".join(written).strip()

    @functools.cached_property
    def _longest(self) -> int:
        return max((phrase.count(" ") + 1 for words in self.lists.values() for phrase in words), default=1)


def category_words(name: str | os.PathLike[str]) -> frozenset[str]:
    """The phrases of a category, or of a text file of one's own with one phrase a line.

    Args:
        name: one of `CATEGORIES`, or the file's path, which ends in .txt.

    Raises:
        UnknownName: it is neither.
        FileFormatError, OSError: the file does not hold phrases; see `read_phrases`.
    """
    return _words_of(os.fspath(name))


@functools.lru_cache(maxsize=32)
def _words_of(name: str) -> frozenset[str]:
    if name in CATEGORIES:
        return frozenset(read_phrases(_LISTS / f"{name}.txt"))
    if not name.lower().endswith(".txt"):
        raise UnknownName("category", name, CATEGORIES, "a list of your own is the path of a .txt file")
    return frozenset(map(_tidy, read_phrases(name)))


def _tidy(phrase: str) -> str:
    return " ".join(words_in(phrase.lower()))


def _forms(phrase: str) -> Iterator[str]:
    """A phrase, and what it may be the plural of."""
    yield phrase
    if phrase.endswith("ies"):
        yield f"{phrase[:-3]}y"
    if phrase.endswith("es"):
        yield phrase[:-2]
    if phrase.endswith("s") and not phrase.endswith("ss"):
        yield phrase[:-1]
