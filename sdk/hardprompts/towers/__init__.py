"""What plugins build their text side from: frozen products and text towers that are fast, and tokenizers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
