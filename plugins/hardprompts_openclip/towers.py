"""The forward pass of open_clip's text towers, driven from token embeddings.

Two ways, which give the same features:

- `HookedTower` runs the model's own `encode_text` at its full context and puts the embeddings in
  behind the embedding layer. Right for every tower, whatever was changed in it; pads and the masks
  made from them stay.
- `CausalTower` stops at the token that is pooled. Where attention is causal, nothing behind it can
  reach the features, and nothing before the prompt can change with it: the start token's keys and
  values are computed once.
"""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float, Int
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import (
    LayerNorm,
    LayerNormFp32,
    LayerScale,
    QuickGELU,
    ResidualAttentionBlock,
    TextTransformer,
    Transformer,
)
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from hardprompts.towers import (
    ACTIVATIONS,
    FrozenBlock,
    FrozenLinear,
    FrozenNorm,
    FrozenTower,
    embedding_modules,
    is_plain,
    is_untouched,
    matrix_dtype,
    replaced_embeddings,
    uncompiled,
)


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


def token_embedding(model: nn.Module) -> nn.Module:
    """The module that looks tokens up."""
    text: Any = text_module(model)
    found: nn.Module | None = getattr(text, "token_embedding", None)
    if found is None:  # before transformers 5, M2M100's encoder has it by its name alone
        found = getattr(text.transformer, "embed_tokens", None) or text.transformer.get_input_embeddings()
    assert found is not None
    return found


def context_of(model: nn.Module) -> int | None:
    """The places that the text tower has for a text with its special tokens; None where it does not say."""
    text: Any = text_module(model)
    places = getattr(text, "context_length", None) if isinstance(text, CLIP | TextTransformer) else None
    return None if places is None else int(places)


