"""Finds the SDK: the installed one, or the one next to the nodes in a clone or a registry package."""

import ast
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


class BundledDistribution(importlib.metadata.Distribution):
    """The metadata of an SDK that was not installed: its version, and its plugins from pyproject.toml.

    hardprompts asks the metadata of its own installation for the plugins.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def read_text(self, filename: str) -> str | None:
        """METADATA or entry_points.txt, as an installation would have them; None for any other file."""
        if filename == "METADATA":
            return f"Metadata-Version: 2.1\nName: hardprompts\nVersion: {_version(self._root)}\n"
        if filename == "entry_points.txt":
            project = tomllib.loads((self._root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            plugins = project["entry-points"]["hardprompts"]
            return "\n".join(["[hardprompts]", *(f"{name} = {module}" for name, module in plugins.items()), ""])
        return None

    def locate_file(self, path: str | PathLike[str]) -> Any:
        """A file of the package."""
        return ROOT / path


def _version(root: Path) -> str:
    """The version that the SDK states, without importing it."""
    module = ast.parse((root / "sdk" / "hardprompts" / "__init__.py").read_text(encoding="utf-8"))
    values = [node.value for node in module.body if isinstance(node, ast.Assign) and "__version__" in ast.dump(node)]
    return str(ast.literal_eval(values[0]))


class BundledFinder(importlib.metadata.DistributionFinder):
    """Makes the bundled SDK known to importlib.metadata."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Modules are found through sys.path; this finder knows metadata alone."""
        return

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context = importlib.metadata.DistributionFinder.Context()
    ) -> Iterable[importlib.metadata.Distribution]:
        """The bundled SDK, if it or everything is asked for."""
        return [BundledDistribution(ROOT)] if context.name in (None, "hardprompts") else []


def find_sdk() -> None:
    """Makes `import hardprompts` work.

    Raises:
        ModuleNotFoundError: it is neither installed nor next to the nodes.
    """
    if importlib.util.find_spec("hardprompts") is not None:
        return
    if not (ROOT / "sdk" / "hardprompts").is_dir():
        raise ModuleNotFoundError(
            f"the package hardprompts is missing, which the nodes in {ROOT} need; run the pip of ComfyUI's Python: "
            "pip install hardprompts"
        )
    sys.path += [str(ROOT / "sdk"), str(ROOT / "plugins")]
    sys.meta_path.append(BundledFinder())
