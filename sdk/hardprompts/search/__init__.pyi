# The public names of hardprompts.search; `__init__.py` imports each from here on first use.
from .bound import BoundObjective
from .loop import run_search
from .markup import Markup, PlainPrompt, read_markup
from .options import SearchArguments, SearchOptions
from .progress import about, on_bar
from .protocol import Callback, Candidates, Search, SearchProgress, SearchResult, StartsAlone, StopReason
from .registry import DEFAULT_METHOD, language_model_search, search_method, search_methods
from .results import hard_prompt_of, leave_one_out, provenance_of
from .rows import NO_TOKEN, Ids, filled, pack, random_starts, unpack
from .seeds import Stream, drawn_seed, generator_of

__all__ = [
    "DEFAULT_METHOD",
    "NO_TOKEN",
    "BoundObjective",
    "Callback",
    "Candidates",
    "Ids",
    "Markup",
    "PlainPrompt",
    "Search",
    "SearchArguments",
    "SearchOptions",
    "SearchProgress",
    "SearchResult",
    "StartsAlone",
    "StopReason",
    "Stream",
    "about",
    "drawn_seed",
    "filled",
    "generator_of",
    "hard_prompt_of",
    "language_model_search",
    "leave_one_out",
    "on_bar",
    "pack",
    "provenance_of",
    "random_starts",
    "read_markup",
    "run_search",
    "search_method",
    "search_methods",
    "unpack",
]
