# The public names of hardprompts.distillation; `__init__.py` imports each from here on first use.
from .audits import audits_of, stored_dtypes
from .classifiers import (
    AccuracyCurve,
    ClassifierRobustness,
    DecodedClassifier,
    classifier_robustness,
    decode_classifier,
    text_templates,
    tune_soft_prompt,
)
from .distiller import PromptDistiller
from .faithfulness import DistilledPrompt, Faithfulness, LostPhrase, Share
from .features import FeatureMatch, MeanFeatureMatch, match_features
from .learning import descend, learn_soft_prompt, learn_soft_prompts
from .matching import Match, MeanMatch
from .noises import NoiseMatch, match_noise
from .options import DistillationArguments, DistillationOptions
from .originals import Original, OriginalInput, encoders_for, soft_prompt_of
from .outputs import OutputMatch, match_outputs
from .portability import PortabilityReport, nearest_above, portability_report
from .recovery import text_from_conditioning
from .states import ContextStates, StateMatch, match_states

__all__ = [
    "AccuracyCurve",
    "ClassifierRobustness",
    "ContextStates",
    "DecodedClassifier",
    "DistillationArguments",
    "DistillationOptions",
    "DistilledPrompt",
    "Faithfulness",
    "FeatureMatch",
    "LostPhrase",
    "Match",
    "MeanFeatureMatch",
    "MeanMatch",
    "NoiseMatch",
    "Original",
    "OriginalInput",
    "OutputMatch",
    "PortabilityReport",
    "PromptDistiller",
    "Share",
    "StateMatch",
    "audits_of",
    "classifier_robustness",
    "decode_classifier",
    "descend",
    "encoders_for",
    "learn_soft_prompt",
    "learn_soft_prompts",
    "match_features",
    "match_noise",
    "match_outputs",
    "match_states",
    "nearest_above",
    "portability_report",
    "soft_prompt_of",
    "stored_dtypes",
    "text_from_conditioning",
    "text_templates",
    "tune_soft_prompt",
]
