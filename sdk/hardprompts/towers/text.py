"""Frozen text towers, forward and back, without a graph of autograd in between.

A search takes thousands of gradients of one small batch through weights that never change. What autograd builds anew
for each of them costs more than the arithmetic does where a tower is small, and it does not know what can be left out:
gradients of weights and of what stands before the prompt, and in the last block all positions but the last one.

Every part here returns its output and its pullback: what makes of the gradient with respect to the output that with
respect to the input. A tower's pullback is those of its parts from the last one to the first.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hardprompts.towers.frozen import FrozenLinear, are_traced

Pullback = Callable[[Tensor], Tensor]

#: Keys and values of what stands before every text.
Cache = Float[Tensor, "2 1 heads before width"]

#: Positions up to which a CPU computes attention in plain steps: for so few, one fused kernel takes longer.
SHORT = 32

#: Rows of all heads together up to which one fused kernel is the faster one all the same: what plain steps take is then
#: mostly the calls.
FEW = 256

#: Positions up to which a CPU computes the softmax of a row faster in plain steps, in a fifth of the time for ten.
VERY_SHORT = 16

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of each element.

    Attributes:
        forward: from `x`, which it may change, to the function's values and to what the way back needs.
        gradient: what the pullback makes of the gradient, from that and from what the way back needs.
    """

    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    gradient: Callable[[Tensor, Tensor], Tensor]


def _quick_gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    # x * sigmoid(1.702 x) is silu(1.702 x) / 1.702.
    x = x.mul_(1.702)
    return F.silu(x).div_(1.702), x


#: The activations of CLIPs, by the names that transformers has for them.
ACTIVATIONS = {
    "gelu": Activation(lambda x: (F.gelu(x), x), _aten.gelu_backward.default),
    "gelu_pytorch_tanh": Activation(
        lambda x: (F.gelu(x, approximate="tanh"), x),
        lambda grad, x: _aten.gelu_backward.default(grad, x, approximate="tanh"),
    ),
    "quick_gelu": Activation(_quick_gelu, _aten.silu_backward.default),
}


