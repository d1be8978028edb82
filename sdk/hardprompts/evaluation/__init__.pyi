# The public names of hardprompts.evaluation; `__init__.py` imports each from here on first use.
from .edits import EditFigures, EditOutcome, Exchange, edit_figures, edit_outcomes, edit_values
from .intervals import Interval, bootstrap_interval, t_interval, t_quantile
from .judges import check_independent, rank_agreement, shared_weights
from .pictures import ImageJudge, diversities, image_similarities, perceptual_distances, prompt_image_similarities
from .selection import BUDGETS, FreshScore, best_by_fresh_seeds, best_within
from .statements import Match, mean_match, statement_match
from .tables import markdown_row, markdown_table
from .texts import TextStatistics, nats_per_word, text_similarities, text_statistics, word_matches
from .transfer import Judge, TransferMatrix, transfer_matrix

__all__ = [
    "BUDGETS",
    "EditFigures",
    "EditOutcome",
    "Exchange",
    "FreshScore",
    "ImageJudge",
    "Interval",
    "Judge",
    "Match",
    "TextStatistics",
    "TransferMatrix",
    "best_by_fresh_seeds",
    "best_within",
    "bootstrap_interval",
    "check_independent",
    "diversities",
    "edit_figures",
    "edit_outcomes",
    "edit_values",
    "image_similarities",
    "markdown_row",
    "markdown_table",
    "mean_match",
    "nats_per_word",
    "perceptual_distances",
    "prompt_image_similarities",
    "rank_agreement",
    "shared_weights",
    "statement_match",
    "t_interval",
    "t_quantile",
    "text_similarities",
    "text_statistics",
    "transfer_matrix",
    "word_matches",
]
