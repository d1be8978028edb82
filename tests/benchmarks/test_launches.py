"""What a step asks of a card stays what it is: launches, waits and transfers, counted on the simulated device."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import simulated_device

from hardprompts import load_backend, search_methods
from hardprompts.methods import PromptTuning

pytestmark = pytest.mark.skipif(not simulated_device.available, reason="needs torch's Python backend")

#: The most launches of a step of emoji-clip. What is fused away is taken off here.
LAUNCHES = {
    "pez": 130,
    "ph2p": 145,
    "gcg": 180,
    "mac": 190,
    "gbda": 205,
    "soft": 125,
    "fluentprompt": 135,
    "refine": 345,
}


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[Any, Any]]:
    """The benchmark, and emoji-clip on the device."""
    with pytest.MonkeyPatch.context() as patch, simulated_device.simulated() as device:
        patch.syspath_prepend(Path(__file__).parent.parent.parent / "benchmarks")
        launches = importlib.import_module("launches")
        patch.setattr(launches, "STEPS", 12)
        yield launches, load_backend("emoji", device=device)


@pytest.mark.parametrize(
    "name", [name if name in ("pez", "gcg") else pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHES]
)
def test_a_step_launches_no_more_and_waits_for_nothing(name: str, opened: tuple[Any, Any]) -> None:
    launches, backend = opened
    search = PromptTuning() if name == "soft" else search_methods()[name]()
    found = launches.counted(search, backend)
    assert found["step"]["launches"] <= LAUNCHES[name], found
    if name == "refine":
        assert found["step"]["waits"] <= 1
    else:
        assert found["step"]["waits"] == found["step"]["transfers"] == 0
        assert found["step with a report"]["waits"] <= 2
    row = {"tower": "emoji-clip", "method": name, **found}
    assert name in launches.table([row])
