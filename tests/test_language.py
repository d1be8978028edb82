"""What users read is plain English: no phrases that a stranger has to read twice. (Spelling is codespell's.)"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: What to write, by the pattern that it replaces.
PLAIN = {
    r"in (?:the|its|his|her|their) stead": "instead, instead of",
    r"(?:is|are|was|were|be) told": "knows, gets, is given",
    r"told of": "given, known about",
    r"as far as": "if, where, up to, as nearly as",
    r"(?:is|are|be|was|were) had\b": "comes from, read ... with",
    r"(?<!here )(?:is|are|was|were) no (?!longer|more\b|less\b|better\b|worse\b)": "is not a",
    r"hold(?:s|ing)? \w+ for the best": "ranks best, according to",
    r"no other betters": "no other is better",
    r"gone on from": "continued from",
    r"goes? on where": "resumes where",
    r"misspelt": "misspelled",
}
ARCHAIC = re.compile("|".join(f"\\b{pattern}" for pattern in PLAIN), re.IGNORECASE)


def pages() -> list[Path]:
    """Markdown that users read, and the English names and tooltips of the ComfyUI nodes."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    found += [*ROOT.glob("comfyui_nodes/**/*.md"), *ROOT.glob("plugins/**/*.md"), *ROOT.glob("sdk/**/*.jinja")]
    return [*found, ROOT / "comfyui_nodes" / "locales" / "en" / "nodeDefs.json"]


def modules() -> list[Path]:
    """Python whose texts users read: node texts, help of commands, messages and docstrings."""
    return sorted([*ROOT.glob("comfyui_nodes/*.py"), *ROOT.glob("sdk/**/*.py"), *ROOT.glob("plugins/*/*.py")])


def strings(source: str) -> Iterator[str]:
    """The string constants of Python code, docstrings and parts of f-strings included, on one line each."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())


def archaic(text: str) -> list[str]:
    """What is hard to understand in a text, with what surrounds it."""
    line = " ".join(text.split())
    return [line[max(0, found.start() - 40) : found.end() + 20] for found in ARCHAIC.finditer(line)]


@pytest.mark.parametrize(
    "text",
    [
        "In the stead of image: features", "in its stead", "what a denoiser is told of a text", "as far as words can",
        "a text encoder that is no CLIP", "The soft prompt is had through `observe`.", "a model holds it for the best",
        "prompts that no other betters", "the best is gone on from", "it goes on where it stopped",
    ],
)  # fmt: skip
def test_archaic_phrases_are_found(text: str) -> None:
    assert archaic(text)


@pytest.mark.parametrize(
    "text",
    [
        "there is no such folder",
        "There is no image",
        "which is no longer there",
        "instead of an image",
        "is not a CLIP",
    ],
)
def test_plain_phrases_are_not(text: str) -> None:
    assert not archaic(text)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_plain(page: Path) -> None:
    found = archaic(page.read_text(encoding="utf-8"))
    assert not found, f"write it in plain English (see PLAIN): {found}"


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.relative_to(ROOT)))
def test_texts_in_code_are_plain(module: Path) -> None:
    found = [phrase for text in strings(module.read_text(encoding="utf-8")) for phrase in archaic(text)]
    assert not found, f"write it in plain English (see PLAIN): {found}"
