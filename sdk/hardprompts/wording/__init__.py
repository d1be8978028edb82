"""Words: which a prompt is made of unless somebody asks for others, and what they are about."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
