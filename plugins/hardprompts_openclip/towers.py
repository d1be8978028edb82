"""The forward pass of open_clip's text towers, driven from token embeddings.

Two ways, which give the same features:

- `HookedTower` runs the model's own `encode_text` at its full context and puts the embeddings in
  behind the embedding layer. Right for every tower; pads and the masks made from them stay.
- `CausalTower` stops at the token that is pooled. Where attention is causal, nothing behind it can
  reach the features, and nothing before the prompt can change with it: the start token's keys and
  values are computed once.
"""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from hardprompts.frozen import FrozenLinear


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """What a tokenizer puts around a prompt of some length.

    Attributes:
        ids: (context,) special tokens and padding, with any ids in the slots.
        start: the first slot.
        num_tokens: how many slots there are, one behind the other.
    """

    ids: Int[Tensor, " context"]
    start: int
    num_tokens: int

    @property
    def stop(self) -> int:
        """The position behind the last slot."""
        return self.start + self.num_tokens


def text_module(model: nn.Module) -> nn.Module:
    """What holds a model's text tower: the model itself, for CLIP."""
    text = getattr(model, "text", None)
    return text if isinstance(text, nn.Module) else model


def embedding_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that look tokens up; several where a tower shares its table."""
    text = text_module(model)
    embedding = getattr(text, "token_embedding", None)
    if embedding is None:
        embedding = text.transformer.get_input_embeddings()  # type: ignore[union-attr, operator]
    # T5 has its table under two names, and only one of them is called.
    return [m for m in text.modules() if isinstance(m, nn.Embedding) and m.weight is embedding.weight]


def weight_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a network's matrices; norms and embeddings may be kept in float32."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            return part.weight.dtype
    return next(module.parameters()).dtype


class HookedTower:
    """Any text tower, by its own forward pass at full context."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._embeddings = embedding_modules(model)

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], layout: Layout) -> Float[Tensor, "batch out"]:
        """The features of the layout with `embeddings` in its slots."""

        def put_in(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            slots = embeddings.to(output.dtype)
            return torch.cat([output[:, : layout.start], slots, output[:, layout.stop :]], dim=1)

        handles = [module.register_forward_hook(put_in) for module in self._embeddings]
        try:
            ids = layout.ids.expand(len(embeddings), -1)
            features: Tensor = self._model.encode_text(ids, normalize=False)  # type: ignore[operator]
        finally:
            for handle in handles:
                handle.remove()
        return features


class CausalTower:
    """A causal text tower that is pooled at its end token, at no more context than it needs.

    Source: open_clip 3.3, `CLIP.encode_text` and `TextTransformer.forward`. Deviations: positions
    behind the pooled one are left out; those before the prompt are computed once; in the last
    layer, only the pooled position is. None changes the features.
    """

    def __init__(self, model: nn.Module) -> None:
        tower: Any = text_module(model)
        self._tower = tower
        blocks = list(tower.transformer.resblocks)
        self._dtype = weight_dtype(tower.transformer)
        self._layers = [_Layer.of(block) for block in blocks] if all(map(_is_plain, blocks)) else []
        self._caches: list[_Cache | None] = []
        self._plans: dict[int, _Plan] = {}

    @staticmethod
    def supports(model: nn.Module, layout: Layout) -> bool:
        """True if a shorter context gives the same features."""
        tower: Any = text_module(model)
        return (
            isinstance(tower, CLIP | TextTransformer)
            and tower.attn_mask is not None
            and getattr(tower, "cls_emb", None) is None
            and not getattr(tower, "use_pad_mask", False)
            and _pool_type(tower) in ("argmax", "eos")
            and _pooled_position(tower, layout) >= layout.stop
        )

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], layout: Layout) -> Float[Tensor, "batch out"]:
        """The features of the layout with `embeddings` in its slots."""
        if layout.num_tokens not in self._plans:
            self._plans[layout.num_tokens] = self._plan(layout)
        plan = self._plans[layout.num_tokens]
        x = embeddings.to(self._dtype) + plan.positions
        x = torch.cat([x, plan.after.expand(len(x), -1, -1)], dim=1)
        if not self._layers:
            x = torch.cat([plan.before.expand(len(x), -1, -1), x], dim=1)
            last = self._tower.transformer(x, attn_mask=plan.mask)[:, -1]
        else:
            for layer, cache in zip(self._layers[:-1], self._caches, strict=False):
                x = layer(x, cache, plan.mask)
            last = self._layers[-1].last(x, self._caches[-1])[:, 0]
        pooled: Tensor = self._tower.ln_final(last)
        projection = self._tower.text_projection
        if projection is None:
            return pooled
        projected: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        return projected

    @torch.no_grad()
    def _plan(self, layout: Layout) -> "_Plan":
        length = _pooled_position(self._tower, layout) + 1
        positions = self._tower.positional_embedding[:length].to(self._dtype)
        x = self._tower.token_embedding(layout.ids[:length]).to(self._dtype) + positions
        mask = self._tower.attn_mask[:length, :length].to(self._dtype)
        before = x[: layout.start].unsqueeze(0)
        if self._layers and not self._caches:
            self._caches = self._keys_and_values(before, mask[: layout.start, : layout.start])
        return _Plan(
            before=before,
            positions=positions[layout.start : layout.stop],
            after=x[layout.stop :],
            mask=mask[layout.start :] if self._layers else mask,
        )

    def _keys_and_values(self, before: Tensor, mask: Tensor) -> "list[_Cache | None]":
        """What later positions see of those before the prompt, at each layer."""
        if before.shape[1] == 0:
            return [None] * len(self._layers)
        found: list[_Cache | None] = []
        for layer in self._layers:
            found.append(layer.keys_and_values(before))
            before = layer(before, None, mask)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """What is fixed for prompts of one length.

    Attributes:
        before: (1, before, dim) the input of the first layer before the prompt.
        positions: (tokens, dim) positional embeddings of the prompt.
        after: (after, dim) the input of the first layer behind the prompt, up to the pooled position.
        mask: (positions, length) what the positions that are computed may attend to.
    """

    before: Tensor
    positions: Tensor
    after: Tensor
    mask: Tensor


