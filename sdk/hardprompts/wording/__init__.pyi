# The names of hardprompts.wording; `__init__.py` imports each from here on first use.
from .bans import CATEGORY, NO_LIST, Bans, WordBan
from .categories import CATEGORIES, OTHER, Categories, category_words
from .evidence import Region, WordEvidence
from .interactions import WordInteractions
from .words import (
    bad_words,
    check_text,
    common_words,
    commonness,
    decode_text,
    dominant_script,
    is_real_word,
    phrases_in,
    read_phrases,
    read_text,
    separated,
    words_in,
)

__all__ = [
    "CATEGORIES",
    "CATEGORY",
    "NO_LIST",
    "OTHER",
    "Bans",
    "Categories",
    "Region",
    "WordBan",
    "WordEvidence",
    "WordInteractions",
    "bad_words",
    "category_words",
    "check_text",
    "common_words",
    "commonness",
    "decode_text",
    "dominant_script",
    "is_real_word",
    "phrases_in",
    "read_phrases",
    "read_text",
    "separated",
    "words_in",
]
