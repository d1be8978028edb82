"""Who may import whom, and what must stay unimported at the start."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import architecture  # noqa: E402

SDK = ROOT / "sdk" / "hardprompts"

#: The rooms, floor by floor: each may import those on floors before it, and others on its own. No exceptions.
ORDER = tuple(set(names) for _, names in architecture.FLOORS)

MODEL_LIBRARIES = {"transformers", "diffusers", "open_clip", "timm", "accelerate", "peft", "gradio"}
PLUGINS = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
NOT_OURS_TO_KNOW = {"comfyui_nodes", "comfy", *PLUGINS}
#: The embedded models are folders of transformers models, and the text side of `photo` is such a folder; the recipe of
#: the embedded decoder is the training of decoders.
WEIGHTS = {"hardprompts_emoji_models"}  # files alone, and the folder where they are
BUILT_ON = {
    "hardprompts_emoji": {"hardprompts_transformers", "hardprompts_decoder"},
    "hardprompts_photo": {"hardprompts_transformers", "hardprompts_decoder"},
}


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
        if module.startswith("hardprompts.") and room(module) in rank:
            assert rank[room(module)] <= rank[own], f"{own} must not import {room(module)}"


def test_no_two_files_reach_each_other() -> None:
    graph = architecture.module_graph()
    assert "hardprompts.search.loop" in graph["hardprompts.search.options"]  # so that an empty graph does not pass

    def behind(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo.extend(graph[module])
        return seen

    circles = [name for name in graph if name in behind(name)]
    assert not circles


def test_the_top_of_the_sdk_stays_small() -> None:
    modules = [path for path in SDK.glob("*.py") if path.stem != "__init__"]
    packages = [path for path in SDK.iterdir() if (path / "__init__.py").exists()]
    assert len(modules) + len(packages) <= 30


@pytest.mark.parametrize("path", SDK_FILES, ids=lambda path: path.relative_to(SDK).as_posix())
def test_the_sdk_knows_no_plugin_and_no_model_library(path: Path) -> None:
    roots = {module.partition(".")[0] for module in imported(path)}
    assert not roots & (MODEL_LIBRARIES | NOT_OURS_TO_KNOW)


def test_plugins_do_not_import_each_other() -> None:
    packages = [path.parent for path in (ROOT / "plugins").glob("*/__init__.py") if path.parent.name not in WEIGHTS]
    assert packages
    for package in packages:
        others = {other.name for other in packages} - {package.name} - BUILT_ON.get(package.name, set())
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


def test_helpers_of_tests_have_names_of_their_own() -> None:
    # pytest runs all tests in one process, where a name stands for one module alone.
    tests = (path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith(("test_", "conftest")))
    helpers = [path.stem for path in tests]
    assert len(helpers) == len(set(helpers)), sorted({name for name in helpers if helpers.count(name) > 1})


@pytest.mark.parametrize("stub", sorted(SDK.rglob("__init__.pyi")), ids=lambda path: path.parent.name)
def test_no_public_name_is_that_of_a_module_beside_it(stub: Path) -> None:
    """Whoever imports the module first would put it where the function is expected, with lazy_loader before 0.6."""
    names = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    modules = {path.stem for path in stub.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not names & modules