class HookedTower:
    """Any text tower, by its own forward pass at full context."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._embeddings = embedding_modules(text_module(model), token_embedding(model))

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], layout: Layout) -> Float[Tensor, "batch out"]:
        """The features of the layout with `embeddings` in its slots."""
        with uncompiled(self._model), replaced_embeddings(self._embeddings, embeddings, layout.start):
            ids = layout.ids.expand(len(embeddings), -1)
            features: Tensor = self._model.encode_text(ids, normalize=False)  # type: ignore[operator]
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
        self._dtype = matrix_dtype(tower.transformer, tower.token_embedding.weight.dtype)
        self._is_plain = (
            type(tower.transformer) is Transformer
            and is_untouched(tower.transformer)
            and all(map(_is_plain, tower.transformer.resblocks))
            and _is_norm(tower.ln_final)
            and (not isinstance(tower.text_projection, nn.Module) or is_plain(tower.text_projection, {nn.Linear}))
        )
        self._frozen: FrozenTower | None = None
        self._plans: dict[int, _Plan] = {}

    @property
    def is_frozen(self) -> bool:
        """True if its passes go through `FrozenTower`, past the model's own modules."""
        return self._is_plain

    @staticmethod
    def supports(model: nn.Module, layout: Layout) -> bool:
        """True if a shorter context gives the same features: not where the way from ids to features was changed."""
        tower: Any = text_module(model)
        return (
            type(model) in (CLIP, CustomTextCLIP, CoCa)
            and type(tower) in (CLIP, TextTransformer)
            and all(is_untouched(part) and "encode_text" not in vars(part) for part in (model, tower))
            and type(tower.token_embedding) is nn.Embedding
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
        if self._frozen is not None:
            return self._frozen(x, plan.after)
        x = torch.cat([plan.before.expand(len(x), -1, -1), x, plan.after.expand(len(x), -1, -1)], dim=1)
        pooled: Tensor = self._tower.ln_final(self._tower.transformer(x, attn_mask=plan.mask)[:, -1])
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
        before = x[: layout.start]
        if self._is_plain and self._frozen is None:
            blocks = [_frozen_block(block) for block in self._tower.transformer.resblocks]
            projection = _frozen_projection(self._tower.text_projection)
            self._frozen = FrozenTower(blocks, FrozenNorm.of(self._tower.ln_final), projection, before)
        return _Plan(
            before=before,
            positions=positions[layout.start : layout.stop],
            after=x[layout.stop :],
            mask=self._tower.attn_mask[:length, :length].to(self._dtype),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """What is fixed for prompts of one length.

    Attributes:
        before: (before, dim) the input of the first layer before the prompt.
        positions: (tokens, dim) positional embeddings of the prompt.
        after: (after, dim) the input of the first layer behind the prompt, up to the pooled position.
        mask: (length, length) what the positions may attend to.
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


#: What a block is made of where `FrozenBlock` can stand for it.
PLAIN = frozenset({
    ResidualAttentionBlock, nn.MultiheadAttention, NonDynamicallyQuantizableLinear, nn.Linear, nn.Sequential, nn.GELU,
    QuickGELU, nn.Identity, LayerScale, LayerNorm, LayerNormFp32, nn.LayerNorm,
})  # fmt: skip


def _is_plain(block: Any) -> bool:
    """True for a block that `FrozenBlock` computes as it does itself; not with an adapter, a hook or quantized."""
    if not is_plain(block, PLAIN) or type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention: Any = block.attn
    layers: dict[str, nn.Module] = dict(block.mlp.named_children())
    return (
        _is_norm(block.ln_1)
        and _is_norm(block.ln_2)
        and type(attention) is nn.MultiheadAttention
        and attention._qkv_same_embed_dim
        and attention.dropout == 0
        and attention.bias_k is None
        and not attention.add_zero_attn
        and type(attention.out_proj) is NonDynamicallyQuantizableLinear
        and list(layers) == ["c_fc", "gelu", "c_proj"]
        and type(layers["c_fc"]) is type(layers["c_proj"]) is nn.Linear
        and _activation(layers["gelu"]) in ACTIVATIONS
        and type(block.ls_1) in (nn.Identity, LayerScale)
        and type(block.ls_2) in (nn.Identity, LayerScale)
    )


def _is_norm(norm: nn.Module) -> bool:
    plain = is_plain(norm, {LayerNorm, LayerNormFp32, nn.LayerNorm})
    return plain and norm.weight is not None and norm.bias is not None


def _activation(module: nn.Module) -> str:
    """Its name among the ACTIVATIONS, if it is one of them."""
    if type(module) is QuickGELU:
        return "quick_gelu"
    names = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}
    return names[module.approximate] if type(module) is nn.GELU else type(module).__name__


def _frozen_block(block: Any) -> FrozenBlock:
    """A block that `_is_plain`."""
    attention, mlp = block.attn, block.mlp
    return FrozenBlock(
        heads=attention.num_heads,
        norm_1=FrozenNorm.of(block.ln_1),
        qkv=FrozenLinear(attention.in_proj_weight, attention.in_proj_bias),
        out=_scaled(attention.out_proj, block.ls_1),
        norm_2=FrozenNorm.of(block.ln_2),
        fc=FrozenLinear(mlp.c_fc.weight, mlp.c_fc.bias),
        activation=ACTIVATIONS[_activation(mlp.gelu)],
        proj=_scaled(mlp.c_proj, block.ls_2),
    )


def _scaled(linear: nn.Linear, scale: nn.Module) -> FrozenLinear:
    """A layer with the scale behind it, if it has one."""
    if not isinstance(scale, LayerScale):
        return FrozenLinear(linear.weight, linear.bias)
    return FrozenLinear(linear.weight * scale.gamma.unsqueeze(1), linear.bias * scale.gamma)


def _frozen_projection(projection: nn.Linear | Tensor | None) -> FrozenLinear | None:
    if projection is None:
        return None
    if isinstance(projection, nn.Linear):
        return FrozenLinear(projection.weight, projection.bias)
    return FrozenLinear(projection.T)
