"""The plugin in docs/plugins.md works as it stands there: installed, found, conforming, selectable."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from PIL import Image
from programs import program

from hardprompts import PromptInverter, load_backend
from hardprompts.applications import load_generator
from hardprompts.inversion import load_captioner
from hardprompts.plugins import register, unregister
from hardprompts.testing import check_backend, check_captioner, check_generator, toy_backend

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The first fenced block of a language that contains some text."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return next(code for code in found if containing in code)


def test_the_plugin_of_the_docs_works_when_it_is_installed(tmp_path: Path) -> None:
    code = block("python", "class RandomSwap")
    project = tomllib.loads(block("toml", "entry-points"))["project"]
    ((name, module),) = project["entry-points"]["hardprompts"].items()

    # What pip leaves behind: the module, and metadata with its entry point.
    (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
    metadata = tmp_path / f"{module}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (metadata / "entry_points.txt").write_text(f"[hardprompts]\n{name} = {module}\n")

    (tmp_path / "picture.png").touch()
    toy_backend().image_encoder.picture("red house near river").save(tmp_path / "picture.png")  # type: ignore[union-attr]
    script = f"""
import sys
from types import SimpleNamespace
from hardprompts import PromptInverter, hookimpl
from hardprompts.plugins import plugins
from hardprompts.testing import check_search, toy_backend
import {module}

assert plugins()["{name}"] == ("random-swap",)
check_search({module}.RandomSwap())
prompt = PromptInverter(toy_backend(), method="random-swap").invert(
    "picture.png", num_tokens=4, max_steps=200, seed=0, views=1, progress=False
)
assert prompt.method == "random-swap" and prompt.score > 0.5, prompt
assert "transformers" not in sys.modules
"""
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stderr


def test_the_model_of_the_docs_conforms_and_names_a_color(tmp_path: Path) -> None:
    (tmp_path / "hardprompts_words.py").write_text(block("python", "class WordEncoder"), encoding="utf-8")
    register(program(tmp_path / "hardprompts_words.py"), "words")
    try:
        backend = load_backend("words:", device="cpu")
        check_backend(backend, texts=("a red house near the river", "big boat"))
        picture = Image.new("RGB", (9, 6), (3, 200, 5))
        assert PromptInverter(backend).invert(picture, num_tokens=1, seed=0, progress=False).text == "green"
    finally:
        unregister("words")


def test_the_captioner_of_the_docs_is_where_a_search_begins() -> None:
    scope: dict[str, object] = {}
    exec(compile(block("python", "def captioners"), "plugins.md", "exec"), scope)
    register(types.SimpleNamespace(captioners=scope["captioners"]), "shape")
    try:
        check_captioner(load_captioner("shape:"))
        inverter = PromptInverter("emoji", captioner="shape:", device="cpu")
        found = inverter.invert(Image.new("RGB", (9, 6)), 4, max_steps=0, restarts=2, words=False, progress=False)
        assert any(candidate.text.startswith("a wide") for candidate in found.candidates)
    finally:
        unregister("shape")


def test_the_generator_of_the_docs_draws() -> None:
    scope: dict[str, object] = {}
    exec(compile(block("python", "def generators"), "plugins.md", "exec"), scope)
    register(types.SimpleNamespace(generators=scope["generators"]), "plain")
    try:
        check_generator(load_generator("plain:red"))
        drawn = load_generator("plain:red")(["a", "b"], [0, 1])
        assert [picture.getpixel((0, 0)) for picture in drawn if picture] == [(255, 0, 0)] * 2
    finally:
        unregister("plain")


def test_the_plugin_is_as_short_as_we_say() -> None:
    lines = [line for line in block("python", "class RandomSwap").splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("import", "from"))]) <= 16


def test_a_tuner_in_scikit_learn_prints_what_the_page_says() -> None:
    page = (ROOT / "docs" / "classification.md").read_text(encoding="utf-8").partition("### In scikit-learn\n")[2]
    code, said = re.findall(r"^```(?:python|console)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[:2]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout == said, found.stderr


def test_the_pages_name_files_that_exist() -> None:
    for page in (ROOT / "docs" / "plugins.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_what_the_page_of_soft_prompts_prints(tmp_path: Path) -> None:
    """Blocks of Python that another block follows print what stands in that one."""
    page = (ROOT / "docs" / "soft_prompts.md").read_text(encoding="utf-8")
    pairs = re.findall(r"^```python\n((?:(?!```).)*)^```\n\n^```\n((?:(?!```).)*)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(pairs) == 2
    for code, printed in pairs:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert run.stdout == printed