#: Devices whose layer norms compute in float32 whatever they are given: nothing has to be converted for them.
WIDE_WITHIN = frozenset({"cuda"})


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A layer norm whose weight and bias need no gradient, computed in float32 or better."""

    weight: Float[Tensor, " dim"]
    bias: Float[Tensor, " dim"]
    eps: float

    @classmethod
    def of(cls, norm: torch.nn.LayerNorm) -> "FrozenNorm":
        """The norm of a module."""
        dtype = norm.weight.dtype
        if norm.weight.device.type not in WIDE_WITHIN:
            dtype = torch.promote_types(dtype, torch.float32)
        return cls(norm.weight.detach().to(dtype), norm.bias.detach().to(dtype), norm.eps)

    def __call__(self, x: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch dim"], Pullback]:
        wide, shape = x.to(self.weight.dtype), self.weight.shape
        normed, mean, rstd = torch.native_layer_norm(wide, shape, self.weight, self.bias, self.eps)

        def pullback(grad: Tensor) -> Tensor:
            found: Tensor = _aten.native_layer_norm_backward.default(
                grad.to(wide.dtype), wide, shape, mean, rstd, self.weight, self.bias, (True, False, False)
            )[0]
            return found.to(grad.dtype)

        return normed.to(x.dtype), pullback


@dataclasses.dataclass(frozen=True, eq=False)
class _Block:
    """What residual blocks have in common, wherever their norms stand.

    Attributes:
        qkv: queries, keys and values one behind the other, as `torch.nn.MultiheadAttention` has them.
    """

    heads: int
    norm_1: FrozenNorm
    qkv: FrozenLinear
    out: FrozenLinear
    norm_2: FrozenNorm
    fc: FrozenLinear
    activation: Activation
    proj: FrozenLinear

    def pack(self, is_last: bool) -> None:
        """Prepares for many gradients through the block."""
        first = (self._query, self._key_value) if is_last else (self.qkv,)
        for linear in (*first, self.out, self.fc, self.proj):
            linear.pack()

    @functools.cached_property
    def _query(self) -> FrozenLinear:
        return self.qkv.rows(0, len(self.qkv.weight) // 3)

    @functools.cached_property
    def _key_value(self) -> FrozenLinear:
        return self.qkv.rows(len(self.qkv.weight) // 3, len(self.qkv.weight))

    def _split(self, projected: Float[Tensor, "batch positions _"]) -> Float[Tensor, "parts batch heads positions _"]:
        width = len(self.qkv.weight) // 3 // self.heads
        parts: Tensor = projected.unflatten(-1, (-1, self.heads, width)).permute(2, 0, 3, 1, 4)
        return parts


class FrozenBlock(_Block):
    """A residual block, attention and then an MLP with a norm before each, as CLIP's."""

    def __call__(
        self, x: Float[Tensor, "batch positions dim"], cache: Cache | None, mask: Tensor | None
    ) -> tuple[Float[Tensor, "batch positions dim"], Pullback]:
        """The output at the positions `x`, which attend to those of `cache` and, as `mask` allows, to each other."""
        normed, norm_pullback = self.norm_1(x)
        heads = self._split(self.qkv(normed))
        mixed, attention_pullback = attention(heads[0], _behind(cache, heads[1:]), mask)
        y, rest_pullback = self._rest(x, mixed)

        def pullback(grad: Tensor) -> Tensor:
            grad, mixed_grad = rest_pullback(grad)
            new = x.shape[1]
            to_heads = [part[:, :, -new:].transpose(1, 2) for part in attention_pullback(mixed_grad)]
            joined = torch.stack(to_heads, dim=2).flatten(2)  # (batch, positions, 3 dim)
            return norm_pullback(self.qkv.gradient(joined)).add_(grad)

        return y, pullback

    def last(
        self, x: Float[Tensor, "batch positions dim"], cache: Cache | None
    ) -> tuple[Float[Tensor, "batch 1 dim"], Pullback]:
        """The output at the last position of `x`, which attends to all."""
        normed, norm_pullback = self.norm_1(x)
        mixed, attention_pullback = attention(
            self._split(self._query(normed[:, -1:]))[0], _behind(cache, self._split(self._key_value(normed))), None
        )
        y, rest_pullback = self._rest(x[:, -1:], mixed)

        def pullback(grad: Tensor) -> Tensor:
            grad, mixed_grad = rest_pullback(grad)
            new = x.shape[1]
            queries, *others = (part[:, :, -new:].transpose(1, 2) for part in attention_pullback(mixed_grad))
            normed_grad = self._key_value.gradient(torch.stack(others, dim=2).flatten(2))
            normed_grad[:, -1:] += self._query.gradient(queries.flatten(2))
            found = norm_pullback(normed_grad)
            found[:, -1:] += grad
            return found

        return y, pullback

    def keys_and_values(self, x: Float[Tensor, "1 positions dim"]) -> Cache:
        """What later positions see of `x`."""
        return self._split(self._key_value(self.norm_1(x)[0]))

    def _rest(self, x: Tensor, mixed: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """What follows attention; its pullback is for both, what stood before the block and what attention gave."""
        x = self.out(mixed.transpose(1, 2).flatten(2)).add_(x)
        normed, norm_pullback = self.norm_2(x)
        active, kept = self.activation.forward(self.fc(normed))
        y = self.proj(active).add_(x)

        def pullback(grad: Tensor) -> tuple[Tensor, Tensor]:
            inner = self.activation.gradient(self.proj.gradient(grad), kept)
            grad = norm_pullback(self.fc.gradient(inner)).add_(grad)
            return grad, self.out.gradient(grad).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        return y, pullback


class PostNormBlock(_Block):
    """A residual block, attention and then an MLP with a norm behind each, as BERT's."""

    def __call__(
        self, x: Float[Tensor, "batch positions dim"], mask: Float[Tensor, "rows positions positions"] | None
    ) -> tuple[Float[Tensor, "batch positions dim"], Pullback]:
        """The output at the positions `x`, which attend to each other; `mask` is added to their scores."""
        heads = self._split(self.qkv(x))
        mixed, attention_pullback = attention(heads[0], heads[1:], mask)
        y, rest_pullback = self._rest(x, mixed)

        def pullback(grad: Tensor) -> Tensor:
            grad, mixed_grad = rest_pullback(grad)
            to_heads = [part.transpose(1, 2) for part in attention_pullback(mixed_grad)]
            return self.qkv.gradient(torch.stack(to_heads, dim=2).flatten(2)).add_(grad)

        return y, pullback

    def at(
        self,
        x: Float[Tensor, "batch positions dim"],
        place: int,
        mask: Float[Tensor, "rows positions positions"] | None,
    ) -> tuple[Float[Tensor, "batch 1 dim"], Pullback]:
        """The output at one position alone, which attends to all."""
        own = x[:, place : place + 1]
        mixed, attention_pullback = attention(
            self._split(self._query(own))[0],
            self._split(self._key_value(x)),
            None if mask is None else mask[:, place : place + 1],
        )
        y, rest_pullback = self._rest(own, mixed)

        def pullback(grad: Tensor) -> Tensor:
            grad, mixed_grad = rest_pullback(grad)
            queries, *others = (part.transpose(1, 2) for part in attention_pullback(mixed_grad))
            found = self._key_value.gradient(torch.stack(others, dim=2).flatten(2))
            found[:, place : place + 1] += self._query.gradient(queries.flatten(2)).add_(grad)
            return found

        return y, pullback

    def _rest(self, x: Tensor, mixed: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """See `FrozenBlock`."""
        x, norm_1_pullback = self.norm_1(self.out(mixed.transpose(1, 2).flatten(2)).add_(x))
        active, kept = self.activation.forward(self.fc(x))
        y, norm_2_pullback = self.norm_2(self.proj(active).add_(x))

        def pullback(grad: Tensor) -> tuple[Tensor, Tensor]:
            grad = norm_2_pullback(grad)
            inner = self.activation.gradient(self.proj.gradient(grad), kept)
            grad = norm_1_pullback(self.fc.gradient(inner).add_(grad))
            return grad, self.out.gradient(grad).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        return y, pullback


class FrozenTower:
    """A causal text tower: from the inputs of its first block to the features that are read out at its last position.

    Gradients flow to the inputs only, and cannot be differentiated again.

    It stands beside the models' own modules because these take longer: autograd builds a graph through weights that
    need no gradient, and torch's products do without oneDNN's layouts. Milliseconds of the features of prompts of 8
    tokens and their gradient (`benchmarks/frozen_tower.py`; one thread of an AMD EPYC, torch 2.14, float32):

        width x layers    prompts    frozen    modules
        160 x 3                 1       3.3        7.6
        160 x 3                16      14.6       22.1
        512 x 12                1      48.5       90.8
        512 x 12               16     333        524
        768 x 12                1     107        212
        768 x 12               16     752       1155

    Args:
        blocks: its blocks.
        norm: behind the last block.
        projection: from the last position's state to the features; None: they are that state.
        before: inputs of the first block at positions before those of every call. What later positions see of them
            never changes, and is computed once.
    """

    def __init__(
        self,
        blocks: Sequence[FrozenBlock],
        norm: FrozenNorm,
        projection: FrozenLinear | None,
        before: Float[Tensor, "before dim"],
    ) -> None:
        self.blocks, self._norm, self._projection = tuple(blocks), norm, projection
        self._caches = self._read(before.detach().unsqueeze(0)) if len(before) else (None,) * len(self.blocks)
        self._before = len(before)
        self._packed = False

    def __call__(
        self, x: Float[Tensor, "batch positions dim"], after: Float[Tensor, "after dim"]
    ) -> Float[Tensor, "batch features"]:
        """The features of texts whose positions behind `before` have the inputs `x` and then, all alike, `after`."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self._run(x, after, keep=False)[0]
        if not self._packed:
            for block in self.blocks:
                block.pack(is_last=block is self.blocks[-1])
            if self._projection is not None:
                self._projection.pack()
            self._packed = True
        features: Tensor = _Through.apply(x, after, self)
        return features

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_packed": False}  # see `FrozenTable`

    def _run(self, x: Tensor, after: Tensor, *, keep: bool) -> tuple[Tensor, Pullback]:
        """The features and their pullback, for which all blocks' states are kept; without `keep` there is none."""
        pullbacks: list[Pullback] = []
        free = x.shape[1]
        x = torch.cat([x, after.expand(len(x), -1, -1)], dim=1)
        mask = _causal(self._before, x)
        for block, cache in zip(self.blocks[:-1], self._caches, strict=False):
            x, pullback = block(x, cache, mask)
            if keep:
                pullbacks.append(pullback)
        x, pullback = self.blocks[-1].last(x, self._caches[-1])
        pullbacks.append(pullback)
        state, norm_pullback = self._norm(x)
        features = state if self._projection is None else self._projection(state)

        def all_back(grad: Tensor) -> Tensor:
            grad = grad.unsqueeze(1)
            grad = norm_pullback(grad if self._projection is None else self._projection.gradient(grad))
            for pullback in reversed(pullbacks):
                grad = pullback(grad)
            return grad[:, :free]

        return features.squeeze(1), all_back

    @torch.no_grad()
    def _read(self, x: Float[Tensor, "1 before dim"]) -> tuple[Cache | None, ...]:
        found: list[Cache | None] = []
        mask = _causal(0, x)
        for block in self.blocks:
            found.append(block.keys_and_values(x))
            x = block(x, None, mask)[0]
        return tuple(found)


#: What a bidirectional tower gives of its states: their mean, the first one, or the last one.
Readout = Literal["mean", "first", "last"]


class FrozenEncoder:
    """A bidirectional text tower with its norms behind its blocks, as BERT's: from token embeddings to one vector.

    Gradients flow to the embeddings only, and cannot be differentiated again.

    Args:
        blocks: its blocks.
        norm: behind the sum of embeddings and positions.
        positions: what is added to the embedding at each place.
        readout: what it gives of the states behind the last block.
        bias: what is added to the scores of a text of so many positions, (heads, positions, positions); None: nothing.
    """

    def __init__(
        self,
        blocks: Sequence[PostNormBlock],
        norm: FrozenNorm,
        positions: Float[Tensor, "positions dim"],
        readout: Readout,
        bias: Callable[[int], Float[Tensor, "heads positions positions"]] | None = None,
    ) -> None:
        self.blocks, self.readout = tuple(blocks), readout
        self._norm, self._positions, self._bias = norm, positions.detach(), bias
        self._packed = False

    def __call__(self, x: Float[Tensor, "batch positions dim"]) -> Float[Tensor, "batch dim"]:
        """One vector for each text, given as the embeddings of all its tokens, special ones too."""
        if not self._packed:
            for block in self.blocks:
                block.pack(is_last=block is self.blocks[-1] and self.readout != "mean")
            self._packed = True
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self._run(x, keep=False)[0]
        features: Tensor = _ThroughEncoder.apply(x, self)
        return features

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_packed": False}  # see `FrozenTable`

    def _run(self, x: Tensor, *, keep: bool) -> tuple[Tensor, Pullback]:
        """The features and their pullback, for which all blocks' states are kept; without `keep` there is none."""
        rows, length = x.shape[:2]
        mask = None if self._bias is None else self._bias(length).repeat(rows, 1, 1)
        x, pullback = self._norm(x + self._positions[:length])
        pullbacks = [pullback]
        for block in self.blocks[:-1]:
            x, pullback = block(x, mask)
            if keep:
                pullbacks.append(pullback)
        last, mean = self.blocks[-1], self.readout == "mean"
        x, pullback = last(x, mask) if mean else last.at(x, 0 if self.readout == "first" else length - 1, mask)
        pullbacks.append(pullback)

        def all_back(grad: Tensor) -> Tensor:
            grad = grad.unsqueeze(1)
            grad = (grad / length).expand(-1, length, -1).contiguous() if mean else grad
            for pullback in reversed(pullbacks):
                grad = pullback(grad)
            return grad

        return x.mean(dim=1), all_back


class _ThroughEncoder(torch.autograd.Function):
    """An encoder as one operation of autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, encoder: FrozenEncoder) -> Tensor:
        features, ctx.pullback = encoder._run(x, keep=True)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.pullback(grad), None


class _Through(torch.autograd.Function):
    """A tower as one operation of autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, after: Tensor, tower: FrozenTower) -> Tensor:
        features, ctx.pullback = tower._run(x, after, keep=True)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.pullback(grad), None, None


def attention(
    queries: Float[Tensor, "batch heads positions width"],
    keys_values: Float[Tensor, "2 batch heads seen width"],
    mask: Float[Tensor, "*rows positions seen"] | None,
) -> tuple[Float[Tensor, "batch heads positions width"], Callable[[Tensor], Sequence[Tensor]]]:
    """What each position reads of those it sees, and the pullback, which is for queries, keys and values."""
    keys, values = keys_values
    shaped = mask if mask is None or mask.ndim == 2 else mask.unflatten(0, queries.shape[:2])
    if queries.device.type != "cpu" or queries.dtype.itemsize < 4:
        with torch.enable_grad():
            leaves = [part.detach().requires_grad_() for part in (queries, keys, values)]
            mixed = F.scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], attn_mask=shaped)
        return mixed.detach(), lambda grad: torch.autograd.grad(mixed, leaves, grad, retain_graph=True)
    rows = queries.shape[:3].numel()
    if are_traced() or (rows > FEW and keys.shape[2] <= SHORT):
        return _plain_attention(queries, keys, values, mask)
    return _fused_attention(queries, keys, values, shaped)


