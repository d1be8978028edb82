# The public names of hardprompts.towers; `__init__.py` imports each from here on first use.
from .frozen import FrozenLinear, FrozenTable
from .networks import (
    check_reachable,
    embedding_modules,
    is_plain,
    is_untouched,
    matrix_dtype,
    replaced_embeddings,
    uncompiled,
    unwrapped,
    watched_gradients,
)
from .text import ACTIVATIONS, Activation, FrozenBlock, FrozenEncoder, FrozenNorm, FrozenTower, PostNormBlock, Readout
from .tokenizers import BatchTokenizer, FastTokenizer, SlowTokenizer, Tokenizer, adapt, tokenizer_of

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "BatchTokenizer",
    "FastTokenizer",
    "FrozenBlock",
    "FrozenEncoder",
    "FrozenLinear",
    "FrozenNorm",
    "FrozenTable",
    "FrozenTower",
    "PostNormBlock",
    "Readout",
    "SlowTokenizer",
    "Tokenizer",
    "adapt",
    "check_reachable",
    "embedding_modules",
    "is_plain",
    "is_untouched",
    "matrix_dtype",
    "replaced_embeddings",
    "tokenizer_of",
    "uncompiled",
    "unwrapped",
    "watched_gradients",
]
