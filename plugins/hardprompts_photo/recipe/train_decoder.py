"""Train the decoder of MiniLM's features: ``python -m hardprompts_photo.recipe.train_decoder --output FOLDER``.

Texts are all that it learns from (``decoder_texts``), and no picture is needed: of a photograph, `photo` gives the
features of words. A run that is interrupted goes on when it is started again.
"""

from __future__ import annotations

import argparse
import functools
import json
from importlib.resources import files
from pathlib import Path

import torch

from hardprompts.atomic import write_text_atomically
from hardprompts.encoders import load_backend
from hardprompts_decoder.files import CARD, Decoder, card
from hardprompts_decoder.training import TrainingOptions, progress_lines, train
from hardprompts_photo.bridge import read as read_bridge
from hardprompts_photo.recipe.class_words import cleaned
from hardprompts_photo.recipe.decoder_texts import of_common_tokens, texts

DATA = """
## Data and licenses

- Captions, prompts and lists of things, put together by the grammars of `hardprompts_photo.recipe.decoder_texts` from
  lists of words that were written for it, and from WordNet's nouns, adjectives and painters, the names of ImageNet's
  classes that open_clip has, and CLDR's words for emoji; and WordNet's definitions and examples. No text of another
  collection of captions or prompts was used. WordNet 3.0, (c) Princeton University, WordNet's license; Unicode CLDR,
  (c) Unicode, Inc., Unicode License v3; open_clip, MIT.
- Features: all-MiniLM-L6-v2's, Apache-2.0.
- The weights are under the license of this package, Apache-2.0.

Made by `python -m hardprompts_photo.recipe.train_decoder`; measured by `benchmarks/real_decoder.py`.
"""


def names() -> list[str]:
    """Names of ImageNet's classes, and CLDR's words for emoji."""
    classes = [cleaned(name).lower() for name in json.loads(read_bridge()[1]["names"])]
    emoji = json.loads((files("hardprompts_emoji") / "objects.json").read_text(encoding="utf-8"))
    return [*classes, *(word for one in emoji for word in (one["name"], *one["keywords"]))]


def write_card(decoder: Decoder, output: Path) -> None:
    """Write the card, with where the texts come from."""
    about = card(decoder.model, decoder.facts).replace("---\n", "---\nlicense: apache-2.0\n", 1)
    write_text_atomically(output / CARD, about + DATA)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=115_000, help="by grammars")
    parser.add_argument("--definitions", type=int, default=35_000)
    parser.add_argument("--tokens", type=int, default=8_500, help="the commonest; texts with others are left out")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # Twice as fast as in single precision where the processor knows it, and the features are kept in half precision.
    backend = load_backend("photo", dtype=torch.bfloat16)
    written = texts(arguments.texts, arguments.definitions, arguments.seed, names())
    tokenizer = backend.vocabulary.tokenizer
    written = of_common_tokens(written, lambda every: [tokenizer.encode(one) for one in every], arguments.tokens)
    print(f"{len(written)} texts", flush=True)
    options = TrainingOptions(
        steps=arguments.steps, batch_size=arguments.batch_size, learning_rate=3e-3, noise=arguments.noise,
        max_tokens=20, bf16=True, seed=arguments.seed,
    )  # fmt: skip
    decoder = train(
        backend, written, arguments.output, options, progress=progress_lines(functools.partial(print, flush=True))
    )
    write_card(decoder, arguments.output)


if __name__ == "__main__":
    main()
