"""What is held and what is taken: bytes, counted on the CPU."""

import functools

import pytest
import torch
from torch import nn

from hardprompts.towers.memory import MemoryEstimate, bytes_of, held_bytes, held_tensors, peak_of, size_text

CPU = torch.device("cpu")


def held(*things: object) -> int:
    return sum(held_bytes(held_tensors(*things), CPU).values())


def test_what_is_taken_is_what_is_alive_at_once() -> None:
    given = torch.ones(1000)
    assert peak_of(lambda: given + 1, CPU) == 4000
    assert peak_of(lambda: (given + 1) * 2, CPU) == 8000  # the first is there while the second is made
    assert peak_of(lambda: [(given + 1).sum() for _ in range(5)], CPU) < 4000 + 5 * 8
    assert peak_of(lambda: given.view(10, 100).t()[2:], CPU) == 0
    assert peak_of(lambda: given.mul_(2), CPU) == 0


def test_what_autograd_keeps_is_taken() -> None:
    layer, given = nn.Linear(10, 10), torch.ones(100, 10, requires_grad=True)
    layer.requires_grad_(False)
    with torch.no_grad():
        without = peak_of(lambda: layer(layer(given).relu()).sum(), CPU)
    kept = peak_of(lambda: torch.autograd.grad(layer(layer(given).relu()).sum(), given), CPU)
    assert kept > without >= 2 * 4000


def test_memory_that_is_shared_is_held_once() -> None:
    table = torch.ones(100)
    assert held(table, table[:10], {"a": [table]}) == 400
    assert held(nn.Linear(10, 10)) == 440
    assert held(torch.ones(3, device="meta")) == 0


def test_closures_and_methods_hold_what_they_use() -> None:
    weight = torch.ones(100)

    def multiplied(x: torch.Tensor) -> torch.Tensor:
        return x * weight

    assert held(multiplied) == held(functools.partial(multiplied, 3)) == 400
    assert held(nn.Linear(10, 10).forward) == 440
    circle: list[object] = [weight]
    circle.append(circle)
    assert held(circle, torch, int, "text") == 400


def test_an_estimate_is_told_by_its_parts() -> None:
    estimate = MemoryEstimate(2**30, 2**20, gradient=2**21, scoring=2**22)
    assert estimate.activations == 2**22 and estimate.total == 2**30 + 2**20 + 2**22
    assert str(estimate) == "1 GiB (weights 1 GiB, token tables 1 MiB, activations 4 MiB)"


def test_sizes_are_read_and_told() -> None:
    assert bytes_of("8GB") == bytes_of("8 gib") == bytes_of(8 * 2**30) == 8 * 2**30
    assert [size_text(size) for size in (5, 1536, 8 * 2**30)] == ["5 B", "1.5 KiB", "8 GiB"]
    for size in ("eight", "", 0, True, "-1GB"):
        with pytest.raises(ValueError, match="vram must be a size"):
            bytes_of(size)
