"""What must not occur in a text: strings, regular expressions, and whole words."""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable

from hardprompts.errors import VocabularyError
from hardprompts.wording.categories import category_words
from hardprompts.wording.words import words_in

#: Among the strings that are banned, the one that lifts the list of bad words.
NO_LIST = "none"

#: What stands before a category, or a list of one's own, among them.
CATEGORY = "category:"


@dataclasses.dataclass(frozen=True)
class Bans:
    """What must not occur in a text, whatever its case.

    Attributes:
        strings: in lower case, looked for anywhere: "dog" is in "hotdog".
        patterns: regular expressions, likewise.
        words: words, and phrases of several, in lower case, looked for as whole words.
    """

    strings: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()
    words: frozenset[str] = frozenset()

    @classmethod
    def of(cls, banned: Iterable[str]) -> "Bans":
        r"""The bans that people write.

        Args:
            banned: strings; between slashes a regular expression, "/\b\d+k\b/" for "4k" and "8k"; "category:artist"
                for all that is in a list of `CATEGORIES`, and "category:FILE.txt" for a list of one's own.

        Raises:
            VocabularyError: an empty string, or something between slashes that cannot be read as a regular expression.
            UnknownName: there is no such category.
            FileFormatError, OSError: a file of one's own does not hold phrases.
        """
        given = [" ".join(one.split()) for one in banned]
        if not all(given):
            raise VocabularyError("a banned string is empty, which would ban every text; remove it")
        found = cls()
        for one in given:
            if len(one) > 2 and one[0] == one[-1] == "/":
                found |= cls(patterns=(_pattern(one[1:-1]),))
            elif one.lower().startswith(CATEGORY):
                found |= cls(words=category_words(one[len(CATEGORY) :].strip()))
            else:
                found |= cls((one.lower(),))
        return found

    def __or__(self, other: "Bans") -> "Bans":
        """Both."""
        return Bans(
            tuple(dict.fromkeys([*self.strings, *other.strings])),
            tuple(dict.fromkeys([*self.patterns, *other.patterns])),
            self.words | other.words,
        )

    def __bool__(self) -> bool:
        """Whether anything is banned."""
        return bool(self.strings or self.patterns or self.words)

    def found_in(self, text: str, own: str = "") -> bool:
        """Whether a text has more of something banned than a part of it that is the user's `own`."""
        if any(len(one.findall(text)) > len(one.findall(own)) for one in self.patterns):
            return True
        fixed, text = own.lower(), " ".join(text.lower().split())
        if any(text.count(string) > fixed.count(string) for string in self.strings):
            return True
        found = self._word_ban.found_in(text)
        # Only texts with something bad in them, which are rare, are compared with what is the user's own.
        return bool(found) and bool(found - self._word_ban.found_in(fixed))

    @functools.cached_property
    def _word_ban(self) -> "WordBan":
        return WordBan(self.words)


class WordBan:
    """Looks for words in texts, as whole words whatever their case: "ass" is in "an Ass!", not in "grass".

    Args:
        words: words, and phrases of several, in lower case.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = frozenset(word for word in words if " " not in word)
        self._phrases = tuple(f" {word} " for word in words if " " in word)

    def found_in(self, text: str) -> collections.Counter[str]:
        """The words that a text has, and how often."""
        words = words_in(text.lower())
        found = collections.Counter(word for word in words if word in self._words)
        line = f" {' '.join(words)} "
        found.update({phrase: line.count(phrase) for phrase in self._phrases if phrase in line})
        return found


def _pattern(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression, re.IGNORECASE)
    except re.error as error:
        raise VocabularyError(
            f"the banned /{expression}/ cannot be read as a regular expression, which a string between slashes is: "
            f"{error}"
        ) from error
