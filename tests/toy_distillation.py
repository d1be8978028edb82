"""The toy model with a distiller, a long prompt of its words, and embeddings near to texts."""

from typing import Any

import torch

from hardprompts import PromptDistiller
from hardprompts.testing import ToyEncoder, toy_backend

BACKEND = toy_backend()
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)
VOCABULARY = BACKEND.vocabulary
DISTILLER = PromptDistiller(BACKEND)
QUICK: dict[str, Any] = {"restarts": 6, "progress": False, "seed": 0}
LONG = "the old red house near a small river in winter night"


def embedded(text: str) -> torch.Tensor:
    return VOCABULARY.embed(torch.tensor(VOCABULARY.encode(text), dtype=torch.long))


def noisy(text: str, size: float, seed: int = 0) -> torch.Tensor:
    rows = embedded(text)
    return rows + size * torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
