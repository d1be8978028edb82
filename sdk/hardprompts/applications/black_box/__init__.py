"""Prompts for generators that only draw: found by the pictures that they make, under a budget of pictures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
