"""`hardprompts comfyui`: put the nodes into a ComfyUI, or make the package that its registry takes."""

import ast
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hardprompts import __version__
from hardprompts.causes.failures import system_cause
from hardprompts.cli.screen import clear_errors, fail, say

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

app = typer.Typer(
    help="Nodes for ComfyUI: link them into one, or assemble the registry's package.", no_args_is_help=True
)

#: The name of the folder in custom_nodes, and of the package in the registry.
NAME = "hardprompts"
#: What the package is made of, beside pyproject.toml.
PARTS = ("__init__.py", "comfyui_nodes", "sdk/hardprompts", "plugins", "requirements.txt", "LICENSE", "README.md")
#: What ComfyUI looks for in a pack's own folder.
SHOWN = ("locales", "example_workflows", "subgraphs")
#: Calls that the registry refuses: code from text, and installing while running.
REFUSED = ("eval", "exec", "pip")


@app.command()
def link(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="ComfyUI's folder, the one with main.py.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a link of this name that is there.")] = False,
) -> None:
    """Make the nodes part of a ComfyUI, as a link in its custom_nodes; an update of hardprompts updates them."""
    with clear_errors():
        folder = path.expanduser() / "custom_nodes"
        if not (path.expanduser() / "main.py").is_file() or not folder.is_dir():
            fail(f"{path} is not a ComfyUI: it needs main.py and custom_nodes; pass the folder that `main.py` is in")
        place, source = folder / NAME, nodes_folder()
        if place.is_symlink() and (force or place.resolve() == source):
            place.unlink()
        elif place.is_symlink() or place.exists():
            fail(f"{place} exists already; remove it" + (", or pass --force" if place.is_symlink() else ""))
        try:
            place.symlink_to(source, target_is_directory=True)
        except OSError as error:
            on_windows = "allow links (developer mode), or " if getattr(error, "winerror", None) else ""
            fail(
                f"no link could be made at {place}: {system_cause(error) or error}; {on_windows}clone the repository "
                "into custom_nodes"
            )
        say(f"{place} -> {source}")
        say("ComfyUI's Python must have hardprompts too, unless this is a clone; now start ComfyUI again")


@app.command()
def assemble(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the package.")],
    publisher: Annotated[str, typer.Option(help="Your PublisherId in the registry.")],
    repository: Annotated[str, typer.Option(help="The address of the repository, which the registry asks for.")],
) -> None:
    """Make the package that `comfy node publish` takes: the nodes with the SDK, which then need no installation."""
    with clear_errors():
        root = checkout()
        if root is None:
            fail("the package is assembled from a clone of the repository, and this is an installation")
        if folder.exists() and any(folder.iterdir()):
            fail(f"{folder} is not empty; pass a new folder")
        ignored = [line for line in (root / ".comfyignore").read_text(encoding="utf-8").split() if line[0] != "#"]
        for part in PARTS:
            for file in _files(root, part, ignored):
                target = folder / file.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        for part in SHOWN:
            if (root / "comfyui_nodes" / part).is_dir():
                shutil.copytree(root / "comfyui_nodes" / part, folder / part)
                shutil.rmtree(folder / "comfyui_nodes" / part, ignore_errors=True)
        pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        requirements = (root / "requirements.txt").read_text(encoding="utf-8")
        (folder / "pyproject.toml").write_text(
            registry_pyproject(pyproject, requirements, publisher, repository), encoding="utf-8"
        )
        problems = refused(folder)
        if problems:
            fail("the registry would refuse this package: " + "; ".join(problems))
        released = registry_version(__version__)
        if __version__ != released:
            say(f"this is {__version__}; the registry takes versions of three numbers, so the package is {released}")
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        say(f"{folder}: {size / 2**20:.0f} MB; publish it with `comfy node publish` in that folder")


def checkout() -> Path | None:
    """The clone that this package runs from, or None if it is installed."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "comfyui_nodes" / "__init__.py").is_file() and (root / "pyproject.toml").is_file() else None


def nodes_folder() -> Path:
    """The folder that ComfyUI loads: the clone, or the nodes of the installation.

    Raises:
        FileNotFoundError: the installation has no nodes.
    """
    root = checkout()
    if root is not None:
        return root
    spec = importlib.util.find_spec("hardprompts_comfyui")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("this installation of hardprompts has no ComfyUI nodes; install it again")
    return Path(spec.origin).resolve().parent


def _files(root: Path, part: str, ignored: list[str]) -> Iterator[Path]:
    """The files of a part, without what .comfyignore names and what Python or an editor left there."""
    place = root / part
    for file in [place] if place.is_file() else sorted(place.rglob("*")):
        name = file.relative_to(root).as_posix()
        left_out = any(f"/{name}".startswith(entry) for entry in ignored)
        hidden = any(piece.startswith(".") or piece == "__pycache__" for piece in Path(name).parts)
        if file.is_file() and not left_out and not hidden:
            yield file


def registry_version(version: str) -> str:
    """A version without what the registry does not take: 1.2.3 of 1.2.3.dev0."""
    released = re.match(r"\d+(\.\d+)*", version)
    numbers = released.group().split(".") if released else []
    return ".".join([*numbers, "0", "0", "0"][:3])


def registry_pyproject(pyproject: Mapping[str, Any], requirements: str, publisher: str, repository: str) -> str:
    """The pyproject.toml of the package, in the registry's own manner, from the project's and this version.

    The registry reads a license as a table, takes dependencies for what is to be installed beside ComfyUI, and
    versions of three numbers alone.

    Source: docs.comfy.org/registry/specifications.
    """
    project = pyproject["project"]
    needed = [line.strip() for line in requirements.splitlines() if line.strip() and not line.startswith("#")]
    return f"""[project]
name = "{NAME}"
version = "{registry_version(__version__)}"
description = {json.dumps(project["description"])}
readme = "README.md"
license = {{ file = "LICENSE" }}
requires-python = "{project["requires-python"]}"
dependencies = {json.dumps(needed)}
classifiers = ["Operating System :: OS Independent"]

[project.urls]
Repository = "{repository}"

[project.entry-points.hardprompts]
{_lines(project["entry-points"]["hardprompts"])}

[tool.comfy]
PublisherId = "{publisher}"
{_lines(pyproject["tool"]["comfy"])}
"""


def _lines(values: Mapping[str, str]) -> str:
    """Names and texts as lines of TOML, whose texts in double quotes are JSON's."""
    return "\n".join(f"{name} = {json.dumps(text)}" for name, text in values.items())


def refused(folder: Path) -> list[str]:
    """What the registry's rules forbid, with its place: eval, exec, and installing packages while running.

    Source: docs.comfy.org/registry/standards.
    """
    found = []
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            words = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            runs = isinstance(node.func, ast.Attribute) and node.func.attr in ("run", "Popen", "check_call", "system")
            if called in REFUSED or (runs and words & {"pip", "install"}):
                found.append(f"{file.relative_to(folder)}:{node.lineno} calls {called or ast.unparse(node.func)}")
    return found
