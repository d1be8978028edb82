# The public names of hardprompts.softprompts; `__init__.py` imports each from here on first use.
from .audit import Audit
from .containers import Match, SoftPromptFile, open_file
from .families import (
    ENCODER_DECODER,
    ENCODER_OF_WIDTH,
    ENCODER_WIDTHS,
    LANGUAGE_MODEL,
    OTHER_ENCODERS,
    encoder_of_width,
)
from .findings import sentences
from .geometry import GeometryReport, analyze, angles, natural_ids, nearest_tokens, rotated, shrunk, slerp
from .nearest import NearestDecoding, decode_nearest
from .prompt import (
    RepositoryFormat,
    SoftPrompt,
    SoftPromptFormat,
    read_soft_prompts,
    save_soft_prompt,
    soft_prompt_formats,
)
from .report import render_report
from .robustness import RobustnessReport, measure_robustness
from .tensors import MAX_VALUES, StoredTensor

__all__ = [
    "ENCODER_DECODER",
    "ENCODER_OF_WIDTH",
    "ENCODER_WIDTHS",
    "LANGUAGE_MODEL",
    "MAX_VALUES",
    "OTHER_ENCODERS",
    "Audit",
    "GeometryReport",
    "Match",
    "NearestDecoding",
    "RepositoryFormat",
    "RobustnessReport",
    "SoftPrompt",
    "SoftPromptFile",
    "SoftPromptFormat",
    "StoredTensor",
    "analyze",
    "angles",
    "decode_nearest",
    "encoder_of_width",
    "measure_robustness",
    "natural_ids",
    "nearest_tokens",
    "open_file",
    "read_soft_prompts",
    "render_report",
    "rotated",
    "save_soft_prompt",
    "sentences",
    "shrunk",
    "slerp",
    "soft_prompt_formats",
]
