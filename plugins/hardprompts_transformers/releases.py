"""What the supported releases of transformers, 4.50 to 5, do each in their own way: written here and nowhere else."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import transformers
from huggingface_hub import errors
from transformers.models.auto.tokenization_auto import get_tokenizer_config

#: The dtype, as `from_pretrained` takes it: `torch_dtype` before transformers 4.56.
DTYPE = "dtype" if hasattr(transformers.PretrainedConfig(), "dtype") else "torch_dtype"

#: Image processors that resize by Pillow: what these models were trained with, and no torchvision. Before
#: transformers 5 those were the slow ones.
BY_PILLOW: dict[str, Any] = (
    {"backend": "pil"} if hasattr(transformers, "CLIPImageProcessorPil") else {"use_fast": False}
)

#: One layer of a cache. Before transformers 4.54 caches had none, and before 4.56 they were not made of given ones.
CacheLayer: Any = getattr(transformers.cache_utils, "DynamicLayer", object)

#: Layers that can be computed again. Before transformers 4.52 none was marked as one.
CheckpointingLayer: Any = (
    () if find_spec("transformers.modeling_layers") is None
    else import_module("transformers.modeling_layers").GradientCheckpointingLayer
)  # fmt: skip

#: What refuses a config whose values do not fit; older releases of huggingface_hub have no such check.
CONFIG_ERRORS: tuple[type[Exception], ...] = tuple(
    getattr(errors, name) for name in ("StrictDataclassError",) if hasattr(errors, name)
)

#: Before transformers 5 no config stated it: these did so where their two ends are tied.
_SCALING = () if hasattr(transformers.T5Config(), "scale_decoder_outputs") else (
    "longt5", "mt5", "pop2piano", "switch_transformers", "t5", "udop", "umt5",
)  # fmt: skip


def scales_decoder_outputs(config: Any) -> bool:
    """Whether a model of this config scales what its decoder gives before its head reads it."""
    by_kind = getattr(config, "model_type", "") in _SCALING and config.tie_word_embeddings
    return bool(getattr(config, "scale_decoder_outputs", by_kind))


def open_tokenizer(place: str) -> Any:
    """The tokenizer of a folder or hub id, under any release also one that transformers 5 wrote.

    Such a folder may name a class that older releases do not have, and lists special tokens where they expect a table.
    """
    options: dict[str, Any] = {"trust_remote_code": False}
    own = transformers.AutoTokenizer
    if not hasattr(transformers, "TokenizersBackend"):
        config = get_tokenizer_config(place)
        if isinstance(special := config.get("extra_special_tokens"), list):
            options |= {"extra_special_tokens": {}, "additional_special_tokens": special}
        if not hasattr(transformers, config.get("tokenizer_class") or "PreTrainedTokenizerFast"):
            own = transformers.PreTrainedTokenizerFast  # all of it is in tokenizer.json
    try:
        return own.from_pretrained(place, **options)
    except Exception as error:  # the bare one, of a damaged tokenizer.json in older releases
        if type(error) is not Exception:
            raise
        raise ValueError(f"tokenizer.json is damaged: {error}") from error
