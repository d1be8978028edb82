"""Backends over transformers' language models: causal (GPT-2, OPT, Llama, Qwen, ...), masked (BERT, RoBERTa), T5."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

from hardprompts.causes.networks import check_finite, check_weights
from hardprompts.encoders import Backend, LanguageModel, LanguageModelKind
from hardprompts.errors import BackendError
from hardprompts.towers import adapt, check_reachable, uncompiled, unwrapped, watched_gradients
from hardprompts.vocabulary import Vocabulary
from hardprompts_transformers.causal import CausalLanguageModel
from hardprompts_transformers.checkpointing import checkpointed_layers
from hardprompts_transformers.masked import MaskedLanguageModel
from hardprompts_transformers.releases import DTYPE
from hardprompts_transformers.seq2seq import Seq2SeqLanguageModel

#: Contexts that a tokenizer or config states although it has none ("very large") are not believed.
BELIEVABLE_CONTEXT = 1_000_000

#: Of a model that states no context at all (T5's positions are relative): what T5 was trained with.
DEFAULT_CONTEXT = 512

ADAPTERS: dict[LanguageModelKind, Callable[..., LanguageModel]] = {
    "causal": CausalLanguageModel,
    "masked": MaskedLanguageModel,
    "seq2seq": Seq2SeqLanguageModel,
}


def kind_of(config: Any, architecture: str | None = None) -> LanguageModelKind | None:
    """What a model of this config predicts where; None if it is not a language model.

    Args:
        architecture: the name of its class; None: as the config says, if it does.
    """
    names = transformers.models.auto.modeling_auto
    model_type = str(getattr(config, "model_type", ""))
    architecture = architecture or next(iter(getattr(config, "architectures", None) or ()), "")
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq" if model_type in names.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES else None
    masked = model_type in names.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked and architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        return "masked"
    if model_type in names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not (masked and not architecture):
        return "causal"
    return "masked" if masked else None


def load(place: str, kind: LanguageModelKind, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The model of a folder or hub id with its language-model head, and what loading it told."""
    auto = {
        "causal": transformers.AutoModelForCausalLM,
        "masked": transformers.AutoModelForMaskedLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
    }[kind]
    model, info = auto.from_pretrained(
        place, use_safetensors=None, output_loading_info=True, trust_remote_code=False, **{DTYPE: dtype}
    )
    return model, info


def from_language_model(
    model: Any, tokenizer: Any, *, name: str, note: str = "", gradient_checkpointing: bool = False
) -> Backend:
    """A backend over a language model in memory, on the device and in the dtype that it has.

    The model is put into evaluation mode and its parameters are frozen. No token for padding is
    needed, nor one for the beginning.

    Args:
        model: with its language-model head: a `GPT2LMHeadModel`, `LlamaForCausalLM`, `BertForMaskedLM`,
            `T5ForConditionalGeneration` and the like. It may be compiled, PEFT's, in `DataParallel`, or have adapters,
            hooks and quantized layers, through which gradients pass.
        tokenizer: its tokenizer.
        name: what the backend is called.
        gradient_checkpointing: trades time for memory: a pass whose gradient is asked for keeps the input of each
            layer alone, and computes the layer again for the gradient. The numbers stay the same.

    Raises:
        BackendError: a model without such a head, a tokenizer that does not belong to it, logits from token
            embeddings that differ from the model's own, a model whose layers cannot be computed again, weights that are
            not there (offloaded, sharded), or no gradient passes through.
    """
    outer, model = model, unwrapped(model)
    kind = kind_of(model.config, type(model).__name__)
    if kind is None or model.get_output_embeddings() is None:
        raise BackendError(f"{name}: a {type(model).__name__} predicts no tokens; pass a model with its head")
    if gradient_checkpointing and not checkpointed_layers(model):
        raise BackendError(
            f"{name}: a {type(model).__name__} has no gradient checkpointing in transformers "
            f"{transformers.__version__} (the first to have any is 4.52); leave it out"
        )
    check_reachable(model, name)
    check_weights(model, name)
    model.eval().requires_grad_(False)
    adapted = _adapted(model, tokenizer, kind, name, gradient_checkpointing)
    # What PEFT puts around a model may compute more than what is inside.
    with uncompiled(model):
        _check_forward(adapted, outer if hasattr(outer, "peft_config") else model)
        _check_gradients(adapted, model)
    if isinstance(adapted, CausalLanguageModel):
        adapted = adapted.sharing()
    table = adapted.vocabulary.table
    return Backend.of_language_model(adapted, device=table.device, dtype=table.dtype, note=note)


