"""Programs of the repository that are no part of a package, as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType


def program(path: Path) -> ModuleType:
    """The module that a file is, without a place in `sys.modules`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
