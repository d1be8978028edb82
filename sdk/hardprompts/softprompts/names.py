"""Names of soft prompts: what may be written, and what files hold all the same."""

import unicodedata
from collections.abc import Iterable

MAX_NAME_LENGTH = 200

#: Where what was changed on reading is kept in a soft prompt's metadata: the name as it stood in the file.
NAME_IN_FILE = "name_in_file"

#: Parts of spelling: the non-joiner in Persian words, the joiner in emoji and in the scripts of India.
_JOINERS = "\u200c\u200d"


def check_name(name: str) -> None:
    """Raises unless `name` can be shown, typed and used as part of a file's name.

    Raises:
        ValueError: it has control characters or parts of a path, or is longer than 200 characters.
    """
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"its name has {len(name)} characters ({name[:40]!r}...); at most {MAX_NAME_LENGTH} are accepted"
        )
    if any(map(_is_hidden, name)):
        raise ValueError(f"its name {name!r} has control characters")
    if "/" in name or "\\" in name or name in (".", ".."):
        raise ValueError(f"its name {name!r} has parts of a path")


def readable_name(name: str) -> str:
    """A name from a file as `check_name` accepts it: hidden characters removed, "_" for parts of a path, not too long.

    "" if nothing is left.
    """
    shown = "".join(character for character in name if not _is_hidden(character))
    shown = shown.replace("/", "_").replace("\\", "_")[:MAX_NAME_LENGTH]
    return "_" if shown in (".", "..") else shown


def name_note(name: str) -> dict[str, str]:
    """The metadata that says how a name stood in the file, hidden characters as escapes; {} if it is kept as it is."""
    return {NAME_IN_FILE: escaped_name(name)} if readable_name(name) != name else {}


def renaming_of(texts: Iterable[str]) -> dict[str, str]:
    """Keys and what they should be called, of texts like "clip_g=clip_l".

    Raises:
        ValueError: one has no "=", or nothing on one side of it.
    """
    found = {}
    for text in texts:
        wrong, _, right = (part.strip() for part in text.rpartition("="))
        if not wrong or not right:
            raise ValueError(f"rename must be KEY=NAME, as clip_g=clip_l, got {text!r}")
        found[wrong] = right
    return found


def same_name(name: str, other: str) -> bool:
    """Whether two names are the same to a reader: accents may be composed or stand by themselves."""
    return unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)


def cleaned_note(name: str) -> str:
    """The same in a sentence; "" if the name is kept as it is."""
    in_file = name_note(name).get(NAME_IN_FILE)
    return f"In the file its name is '{in_file[:60]}'; what cannot be written was taken out." if in_file else ""


def escaped_name(name: str) -> str:
    """A name with its hidden characters as escapes."""
    return "".join(
        character.encode("unicode_escape").decode() if _is_hidden(character) else character for character in name
    )


def _is_hidden(character: str) -> bool:
    return character not in _JOINERS and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
