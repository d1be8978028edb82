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
from torch.autograd.function import once_differentiable
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear


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
        self._blocks: list[Any] = list(tower.transformer.resblocks)
        self._dtype = weight_dtype(tower.transformer)
        self._plain = all(map(_is_plain, self._blocks))
        self._caches: list[tuple[Tensor, Tensor] | None] = []
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
        if not self._plain:
            x = torch.cat([plan.before.expand(len(x), -1, -1), x], dim=1)
            last = self._tower.transformer(x, attn_mask=plan.mask)[:, -1]
        else:
            for block, cache in zip(self._blocks[:-1], self._caches, strict=False):
                x = _block(block, x, x, cache, plan.mask)
            last = _block(self._blocks[-1], x[:, -1:], x, self._caches[-1], None)[:, 0]
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
        if self._plain and not self._caches:
            self._caches = self._keys_and_values(before, mask[: layout.start, : layout.start])
        return _Plan(
            before=before,
            positions=positions[layout.start : layout.stop],
            after=x[layout.stop :],
            mask=mask[layout.start :] if self._plain else mask,
        )

    def _keys_and_values(self, before: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """What later positions see of those before the prompt, at each layer: (1, heads, before, width) each."""
        if before.shape[1] == 0:
            return [None] * len(self._blocks)
        found: list[tuple[Tensor, Tensor] | None] = []
        for block in self._blocks:
            _, keys, values = _heads(block.attn, block.ln_1(before), 3)
            found.append((keys, values))
            before = _block(block, before, before, None, mask)
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
    """True for a block that `_block` computes as it does itself; not after quantisation, say."""
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


def _heads(attention: Any, x: Tensor, parts: int) -> list[Tensor]:
    """The last `parts` of queries, keys and values of `x`: (batch, heads, tokens, width) each."""
    skipped = (3 - parts) * attention.embed_dim
    projected = _linear(x, attention.in_proj_weight[skipped:], attention.in_proj_bias[skipped:])
    split = projected.view(*x.shape[:2], parts, attention.num_heads, -1)
    return list(split.permute(2, 0, 3, 1, 4).unbind(0))


def _block(block: Any, x: Tensor, context: Tensor, cache: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:
    """One layer at the positions `x`, which attend to those of `cache` (keys and values) and of `context`.

    `x` is `context` itself, or its last positions, which then attend to everything.
    """
    attention = block.attn
    normed = block.ln_1(context)
    if x is context:
        queries, keys, values = _heads(attention, normed, 3)
    else:
        rows, width = x.shape[1], attention.embed_dim
        queries = _linear(normed[:, -rows:], attention.in_proj_weight[:width], attention.in_proj_bias[:width])
        queries = queries.view(len(x), rows, attention.num_heads, -1).transpose(1, 2)
        keys, values = _heads(attention, normed, 2)
    if cache is not None:
        keys = torch.cat([cache[0].expand(len(x), -1, -1, -1), keys], dim=2)
        values = torch.cat([cache[1].expand(len(x), -1, -1, -1), values], dim=2)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    mixed = _linear(mixed.transpose(1, 2).flatten(2), attention.out_proj.weight, attention.out_proj.bias)
    x = x + block.ls_1(mixed)
    hidden = block.mlp.gelu(_linear(block.ln_2(x), block.mlp.c_fc.weight, block.mlp.c_fc.bias))
    output: Tensor = x + block.ls_2(_linear(hidden, block.mlp.c_proj.weight, block.mlp.c_proj.bias))
    return output


#: Up to so many rows, a CPU's time goes into reading the weights, and `_FewRows` is faster.
FEW_ROWS = 64


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` with weights that need no gradient."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and x[..., 0].numel() <= FEW_ROWS:
        output: Tensor = _FewRows.apply(x, weight, bias)
        return output
    return F.linear(x, weight, bias)


class _FewRows(torch.autograd.Function):
    """`F.linear` for a handful of rows, with the weights as the left factor.

    MKL reads a matrix on the left nearly twice as fast as the transposed one on the right that
    `F.linear` hands to it. Gradients go to `x` only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.weight = weight
        rows = x.reshape(-1, x.shape[-1])
        return torch.addmm(bias.unsqueeze(1), weight, rows.t()).t().contiguous().view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad @ ctx.weight, None, None
