"""Which words a prompt is made of unless somebody asks for others: real ones, and none that would embarrass."""

import codecs
import collections
import functools
import importlib.util
import itertools
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hardprompts.causes.standins import HEAD_BYTES, kind_of, stand_in
from hardprompts.errors import FileFormatError, VocabularyError

#: Words of fewer than three letters that say something in a prompt.
SHORT_WORDS = frozenset("a an as at be by do go he hi i if in is it me my no of oh on or ox so tv uk up us we".split())

#: What a word of three, four, five, six and more letters must have on the Zipf scale: short strings are common as
#: abbreviations. Of CLIP's 32,258 tokens of three letters and more, 25,029 words then stay: of what stands in a
#: dictionary 97 %, which makes 87 % of them instead of 69 %; most others are names.
LEAST_COMMON = (3.0, 2.8, 2.0, 1.5)

#: What is between commas or lines, where a regular expression between slashes may have commas of its own.
_SEPARATED = re.compile(r"\s*(/(?:[^/\\\n]|\\.)+/)\s*(?=,|$)|([^,\n]+)", re.MULTILINE)

#: How files that are not UTF-8 say so, the longer marks before those that they begin with.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

#: Scripts whose words are as short as one sign.
_DENSE = ("CJK", "HANGUL", "HIRAGANA", "KATAKANA")

#: Of the list of bad words: animals, things, places, garments, techniques and names, which describe pictures.
_HARMLESS = frozenset(
    "cow girl,cow girls,cowgirl,cowgirls,dummy,enlargement,facial,fat,flange,god,hell,hemp,hookah,hump,knob,len,maxi,"
    "organ,paddy,pasty,pawn,pollock,pot,revue,rum,sandbar,screw,seaman,seamen,slope,sniper,steamy,strip,stroke,titi,"
    "uzi,vixen,vodka,wang,woody,yury".split(",")
)

#: Other forms of its words, and some like them, that the list lacks.
_MISSING = frozenset(
    "arousal aroused arseholes arses aryans assholes bastards bitchy bullshitting butt butts chinks coons crapped "
    "crapping crappy craps cripple crippled cripples cumshots cunty damned darkie darkies dickheads dicks douches "
    "dumb dykes erections erotica eroticism faggots farted farting farts frigging fuckery genital genitals hitlers "
    "hoes hookers idiot idiots imbecile imbeciles jackasses jerking jerks junkies lesbian midget midgets molested "
    "molester molesters molesting moronic morons murdered murderer murderers murdering murderous murders nakedness "
    "nazis negroes negros nudism nudist nudists penises pervert perverted perverts pimping pimps pornographic "
    "prostitutes prostitution pubes rapes rapists redskin redskins retards sadistic sexed sexes sexier sexiest "
    "sexist sexuality sexually sexy shemales sissies skanky slavery slaves slutty spastic squaw stripper strippers "
    "sucker suckers sucks sucky tampons testicles thot thots threesomes thugs trannies tranny transsexuals turds "
    "vaginas vomited vomiting vomits wankers wanking weirdos wetbacks whorish".split()
)


@functools.cache
def bad_words() -> frozenset[str]:
    """Slurs, swear words and what is sexual or drastic, in lower case: words, and phrases of several.

    Some name people or what may be seen in a picture; they are listed because nobody expects to read them about
    a picture without having asked.

    Raises:
        VocabularyError: the package with the list is not installed.

    Source: profanity_wordlist.txt of better-profanity (MIT), without words that describe pictures (`_HARMLESS`),
    with forms that it lacks (`_MISSING`), and without its spellings that contain signs, which no word is.
    """
    # Found, not imported: the package would build its own tables first.
    found = importlib.util.find_spec("better_profanity")
    if found is None or found.origin is None:
        raise VocabularyError(
            "the list of bad words is not installed; pip install better-profanity, or do without it: banned='none'"
        )
    lines = (Path(found.origin).parent / "profanity_wordlist.txt").read_text(encoding="utf-8").splitlines()
    listed = {line.strip().lower() for line in lines}
    return frozenset(entry for entry in listed if entry.replace(" ", "").isalnum()) - _HARMLESS | _MISSING


#: A run of letters and digits.
WORD = re.compile(r"[^\W_]+")


def words_in(text: str) -> list[str]:
    """The runs of letters and digits in a text."""
    return WORD.findall(text)


def dominant_script(texts: Iterable[str]) -> str:
    """The script that most of the words in `texts` are written in, as Unicode's names begin: "LATIN", say; or ""."""
    scripts = collections.Counter(_script(text[0]) for text in texts if text.isalpha())
    return scripts.most_common(1)[0][0] if scripts else ""


@functools.lru_cache(maxsize=2**16)
def is_real_word(text: str, script: str) -> bool:
    """Whether a text is a word: letters of one script, three or more of them or a short word that is known.

    In Latin letters it must also be as common in English as `LEAST_COMMON` says: a tokenizer keeps pieces of words
    that stand alone as well, such as "tionally". "an", "dog" and "Paris" are words; "ph", "q3" and "don't" are none.
    """
    if not text.isalpha() or (
        not (script == "LATIN" and text.isascii()) and any(_script(letter) != script for letter in text)
    ):
        return False
    if script in _DENSE or text.lower() in SHORT_WORDS:
        return True
    return len(text) >= 3 and (script != "LATIN" or commonness(text) >= LEAST_COMMON[min(len(text), 6) - 3])


