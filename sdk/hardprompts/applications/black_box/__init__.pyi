# The public names of hardprompts.applications.black_box; `__init__.py` imports each from here on first use.
from .bandit import UpperConfidence
from .correction import Correction
from .inverter import invert_by_pictures
from .language import Rewrite
from .mutations import (
    AddPhrase,
    Crossover,
    DropPhrase,
    ExchangePhrase,
    GradientSwap,
    Mutation,
    PhraseFeatures,
    Phrases,
    RelatedPhrase,
    Screened,
    Watcher,
)
from .options import PictureArguments, PictureOptions
from .outcome import MutationRecord, PictureInversion, PicturePoint, Trial
from .schemes import OpenGenerator, generators, load_generator

__all__ = [
    "AddPhrase",
    "Correction",
    "Crossover",
    "DropPhrase",
    "ExchangePhrase",
    "GradientSwap",
    "Mutation",
    "MutationRecord",
    "OpenGenerator",
    "PhraseFeatures",
    "Phrases",
    "PictureArguments",
    "PictureInversion",
    "PictureOptions",
    "PicturePoint",
    "RelatedPhrase",
    "Rewrite",
    "Screened",
    "Trial",
    "UpperConfidence",
    "Watcher",
    "generators",
    "invert_by_pictures",
    "load_generator",
]
