"""The three ways into a ComfyUI: a clone, the registry's package, and a link to an installation."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hardprompts
from hardprompts.cli import app
from hardprompts.cli import comfyui as commands

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry") / "hardprompts"
    arguments = ["--publisher", "somebody", "--repository", "https://example.org/hardprompts"]
    result = RUNNER.invoke(app, ["comfyui", "assemble", str(folder), *arguments])
    assert result.exit_code == 0, result.output
    return folder


def test_the_package_says_what_the_registry_asks_for(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert re.fullmatch(r"[a-z][a-z0-9_-]{0,99}", project["project"]["name"])
    assert "comfyui" not in project["project"]["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["project"]["version"])
    assert hardprompts.__version__.startswith(project["project"]["version"])
    assert not re.search(r"[-_.]{2}", project["project"]["name"])
    assert project["project"]["license"] == {"file": "LICENSE"}
    assert project["project"]["urls"]["Repository"].startswith("https://")
    # Its plugins, and no commands: ComfyUI has a page of its own.
    assert project["project"]["entry-points"] == {"hardprompts": own["project"]["entry-points"]["hardprompts"]}
    assert project["tool"]["comfy"] == {"PublisherId": "somebody", **own["tool"]["comfy"]}


@pytest.mark.parametrize(
    ("own", "registry"), [("1.2.3", "1.2.3"), ("1.2.3.dev0", "1.2.3"), ("1.2rc1", "1.2.0"), ("2", "2.0.0")]
)
def test_the_registry_gets_versions_of_three_numbers(own: str, registry: str) -> None:
    assert commands.registry_version(own) == registry


def test_nothing_disturbs_comfyuis_own_versions(package: Path) -> None:
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    names = {re.split(r"[><=~!\[; ]", line)[0] for line in listed.splitlines() if line and line[0] != "#"}
    assert not names & {
        "torch",
        "torchvision",
        "torchaudio",
        "transformers",
        "numpy",
        "pillow",
        "safetensors",
        "diffusers",
    }
    versions = [line.partition(";")[0] for line in listed.splitlines()]
    assert not [line for line in versions if "==" in line or "<" in line]
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["project"]["dependencies"]) == {line for line in listed.splitlines() if line and line[0] != "#"}


def test_the_package_has_all_that_comfyui_looks_for_and_no_more(package: Path) -> None:
    for name in (
        "__init__.py", "comfyui_nodes/web/docs/HardPromptsShow.md", "comfyui_nodes/web/js/show_prompt.js",
        "locales/de/nodeDefs.json", "example_workflows/image_to_prompt.json", "LICENSE", "requirements.txt",
        "plugins/hardprompts_emoji/models/emoji-clip/model.safetensors", "sdk/hardprompts/search/loop.py",
    ):  # fmt: skip
        assert (package / name).is_file(), name
    names = {path.relative_to(package).as_posix() for path in package.rglob("*")}
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", "benchmarks"))]
    unused = ("recipe", "hardprompts_emoji_models", "hardprompts_app")
    assert not [name for name in names if any(part in name for part in unused)]
    assert not [path for path in package.rglob("*") if path.is_symlink()]
    assert sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) < 100 * 2**20


def test_the_registrys_rules_are_kept_and_a_breach_is_found(package: Path, tmp_path: Path) -> None:
    assert commands.refused(package) == []
    (tmp_path / "bad.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'install', 'x'])\neval('1')\nexec('2')\n"
    )
    assert [line.partition(" ")[0] for line in commands.refused(tmp_path)] == ["bad.py:2", "bad.py:3", "bad.py:4"]


@pytest.mark.comfyui
def test_the_registrys_own_validator_agrees(package: Path, tmp_path: Path) -> None:
    program = os.environ.get("COMFY_CLI") or shutil.which("comfy")
    if program is None:
        pytest.skip("neither COMFY_CLI nor PATH names the program `comfy` of comfy-cli")

    def said(folder: Path) -> str:
        run = subprocess.run(
            [program, "--skip-prompt", "node", "validate"], capture_output=True, text=True, check=False, cwd=folder,
            env={**os.environ, "DO_NOT_TRACK": "1", "HOME": str(tmp_path)}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return run.stdout + run.stderr

    assert "All validation checks passed" in said(package)
    bad = tmp_path / "bad"
    bad.mkdir()
    shutil.copy(package / "pyproject.toml", bad)
    (bad / "__init__.py").write_text("eval(input())\n")
    assert "Security warnings" in said(bad)


def test_the_package_works_where_hardprompts_is_not_installed(package: Path) -> None:
    # A Python that sees its own packages and not this project's installation.
    code = f"""
import importlib.abc, importlib.metadata, sys
own = {[str(ROOT / "sdk"), str(ROOT / "plugins")]!r}
sys.path = [place for place in sys.path if place not in own]
found = importlib.metadata.MetadataPathFinder.find_distributions
def others(context=importlib.metadata.DistributionFinder.Context()):
    return (one for one in found(context) if one.name != "hardprompts")
importlib.metadata.MetadataPathFinder.find_distributions = staticmethod(others)
sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in repr(one).lower()]
import importlib.util
assert importlib.util.find_spec("hardprompts") is None
spec = importlib.util.spec_from_file_location("standalone", {str(package / "comfyui_nodes" / "standalone.py")!r})
standalone = importlib.util.module_from_spec(spec); spec.loader.exec_module(standalone)
standalone.find_sdk()
import hardprompts
assert hardprompts.__file__.startswith({str(package)!r}), hardprompts.__file__
print(sorted(hardprompts.backends()), importlib.metadata.version("hardprompts"))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=package)
    assert run.returncode == 0, run.stderr
    assert "emoji" in run.stdout and "open_clip" in run.stdout


def test_link_makes_a_link_once(tmp_path: Path) -> None:
    (tmp_path / "custom_nodes").mkdir()
    assert "is not a ComfyUI" in RUNNER.invoke(app, ["comfyui", "link", str(tmp_path)]).output
    (tmp_path / "main.py").touch()
    for _ in range(2):
        assert RUNNER.invoke(app, ["comfyui", "link", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "custom_nodes" / "hardprompts" / "__init__.py").is_file()


def test_link_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "custom_nodes" / "hardprompts").mkdir(parents=True)
    (tmp_path / "main.py").touch()
    result = RUNNER.invoke(app, ["comfyui", "link", str(tmp_path), "--force"])
    assert result.exit_code != 0 and "exists already" in result.output


def test_the_root_of_the_repository_is_no_trap_for_pytest(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/sdk/test_plugins.py"],
        capture_output=True, text=True, cwd=ROOT, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:]


def test_locales_and_workflows_are_where_a_clone_needs_them() -> None:
    for name in ("locales", "example_workflows", "subgraphs"):
        assert (ROOT / name).resolve() == ROOT / "comfyui_nodes" / name
    assert json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
