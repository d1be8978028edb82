"""The pages of the documentation tell the truth: what is shown as output is what comes out, and the site has no gaps.

On a page, a block `python` is run, those of one page one after the other in one process, and a block `console` is run
line by line; a block `text` behind either is compared with what they print. Numbers may differ in the last digits from
processor to processor. Blocks `bash` are for readers' own files: their commands and options must exist.
"""

import contextlib
import inspect
import io
import re
import shlex
import shutil
import sys
import typing
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import typer
from commands import Run
from programs import program
from typer.testing import CliRunner

from hardprompts.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
#: The pages with what people start from; each of their blocks is run.
GUIDES = ("image.md", "embedding.md", "long_prompt.md", "labeled_texts.md", "folder.md", "diffusers.md")
#: Other pages whose every block is run.
RUN = ("photo.md", "decoder.md", "language_models.md", "black_box.md", "evidence.md", "editing.md")

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d+")


def blocks(page: Path) -> list[tuple[str, str]]:
    return FENCE.findall(page.read_text(encoding="utf-8"))


def assert_printed(found: str, shown: str) -> None:
    """The words are the same, and the numbers nearly."""
    assert NUMBER.sub("#", found).split() == NUMBER.sub("#", shown).split()
    for one, other in zip(NUMBER.findall(found), NUMBER.findall(shown), strict=True):
        assert float(one) == pytest.approx(float(other), abs=0.02)


@pytest.mark.parametrize("name", (*GUIDES, *RUN))
def test_what_a_guide_shows_is_what_happens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plugin in ("hardprompts_emoji", "hardprompts_photo"):
        shutil.copytree(ROOT / "plugins" / plugin / "examples", tmp_path / "plugins" / plugin / "examples")
    monkeypatch.chdir(tmp_path)
    printed, compared, known = "", 0, {"__name__": "page"}
    for language, text in blocks(DOCS / name):
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, name, "exec"), known)
            printed = out.getvalue()
        elif language == "console":
            lines = text.replace("\\\n", " ").splitlines()
            words = [shlex.split(line, comments=True) for line in lines]
            assert all(line[:1] == ["hardprompts"] for line in words), f"{name}: {text}"
            results = [CliRunner().invoke(app, line[1:]) for line in words]
            assert not any(result.exit_code for result in results), results
            printed = "".join(result.output for result in results)
        elif language == "text":
            assert_printed(printed, text)
            compared += 1
    assert compared


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_commands_and_options_on_a_page_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    prose = re.findall(r"`(hardprompts [^`\n]*)`", FENCE.sub("", page.read_text(encoding="utf-8")))
    lines = [
        line
        for language, text in blocks(page)
        if language in ("bash", "console")
        for line in text.replace("\\\n", " ").splitlines()
    ]
    for line in [*lines, *prose]:
        if not re.match(r"(\$ )?hardprompts \S", line):
            continue  # output, or another program
        words = shlex.split(line.removeprefix("$ "), comments=True)
        known = group
        for word in words[1:]:
            if hasattr(known, "get_command"):  # a plugin's, too
                known = known.get_command(None, word) or known
        options = {option for parameter in known.params for option in parameter.opts + parameter.secondary_opts}
        assert known is not group or words[1].startswith("-"), f"{page.name}: there is no command {words[1]}"
        for word in words:
            if re.match(r"-\w|--\w", word):
                assert word.partition("=")[0] in options | {"--help", "-h"}, f"{page.name}: {line}"


def test_an_output_that_is_wrong_is_found() -> None:
    assert_printed("a fox 0.951\n", "a fox 0.952\n")
    for wrong in ("a fox 0.852\n", "a wolf 0.951\n", "a fox\n"):
        with pytest.raises(AssertionError):
            assert_printed("a fox 0.951\n", wrong)
    Run("--version")


# --- the site ---------------------------------------------------------------------------------


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for name, value in attrs if name in ("href", "src") and value]


def hooks() -> ModuleType:
    return program(DOCS / "site_hooks.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_the_six_tasks_are_one_click_away(site: Path) -> None:
    links = Links()
    links.feed((site / "index.html").read_text(encoding="utf-8"))
    assert {
        "image.html",
        "embedding.html",
        "long_prompt.html",
        "labeled_texts.html",
        "folder.html",
        "comfyui.html",
    } <= set(links.targets)


def test_a_readers_browser_asks_nobody_else(site: Path) -> None:
    for page in site.glob("*.html"):
        links = Links()
        text = page.read_text(encoding="utf-8")
        links.feed(re.sub(r"<a\b[^>]*>", "", text))  # what a person may click on is not asked for
        away = [target for target in links.targets if re.match(r"(https?:)?//", target)]
        assert not away, f"{page.name} loads {away}"


def test_every_public_name_is_described(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for package in hooks().PACKAGES:
        for name, home in hooks().public_names(package):
            assert f'id="{home}"' in page or f"<code>{name}</code> is described above" in page, f"{package}.{name}"
            value = getattr(sys.modules[package], name)
            if typing.get_origin(value) is None and (inspect.isclass(value) or inspect.isfunction(value)):
                assert value.__doc__, f"{package}.{name} has no docstring"


def test_every_message_is_on_its_page(site: Path) -> None:
    page = (site / "messages.html").read_text(encoding="utf-8")
    assert page.count("<li>") > 300
    assert "reads the text ... differently from its tokens" in page and "<!-- messages -->" not in page


def test_every_command_is_on_its_page(site: Path) -> None:
    page = (site / "commands.html").read_text(encoding="utf-8")
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"hardprompts {name}" in page
