"""Words for what can be seen, by WordNet: nouns whose first sense is a thing, a being, a place or a happening.

WordNet is found in HARDPROMPTS_WORDNET, a folder with its index.noun and data.noun, or where Debian's wordnet-base puts
it.
"""

import functools
import os
from pathlib import Path

WORDNET = "HARDPROMPTS_WORDNET"

#: Lexicographer's classes, by the numbers of lexnames(5WN): the top ones (animal, person, plant, ...), act, animal,
#: artifact, body, event, food, group, location, object, person, phenomenon, plant, shape, substance.
SEEN = frozenset({3, 4, 5, 6, 8, 11, 13, 14, 15, 17, 18, 19, 20, 25, 27})


def wordnet() -> Path | None:
    """The folder of WordNet, or None where there is none."""
    folder = Path(os.environ.get(WORDNET) or "/usr/share/wordnet")
    return folder if all((folder / name).exists() for name in ("index.noun", "data.noun")) else None


def is_thing(word: str) -> bool:
    """Whether a word, in the singular or plural, is one for what can be seen.

    Raises:
        FileNotFoundError: there is no WordNet; see `wordnet`.
    """
    folder = wordnet()
    if folder is None:
        raise FileNotFoundError(f"no WordNet: apt-get install wordnet-base, or set {WORDNET}")
    forms = [
        word,
        *_irregular(folder).get(word, ()),
        *(word[: -len(end)] + to for end, to in (("s", ""), ("es", ""), ("ies", "y")) if word.endswith(end)),
    ]
    return any(_first_senses(folder).get(form) in SEEN for form in forms)


@functools.cache
def _first_senses(folder: Path) -> dict[str, int]:
    """The class of the first sense of each noun of one word of three letters or more."""
    classes: dict[str, int] = {}
    for line in _lines(folder / "data.noun"):
        offset, number = line.split(maxsplit=2)[:2]
        classes[offset] = int(number)
    found = {}
    for line in _lines(folder / "index.noun"):
        fields = line.split()
        word, senses = fields[0], int(fields[2])
        if len(word) >= 3 and "_" not in word:
            found[word] = classes[fields[-senses]]
    return found


@functools.cache
def _irregular(folder: Path) -> dict[str, tuple[str, ...]]:
    """The singulars of irregular plurals."""
    path = folder / "noun.exc"
    return {line.split()[0]: tuple(line.split()[1:]) for line in _lines(path)} if path.exists() else {}


def _lines(path: Path) -> list[str]:
    # License lines begin with spaces.
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(" ")]
