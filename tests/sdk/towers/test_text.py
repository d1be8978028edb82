"""Frozen towers give the features and gradients that autograd finds through the same modules."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hardprompts.towers import frozen
from hardprompts.towers import text as towers
from hardprompts.towers.frozen import FrozenLinear
from hardprompts.towers.text import (
    ACTIVATIONS,
    FrozenBlock,
    FrozenEncoder,
    FrozenNorm,
    FrozenTower,
    PostNormBlock,
    Readout,
)

WIDTH, HEADS, BLOCKS, BEFORE = 24, 3, 3, 2
END = torch.linspace(-1, 1, WIDTH).unsqueeze(0)


class Block(nn.Module):
    """A block in torch's own modules."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.fc, self.proj = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=x.dtype).triu(1)
        normed = self.norm_1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        hidden = self.fc(self.norm_2(x))
        active = {
            "gelu": F.gelu,
            "gelu_pytorch_tanh": lambda h: F.gelu(h, approximate="tanh"),
            "quick_gelu": lambda h: h * torch.sigmoid(1.702 * h),
        }[self.activation](hidden)
        return x + self.proj(active)

    def frozen(self) -> FrozenBlock:
        attention = self.attention
        return FrozenBlock(
            heads=HEADS,
            norm_1=FrozenNorm.of(self.norm_1),
            qkv=FrozenLinear(attention.in_proj_weight, attention.in_proj_bias),
            out=FrozenLinear(attention.out_proj.weight, attention.out_proj.bias),
            norm_2=FrozenNorm.of(self.norm_2),
            fc=FrozenLinear(self.fc.weight, self.fc.bias),
            activation=ACTIVATIONS[self.activation],
            proj=FrozenLinear(self.proj.weight, self.proj.bias),
        )


def towers_of(
    activation: str, before: int, dtype: torch.dtype, projected: bool = True
) -> tuple[nn.Module, FrozenTower]:
    """The same tower as modules and frozen; the modules read what stands before the text in every call."""
    torch.manual_seed(0)
    blocks, norm = [Block(activation) for _ in range(BLOCKS)], nn.LayerNorm(WIDTH)
    projection = nn.Linear(WIDTH, 7, bias=False) if projected else nn.Identity()
    modules = nn.Sequential(*blocks, norm, projection).to(dtype)
    for parameter in modules.parameters():
        nn.init.normal_(parameter, std=0.3)  # norms and biases too
    start = torch.randn(before, WIDTH, dtype=dtype)
    last = FrozenLinear(projection.weight) if isinstance(projection, nn.Linear) else None
    tower = FrozenTower([block.frozen() for block in blocks], FrozenNorm.of(norm), last, start)
    modules.requires_grad_(False)
    return _Read(modules, start), tower


