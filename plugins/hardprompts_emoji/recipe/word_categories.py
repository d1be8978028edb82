"""Writes the lists of words by category: `python -m hardprompts_emoji.recipe.word_categories`.

Subjects, places, actions and artists come from WordNet (Debian's wordnet-base), as far as they are common; what
stands in the lists before is kept, since much of them is written by hand. They lie in sdk/hardprompts/wording/lists.
"""

import argparse
import collections
from collections.abc import Iterator
from pathlib import Path

from hardprompts.wording import WordBan, bad_words, commonness

WORDNET = Path("/usr/share/wordnet")
OUTPUT = Path(__file__).parents[3] / "sdk" / "hardprompts" / "wording" / "lists"

#: How common a word, and a phrase, must be on the Zipf scale.
WORD, PHRASE = 3.1, 3.0

#: What is in no list.
BAN = WordBan(bad_words())

#: WordNet's synsets whose hyponyms are of a category, by their first lemma and place among its senses; the first
#: category that fits counts.
PLACES = (
    ("location", 0), ("geological_formation", 0), ("body_of_water", 0), ("building", 0), ("room", 0), ("way", 5),
    ("area", 4), ("land", 3), ("structure", 0), ("geographical_area", 0), ("tract", 0),
)  # fmt: skip
SUBJECTS = (
    ("animal", 0), ("person", 0), ("plant", 1), ("food", 0), ("food", 1), ("artifact", 0), ("body_part", 0),
    ("celestial_body", 0), ("natural_object", 0), ("spiritual_being", 0), ("atmospheric_phenomenon", 0),
)  # fmt: skip
ARTISTS = ("painter", "sculptor", "photographer", "illustrator", "engraver", "cartoonist", "printmaker", "lithographer")
#: Lexicographer files of verbs that pictures show: body, competition, consumption, contact, creation, motion,
#: perception, weather.
ACTIONS = {29, 33, 34, 35, 36, 38, 39, 43}


class Nouns:
    """WordNet's nouns: what each word means first, and what stands above it."""

    def __init__(self, folder: Path) -> None:
        self.above: dict[int, list[int]] = {}
        self.instances: dict[int, list[int]] = collections.defaultdict(list)
        self.lemmas: dict[int, list[str]] = {}
        self.senses: dict[str, list[int]] = {}
        for line in _lines(folder / "data.noun"):
            fields = line.partition(" | ")[0].split()
            offset, count = int(fields[0]), int(fields[3], 16)
            self.lemmas[offset] = [fields[4 + 2 * place].lower() for place in range(count)]
            pointers = fields[5 + 2 * count :]
            for place in range(int(fields[4 + 2 * count])):
                kind, target = pointers[4 * place], int(pointers[4 * place + 1])
                if kind == "@":
                    self.above.setdefault(offset, []).append(target)
                elif kind == "@i":
                    self.instances[target].append(offset)
        for line in _lines(folder / "index.noun"):
            fields = line.split()
            self.senses[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]

    def over(self, offset: int) -> set[int]:
        """A synset and all that stand above it."""
        found, todo = set(), [offset]
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += self.above.get(one, [])
        return found

    def named(self, root: int) -> set[str]:
        """The names of the instances of a synset and of those below it."""
        return {
            lemma.replace("_", " ")
            for kind, offsets in self.instances.items()
            if root in self.over(kind)
            for offset in offsets
            for lemma in self.lemmas[offset]
        }


def _lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            yield line


def common(lemma: str) -> str:
    """A lemma as people write it, if it is common; else ""."""
    text = lemma.replace("_", " ")
    if not all(part.isalpha() for part in text.split()) or len(text) < 3 or BAN.found_in(text):
        return ""
    return text if commonness(text) >= (PHRASE if " " in text else WORD) else ""


def participle(verb: str) -> str:
    """The form that says what somebody in a picture does: "running"."""
    vowels = "aeiou"
    if verb.endswith("ie"):
        return f"{verb[:-2]}ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return f"{verb[:-1]}ing"
    short = sum(letter in vowels for letter in verb) == 1
    doubled = len(verb) > 2 and verb[-1] not in "wxyaeiou" and verb[-2] in vowels and verb[-3] not in vowels
    return f"{verb}{verb[-1]}ing" if short and doubled else f"{verb}ing"


def lists(folder: Path) -> dict[str, list[str]]:
    """The words of the categories that come from WordNet."""
    nouns = Nouns(folder)
    places, subjects = ({nouns.senses[name][place] for name, place in roots} for roots in (PLACES, SUBJECTS))
    found: dict[str, set[str]] = collections.defaultdict(set)
    for lemma, senses in nouns.senses.items():
        if text := common(lemma):
            over = nouns.over(senses[0])
            if over & places:
                found["place"].add(text)
            elif over & subjects:
                found["subject"].add(text)
    for name in ARTISTS:
        for artist in nouns.named(nouns.senses[name][0]):
            if " " in artist or commonness(artist) < WORD:  # "church" and "marsh" are names of painters too
                found["artist"].add(artist)
    for line in _lines(folder / "index.verb"):
        fields = line.split()
        if len(fields[0]) > 2 and fields[0].isalpha():
            found["action"].add(fields[0])
    kinds = {int(line.split()[0]): int(line.split()[1]) for line in _lines(folder / "data.verb")}
    first = {line.split()[0]: line.split()[-int(line.split()[2])] for line in _lines(folder / "index.verb")}
    verbs = [verb for verb in found.pop("action") if kinds[int(first[verb])] in ACTIONS]
    known = found["place"] | found["subject"]
    for verb in verbs:
        for form in (participle(verb), verb):
            # Most words that are nouns as well are these in a prompt: "snow", "ghost".
            if common(form) and form not in known and (form != verb or form not in nouns.senses):
                found["action"].add(form)
    return {name: sorted(words) for name, words in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wordnet", type=Path, default=WORDNET)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    for name, words in lists(arguments.wordnet).items():
        by_hand = arguments.output / f"{name}.txt"
        print(name, len(words), " ".join(words[:: max(1, len(words) // 30)]))
        own = set(by_hand.read_text(encoding="utf-8").split("\n")) if by_hand.exists() else set()
        by_hand.parent.mkdir(parents=True, exist_ok=True)
        by_hand.write_text("\n".join(sorted({*words, *own} - {""})) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
