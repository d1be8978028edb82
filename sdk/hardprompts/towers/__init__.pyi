# The public names of hardprompts.towers; `__init__.py` imports each from here on first use.
from .frozen import FrozenLinear, FrozenTable
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
    "tokenizer_of",
]
