"""Build the tokenizer of the embedded models: byte-level BPE in CLIP's format.

Run ``python -m hardprompts_emoji.recipe.build_tokenizer --output FOLDER``. The merges are learned
from the words of the world, so that names, colors, styles and most keywords are whole tokens.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from hardprompts_emoji.scenes import BACKGROUNDS, OBJECTS, POSITIONS, SIZES, STYLES

VOCABULARY_SIZE = 4500
MERGES = Path(__file__).with_name("merges.txt")
CONTEXT_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
COMMON_WORDS = (
    "a an and in on of the with at to by for from front picture image photo drawing art style background corner "
    "scene icon illustration emoji showing behind left right top bottom center middle next above below two three "
    "things color colored size very some its this that is are"
).split()


def word_counts() -> Counter[str]:
    """Return how much each word should weigh when the merges are learned."""
    counts: Counter[str] = Counter()
    for name, keywords in OBJECTS.items():
        counts.update({word: 40 for word in name.split()})
        counts.update({word: 4 for word in keywords})
    for words in (*BACKGROUNDS.values(), *STYLES.values()):
        counts.update({word: 400 for text in words for word in text.split()})
    for text in (*STYLES, *SIZES, *POSITIONS, *COMMON_WORDS):
        counts.update({word: 400 for word in text.split()})
    return counts


def learn_merges(size: int) -> list[tuple[str, str]]:
    """Return merges for a vocabulary of ``size`` tokens, in the order in which they apply."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def words() -> Iterator[str]:
        for word, count in word_counts().items():
            for part in re.findall(r"[a-z]+|[0-9]", word):
                yield from [part] * count

    tokenizer.train_from_iterator(words(), trainer)
    return [(first, second) for first, second in json.loads(tokenizer.to_str())["model"]["merges"]]


def merges() -> list[tuple[str, str]]:
    """Return the merges in the order in which they apply, as they were learned once and written to ``MERGES``.

    The library breaks ties between pairs at random, so learning anew would give some words the ids
    of others, and weights trained with the one tokenizer would read them wrongly with the other.
    """
    if not MERGES.exists():
        return learn_merges(VOCABULARY_SIZE)
    lines = MERGES.read_text(encoding="utf-8").splitlines()[1:]
    return [(first, second) for first, second in (line.split(" ") for line in lines)]


def build() -> CLIPTokenizer:
    """Return the tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{character}</w>" for character in alphabet)]
    kept: list[tuple[str, str]] = []
    for first, second in merges():
        if len(tokens) >= VOCABULARY_SIZE - 2:
            break
        kept.append((first, second))
        if first + second not in tokens:
            tokens.append(first + second)
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=kept,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT_LENGTH,
    )


def save(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer with vocab.json and merges.txt, which older readers expect."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def main() -> None:
    """Build, write, and print how many words are whole tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    tokenizer = build()
    save(tokenizer, arguments.output)
    counts = word_counts()
    for weight in (40, 4):
        words = [word for word, count in counts.items() if (count >= 40) == (weight == 40)]
        whole = [word for word in words if len(tokenizer(word).input_ids) == 3]
        missing = sorted(set(words) - set(whole))
        print(f"weight {weight}: {len(whole)} of {len(words)} words are whole tokens; e.g. not {missing[:40]}")
    print(f"{len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
