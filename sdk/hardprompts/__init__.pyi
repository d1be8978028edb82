# The public names of hardprompts. `__init__.py` imports each from here on first use, so that
# `import hardprompts` and `hardprompts --help` do not wait for torch.
from .classification import ClassifierPromptTuner
from .diffusion import DenoisingInverter
from .distillation import DistilledPrompt, PromptDistiller
from .encoders import Backend, backends, close_models, join_backends, load_backend
from .errors import (
    BackendError,
    FileFormatError,
    HardPromptsError,
    HubError,
    ImageError,
    MissingExtra,
    NonFiniteError,
    PluginError,
    SearchError,
    TemplateError,
    UnknownName,
    VocabularyError,
)
from .hookspecs import hookimpl
from .inversion import PromptInverter
from .prompts import Candidate, HardPrompt, PromptTemplate, TradeOff
from .search import Candidates, Search, run_search, search_methods
from .softprompts import SoftPrompt, SoftPromptFormat, soft_prompt_formats

__version__: str

__all__ = [
    "Backend",
    "BackendError",
    "Candidate",
    "Candidates",
    "ClassifierPromptTuner",
    "DenoisingInverter",
    "DistilledPrompt",
    "FileFormatError",
    "HardPrompt",
    "HardPromptsError",
    "HubError",
    "ImageError",
    "MissingExtra",
    "NonFiniteError",
    "PluginError",
    "PromptDistiller",
    "PromptInverter",
    "PromptTemplate",
    "Search",
    "SearchError",
    "SoftPrompt",
    "SoftPromptFormat",
    "TemplateError",
    "TradeOff",
    "UnknownName",
    "VocabularyError",
    "backends",
    "close_models",
    "hookimpl",
    "join_backends",
    "load_backend",
    "run_search",
    "search_methods",
    "soft_prompt_formats",
]
