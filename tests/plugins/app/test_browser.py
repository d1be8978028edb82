"""The page in a real browser, in which everything but this machine is refused: `pytest -m browser tests/plugins/app`."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip("gradio", reason="the extra `app` is not installed")
pytest.importorskip("playwright", reason="drives the browser")

sys.path.insert(0, str(Path(__file__).parent))
from page_screenshots import EXAMPLES, draw, drop, exchange, find, started, tab  # noqa: E402 - it stands beside this file
from page_server import ROOT, opened, running  # noqa: E402

FOX, OWL = EXAMPLES / "fox-purple-flat.png", EXAMPLES / "owl-brown-night.png"

#: Seconds from a dropped image to its prompt.
SOON = 20


@pytest.fixture(scope="module")
def there() -> Iterator[tuple[Any, str, Path]]:
    with started("--model", "emoji") as found:
        yield found


@pytest.fixture
def page(there: tuple[Any, str, Path]) -> Iterator[Any]:
    """A tab of its own, which asked nobody but this machine and met no error when it is left."""
    page = opened(there[0], there[1])
    yield page
    asked, errors = page.asked_elsewhere, page.errors
    page.context.close()
    assert not asked and not errors


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name).first.click()


def reads(field: Any, text: str) -> None:
    """Waits until a field has this text."""
    from playwright.sync_api import expect

    expect(field).to_have_value(text, timeout=60_000)


def endless(page: Any, folder: Path) -> None:
    """Begins a search that takes minutes unless somebody stops it: 60 images, long prompts of any tokens."""
    files = [folder / f"{number}_{file.name}" for number in range(6) for file in sorted(EXAMPLES.glob("*.png"))]
    for file in files:
        shutil.copy(EXAMPLES / file.name.partition("_")[2], file)
    drop(page, *files)
    page.locator(".hp-thumb").nth(59).wait_for()
    page.get_by_label("Length in tokens").first.fill("24")
    press(page, "Words, bans, time, seed")
    page.get_by_label("Any tokens").check()
    page.get_by_label("Seconds at most").first.fill("300")
    page.get_by_label("Seconds at most").first.press("Tab")
    press(page, "Find the prompt")


@pytest.mark.parametrize(
    "model, picture", [("emoji", FOX), ("photo", ROOT / "plugins" / "hardprompts_photo" / "examples" / "cat.jpg")]
)
def test_a_dropped_image_becomes_a_prompt_soon(
    there: tuple[Any, str, Path],
    tmp_path: Path,
    model: str,
    picture: Path,
    record_property: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HARDPROMPTS_CACHE", str(tmp_path / "cache"))
    with running(tmp_path, "--model", model) as url:
        page = opened(there[0], url)
        started = time.monotonic()
        find(page, picture)  # the first search on this machine: no word was read before
        seconds = time.monotonic() - started
        text = page.locator(".hp-prompt code").first.inner_text()
        record_property("seconds", seconds)
        print(f"{model}: {seconds:.1f} s from a dropped image to its prompt")  # noqa: T201
        assert ("cat" if model == "photo" else "fox") in text
        assert seconds < SOON and not page.asked_elsewhere


def test_a_stopped_search_gives_its_best_and_the_next_begins_at_once(
    there: tuple[Any, str, Path], page: Any, tmp_path: Path
) -> None:
    other = opened(there[0], there[1])
    drop(other, OWL)
    other.locator(".hp-thumb").first.wait_for()
    endless(page, tmp_path)
    page.locator(".hp-token").first.wait_for()
    press(other, "Find the prompt")
    other.get_by_text("waiting for its turn").wait_for()
    press(page, "Stop")
    stopped = time.monotonic()
    other.get_by_text("waiting for its turn").wait_for(state="detached")
    begun = time.monotonic() - stopped
    page.get_by_text("you stopped it").wait_for()
    other.locator(".hp-words").first.wait_for()
    assert begun < 5  # the last step of one search and, in a browser on a busy machine, two messages
    assert page.locator(".hp-prompt").count() >= 10
    assert other.locator(".hp-thumb").count() == 1
    other.context.close()


def test_a_closed_tab_frees_the_device(there: tuple[Any, str, Path], page: Any, tmp_path: Path) -> None:
    other = opened(there[0], there[1])
    endless(other, tmp_path)
    other.locator(".hp-token").first.wait_for()
    other.context.close()
    find(page, FOX)


def test_a_damaged_file_and_no_file_are_one_line(there: tuple[Any, str, Path], page: Any) -> None:
    press(page, "Find the prompt")
    page.get_by_role("alert").filter(has_text="there is no image yet").wait_for()
    broken = there[2] / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    drop(page, broken)
    page.get_by_role("alert").filter(has_text="broken.jpg").wait_for()
    assert page.locator(".hp-prompt").count() == 0 and page.locator(".toast-wrap .error").count() == 0


def test_a_huge_file_is_refused_in_one_line(there: tuple[Any, str, Path], page: Any) -> None:
    huge = there[2] / "huge.png"
    huge.write_bytes(FOX.read_bytes() + bytes(21 * 2**20))
    drop(page, huge)
    page.get_by_text("20").and_(page.locator("[class*=toast], [data-testid=toast-body] *")).first.wait_for()
    assert page.locator(".hp-thumb").count() == 0


def test_an_edited_candidate_is_scored_and_copied(page: Any) -> None:
    find(page, FOX)
    page.locator(".hp-candidates label").nth(1).click()
    page.get_by_label("Edit it; its score follows").fill("a (fox) on purple")
    page.locator(".hp-prompt").last.filter(has_text="(fox)").wait_for()
    for name, text in (
        ("Copy for ComfyUI", r"a \(fox\) on purple"),
        ("Copy for A1111", r"a \(fox\) on purple"),
        ("Copy for diffusers", "image = pipe(prompt='a (fox) on purple').images[0]"),
        ("Copy JSON", '"text": "a (fox) on purple"'),
    ):
        press(page, name)
        page.get_by_role("button", name="Copied").wait_for()
        assert text in page.evaluate("() => navigator.clipboard.readText()")
        page.get_by_role("button", name=name).wait_for()


def test_a_seed_is_empty_until_one_is_typed_and_then_kept(page: Any) -> None:
    press(page, "Words, bans, time, seed")
    seed = page.get_by_label("Seed", exact=False).first
    assert seed.input_value() == ""
    seed.fill("7")
    find(page, FOX)
    page.get_by_text("seed 7;").wait_for()
    seed.fill("seven")
    press(page, "Find the prompt")
    page.get_by_role("alert").filter(has_text="whole number").wait_for()


def test_notices_and_the_order_of_candidates_are_said(page: Any) -> None:
    press(page, "Words, bans, time, seed")
    page.get_by_label("Seed", exact=False).first.fill("0")
    find(page, FOX)
    page.get_by_role("note").filter(has_text="it knows emoji scenes").wait_for()
    page.get_by_text("ranked by 8 views of each image").wait_for()
    page.get_by_label("Seconds at most").first.fill("0.05")
    press(page, "Find the prompt")
    page.get_by_role("note").filter(has_text="no room within the limits").wait_for()


def test_a_style_and_the_decoder_alone_are_chosen(page: Any) -> None:
    page.get_by_label("Decoder alone (fast)").check()
    page.get_by_label("Tags").check()
    find(page, FOX)
    page.get_by_text("the best of what was proposed, without a search").wait_for()
    assert ", " in page.locator(".hp-prompt code").first.inner_text()


def test_a_generator_draws_something_like_the_image(page: Any) -> None:
    assert not page.get_by_label("What draws").is_visible()
    draw(page, FOX, 12)
    drawn = page.locator(".hp-drawn figure")
    assert drawn.count() == 2 and "12 pictures, 0 of them failed" in drawn.nth(1).inner_text()
    assert "image similarity on fresh seeds" in page.locator(".hp-prompt").first.inner_text()
    page.get_by_text("12 pictures, seed 0; the pictures of the budget were drawn").wait_for()
    page.get_by_label("Pictures at most").fill("500")
    press(page, "Find the prompt")
    page.get_by_text("of 500 pictures").wait_for()
    page.locator(".hp-drawn img").first.wait_for()  # the best so far has its picture
    press(page, "Stop")
    page.get_by_text("you stopped it").wait_for()
    assert drawn.count() == 2


def test_words_are_checked_and_shown_in_the_picture(page: Any) -> None:
    page.get_by_label("Yes", exact=True).check()
    find(page, EXAMPLES / "selfie-hourglass-key-blue-sepia.png")
    table = page.locator(".hp-evidence")
    table.wait_for()
    assert "true of the picture" in table.inner_text()
    page.get_by_label("Edit it; its score follows").fill("a <b>key</b>, blue")
    page.get_by_text("against the best").wait_for()
    table.wait_for(state="detached")  # what it said was about another text
    press(page, "Check each word against the image")
    table.wait_for()
    assert "key" in table.inner_text() and page.locator(".hp-evidence b").count() == 0
    page.get_by_label("key", exact=True).check()
    assert page.locator(".hp-place").get_attribute("alt") == "where key fits best"


def test_a_word_is_exchanged_and_the_way_back_is_kept(page: Any) -> None:
    drop(page, FOX)
    page.locator(".hp-thumb").first.wait_for()
    page.get_by_label("My own words").check()
    page.get_by_label("Your own words").fill("flat fox violet purple")
    press(page, "Compare my words")
    page.get_by_text("your own words; nothing was searched").wait_for()
    page.locator(".hp-words").first.wait_for()
    exchange(page, "fox", "wolf")
    text = page.get_by_label("Edit it; its score follows")
    reads(text, "flat wolf violet purple")
    page.locator(".hp-prompt small", has_text="against the best").wait_for()
    changed = page.locator(".hp-exchange [role=status]")
    assert "in the direction from 'fox' to 'wolf'" in changed.inner_text() and "violet" in changed.inner_text()
    press(page, "Which words depend on each other?")
    page.get_by_text("'violet' and 'purple': each adds").wait_for()
    exchange(page, "foxx", "bear")
    alert = page.locator(".hp-exchange [role=alert]")
    alert.filter(has_text="is not a word of the prompt").wait_for()
    reads(text, "flat wolf violet purple")
    reads(page.get_by_label("This word"), "foxx")
    press(page, "Back to: flat fox violet purple")
    reads(text, "flat fox violet purple")
    page.get_by_text("beside the other").first.wait_for(state="detached")  # it was about another text
    page.get_by_role("button", name="Back to").wait_for(state="detached")
    text.fill("fox fox")
    exchange(page, "fox", "wolf")
    alert.filter(has_text="with the tick below").wait_for()
    page.get_by_label("Everywhere").check()
    exchange(page, "fox", "wolf")
    page.get_by_role("button", name="Back to: fox fox").wait_for()
    reads(text, "wolf wolf")


def test_the_keyboard_is_enough(page: Any) -> None:
    drop(page, FOX)
    page.locator(".hp-thumb").first.wait_for()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.textContent.trim()") == "Find the prompt":
            break
    page.keyboard.press("Enter")
    page.locator(".hp-words").first.wait_for()


def test_a_phone_scrolls_down_and_not_sideways(there: tuple[Any, str, Path]) -> None:
    phone = opened(there[0], there[1], viewport={"width": 360, "height": 740}, has_touch=True)
    find(phone, FOX)
    wide = "() => document.documentElement.scrollWidth"
    exchange(phone, "fox", "wolf")
    press(phone, "Which words depend on each other?")
    phone.get_by_text("beside the other").first.wait_for()
    assert phone.evaluate(wide) <= 360
    for name in ("Embedding", "Shorten", "Folder"):
        if phone.get_by_role("tab", name=name).is_visible():
            tab(phone, name)
            assert phone.evaluate(wide) <= 360, name
    phone.context.close()


def test_nothing_that_was_uploaded_is_left(there: tuple[Any, str, Path], tmp_path: Path) -> None:
    with running(tmp_path, "--model", "emoji") as url:
        page = opened(there[0], url)
        drop(page, FOX)
        page.locator(".hp-thumb").first.wait_for()
        assert list(tmp_path.rglob(FOX.name))
    assert not list(tmp_path.rglob(FOX.name)) and not list(tmp_path.glob("hardprompts-app-*"))
