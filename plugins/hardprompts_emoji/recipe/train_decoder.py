"""Train the decoder of emoji-clip: ``python -m hardprompts_emoji.recipe.train_decoder --output FOLDER``.

Texts about training scenes (``decoder_texts``) are all that it learns from; pictures of a few training scenes, without
their texts, tell how far pictures are from texts. A run that is interrupted goes on when it is started again.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch

from hardprompts.atomic import write_text_atomically
from hardprompts.encoders import load_backend
from hardprompts_decoder.files import CARD, Decoder, card
from hardprompts_decoder.training import TrainingOptions, progress_lines, train
from hardprompts_emoji import scenes
from hardprompts_emoji.recipe.decoder_texts import FIRST_SEED, texts

PICTURES_FROM = FIRST_SEED + 100_000_000
"""First seed of the scenes whose pictures tell the gap."""


DATA = """
## Data and licenses

- Texts about training scenes of `hardprompts_emoji.scenes`, seeds below `HELD_OUT_SEED`: captions, paraphrases by other
  templates, and lists of words (`hardprompts_emoji.recipe.decoder_texts`). Names and keywords: Unicode CLDR,
  (c) Unicode, Inc., Unicode License v3.
- The distance of pictures from texts was measured on {pictures} pictures of training scenes, without their texts.
- The weights are under the license of this package, Apache-2.0.

Made by `python -m hardprompts_emoji.recipe.train_decoder`; measured by `benchmarks/decoder.py`.
"""


def write_card(decoder: Decoder, output: Path, pictures: int) -> None:
    """Write the card, with where the texts come from."""
    about = card(decoder.model, decoder.facts).replace("---\n", "---\nlicense: apache-2.0\n", 1)
    write_text_atomically(output / CARD, about + DATA.format(pictures=pictures))


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=160_000)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    backend = load_backend("emoji")
    drawn = [scenes.sample_scene(PICTURES_FROM + i) for i in range(arguments.pictures)]
    pictures = backend.encode_images([scenes.render(scene, seed=i) for i, scene in enumerate(drawn)])
    options = TrainingOptions(
        steps=arguments.steps, batch_size=arguments.batch_size, width=160, heads=5, learning_rate=3e-3,
        seed=arguments.seed,
    )  # fmt: skip
    decoder = train(
        backend, list(texts(arguments.texts)), arguments.output, options, pictures=pictures.to(torch.float32),
        progress=progress_lines(functools.partial(print, flush=True)),
    )  # fmt: skip
    write_card(decoder, arguments.output, arguments.pictures)


if __name__ == "__main__":
    main()
