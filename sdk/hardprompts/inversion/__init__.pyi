# The public names of hardprompts.inversion; `__init__.py` imports each from here on first use.
from .captioning import Captioner, OpenCaptioner, captioners, load_captioner
from .evidence.calibration import EvidenceCalibration, OpenCalibrations, calibrations
from .evidence.fitting import calibrate
from .inverter import PromptInverter
from .options import InversionArguments, InversionOptions
from .proposals import LikelihoodProposer, OpenProposer, Proposer, load_proposer, proposers
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
    "EvidenceCalibration",
    "InversionArguments",
    "InversionOptions",
    "LanguageModelLikelihood",
    "LikelihoodProposer",
    "OpenCalibrations",
    "OpenCaptioner",
    "OpenProposer",
    "PromptInverter",
    "Proposer",
    "ReadableScore",
    "TextLikelihood",
    "calibrate",
    "calibrations",
    "captioners",
    "fluency",
    "load_captioner",
    "load_proposer",
    "open_likelihood",
    "pareto_front",
    "proposers",
    "real_words",
]
