"""Sentence encoders' transformers as frozen towers: BERT and RoBERTa, MPNet, DistilBERT."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hardprompts.towers import (
    ACTIVATIONS,
    FrozenEncoder,
    FrozenLinear,
    FrozenNorm,
    PostNormBlock,
    Readout,
    is_plain,
    is_untouched,
)
from hardprompts_transformers.sentence_modules import PoolingMode

READOUTS: dict[PoolingMode, Readout] = {"mean": "mean", "cls": "first", "lasttoken": "last"}

#: A layer's queries, keys, values, what attention gives, the norm behind it, the MLP's two, the norm behind those.
Parts = tuple[Any, Any, Any, Any, Any, Any, Any, Any]


def _bert(layer: Any) -> Parts:
    own, out = layer.attention.self, layer.attention.output
    return own.query, own.key, own.value, out.dense, out.LayerNorm, *_mlp(layer)


def _mpnet(layer: Any) -> Parts:
    attention = layer.attention
    return attention.attn.q, attention.attn.k, attention.attn.v, attention.attn.o, attention.LayerNorm, *_mlp(layer)


def _mlp(layer: Any) -> tuple[Any, Any, Any]:
    return layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm


def _distilbert(layer: Any) -> Parts:
    own, mlp = layer.attention, layer.ffn
    return (
        own.q_lin,
        own.k_lin,
        own.v_lin,
        own.out_lin,
        layer.sa_layer_norm,
        mlp.lin1,
        mlp.lin2,
        layer.output_layer_norm,
    )


#: By `model_type`: how a layer's parts are found.
LAYERS: dict[str, Callable[[Any], Parts]] = {
    "bert": _bert, "roberta": _bert, "xlm-roberta": _bert, "camembert": _bert, "mpnet": _mpnet,
    "distilbert": _distilbert,
}  # fmt: skip


def frozen_encoder(model: Any, pooling: PoolingMode) -> FrozenEncoder | None:
    """The model with its pooling as a frozen tower; None where its modules do as well, or it is of another build."""
    config = model.config
    parts_of, table = LAYERS.get(config.model_type), model.get_input_embeddings().weight
    if parts_of is None or table.device.type != "cpu" or table.dtype != torch.float32:
        return None
    layers = model.transformer.layer if config.model_type == "distilbert" else model.encoder.layer
    parts = [parts_of(layer) for layer in layers]
    activation = ACTIVATIONS.get(config.activation if config.model_type == "distilbert" else config.hidden_act)
    embeddings = model.embeddings
    norms = [embeddings.LayerNorm, *(part for layer in parts for part in (layer[4], layer[7]))]
    linears = [part for layer in parts for part in (*layer[:4], *layer[5:7])]
    if (
        activation is None
        or getattr(config, "position_embedding_type", "absolute") != "absolute"
        or getattr(config, "is_decoder", False)
        or not all(is_plain(leaf, {nn.LayerNorm, nn.Linear}) for leaf in (*norms, *linears))
        or not all(is_untouched(part) for part in model.modules())
    ):
        return None
    blocks = []
    for queries, keys, values, out, norm_1, fc, proj, norm_2 in parts:
        attention = (queries, keys, values)
        blocks.append(
            PostNormBlock(
                heads=config.num_attention_heads,
                qkv=FrozenLinear(torch.cat([p.weight for p in attention]), torch.cat([p.bias for p in attention])),
                out=FrozenLinear(out.weight, out.bias),
                norm_1=FrozenNorm.of(norm_1),
                fc=FrozenLinear(fc.weight, fc.bias),
                activation=activation,
                proj=FrozenLinear(proj.weight, proj.bias),
                norm_2=FrozenNorm.of(norm_2),
            )
        )
    bias = _Bias(model.encoder) if config.model_type == "mpnet" else None
    return FrozenEncoder(blocks, FrozenNorm.of(embeddings.LayerNorm), _positions(embeddings), READOUTS[pooling], bias)


def _positions(embeddings: Any) -> Float[Tensor, "positions dim"]:
    """What a text's embeddings have added at each place, the type of its only segment included."""
    rows = embeddings.position_embeddings
    # RoBERTa and MPNet count places from behind the padding index; BERT has no padding index there.
    start = 0 if rows.padding_idx is None else rows.padding_idx + 1
    types = getattr(embeddings, "token_type_embeddings", None)
    positions: Tensor = rows.weight[start:]
    return positions if types is None else positions + types.weight[0]


class _Bias:
    """MPNet's bias for how far two places are apart."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, length: int) -> Float[Tensor, "heads positions positions"]:
        if length not in self._kept:
            self._kept[length] = self._encoder.compute_position_bias(torch.empty(1, length, 1))[0].contiguous()
        return self._kept[length]
