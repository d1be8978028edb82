# The public names of hardprompts.diffusion; `__init__.py` imports each from here on first use.
from .features import ConditioningFeatures, backend_of, conditioning_encoder
from .inverter import DenoisingInverter
from .noise_prediction import NoiseBank, NoisePrediction
from .options import DenoisingArguments, DenoisingOptions
from .sampling import own_latents
from .starts import OWN

__all__ = [
    "OWN",
    "ConditioningFeatures",
    "DenoisingArguments",
    "DenoisingInverter",
    "DenoisingOptions",
    "NoiseBank",
    "NoisePrediction",
    "backend_of",
    "conditioning_encoder",
    "own_latents",
]
