# The public names of hardprompts. `__init__.py` imports each from here on first use, so that
# `import hardprompts` and `hardprompts --help` do not wait for torch.
from .classifier import ClassifierPromptTuner
from .distiller import PromptDistiller
from .encoders import Backend, join_backends, load_backend
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
from .inverter import PromptInverter
from .plugins import backends, search_methods, soft_prompt_formats
from .prompts import Candidate, HardPrompt, PromptTemplate
from .search import run_search
from .softprompts import DistilledPrompt, SoftPrompt

__version__: str

__all__ = [
    "Backend",
    "BackendError",
    "Candidate",
    "ClassifierPromptTuner",
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
    "SearchError",
    "SoftPrompt",
    "TemplateError",
    "UnknownName",
    "VocabularyError",
    "backends",
    "hookimpl",
    "join_backends",
    "load_backend",
    "run_search",
    "search_methods",
    "soft_prompt_formats",
]
