# The public names of hardprompts.classification; `__init__.py` imports each from here on first use.
from .batches import RowBatches
from .measures import Measures
from .objective import LabelLikelihood
from .prompted import PromptedModel, batch_prior, language_model
from .shots import FewShotReport, FewShotRun, few_shot
from .template import ClassificationTemplate
from .transfer import TransferReport, evaluate_transfer, transfer_table
from .tuner import ClassifierPromptTuner
from .verbalizer import Verbalizer, suggest_verbalizer

__all__ = [
    "ClassificationTemplate",
    "ClassifierPromptTuner",
    "FewShotReport",
    "FewShotRun",
    "LabelLikelihood",
    "Measures",
    "PromptedModel",
    "RowBatches",
    "TransferReport",
    "Verbalizer",
    "batch_prior",
    "evaluate_transfer",
    "few_shot",
    "language_model",
    "suggest_verbalizer",
    "transfer_table",
]
