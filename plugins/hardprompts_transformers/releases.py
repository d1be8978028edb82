"""What the supported releases of transformers, 4.50 to 5, do each in their own way: written here and nowhere else."""

from typing import Any

import transformers

#: The dtype, as `from_pretrained` takes it: `torch_dtype` before transformers 4.56.
DTYPE = "dtype" if hasattr(transformers.PretrainedConfig(), "dtype") else "torch_dtype"

#: Image processors that resize by Pillow: what these models were trained with, and no torchvision. Before
#: transformers 5 those were the slow ones.
BY_PILLOW: dict[str, Any] = (
    {"backend": "pil"} if hasattr(transformers, "CLIPImageProcessorPil") else {"use_fast": False}
)

try:  # before transformers 4.54 caches were not made of layers, and before 4.56 not of given ones
    from transformers.cache_utils import DynamicLayer as CacheLayer
except ImportError:
    CacheLayer = object

try:  # before transformers 4.52 no layer was marked as one that can be computed again
    from transformers.modeling_layers import GradientCheckpointingLayer as CheckpointingLayer
except ImportError:
    CheckpointingLayer = ()

try:  # configs are checked, and refused with this, by huggingface_hub 0.31 and later
    from huggingface_hub.errors import StrictDataclassError

    CONFIG_ERRORS: tuple[type[Exception], ...] = (StrictDataclassError,)
except ImportError:
    CONFIG_ERRORS = ()

#: Before transformers 5 no config stated it: these did so where their two ends are tied.
_SCALING = () if hasattr(transformers.T5Config(), "scale_decoder_outputs") else (
    "longt5", "mt5", "pop2piano", "switch_transformers", "t5", "udop", "umt5",
)  # fmt: skip


def scales_decoder_outputs(config: Any) -> bool:
    """Whether a model of this config scales what its decoder gives before its head reads it."""
    by_kind = getattr(config, "model_type", "") in _SCALING and config.tie_word_embeddings
    return bool(getattr(config, "scale_decoder_outputs", by_kind))
