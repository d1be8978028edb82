"""Measure the model on stamps: which of all their sentences is nearest to each picture.

    python -m hardprompts_photo.recipe.evaluate

The pictures are those of the held-out half, the sentences those of all stamps of things. Nothing is learned from them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from hardprompts import load_backend
from hardprompts.images import load_images
from hardprompts_photo.recipe import pictures


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the share of first places, of the first five, and the median rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/photo"), help="where downloads are kept")
    parser.add_argument("--model", default="photo")
    options = parser.parse_args(arguments)
    backend = load_backend(options.model, device="cpu")
    stamps = pictures.stamps(pictures.download(options.build))
    sentences = sorted({stamp.words[0] for stamp in stamps})
    texts = backend.encode_texts(sentences)
    for label, held_out in (("held-out half", True), ("other half", False)):
        half = [stamp for stamp in stamps if stamp.held_out == held_out]
        features = torch.cat([backend.encode_images(load_images([str(stamp.file)])) for stamp in half])
        similarities = features @ texts.T
        own = similarities[torch.arange(len(half)), torch.tensor([sentences.index(one.words[0]) for one in half])]
        rank = (similarities > own[:, None]).sum(dim=1)
        print(
            f"{label}: {len(half)} stamps, {len(sentences)} sentences: first {(rank == 0).float().mean():.1%}, "
            f"in the first five {(rank < 5).float().mean():.1%}, median rank {int(rank.median()) + 1}"
        )


if __name__ == "__main__":
    main()