def _fused_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], Sequence[Tensor]]]:
    """By one kernel of a CPU for each direction."""
    fused = (queries, keys, values)
    mixed, spread = _aten._scaled_dot_product_flash_attention_for_cpu.default(*fused, attn_mask=mask)

    def pullback(grad: Tensor) -> Sequence[Tensor]:
        back = _aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        found: Sequence[Tensor] = back(grad, *fused, mixed, spread, 0.0, False, attn_mask=mask)
        return found

    return mixed, pullback


def _plain_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], Sequence[Tensor]]]:
    """Step by step."""
    batch, heads, _, width = queries.shape
    scale = width**-0.5
    q, k, v = (part.flatten(0, 1) for part in (queries, keys, values))
    scores = q.bmm(k.mT).mul_(scale) if mask is None else torch.baddbmm(mask, q, k.mT, alpha=scale)
    shares = _softmax(scores) if keys.shape[2] <= VERY_SHORT else scores.softmax(dim=2)

    def pullback(grad: Tensor) -> Sequence[Tensor]:
        grad = grad.flatten(0, 1)
        inner = _aten._softmax_backward_data.default(grad.bmm(v.mT), shares, 2, shares.dtype).mul_(scale)
        found = inner.bmm(k), inner.mT.bmm(q), shares.mT.bmm(grad)
        return [part.unflatten(0, (batch, heads)) for part in found]

    return shares.bmm(v).unflatten(0, (batch, heads)), pullback


def _softmax(scores: Float[Tensor, "rows positions seen"]) -> Float[Tensor, "rows positions seen"]:
    raised = (scores - scores.amax(dim=2, keepdim=True)).exp_()
    return raised.div_(raised.sum(dim=2, keepdim=True))


def _behind(
    cache: Cache | None, keys_values: Float[Tensor, "2 batch heads new width"]
) -> Float[Tensor, "2 batch heads seen width"]:
    if cache is None:
        return keys_values
    return torch.cat([cache.expand(-1, keys_values.shape[1], -1, -1, -1), keys_values], dim=3)


def _causal(before: int, x: Float[Tensor, "batch positions dim"]) -> Float[Tensor, "positions seen"]:
    """What is added to the scores: each position sees those before the text, those before it, and itself."""
    new = x.shape[1]
    return torch.full((new, before + new), -torch.inf, dtype=x.dtype, device=x.device).triu_(before + 1)
