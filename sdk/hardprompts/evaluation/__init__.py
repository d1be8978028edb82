"""How good prompts are: by their pictures, by their text, by what is true; with intervals, and independent judges.

Judge with a model that no search has followed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
