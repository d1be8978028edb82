"""Build the bridge: the words of the classes, the map from features to text, and outputs to check weights by.

    python -m hardprompts_photo.recipe.train_bridge

Needs the extra `photo`, open_clip_torch, and the commands apt-get, dpkg-deb, npm and rsvg-convert; downloads and
features are kept in build/photo, so that a run that is stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hardprompts import Backend
from hardprompts.encoders import normalize
from hardprompts_photo import bridge, weights
from hardprompts_photo.backend import CHECK_SENTENCE, SIZES, check_picture, load_network
from hardprompts_photo.image_tower import EfficientNetLite
from hardprompts_photo.recipe import class_words, pictures

#: Share of the plain word in a class's embedding.
PLAIN_SHARE = 0.2
#: What the bridge does with its parts; see `Bridge`.
SETTINGS: dict[str, dict[str, Any]] = {
    "lite2": {"top": 20, "person_share": 0.6, "person_full": 0.2, "map_share": 0.0, "least_familiarity": 5.0},
    "lite0": {"top": 20, "person_share": 0.6, "person_full": 0.2, "map_share": 0.0, "least_familiarity": 5.0},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write bridge.safetensors into the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/photo"), help="where downloads and features are kept")
    parser.add_argument("--output", type=Path, default=bridge.FILE)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    tree = pictures.download(options.build)
    encoder = text_encoder()
    names = class_words.class_names()
    tensors = {
        "classes": class_embeddings(encoder, names, tree / "usr/share/wordnet"),
        "people": torch.tensor([float(name in class_words.WITH_PEOPLE) for name in names]),
        "person": encoder.encode_texts(["person"])[0],
        "check.text": encoder.encode_texts([CHECK_SENTENCE])[0],
    }
    for size in SIZES:
        tower = image_tower(size)
        pooled = tower.pooled([check_picture()])
        tensors[f"check.{size}"] = tower.logits(pooled)[0]
        tensors[f"{size}.weight"] = torch.zeros(pooled.shape[1], tensors["person"].shape[0])
        tensors[f"{size}.bias"] = torch.zeros_like(tensors["person"])
    save_file(
        {name: tensor.half().contiguous() for name, tensor in tensors.items()},
        options.output,
        {"names": json.dumps(names), "settings": json.dumps(SETTINGS)},
    )


def text_encoder() -> Backend:
    """The sentence encoder of the installed package, on the CPU."""
    from hardprompts_transformers.sentences import open_sentence_encoder

    (found,) = weights.find((weights.TEXT,), "")
    return open_sentence_encoder(found.folder, name="text", device=torch.device("cpu"), dtype=torch.float32)


def image_tower(size: str) -> EfficientNetLite:
    """The network of the installed package, on the CPU."""
    (found,) = weights.find((weights.IMAGE[size],), "")
    network = load_network(size, weights.stored_network(weights.IMAGE[size], found.folder))
    return EfficientNetLite(network.to(memory_format=torch.channels_last), SIZES[size])


def class_embeddings(encoder: Backend, names: Sequence[str], wordnet: Path) -> Tensor:
    """(classes, text) of unit length: each class's name, and a share of its plain word."""
    own = encoder.encode_texts([class_words.cleaned(name) for name in names])
    plain = class_words.plain_words(wordnet)
    others = encoder.encode_texts([word or class_words.cleaned(name) for word, name in zip(plain, names, strict=True)])
    return normalize((1 - PLAIN_SHARE) * own + PLAIN_SHARE * others)


if __name__ == "__main__":
    main()