def _pool_type(tower: Any) -> str:
    return str(getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", ""))


def _pooled_position(tower: Any, layout: Layout) -> int:
    ids = layout.ids.clone()
    ids[layout.start : layout.stop] = -1
    if _pool_type(tower) == "eos":
        ids = (ids == (tower.text_eos_id if isinstance(tower, CLIP) else tower.eos_id)).int()
    return int(ids.argmax())


def _is_plain(block: Any) -> bool:
    """True for a block that `_Layer` computes as it does itself; not after quantisation, say."""
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention: Any = block.attn
    layers: dict[str, nn.Module] = dict(block.mlp.named_children())
    return (
        type(attention) is nn.MultiheadAttention
        and attention._qkv_same_embed_dim
        and attention.dropout == 0
        and attention.bias_k is None
        and not attention.add_zero_attn
        and type(attention.out_proj) is NonDynamicallyQuantizableLinear
        and list(layers) == ["c_fc", "gelu", "c_proj"]
        and type(layers["c_fc"]) is type(layers["c_proj"]) is nn.Linear
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Layer:
    """One residual block, with its matrices as `FrozenLinear`."""

    block: Any
    qkv: FrozenLinear
    query: FrozenLinear
    key_value: FrozenLinear
    out: FrozenLinear
    fc: FrozenLinear
    proj: FrozenLinear

    @classmethod
    def of(cls, block: Any) -> "_Layer":
        """The layer of a block that `_is_plain`."""
        attention, mlp, width = block.attn, block.mlp, block.attn.embed_dim
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        return cls(
            block,
            qkv=FrozenLinear(weight, bias),
            query=FrozenLinear(weight[:width], bias[:width]),
            key_value=FrozenLinear(weight[width:], bias[width:]),
            out=FrozenLinear(attention.out_proj.weight, attention.out_proj.bias),
            fc=FrozenLinear(mlp.c_fc.weight, mlp.c_fc.bias),
            proj=FrozenLinear(mlp.c_proj.weight, mlp.c_proj.bias),
        )

    def __call__(self, x: Tensor, cache: "_Cache | None", mask: Tensor | None) -> Tensor:
        """The output at the positions `x`, which attend to those of `cache` and to each other as `mask` allows."""
        queries, keys, values = self._heads(self.qkv(self.block.ln_1(x)))
        return self._finish(x, queries, *_behind(cache, keys, values), mask)

    def last(self, x: Tensor, cache: "_Cache | None") -> Tensor:
        """The output at the last position of `x`, which attends to all."""
        normed = self.block.ln_1(x)
        (queries,) = self._heads(self.query(normed[:, -1:]))
        keys, values = self._heads(self.key_value(normed))
        return self._finish(x[:, -1:], queries, *_behind(cache, keys, values), None)

    def keys_and_values(self, x: Tensor) -> "_Cache":
        """What later positions see of `x`."""
        keys, values = self._heads(self.key_value(self.block.ln_1(x)))
        return keys, values

    def _heads(self, projected: Tensor) -> tuple[Tensor, ...]:
        """(batch, tokens, parts * dim) as parts of (batch, heads, tokens, width)."""
        attention = self.block.attn
        split = projected.unflatten(-1, (-1, attention.num_heads, attention.head_dim))
        return tuple(split.permute(2, 0, 3, 1, 4))

    def _finish(self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        block = self.block
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        x = x + block.ls_1(self.out(mixed.transpose(1, 2).flatten(2)))
        output: Tensor = x + block.ls_2(self.proj(block.mlp.gelu(self.fc(block.ln_2(x)))))
        return output


#: Keys and values, (1, heads, positions, width) each.
_Cache = tuple[Tensor, Tensor]


def _behind(cache: _Cache | None, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    if cache is None:
        return keys, values
    batch = len(keys)
    return (
        torch.cat([cache[0].expand(batch, -1, -1, -1), keys], dim=2),
        torch.cat([cache[1].expand(batch, -1, -1, -1), values], dim=2),
    )
