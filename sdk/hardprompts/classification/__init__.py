"""What turns a language model into a classifier: templates, label words, the likelihood of labels, transfer."""

from hardprompts.classification.few_shot import FewShotReport, few_shot
from hardprompts.classification.objective import LabelLikelihood
from hardprompts.classification.template import ClassificationTemplate
from hardprompts.classification.transfer import TransferReport, evaluate_transfer, transfer_table
from hardprompts.classification.verbalizer import Verbalizer, suggest_verbalizer

__all__ = [
    "ClassificationTemplate",
    "FewShotReport",
    "LabelLikelihood",
    "TransferReport",
    "Verbalizer",
    "evaluate_transfer",
    "few_shot",
    "suggest_verbalizer",
    "transfer_table",
]
