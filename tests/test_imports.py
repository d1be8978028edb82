"""Who may import whom, and what must stay unimported at the start."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SDK = ROOT / "sdk" / "hardprompts"

#: Each room may import those above it, and others on its own line.
ORDER = (
    {"errors", "memory"},
    {"wording"},
    {"prompts", "images", "noise"},
    {"frozen"},
    {"towers"},
    {"vocabulary"},
    {"tokenizers"},
    {"softprompts"},
    {"model_card"},
    {"files"},
    {"encoders", "originals"},
    {"objectives", "noise_prediction", "matching"},
    {"leaderboard"},
    {"search"},
    {"hookspecs"},
    {"methods"},
    {"plugins"},
    {"hub"},
    {"inverter", "denoising"},
    {"evaluation", "batch"},
    {"classification"},
    {"language_matching"},
    {"distiller", "conditioning", "learning"},
    {"applications", "portability", "classifier", "prompt_tuning"},
    {"testing"},
    {"cli"},
    {"__main__"},
)
#: Inside functions alone: what opens a model or a file by its name asks the plugins, a soft prompt reads and
#: writes files, `prompt + prompt` opens the model that
#: knows the tokens, and `SoftPrompt.to_hard` is the distiller's. Reports and cards
#: name the type of the tuner that they are given.
EXCEPTIONS = {
    ("encoders", "plugins"),
    ("files", "plugins"),
    ("softprompts", "files"),
    ("prompts", "applications"),
    ("prompts", "hub"),
    ("prompts", "softprompts"),
    ("softprompts", "hub"),
    ("softprompts", "distiller"),
    ("softprompts", "encoders"),
    ("classification", "classifier"),
    ("hub", "classification"),
    ("model_card", "classification"),
}

MODEL_LIBRARIES = {"transformers", "diffusers", "open_clip", "timm", "accelerate", "peft"}
PLUGINS = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
NOT_OURS_TO_KNOW = {"comfyui_nodes", "comfy", *PLUGINS}
#: The embedded models are folders of transformers models, and the text side of `photo` is such a folder.
BUILT_ON_TRANSFORMERS = {"hardprompts_emoji", "hardprompts_photo"}


def imported(path: Path, relative: bool = False) -> Iterator[str]:
    """The modules that a file imports anywhere, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or relative or path.suffix == ".pyi", f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    return module.split(".")[1]


SDK_FILES = sorted(SDK.rglob("*.py"))


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {path.relative_to(SDK).parts[0].removesuffix(".py") for path in SDK_FILES} - {"__init__"}
    assert rooms <= set().union(*ORDER), "add the new room to ORDER"


@pytest.mark.parametrize("path", SDK_FILES, ids=lambda path: path.relative_to(SDK).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    rank = {name: i for i, names in enumerate(ORDER) for name in names}
    own = path.relative_to(SDK).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imported(path):
        if module.startswith("hardprompts.") and room(module) in rank and (own, room(module)) not in EXCEPTIONS:
            assert rank[room(module)] <= rank[own], f"{own} must not import {room(module)}"


@pytest.mark.parametrize("path", SDK_FILES, ids=lambda path: path.relative_to(SDK).as_posix())
def test_the_sdk_knows_no_plugin_and_no_model_library(path: Path) -> None:
    roots = {module.partition(".")[0] for module in imported(path)}
    assert not roots & (MODEL_LIBRARIES | NOT_OURS_TO_KNOW)


def test_plugins_do_not_import_each_other() -> None:
    packages = [path.parent for path in (ROOT / "plugins").glob("*/__init__.py")]
    assert packages
    for package in packages:
        others = {other.name for other in packages} - {package.name}
        if package.name in BUILT_ON_TRANSFORMERS:
            others.remove("hardprompts_transformers")
        for path in package.rglob("*.py"):
            assert not {module.partition(".")[0] for module in imported(path)} & others, path


def test_comfyuis_nodes_know_the_sdk_alone() -> None:
    files = sorted((ROOT / "comfyui_nodes").rglob("*.py"))
    assert len(files) > 10
    for path in files:
        roots = {module.partition(".")[0] for module in imported(path, relative=True)}
        assert not roots & (MODEL_LIBRARIES | PLUGINS), path


def loaded_after(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after running `code`."""
    report = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(run.stdout.splitlines()[-1].split())


def test_importing_hardprompts_loads_neither_torch_nor_a_model_library() -> None:
    assert not loaded_after("import hardprompts") & {"torch", "numpy", "PIL", *MODEL_LIBRARIES}


def test_loading_the_plugins_loads_no_model_library() -> None:
    loaded = loaded_after("import hardprompts; hardprompts.backends(); hardprompts.search_methods()")
    assert "torch" in loaded
    assert not loaded & MODEL_LIBRARIES


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import contextlib, sys; from hardprompts.cli import main; sys.argv = ['hardprompts', '--help']\n"
        "with contextlib.suppress(SystemExit): main()"
    )
    assert not loaded_after(code) & {"torch", "numpy", "PIL", *MODEL_LIBRARIES}


def test_every_public_name_is_there() -> None:
    import hardprompts

    assert len(hardprompts.__all__) > 20
    for name in hardprompts.__all__:
        assert getattr(hardprompts, name) is not None
    with pytest.raises(AttributeError):
        _ = hardprompts.no_such_name  # type: ignore[attr-defined]