def _adapted(
    model: Any, tokenizer: Any, kind: LanguageModelKind, name: str, gradient_checkpointing: bool
) -> LanguageModel:
    adapted = adapt(tokenizer)
    embedding = model.get_input_embeddings()
    count = embedding.weight.shape[0]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if max(tokenizer("a")["input_ids"], default=0) >= count:
        raise BackendError(
            f"{name}: the tokenizer has ids beyond the model's {count} embeddings; use the tokenizer that "
            "belongs to the model"
        )
    table = embedding(torch.arange(count, device=embedding.weight.device))
    vocabulary = Vocabulary.create(table, adapted, special)
    if not len(vocabulary.allowed_ids):
        raise BackendError(f"{name}: none of the tokenizer's tokens is text that encodes to that token")
    before, behind = _frame(tokenizer, vocabulary)
    mask_id = tokenizer.mask_token_id
    if kind == "seq2seq":
        sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
        mask_id = sentinel if sentinel is not None and sentinel != tokenizer.unk_token_id else None
    return ADAPTERS[kind](
        model,
        name,
        vocabulary,
        context(model, tokenizer),
        (before, () if kind == "causal" else behind),
        mask_id,
        _output_scale(model, table),
        gradient_checkpointing,
    )


def _frame(tokenizer: Any, vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer puts before and behind a text."""
    content, whole = vocabulary.encode("a"), list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(content) + 1):
        if whole[start : start + len(content)] == content:
            return tuple(whole[:start]), tuple(whole[start + len(content) :])
    return (), ()


def context(model: Any, tokenizer: Any) -> int:
    """Tokens of one input, special ones counted, as the model's config and its tokenizer state them."""
    config = model.config
    stated = [
        getattr(config, field, None) for field in ("max_position_embeddings", "n_positions", "max_sequence_length")
    ]
    found = [int(value) for value in stated if value is not None and 0 < value < BELIEVABLE_CONTEXT]
    if tokenizer.model_max_length < BELIEVABLE_CONTEXT:
        found.append(int(tokenizer.model_max_length))
    # RoBERTa's positions begin behind the padding index.
    offset = config.pad_token_id + 1 if getattr(config, "model_type", "") in _OFFSET_POSITIONS else 0
    return min(found) - (offset if found[0] == min(found) else 0) if found else DEFAULT_CONTEXT


_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet"}


def _output_scale(model: Any, table: torch.Tensor) -> float | None:
    """See `LanguageModel.output_scale`: found by comparing the two ends."""
    head, config = model.get_output_embeddings(), model.config
    if getattr(head, "bias", None) is not None or getattr(config, "final_logit_softcapping", None):
        return None
    if getattr(config, "logit_scale", None) or getattr(config, "logits_scaling", None):
        return None
    weight = head.weight
    if weight.shape != table.shape:
        return None
    scale = float((weight.float() * table.float()).sum() / table.float().square().sum())
    return scale if torch.allclose(weight.float(), scale * table.float(), rtol=1e-2, atol=1e-3) else None


def _check_forward(adapted: LanguageModel, model: Any) -> None:
    """Compares logits from token embeddings, of a batch that is padded, with the model's own from ids alone."""
    vocabulary, device = adapted.vocabulary, adapted.vocabulary.table.device
    words = vocabulary.allowed_ids[:: len(vocabulary.allowed_ids) // 6 + 1].tolist()
    before, behind = adapted.frame
    longer, shorter = [*before, *words, *behind], [*before, *words[:3], *behind]
    pad = len(longer) - len(shorter)
    ids = torch.tensor([longer, [*shorter, *[0] * pad]], device=device)
    mask = torch.tensor([[True] * len(longer), [True] * len(shorter) + [False] * pad], device=device)
    written = ids[:, :2] if adapted.kind == "seq2seq" else None
    with torch.no_grad():
        found = adapted.logits(adapted.states(vocabulary.embed(ids), mask, written)).float()
        for row, own in enumerate((longer, shorter)):
            inputs = {"input_ids": torch.tensor([own], device=device)}
            length = len(own)
            if written is not None:
                start = torch.tensor([[model.config.decoder_start_token_id]], device=device)
                inputs["decoder_input_ids"] = torch.cat([start, written[row : row + 1]], dim=1)
                length = 3
            expected = model(**inputs).logits[0].float()
            difference = float((found[row, :length] - expected).norm() / expected.norm())
            tolerance = 1e-3 if vocabulary.table.dtype.itemsize > 2 else 5e-2
            # Among logits there may be minus infinity: of tokens that the model never predicts.
            check_finite(
                model, adapted.name, *(values.nan_to_num(nan=torch.inf, neginf=0.0) for values in (found, expected))
            )
            if not difference <= tolerance:
                raise BackendError(
                    f"{adapted.name}: logits from token embeddings differ from the model's own by {difference:.2g} "
                    f"(more than {tolerance:g}); transformers {transformers.__version__} computes a "
                    f"{type(model).__name__} in a way that is not known here"
                )


def _check_gradients(adapted: LanguageModel, model: Any) -> None:
    """Raises BackendError where a layer hands no gradient on."""
    ids = adapted.vocabulary.allowed_ids[:4].unsqueeze(0)
    embeddings = adapted.vocabulary.embed(ids).clone().requires_grad_()
    written = ids if adapted.kind == "seq2seq" else None
    with torch.enable_grad(), watched_gradients(model, adapted.name):
        states = adapted.states(embeddings, torch.ones_like(ids, dtype=torch.bool), written)
    if not states.requires_grad:
        raise BackendError(f"{adapted.name}: no gradient passes through the model; load it without what stops them")
