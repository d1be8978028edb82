"""Soft prompts: what they are, how far they lie from natural language, and the tokens nearest to them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
