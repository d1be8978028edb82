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