class _Read(nn.Module):
    def __init__(self, modules: nn.Module, start: Tensor) -> None:
        super().__init__()
        self.modules_, self.start = modules, start

    def forward(self, x: Tensor, after: Tensor) -> Tensor:
        parts = [self.start.expand(len(x), -1, -1), x, after.expand(len(x), -1, -1)]
        return self.modules_(torch.cat(parts, dim=1))[:, -1]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("batch", "positions", "before"), [(1, 1, 1), (1, 9, 1), (5, 4, BEFORE), (1, 0, 1), (2, 6, 0), (2, 40, 1)]
)
@pytest.mark.parametrize(("packing", "few"), [(True, 0), (False, towers.FEW)])
def test_features_and_gradients_are_those_of_the_modules(
    activation: str, batch: int, positions: int, before: int, packing: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "PACKED_LEAST", 0 if packing else 10**12)
    monkeypatch.setattr(towers, "FEW", few)
    modules, tower = towers_of(activation, before, torch.float32)
    x = torch.randn(batch, positions, WIDTH, requires_grad=True)
    way = torch.randn(batch, 7)
    expected, found = modules(x, END), tower(x, END)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    (wanted,) = torch.autograd.grad((expected * way).sum(), x)
    for _ in range(2):  # what is kept for the way back is not changed on it
        (gradient,) = torch.autograd.grad((found * way).sum(), x, retain_graph=True)
        torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(tower(x, END), expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_exact() -> None:
    _, tower = towers_of("gelu", BEFORE, torch.float64, projected=False)
    x = torch.randn(2, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    assert tower(x, END.double()).dtype == torch.float64
    assert torch.autograd.gradcheck(tower, (x, END.double()), fast_mode=True)


def test_long_texts_and_short_ones_are_attended_to_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tower = towers_of("gelu", BEFORE, torch.float32)
    x = torch.randn(3, 8, WIDTH, requires_grad=True)

    def run() -> tuple[Tensor, Tensor]:
        features = tower(x, END)
        return features, torch.autograd.grad(features.square().sum(), x)[0]

    fused = run()
    monkeypatch.setattr(towers, "FEW", 0)
    for limit in (None, "VERY_SHORT", "SHORT"):
        if limit is not None:
            monkeypatch.setattr(towers, limit, 0)
        for one, other in zip(fused, run(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_norms_of_half_precision_convert_nothing_where_they_compute_in_float32_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules, _ = towers_of("gelu", BEFORE, torch.bfloat16)
    x = torch.randn(2, 5, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    end = END.to(torch.bfloat16)
    (wanted,) = torch.autograd.grad(modules(x, end).square().sum(), x)

    def conversions() -> int:
        _, tower = towers_of("gelu", BEFORE, torch.bfloat16)
        with Conversions() as seen:
            (found,) = torch.autograd.grad(tower(x, end).square().sum(), x)
        assert F.cosine_similarity(found.flatten().float(), wanted.flatten().float(), dim=0) > 0.99
        return seen.count

    before = conversions()
    monkeypatch.setattr(towers, "WIDE_WITHIN", {"cpu"})
    assert conversions() == before - 4 * (2 * BLOCKS + 1)


class Conversions(TorchDispatchMode):
    """Counts what is converted to another dtype."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += operation is torch.ops.aten._to_copy.default
        return operation(*args, **(kwargs or {}))


def test_without_gradients_no_block_outlives_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tower = towers_of("gelu", BEFORE, torch.float32)
    met: list[weakref.ref[towers.Pullback]] = []
    alive: list[int] = []
    own = FrozenBlock.__call__

    def watched(self, *given):
        alive.append(sum(one() is not None for one in met))
        y, pullback = own(self, *given)
        met.append(weakref.ref(pullback))
        return y, pullback

    monkeypatch.setattr(FrozenBlock, "__call__", watched)
    x = torch.randn(2, 5, WIDTH)
    tower(x, END)
    assert alive == [0, *[1] * (BLOCKS - 2)]
    met.clear()
    kept = tower(x.requires_grad_(), END)
    assert kept.requires_grad and sum(one() is not None for one in met) == BLOCKS - 1


def test_a_tower_that_was_packed_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "PACKED_LEAST", 0)
    _, tower = towers_of("gelu", 1, torch.float32)
    x = torch.randn(2, 5, WIDTH, requires_grad=True)
    torch.testing.assert_close(copy.deepcopy(tower)(x, END), tower(x, END))
    torch.testing.assert_close(copy.deepcopy(tower)(x, END), tower(x, END))


# --- norms behind the blocks --------------------------------------------------------------


class PostNorm(Block):
    """The same block with a norm behind each part, and every position seen by every other."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        mask = None if bias is None else bias.repeat(len(x), 1, 1)
        x = self.norm_1(x + self.attention(x, x, x, need_weights=False, attn_mask=mask)[0])
        return self.norm_2(x + self.proj(F.gelu(self.fc(x))))

    def frozen(self) -> PostNormBlock:  # type: ignore[override]
        return PostNormBlock(**vars(super().frozen()))


def encoders_of(
    readout: Readout, biased: bool, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[Tensor], Tensor], FrozenEncoder]:
    """The same encoder as modules and frozen."""
    torch.manual_seed(0)
    blocks, norm = [PostNorm("gelu") for _ in range(BLOCKS)], nn.LayerNorm(WIDTH)
    modules = nn.ModuleList([*blocks, norm]).to(dtype)
    for parameter in modules.parameters():
        nn.init.normal_(parameter, std=0.3)
    modules.requires_grad_(False)
    positions, table = torch.randn(64, WIDTH, dtype=dtype), torch.randn(HEADS, 64, 64, dtype=dtype)

    def bias(length: int) -> Tensor:
        return table[:, :length, :length]

    def whole(x: Tensor) -> Tensor:
        x = norm(x + positions[: x.shape[1]])
        for block in blocks:
            x = block(x, bias(x.shape[1]) if biased else None)
        return {"mean": x.mean(dim=1), "first": x[:, 0], "last": x[:, -1]}[readout]

    own = [block.frozen() for block in blocks]
    return whole, FrozenEncoder(own, FrozenNorm.of(norm), positions, readout, bias if biased else None)


@pytest.mark.parametrize("readout", ["mean", "first", "last"])
@pytest.mark.parametrize("biased", [True, False], ids=["biased", "unbiased"])
@pytest.mark.parametrize(("batch", "positions"), [(1, 1), (1, 9), (5, 4), (2, 20), (2, 40)])
@pytest.mark.parametrize(("packing", "few"), [(True, 0), (False, towers.FEW)])
def test_encoders_with_norms_behind_their_blocks(
    readout: Readout, biased: bool, batch: int, positions: int, packing: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "PACKED_LEAST", 0 if packing else 10**12)
    monkeypatch.setattr(towers, "FEW", few)
    modules, encoder = encoders_of(readout, biased)
    x = torch.randn(batch, positions, WIDTH, requires_grad=True)
    way = torch.randn(batch, WIDTH)
    expected, found = modules(x), encoder(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    (wanted,) = torch.autograd.grad((expected * way).sum(), x)
    for _ in range(2):
        (gradient,) = torch.autograd.grad((found * way).sum(), x, retain_graph=True)
        torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(copy.deepcopy(encoder)(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("readout", ["mean", "first", "last"])
def test_gradients_of_encoders_are_exact(readout: Readout) -> None:
    _, encoder = encoders_of(readout, True, torch.float64)
    x = torch.randn(2, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(encoder, (x,), fast_mode=True)
