# The public names of hardprompts.inversion; `__init__.py` imports each from here on first use.
from .captioning import Captioner, OpenCaptioner, captioners, load_captioner
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
    "Captioner",
    "InversionArguments",
    "InversionOptions",
    "LanguageModelLikelihood",
    "OpenCaptioner",
    "PromptInverter",
    "ReadableScore",
    "TextLikelihood",
    "captioners",
    "fluency",
    "load_captioner",
    "open_likelihood",
    "pareto_front",
    "real_words",
]
