"""Seeds of 64 bits: each is taken, none is cut down to 32, and those of 32 give what they always gave."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardprompts import PromptDistiller, PromptInverter
from hardprompts.search import SearchOptions, random_starts
from hardprompts.search.seeds import SEEDS, Stream, _mixed, checked_seed, drawn_seed, generator_of
from hardprompts.testing import toy_backend

LARGE = [2**32, 2**33, 5 + 2**40, 2**63, SEEDS - 1]
QUICK: dict[str, Any] = {"num_tokens": 4, "restarts": 2, "max_steps": 1, "progress": False}


def numbers(generator: torch.Generator) -> list[int]:
    return torch.randint(2**31, (4,), generator=generator).tolist()


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 - 1, 2**31, 2**32 - 1])
def test_seeds_of_32_bits_are_torchs_own(seed: int) -> None:
    assert numbers(generator_of(seed)) == numbers(torch.Generator().manual_seed(seed))
    for stream in Stream:
        assert numbers(stream.generator(seed)) == numbers(torch.Generator().manual_seed(seed ^ stream.value))


@pytest.mark.parametrize("seed", LARGE)
def test_seeds_that_agree_in_32_bits_have_different_numbers(seed: int) -> None:
    assert numbers(torch.Generator().manual_seed(seed)) == numbers(torch.Generator().manual_seed(seed % 2**32)), "torch"
    assert numbers(generator_of(seed)) != numbers(generator_of(seed % 2**32))
    for stream in Stream:
        assert numbers(stream.generator(seed)) != numbers(stream.generator(seed % 2**32))


def test_the_high_bits_are_mixed_one_to_one() -> None:
    high = [*range(4096), *(2**32 - 1 - i for i in range(4096)), *(1 << i for i in range(12, 32))]
    assert len({_mixed(bits) for bits in high}) == len(high)
    assert _mixed(0) == 0 and all(0 <= _mixed(bits) < 2**32 for bits in high)


@pytest.mark.parametrize(
    ("given", "plain"), [(np.int64(7), 7), (np.uint64(SEEDS - 1), SEEDS - 1), (torch.tensor(3), 3)]
)
def test_whole_numbers_of_other_libraries_become_plain(given: Any, plain: int) -> None:
    found = checked_seed(given)
    assert (found, type(found)) == (plain, int)
    assert SearchOptions(seed=plain).seed == plain


@pytest.mark.parametrize(
    "seed", [-1, -(2**63), SEEDS, True, False, 1.0, np.float64(2), np.bool_(True), "1", [1], float("nan")]
)
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    for use in (checked_seed, drawn_seed):
        with pytest.raises(ValueError, match=r"seed must be a whole number from 0 to 2\*\*64 - 1, got"):
            getattr(use, "__wrapped__", use)(seed)


def test_a_drawn_seed_has_31_bits() -> None:
    assert all(0 <= drawn_seed(None) < 2**31 for _ in range(100))


def test_every_generator_of_the_sdk_comes_from_one_function() -> None:
    """A seed that goes into torch in another place would be cut down again."""
    root = Path(__file__).parents[3]
    sources = [*(root / "sdk").rglob("*.py"), *(root / "plugins/hardprompts_diffusers").rglob("*.py")]
    found = {
        path.name: line.strip()
        for path in sources
        if path.name not in ("seeds.py", "testing.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"manual_seed\((?!\d|\.\.\.)", line)
    }
    assert not found, "use hardprompts.search.generator_of"


@pytest.mark.parametrize("door", ["invert", "distill", "starts"])
def test_doors_give_other_prompts_for_seeds_that_agree_in_32_bits(door: str) -> None:
    backend = toy_backend()

    def found(seed: Any) -> Any:
        if door == "starts":
            return random_starts(backend.vocabulary, 4, 6, seed).tolist()
        if door == "invert":
            target = backend.encode_texts(["red house near river"])
            prompt = PromptInverter(backend, method="pez").invert(target, views=1, seed=seed, **QUICK)
        else:
            prompt = PromptDistiller(backend, method="pez").distill("red house near the old river", seed=seed, **QUICK)
        assert prompt.seed == int(seed) and json.loads(prompt.to_json())["seed"] == int(seed)
        return [candidate.text for candidate in prompt.candidates]

    for seed in (5 + 2**32, SEEDS - 1):
        assert found(seed) == found(seed), "it is repeatable"
        assert found(seed) != found(seed % 2**32)
