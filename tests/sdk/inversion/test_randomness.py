"""Searches leave the caller's random state as it was, whatever seed they have."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_denoiser import TOY, predictor

from hardprompts import DenoisingInverter, PromptInverter, run_search
from hardprompts.methods import PEZ
from hardprompts.objectives import FeatureSimilarity
from hardprompts.testing import toy_backend

ROOT = Path(__file__).parents[3]
BACKEND = toy_backend()
FEATURES = BACKEND.encode_texts(["red house", "old boat"])
QUICK: dict[str, Any] = {"max_steps": 2, "restarts": 2, "progress": False}


def searched() -> Any:
    objective = FeatureSimilarity(BACKEND.text_encoder, FEATURES[:1].unsqueeze(1), torch.ones(1, 1))
    initial = BACKEND.vocabulary.sample((2, 2), torch.Generator().manual_seed(0))
    return run_search(PEZ(), objective, objective, BACKEND.vocabulary, initial, max_steps=2)


DOORS: dict[str, Callable[[], Any]] = {
    "invert": lambda: PromptInverter(BACKEND).invert(TOY.picture("red house"), 2, **QUICK),
    "invert_each": lambda: PromptInverter(BACKEND).invert_each(FEATURES, 2, batch_size=1, **QUICK),
    "denoising": lambda: DenoisingInverter(predictor()).invert(TOY.picture("red house"), 2, num_noises=2, **QUICK),
    "run_search": searched,
}


def states() -> list[Any]:
    """Of torch and numpy; Python's own generator is used by the type checks of these tests, see below."""
    name, keys, *rest = np.random.get_state()
    return [torch.random.get_rng_state().tolist(), name, keys.tolist(), rest]


@pytest.mark.parametrize("door", DOORS)
def test_a_call_without_a_seed_leaves_the_global_generators_alone(door: str) -> None:
    before = states()
    DOORS[door]()
    assert states() == before


def test_a_seed_that_was_drawn_gives_the_same_prompt_again() -> None:
    picture = TOY.picture("red house")
    drawn = PromptInverter(BACKEND, PEZ()).invert(picture, 3, **QUICK)
    again = PromptInverter(BACKEND, PEZ()).invert(picture, 3, seed=drawn.seed, **QUICK)
    assert again.candidates == drawn.candidates


#: What uses a generator that belongs to everybody; Python's `random.Random(seed)` is a generator of one's own.
GLOBAL = re.compile(
    r"\btorch\.(seed|manual_seed|set_rng_state)\(|\b(np|numpy)\.random\.(?!default_rng|Generator)\w+\("
    r"|\brandom\.(?!Random\b|randbits)[a-z]\w*\("
)


def test_no_source_uses_a_global_generator() -> None:
    files = [
        path
        for folder in ("sdk", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        if "recipe" not in path.parts  # programs that train the embedded models
    ]
    assert len(files) > 100
    for path in files:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if GLOBAL.search(line)]
        assert not found, f"{path}: {found}"
    assert all(GLOBAL.search(line) for line in ("torch.seed()", "np.random.seed(0)", "random.choice(words)"))
