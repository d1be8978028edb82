"""What is published: two wheels and their sources, with what users need and nothing else."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from programs import program

import hardprompts

ROOT = Path(__file__).parent.parent
LARGER_MODELS = ROOT / "plugins" / "hardprompts_emoji_models"
MEGABYTE = 10**6


def build(project: Path, target: str, folder: Path) -> Path:
    """The distribution that hatchling makes of a project, without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def larger_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(LARGER_MODELS, "wheel", tmp_path_factory.mktemp("models"))


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_has_what_users_need(wheel: Path) -> None:
    inside = set(names(wheel))
    for name in (
        "hardprompts/__init__.pyi",
        "hardprompts/py.typed",
        "hardprompts_comfyui/web/js/show_prompt.js",
        "hardprompts_emoji/models/emoji-clip/model.safetensors",
        "hardprompts_emoji/sprites.webp",
        "hardprompts_photo/bridge.safetensors",
        "hardprompts_photo/minilm-decoder/decoder.safetensors",
        "hardprompts_photo/words.safetensors",
    ):
        assert name in inside, name
    for path in (ROOT / "sdk" / "hardprompts").rglob("*.py*"):
        if path.suffix in (".py", ".pyi"):
            assert f"hardprompts/{path.relative_to(ROOT / 'sdk' / 'hardprompts').as_posix()}" in inside, path


def test_the_wheel_has_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in names(wheel)}
    plugins = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")} - {LARGER_MODELS.name}
    assert tops == {"hardprompts", "hardprompts_comfyui", f"hardprompts-{hardprompts.__version__}.dist-info", *plugins}
    unwanted = re.compile(r"/(tests?|benchmarks|results|recipe|docs/.*\.py|__pycache__)/|\.(jsonl|pyc|orig)$")
    assert not [name for name in names(wheel) if unwanted.search(name)]
    assert not [name for name in names(wheel) if "emoji-sd" in name or "emoji-lm-large" in name]


def test_the_wheels_are_as_small_as_stated(wheel: Path, larger_models: Path) -> None:
    assert wheel.stat().st_size < 46 * MEGABYTE
    assert larger_models.stat().st_size < 50 * MEGABYTE


def test_the_version_comes_from_one_place(wheel: Path) -> None:
    assert metadata(wheel)["Version"] == hardprompts.__version__
    assert hardprompts.__version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_readme_is_complete_where_it_is_published_and_its_links_lead_somewhere(wheel: Path) -> None:
    text = str(metadata(wheel).get_payload())
    urls = dict(each.split(", ") for each in metadata(wheel).get_all("Project-URL", []))
    whole = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.strip() == program(ROOT / "hatch_build.py").published(whole, urls.get("Source")).strip()
    assert metadata(wheel)["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"\]\(([^)\s]*)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    assert not [link for link in links if not link.startswith(("https://", "#"))]
    assert text.count("```") == whole.count("```") and len(text) > 0.8 * len(whole)


def test_links_of_the_readme_lead_to_the_repository_where_it_has_an_address() -> None:
    published = program(ROOT / "hatch_build.py").published
    page = (
        "![a\npicture](docs/a.png) [words](docs/a.md#part) [far](https://b.c) [here](#top)\n```python\nx[0](y)\n```\n"
    )
    at = "https://host/owner/name"
    assert published(page, f"{at}/") == page.replace("docs/a.png", f"{at}/raw/HEAD/docs/a.png").replace(
        "docs/a.md#part", f"{at}/blob/HEAD/docs/a.md#part"
    )
    assert published(page, None) == page.replace("![a\npicture](docs/a.png)", "").replace(
        "[words](docs/a.md#part)", "words"
    )


def test_the_larger_models_are_whole_and_licensed(larger_models: Path) -> None:
    inside = set(names(larger_models))
    for path in (LARGER_MODELS / "models").rglob("*"):
        if path.is_file():
            assert f"{LARGER_MODELS.name}/{path.relative_to(LARGER_MODELS).as_posix()}" in inside, path
    assert any(name.endswith("licenses/LICENSES.md") for name in inside)
    assert not [name for name in inside if name.endswith("pyproject.toml")]


def test_the_sources_build_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sources = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sources) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (project,) = (tmp_path / "unpacked").iterdir()
    assert not (project / "plugins" / LARGER_MODELS.name).exists()
    again = build(project, "wheel", tmp_path / "again")
    assert sorted(names(again)) == sorted(names(wheel))
