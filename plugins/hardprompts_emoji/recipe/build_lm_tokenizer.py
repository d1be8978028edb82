"""Build the tokenizer of the embedded language models: byte-level BPE in GPT-2's format.

Run ``python -m hardprompts_emoji.recipe.build_lm_tokenizer`` after ``build_glosses`` to learn the merges anew:
it replaces ``lm_merges.txt``, and models trained before do not fit what it gives.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer

from hardprompts_emoji.glosses import LABELS
from hardprompts_emoji.recipe.build_glosses import read_corpus
from hardprompts_emoji.recipe.lm_texts import NEUTRAL, RELIABILITY, TOPICS, texts

VOCABULARY_SIZE = 5120
CONTEXT_LENGTH = 128
MERGES = Path(__file__).with_name("lm_merges.txt")
END = "<|endoftext|>"


def learn_merges(lines: Iterable[str], size: int) -> list[tuple[str, str]]:
    """Return merges for a vocabulary of ``size`` tokens, in the order in which they apply."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return [(first, second) for first, second in json.loads(tokenizer.to_str())["model"]["merges"]]


def weighted_words() -> Iterator[str]:
    """Yield the label words and the words of headings, often enough to become whole tokens."""
    for word in LABELS.values():
        yield from [f"{word} {word}"] * 2000
    for word in (*RELIABILITY, *TOPICS, *NEUTRAL):
        yield from [f"{word} {word}"] * 400


def merges() -> list[tuple[str, str]]:
    """Return the merges in the order in which they apply, as they were learned once and written to ``MERGES``.

    The library breaks ties between pairs at random, so learning anew would give some words the ids of others.
    """
    lines = MERGES.read_text(encoding="utf-8").splitlines()[1:]
    return [(first, second) for first, second in (line.split(" ") for line in lines)]


def build() -> GPT2Tokenizer:
    """Return the tokenizer; its one special token begins, ends and pads."""
    kept = merges()
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(first + second for first, second in kept), END]
    return GPT2Tokenizer(
        vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))},
        merges=kept,
        unk_token=END,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT_LENGTH,
    )


def save(tokenizer: GPT2Tokenizer, folder: Path) -> None:
    """Write the tokenizer with vocab.json and merges.txt, which older readers expect."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")


def main() -> None:
    """Learn the merges, write them, and print which words that matter are not whole tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    arguments = parser.parse_args()
    synsets = read_corpus(arguments.work_dir / "corpus.jsonl.gz")["training"]
    learned = learn_merges([*texts(synsets, seed=0), *weighted_words()], VOCABULARY_SIZE - 1)
    temporary = MERGES.with_suffix(".new")
    temporary.write_text("\n".join(["#version: 0.2", *map(" ".join, learned), ""]), encoding="utf-8")
    temporary.replace(MERGES)
    tokenizer = build()
    split = [word for word in (*LABELS.values(), *RELIABILITY, *TOPICS) if len(tokenizer(f" {word}").input_ids) > 1]
    print(f"{len(tokenizer)} tokens; words in pieces: {', '.join(split) or 'none'}")


if __name__ == "__main__":
    main()
