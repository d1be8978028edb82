# The public names of hardprompts.applications; `__init__.py` imports each from here on first use.
from .black_box import (
    Mutation,
    OpenGenerator,
    PictureInversion,
    generators,
    invert_by_pictures,
    load_generator,
)
from .breeding import Individual, Lineage, evolve
from .editing import Edit, WordChange, edit
from .interactions import interaction_picture, word_interactions
from .joining import concatenate, negative_prompt
from .memory import estimate_memory
from .pictures import Generate, ImageScore, likeness, picture_grid
from .report import prompt_page
from .reranking import RankedPrompt, Reranking, rerank
from .weights import fit_weights, weighted_conditioning

__all__ = [
    "Edit",
    "Generate",
    "ImageScore",
    "Individual",
    "Lineage",
    "Mutation",
    "OpenGenerator",
    "PictureInversion",
    "RankedPrompt",
    "Reranking",
    "WordChange",
    "concatenate",
    "edit",
    "estimate_memory",
    "evolve",
    "fit_weights",
    "generators",
    "interaction_picture",
    "invert_by_pictures",
    "likeness",
    "load_generator",
    "negative_prompt",
    "picture_grid",
    "prompt_page",
    "rerank",
    "weighted_conditioning",
    "word_interactions",
]
