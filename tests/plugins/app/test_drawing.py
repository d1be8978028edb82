"""The way *By pictures* of the page, without a browser and without Gradio."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from following import seen_and_found
from painter import TOWER, NoisyPainter
from PIL import Image

from hardprompts import hookimpl
from hardprompts.errors import BackendError, ImageError, UnknownName
from hardprompts.plugins import register, unregister
from hardprompts.search.protocol import SearchProgress
from hardprompts_app import drawing, image
from hardprompts_app.display import drawn_html, ended
from hardprompts_app.work import Job, Models

pytestmark = pytest.mark.usefixtures("toy_plugin")

FAST = {"num_tokens": 3, "seed": 0}


class Plugin:
    @hookimpl
    def generators(self) -> dict[str, Any]:
        return {"painted": lambda name, *, device, dtype: NoisyPainter()}


@pytest.fixture(autouse=True)
def painted() -> Iterator[None]:
    register(Plugin(), "painted")
    yield
    unregister("painted")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    TOWER.picture("red house old river").save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_a_prompt_is_found_by_drawing_and_its_picture_is_shown(picture: str) -> None:
    models = Models("toy")
    seen, found = seen_and_found(drawing.find(models, Job(), [picture], "toy", "painted:any", 30, FAST))
    (prompt,) = found.prompts
    assert seen and prompt.provenance["pictures"] == 30 and prompt.score_unit == "image similarity on fresh seeds"
    ((drawn, caption),) = found.drawn
    assert drawn.tobytes() == NoisyPainter()([prompt.text], [1000])[0].tobytes()
    assert caption == f"{prompt.filled} (30 pictures, 0 of them failed)" and "30 pictures, seed 0" in ended(prompt)
    page = drawn_html(found.pictures[0], found.drawn)
    assert page.count("<img") == 2 and "the image" in page and drawn_html([], ()) == ""
    edited = image.edited(models, found, 0, "red house")
    assert edited.score_unit == "cosine similarity" != prompt.score_unit


def test_what_is_shown_meanwhile_has_the_last_picture_of_the_best_so_far(picture: str) -> None:
    class Slow(Job[Any]):
        shown: image.Live | None = None

        def __call__(self, progress: SearchProgress) -> bool:
            stopped = super().__call__(progress)
            if progress.step >= 10 and self.shown is None:
                best = progress.best[0]
                assert best is not None
                filled = f"a {best.text} here"
                last = {filled: Image.new("RGB", (4, 4), "red"), best.text: Image.new("RGB", (4, 4), "blue")}
                self.shown = drawing._live(self, last, "a {} here")
            return stopped

    job = Slow()
    options = {**FAST, "template": "a {} here"}
    seen_and_found(drawing.find(Models("toy"), job, [picture], "toy", "painted:any", 20, options))
    assert job.shown is not None and "of 20 pictures" in job.shown.doing
    assert job.shown.drawn[0][0].getpixel((0, 0)) == (255, 0, 0)
    assert job.shown.prompts[0].filled.startswith("a ")


def test_a_stopped_drawing_gives_its_best_with_a_picture(picture: str) -> None:
    class Stopping(Job[Any]):
        def __call__(self, progress: SearchProgress) -> bool:
            self.stop()
            return super().__call__(progress)

    _, found = seen_and_found(drawing.find(Models("toy"), Stopping(), [picture], "toy", "painted:any", 200, FAST))
    assert found.prompts[0].stop_reason == "cancelled" and found.prompts[0].provenance["pictures"] < 20
    assert len(found.drawn) == 1


def test_what_cannot_be_drawn_is_said(picture: str) -> None:
    def fails(generator: str, error: type[Exception], message: str, budget: int = 20, private: bool = True) -> None:
        models = Models("emoji" if not private else "toy", private=private)
        with pytest.raises(error, match=message):
            seen_and_found(drawing.find(models, Job(), [picture], "", generator, budget, FAST))

    fails("", BackendError, "no generator yet")
    fails("midjourney:5", UnknownName, "midjourney")
    fails("python:os:remove", BackendError, "calls no functions")
    fails("painted:any", ValueError, "from 5 to 1000", budget=4)
    fails("painted:any", UnknownName, "emoji:emoji-sd", private=False)
    with pytest.raises(ImageError, match="no image yet"):
        seen_and_found(drawing.find(Models("toy"), Job(), None, "", "painted:any", 20, FAST))


def test_words_are_checked_and_what_a_search_by_pictures_has_not_is_said(picture: str) -> None:
    options = {**FAST, "evidence": True}
    _, found = seen_and_found(drawing.find(Models("toy"), Job(), [picture], "toy", "painted:any", 20, options))
    assert found.prompts[0].evidence and found.prompts[0].provenance["pictures"] == 20
    for name in ("style", "editable", "min_evidence"):
        with pytest.raises(ValueError, match=f"has no {name}"):
            seen_and_found(drawing.find(Models("toy"), Job(), [picture], "", "painted:any", 20, {name: 1}))


def test_generators_that_come_along_are_offered_and_folders_are_not() -> None:
    assert drawing.names(private=True) == drawing.names(private=False) == ["emoji:emoji-sd"]


def test_a_generator_that_refuses_shows_nothing_of_that() -> None:
    def some(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        return [None, Image.new("RGB", (2000, 1000))][: len(prompts)]

    shown = drawing.Shown(some)
    assert shown(["a", "b"], [0, 0])[0] is None
    assert list(shown.last) == ["b"] and max(shown.last["b"].size) == drawing.SIDE
