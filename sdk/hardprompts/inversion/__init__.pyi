# The public names of hardprompts.inversion; `__init__.py` imports each from here on first use.
from .inverter import PromptInverter
from .options import InversionArguments, InversionOptions
from .readability import (
    LanguageModelLikelihood,
    ReadableScore,
    TextLikelihood,
    fluency,
    open_likelihood,
    pareto_front,
    real_words,
)

__all__ = [
    "InversionArguments",
    "InversionOptions",
    "LanguageModelLikelihood",
    "PromptInverter",
    "ReadableScore",
    "TextLikelihood",
    "fluency",
    "open_likelihood",
    "pareto_front",
    "real_words",
]
