"""Opens the page in a real browser, uses each tab, and takes eleven pictures.

    python tests/plugins/app/page_screenshots.py [FOLDER]

Needs playwright and Debian's chromium. Pictures of docs/app.md are taken into docs/app, all into FOLDER if there is one.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from page_server import ROOT, chromium, opened, running

EXAMPLES = ROOT / "plugins" / "hardprompts_emoji" / "examples"
PICTURES = ROOT / "docs" / "app"

#: Those of the page in the documentation.
SHOWN = ("done", "drawn", "exchange", "phone")

#: Those of which a part is shown alone.
PARTS = {"exchange": ".hp-exchange"}

LONG = (
    "a large drawing of a fox in a flat style, a fox on a violet background, a picture of one fox, violet everywhere, "
    "<lora:flat_style:0.8>, (fox:1.2)"
)


def drop(page: Any, *files: Path, place: int = 0) -> None:
    """Gives files to the tab's field for them."""
    page.locator("input[type=file]").nth(place).set_input_files([str(file) for file in files])


def find(page: Any, *files: Path) -> None:
    """Searches the prompt of images until it is there."""
    drop(page, *files)
    page.locator(".hp-thumb").first.wait_for()
    page.get_by_role("button", name="Find the prompt").click()
    page.locator(".hp-words").first.wait_for()
    page.wait_for_timeout(500)


def exchange(page: Any, old: str, new: str) -> None:
    """Exchanges a word of the prompt, in the panel that is opened for it, until it says what that did."""
    if not page.get_by_label("This word").is_visible():
        page.get_by_role("button", name="Exchange a word").click()
    page.get_by_label("This word").fill(old)
    page.get_by_label("becomes").fill(new)
    page.get_by_role("button", name="Exchange", exact=True).click()
    page.locator(".hp-exchange :is([role=status], [role=alert])").first.wait_for()


def draw(page: Any, file: Path, pictures: int) -> None:
    """Searches by so many pictures of the embedded generator until the prompt is there."""
    drop(page, file)
    page.locator(".hp-thumb").first.wait_for()
    page.get_by_label("By pictures of a generator").check()
    page.get_by_label("Pictures at most").fill(str(pictures))
    page.get_by_role("button", name="Words, bans, time, seed").first.click()
    page.get_by_label("Seconds at most").first.fill("")
    page.get_by_label("Seed").first.fill("0")
    page.get_by_role("button", name="Words, bans, time, seed").first.click()
    page.get_by_role("button", name="Find the prompt").click()
    page.locator(".hp-words").first.wait_for()
    page.wait_for_timeout(500)


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_timeout(300)


def embedding(folder: Path) -> Path:
    """The file of an embedding that says something: two tokens between words of the embedded model."""
    from safetensors.torch import save_file

    from hardprompts import load_backend

    vocabulary = load_backend("emoji").vocabulary
    ids = [vocabulary.encode(word)[0] for word in ("fox", "neon", "night")]
    table = vocabulary.table[ids]
    path = folder / "neon_fox.safetensors"
    save_file({"emb_params": (0.7 * table[:2] + 0.3 * table[1:]).clone()}, path)
    return path


def shots(browser: Any, url: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """Each picture's name, and the page at that time."""
    fox, owl = EXAMPLES / "fox-purple-flat.png", EXAMPLES / "owl-brown-night.png"
    page = opened(browser, url)
    yield "start", page
    drop(page, *sorted(EXAMPLES.glob("*.png")))
    page.locator(".hp-thumb").nth(9).wait_for()
    page.get_by_role("button", name="Find the prompt").click()
    page.locator(".hp-token").first.wait_for()
    yield "running", page
    page.get_by_role("button", name="Stop").first.click()
    page.locator(".hp-words").first.wait_for()

    page = opened(browser, url)
    page.get_by_label("Yes", exact=True).check()
    find(page, owl, fox)
    page.locator(".hp-evidence").wait_for()
    page.wait_for_timeout(1500)
    yield "done", page
    page.get_by_label("Edit it; its score follows").fill("fox purple background")
    page.get_by_text("against the best").wait_for()
    yield "edited", page

    page = opened(browser, url)
    drop(page, fox)
    page.locator(".hp-thumb").first.wait_for()
    page.get_by_label("My own words").check()
    page.get_by_label("Your own words").fill("flat fox violet purple")
    page.get_by_role("button", name="Compare my words").click()
    page.locator(".hp-words").first.wait_for()
    exchange(page, "fox", "wolf")
    page.get_by_role("button", name="Which words depend").click()
    page.get_by_text("beside the other").first.wait_for()
    page.wait_for_timeout(500)
    yield "exchange", page

    page = opened(browser, url)
    draw(page, fox, 40)
    yield "drawn", page

    page = opened(browser, url)
    tab(page, "Embedding")
    drop(page, embedding(folder), place=1)
    page.get_by_label("Compare with the words of").fill("emoji")
    page.get_by_label("Compare with the words of").press("Enter")
    page.get_by_role("button", name="Look into it").click()
    page.get_by_text("nearest words").first.wait_for()
    page.wait_for_timeout(500)
    yield "embedding", page

    tab(page, "Shorten")
    page.get_by_label("A long prompt").fill(LONG)
    page.get_by_role("button", name="Shorten it").click()
    page.get_by_text("faithfulness").first.wait_for()
    page.wait_for_timeout(500)
    yield "shorten", page

    pictures = folder / "pictures"
    pictures.mkdir()
    for file in sorted(EXAMPLES.glob("*.png"))[:5]:
        shutil.copy(file, pictures)
    tab(page, "Folder")
    page.get_by_label("A folder of this machine").fill(str(pictures))
    page.get_by_role("button", name="Write captions").click()
    page.get_by_text("5 captions, 0 failed").wait_for()
    yield "folder", page

    page = opened(browser, url, color_scheme="dark")
    find(page, fox)
    yield "dark", page
    page = opened(browser, url, viewport={"width": 360, "height": 740})
    find(page, owl)
    page.locator(".hp-status").first.evaluate("(line) => line.scrollIntoView()")
    page.wait_for_timeout(300)
    yield "phone", page

    broken = folder / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no image any more")
    page = opened(browser, url)
    drop(page, broken)
    page.locator(".hp-error").first.wait_for()
    yield "error", page


@contextmanager
def started(*arguments: str) -> Iterator[tuple[Any, str, Path]]:
    """A browser, the page's address, and a folder for files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        with running(folder, *arguments) as url, chromium() as browser:
            yield browser, url, folder / "files"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    everything = parser.parse_args().folder
    PICTURES.mkdir(parents=True, exist_ok=True)
    with started("--model", "emoji") as (browser, url, folder):
        for name, page in shots(browser, url, folder):
            print(name, page.asked_elsewhere, page.errors)  # noqa: T201
            if everything is not None:
                everything.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=everything / f"{name}.png", full_page=True)
            if name in SHOWN:
                path = PICTURES / f"{name}.png"
                if name in PARTS:
                    page.locator(PARTS[name]).screenshot(path=path)
                else:
                    page.screenshot(path=path, full_page=name != "phone")


if __name__ == "__main__":
    main()