def commonness(word: str) -> float:
    """How common a word is in English, on the Zipf scale: 3 once in a million words, 6 once in a thousand; 0: unknown.

    Source: wordfreq (Speer 2022, doi:10.5281/zenodo.7199437).
    """
    frequency = _frequencies().get(word.lower(), 0.0)
    return math.log10(frequency) + 9 if frequency else 0.0


@functools.cache
def common_words(count: int = 60_000) -> tuple[str, ...]:
    """So many English words and names, the commonest first, that are real words; see `is_real_word`.

    Source: see `commonness`.
    """
    words = (word for word in _frequencies() if is_real_word(word, "LATIN"))  # the commonest come first
    return tuple(itertools.islice(words, count))


@functools.cache
def _frequencies() -> dict[str, float]:
    from wordfreq import get_frequency_dict  # takes a third of a second, and most of it is read once

    found: dict[str, float] = get_frequency_dict("en", wordlist="best")
    return found


@functools.lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


#: Halves of characters beyond the first 65,536, which no file and no tokenizer takes.
_HALF = re.compile(r"[\ud800-\udfff]")


def half_character(text: str) -> str:
    """What is wrong with a text that has half of a character in it, and what to do; "" for any other text."""
    found = _HALF.search(text)
    if found is None:
        return ""
    near = text[max(0, found.start() - 20) : found.end() + 10]
    return (
        f"has half of a character, {found[0]!a}, at position {found.start()} ({near!a}): it was cut apart, or "
        "read from bytes that are not UTF-8; write the whole character, or leave it out"
    )


def check_text(what: str, text: object, error: type[ValueError] = ValueError) -> None:
    """Raises unless a text, and each text in a list or mapping, can be encoded: no tokenizer takes half a character.

    Args:
        what: the text is called, at the beginning of the message.

    Raises:
        ValueError: or `error`; the message has the place.
    """
    if isinstance(text, str):
        if found := half_character(text):
            raise error(f"{what} {found}")
    elif isinstance(text, Mapping):
        for name, value in text.items():
            check_text(what, name, error)
            check_text(f"{what} for {name!r}", value, error)
    elif isinstance(text, list | tuple):
        for place, one in enumerate(text):
            if not isinstance(one, str) or _HALF.search(one):  # the name is not made for thousands of good ones
                check_text(f"{what}[{place}]", one, error)


def read_text(path: str | os.PathLike[str], encoding: str | None = None, advice: str = "") -> str:
    """The text of a file, without the mark that may stand at its beginning.

    Args:
        encoding: of the file. Default: UTF-8, or what the mark at its beginning says.
        advice: what else may be done about a file in another encoding.

    Raises:
        FileFormatError: it is not a text in that encoding.
        OSError: it cannot be read.
    """
    place = Path(path)
    return decode_text(place.read_bytes(), str(place), encoding, advice)


def decode_text(content: bytes, what: str, encoding: str | None = None, advice: str = "") -> str:
    """The text that bytes hold; see `read_text`."""
    head = content[:HEAD_BYTES]
    if content and (found := stand_in(head)):
        raise FileFormatError(f"{what}: {found}")
    chosen = encoding or next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    kind, hidden = kind_of(head), chosen == "utf-8" and b"\0" in content  # as in UTF-16 without its mark
    try:
        text = "" if hidden else content.decode(chosen)
    except LookupError as error:
        raise ValueError(f"there is no encoding {chosen!r}; write encoding='utf-8', 'cp1252', 'utf-16', say") from error
    except UnicodeError as error:
        if kind:
            raise FileFormatError(f"{what} is {kind}, and not a text") from error
        raise FileFormatError(f"{what} is not a text in {chosen}: {error}; save it as UTF-8{advice}") from error
    if hidden or "\0" in text:
        found = "has NUL characters, so it is UTF-16, or not a text file; save it as UTF-8" + advice
        raise FileFormatError(f"{what} is {kind}, and not a text" if kind else f"{what} {found}")
    return text.removeprefix("\ufeff")


#: What stands between two ends of lines, as `str.splitlines` knows them.
_LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


def read_phrases(path: str | os.PathLike[str], encoding: str | None = None) -> tuple[str, ...]:
    """The phrases of a text file, one on each line, with single spaces.

    Empty lines are left out, and comments: lines that are "#" or begin with "# ". "#sunset" is a phrase.

    Args:
        encoding: of the file. Default: UTF-8, or what the mark at its beginning says.

    Raises:
        FileFormatError: it is not a text in that encoding, or has no phrases.
        ValueError: there is no such encoding.
        OSError: it cannot be read.
    """
    return tuple(phrases_in(path, encoding))


def phrases_in(path: str | os.PathLike[str], encoding: str | None = None) -> Iterator[str]:
    """The phrases of a text file one after another, so that those of a large file are never held together.

    Arguments and errors are those of `read_phrases`.
    """
    place = Path(path)
    text = read_text(place, encoding, ", or name its encoding, as encoding='cp1252'")
    found = False
    for match in _LINE.finditer(text):
        line = " ".join(match[0].split())
        if line and line != "#" and not line.startswith("# "):
            found = True
            yield line
    if not found:
        raise FileFormatError(f"{place} has no phrases; write one on each line")


def separated(text: str) -> list[str]:
    """What people write in one field, separated by commas or lines; a /regular, expression/ is kept whole."""
    found = (match[0].strip() for match in _SEPARATED.finditer(text))
    return [part for part in found if part]
