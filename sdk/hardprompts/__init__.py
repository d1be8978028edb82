"""Hard prompts: plain text for any model, from what cannot be typed."""

import lazy_loader

# The public names are listed in `__init__.pyi`, where editors and type checkers read them too; each is
# imported on first use, so that `hardprompts --help` does not wait for torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
