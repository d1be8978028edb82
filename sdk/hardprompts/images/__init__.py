"""Images as people have them, as RGB images that a model's preprocessing takes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
