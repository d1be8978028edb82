"""Long prompts and soft prompts as short hard prompts, and how much of their effect these keep."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
