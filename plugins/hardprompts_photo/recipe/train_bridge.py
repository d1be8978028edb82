"""Build the bridge: the words of the classes, the map from features to text, and outputs to check weights by.

    python -m hardprompts_photo.recipe.train_bridge

Needs the extra `photo`, open_clip_torch, and the commands apt-get, dpkg-deb, npm and rsvg-convert; downloads and
features are kept in build/photo, so that a run that is stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hardprompts import Backend
from hardprompts.encoders import normalize
from hardprompts_photo import bridge, weights
from hardprompts_photo.backend import CHECK_SENTENCE, SIZES, check_picture, load_network
from hardprompts_photo.image_tower import EfficientNetLite
from hardprompts_photo.recipe import class_words, pictures
from hardprompts_photo.recipe.features import pooled_features

#: Share of the plain word in a class's embedding.
PLAIN_SHARE = 0.2
#: What the bridge does with its parts; see `Bridge`.
SETTINGS: dict[str, float] = {
    "top": 20, "map_share": 1.0, "least_share": 0.1, "most_said": 3, "person_from": 0.1, "least_familiarity": 4.2,
}  # fmt: skip
#: Of the ridge regression, as a share of a feature's variance.
PENALTY = 0.3
#: Words of a picture that count: its title or name, and keywords.
MOST_WORDS = 6
#: What each tower's map is learned from; the smaller tower, a judge, has less.
SOURCES = {
    "lite2": ("openclipart", "noto", "twemoji", "fluent-modern", "fluent-flat"),
    "lite0": ("openclipart",),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write bridge.safetensors into the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/photo"), help="where downloads and features are kept")
    parser.add_argument("--output", type=Path, default=bridge.FILE)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    tree = pictures.download(options.build)
    found = pictures.all_pictures(options.build)
    encoder = text_encoder()
    names = class_words.class_names()
    classes = class_embeddings(encoder, names, tree / "usr/share/wordnet")
    tensors = {
        "classes": classes,
        "people": torch.tensor([float(name in class_words.WITH_PEOPLE) for name in names]),
        "check.text": encoder.encode_texts([CHECK_SENTENCE])[0],
    }
    for size in SIZES:
        tower = image_tower(size)
        by_source = [[one for one in found if one.source == source] for source in SOURCES[size]]
        files = [options.build / f"features/{size}-0-{source}.pt" for source in SOURCES[size]]
        pooled = torch.cat([pooled_features(tower, own, file) for own, file in zip(by_source, files, strict=True)])
        words = encoder.encode_texts([", ".join(one.words[:MOST_WORDS]) for own in by_source for one in own])
        said = bridge.class_words(tower.logits(pooled).softmax(dim=-1), classes, int(SETTINGS["top"]))
        weight, bias = ridge(bridge.roots(pooled), words - said, PENALTY)
        tensors |= {f"{size}.weight": weight, f"{size}.bias": bias}
        tensors[f"check.{size}"] = tower.logits(tower.pooled([check_picture()]))[0]
        print(f"{size}: learned from {len(pooled)} pictures", flush=True)
    _write(tensors, class_words.plain_words(tree / "usr/share/wordnet"), options.output)


def _write(tensors: Mapping[str, Tensor], plain: Sequence[str], output: Path) -> None:
    temporary = output.with_suffix(".new")
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "names": json.dumps(class_words.said_names(plain)),
        "plain": json.dumps(list(plain)),
        "settings": json.dumps(SETTINGS),
    }
    save_file(halves, temporary, metadata)
    temporary.chmod(0o644)
    temporary.replace(output)


def ridge(inputs: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """(inputs, outputs) weights and (outputs,) bias of least squares that pay for large weights.

    Args:
        penalty: as a share of the inputs' mean variance, for each row.
    """
    center, mean = inputs.mean(dim=0), targets.mean(dim=0)
    scale = inputs.std(dim=0).mean()
    rows = (inputs - center) / scale
    gram = rows.T @ rows + penalty * len(rows) * torch.eye(rows.shape[1])
    weight = torch.linalg.solve(gram, rows.T @ (targets - mean)) / scale
    return weight, mean - center @ weight


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
    new = [word if word.lower() not in name.lower().split() else "" for word, name in zip(plain, names, strict=True)]
    others = encoder.encode_texts([word or class_words.cleaned(name) for word, name in zip(new, names, strict=True)])
    return normalize((1 - PLAIN_SHARE) * own + PLAIN_SHARE * others)


if __name__ == "__main__":
    main()
