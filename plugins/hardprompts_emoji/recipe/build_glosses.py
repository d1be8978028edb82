"""Read WordNet, and part its synsets into those for training and those that are held out.

Run ``python -m hardprompts_emoji.recipe.build_glosses`` where Debian's ``wordnet-base`` is installed. It writes
``corpus.jsonl.gz`` into the work directory: synsets to train and to validate a language model with,
which ``hardprompts_emoji.recipe.lm_texts`` puts into words, and ``glosses.jsonl.gz`` into the
package: definitions for tuning and testing prompts, which no language model was trained on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hardprompts_emoji.glosses import GLOSSES, LABELS

WORDNET = Path("/usr/share/wordnet")
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
#: Names of the lexicographer's files in the order of their numbers. Source: WordNet's manual, lexnames(5WN).
CLASSES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object "
    "noun.person noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape "
    "noun.state noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession "
    "verb.social verb.stative verb.weather adj.ppl"
).split()
#: Percent of the definitions for early stopping, for tuning prompts, for testing prompts; the rest is for training.
HELD_OUT = {"validation": 2, "tune": 5, "test": 5}
MAX_PER_CLASS = 256
WORDS_OF_A_GLOSS = range(3, 36)


@dataclass(frozen=True)
class Synset:
    """One meaning: its class, the words for it, a definition, and sentences that use one of the words."""

    category: str
    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]


def parse_line(line: str) -> Synset:
    """Return the synset of a line of a data file. Source: WordNet's manual, wndb(5WN)."""
    head, _, gloss = line.partition("|")
    fields = head.split()
    names = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    words = tuple(re.sub(r"\((a|p|ip)\)$", "", name).replace("_", " ") for name in names)
    definition = re.split(r'(?:^|;)\s*"', gloss.strip())[0]
    examples = tuple(" ".join(text.split()) for text in re.findall(r'"([^"]+)"', gloss))
    return Synset(CLASSES[int(fields[1])], words, " ".join(definition.split()).strip(" ;:,."), examples)


def read_wordnet(folder: Path) -> Iterator[Synset]:
    """Yield every synset that has a definition."""
    for part in PARTS_OF_SPEECH:
        with (folder / f"data.{part}").open(encoding="utf-8") as lines:
            for line in lines:
                if not line.startswith(" "):  # the license, above the data, is indented
                    synset = parse_line(line)
                    if synset.definition:
                        yield synset


def normalized(text: str) -> str:
    """Return the words of a text alone: two texts with equal words count as one."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def split_of(definition: str) -> str:
    """Return "training", or the held-out part that a definition belongs to: a matter of its words alone."""
    percent = int.from_bytes(hashlib.sha256(normalized(definition).encode()).digest()[:8], "big") % 100
    for name, share in HELD_OUT.items():
        if percent < share:
            return name
        percent -= share
    return "training"


def split_synsets(synsets: Iterable[Synset]) -> dict[str, list[Synset]]:
    """Return synsets by part.

    A training synset loses the example sentences that a held-out one has too, and is left out altogether when
    a held-out definition stands in its own.
    """
    parts: dict[str, list[Synset]] = {name: [] for name in ("training", *HELD_OUT)}
    for synset in synsets:
        parts[split_of(synset.definition)].append(synset)
    held_out = [synset for name in HELD_OUT for synset in parts[name]]
    examples = {normalized(text) for synset in held_out for text in synset.examples}
    # A clause of a definition ("x; y") can be the whole of another; one or two words are no secret.
    definitions = {text for synset in held_out if len((text := normalized(synset.definition)).split()) > 2}
    kept = []
    for synset in parts["training"]:
        if any(normalized(clause) in definitions for clause in synset.definition.split(";")):
            continue
        others = tuple(
            text for text in synset.examples if normalized(text) not in examples and normalized(text) not in definitions
        )
        kept.append(Synset(synset.category, synset.words, synset.definition, others))
    parts["training"] = kept
    return parts


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """Write rows as lines of JSON, compressed, the same bytes for the same rows; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    temporary.replace(path)


def read_corpus(path: Path) -> dict[str, list[Synset]]:
    """Return the synsets of ``corpus.jsonl.gz`` by part: "training" and "validation"."""
    parts: dict[str, list[Synset]] = {"training": [], "validation": []}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            synset = Synset(row["category"], tuple(row["words"]), row["definition"], tuple(row["examples"]))
            parts[row["part"]].append(synset)
    return parts


def found_inside(phrases: Iterable[str], texts: Iterable[str]) -> set[str]:
    """Return the phrases, of three words or more, that some text holds word by word; all of them are normalized."""
    by_start: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for phrase in phrases:
        words = tuple(phrase.split())
        by_start.setdefault(words[:3], set()).add(words)
    found: set[str] = set()
    for text in texts:
        words = tuple(text.split())
        for i in range(len(words) - 2):
            for phrase_words in by_start.get(words[i : i + 3], ()):
                if words[i : i + len(phrase_words)] == phrase_words:
                    found.add(" ".join(phrase_words))
    return found


def committed_rows(parts: dict[str, list[Synset]]) -> Iterator[dict[str, str]]:
    """Yield the rows of the package's data file: definitions once each, at most ``MAX_PER_CLASS`` of a class.

    Those that stand inside of a longer training text ("a small tree") are left out.
    """
    definitions = (normalized(synset.definition) for part in ("tune", "test") for synset in parts[part])
    texts = (
        normalized(text)
        for synset in parts["training"]
        for text in (synset.definition, *synset.examples, *synset.words)
    )
    seen_in_training = found_inside((text for text in definitions if len(text.split()) in WORDS_OF_A_GLOSS), texts)
    for split, part in (("train", "tune"), ("test", "test")):
        taken: Counter[str] = Counter()
        seen: set[str] = set()
        mixed = sorted(parts[part], key=lambda synset: hashlib.sha256(synset.definition.encode()).digest())
        classes: dict[str, set[str]] = {}
        for synset in mixed:
            classes.setdefault(normalized(synset.definition), set()).add(synset.category)
        for synset in mixed:
            words = normalized(synset.definition)
            label = LABELS.get(synset.category)
            # A definition that two classes share has no right answer.
            if label is None or words in seen or len(classes[words]) > 1 or taken[label] == MAX_PER_CLASS:
                continue
            if len(words.split()) in WORDS_OF_A_GLOSS and words not in seen_in_training:
                seen.add(words)
                taken[label] += 1
                yield {"split": split, "label": label, "text": synset.definition}


def main() -> None:
    """Parse the command line, read WordNet, write both files, and print what is in them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, default=WORDNET)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    parser.add_argument("--output", type=Path, default=GLOSSES)
    arguments = parser.parse_args()
    parts = split_synsets(read_wordnet(arguments.wordnet))
    corpus = arguments.work_dir / "corpus.jsonl.gz"
    write_lines(
        corpus, ({"part": part, **asdict(synset)} for part in ("training", "validation") for synset in parts[part])
    )
    write_lines(arguments.output, committed_rows(parts))
    for part, synsets in parts.items():
        print(f"{part}: {len(synsets)} synsets")
    for path in (corpus, arguments.output):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
