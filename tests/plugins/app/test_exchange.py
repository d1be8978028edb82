"""A word exchanged on the page, words that depend on each other, and words of one's own, without a browser."""

import dataclasses
from typing import Any

import pytest
from following import seen_and_found

from hardprompts import HardPrompt, PromptInverter
from hardprompts.applications import edit, word_interactions
from hardprompts.errors import ImageError, VocabularyError
from hardprompts.testing import toy_backend
from hardprompts.wording import WordInteractions
from hardprompts_app import exchange, image
from hardprompts_app.display import ended
from hardprompts_app.work import Job, Models

pytestmark = pytest.mark.usefixtures("toy_plugin")


def written(models: Models, paths: list[str] | None, text: str, together: bool = False, **options: Any) -> image.Found:
    """What was found, by somebody who wrote it."""
    writing = image.written(models, Job(), paths, together, "toy", text, options)
    return seen_and_found(writing)[1]  # type: ignore[no-any-return]


def test_own_words_stand_where_a_search_would_have_found_others(models: Models, pictures: list[str]) -> None:
    found = written(models, pictures, "  red house ")
    assert found.labels == ["1. a.png", "2. b.png"] and [one.text for one in found.prompts] == ["red house"] * 2
    for prompt, picture in zip(found.prompts, pictures, strict=True):
        score = PromptInverter(toy_backend()).score("red house", picture)
        assert prompt.score == pytest.approx(score, abs=1e-5) and [one.text for one in prompt.candidates] == [
            "red house"
        ]
        assert len(prompt.attributions) == 2 and prompt.method == "by hand" and not prompt.evidence
    assert ended(found.prompts[0]) == "your own words; nothing was searched"
    assert len(written(models, pictures, "red house", together=True).prompts) == 1
    told = written(models, pictures[:1], "red house", evidence=True).prompts[0]
    assert [one.phrase for one in told.evidence] == ["red", "house"]
    with pytest.raises(ValueError, match="no words yet"):
        written(models, pictures, "  ")
    with pytest.raises(ImageError, match="no image yet"):
        written(models, None, "red house")


def test_a_word_is_exchanged_as_by_the_front_door(models: Models, pictures: list[str]) -> None:
    found = written(models, pictures, "red house")
    made = exchange.exchanged(models, found, 1, "old red house", "house", "boat", False)
    known = edit("old red house", "house", "boat", toy_backend())
    assert made.prompt.text == "old red boat" and made.others == known.others
    shown = exchange.exchange_html(made)
    assert "old red house <b>became</b> old red boat" in shown and "The meaning moved by" in shown
    assert "<th class=hp-figure>changed by</th>" in shown and "<td>old</td>" in shown
    with pytest.raises(VocabularyError, match="did you mean 'house'"):
        exchange.exchanged(models, found, 0, "red house", "hous", "boat", False)
    assert exchange.exchanged(models, found, 0, "red house red", "red", "old", True).prompt.text == "old house old"


def test_the_template_of_what_was_found_stays(models: Models, pictures: list[str]) -> None:
    found = written(models, pictures[:1], "house")
    inside = dataclasses.replace(found, prompts=(dataclasses.replace(found.prompts[0], template="the {} in snow"),))
    made = exchange.exchanged(models, inside, 0, "red house", "house", "boat", False)
    assert made.prompt.filled == "the red boat in snow" and made.before == "the red house in snow"
    known = word_interactions(HardPrompt("red house", (), 0.0, "the {} in snow"), toy_backend(), pictures[0])
    told = exchange.dependent(models, inside, 0, "red house").interactions
    assert told is not None and known.interactions is not None
    assert told.values[0][1] == pytest.approx(known.interactions.values[0][1], abs=1e-5)


def test_words_that_depend_on_each_other_are_a_table_in_colors(models: Models, pictures: list[str]) -> None:
    found = written(models, pictures, "red house")
    shown = exchange.dependence_html(exchange.dependent(models, found, 0, "red house river"))
    assert "<td>river</td>" in shown and "beside the other" in shown and 'style="background:#' in shown
    alone = exchange.dependence_html(exchange.dependent(models, found, 0, "house"))
    assert "Its words do not depend on each other." in alone and "style=" not in alone
    with pytest.raises(VocabularyError, match="no word that says something"):
        exchange.dependent(models, found, 0, "of the")
    hurried = HardPrompt("red", (), 0.0, left_out=("interactions of phrases: 0 of 3",))
    assert "no room within the limits" in exchange.dependence_html(hurried)


def test_nothing_that_is_typed_acts_on_the_page(models: Models, pictures: list[str]) -> None:
    hostile = "<b>red</b>"
    told = WordInteractions((hostile, "house"), (0.1, 0.2), ((0.0, -0.1), (-0.1, 0.0)))
    shown = exchange.dependence_html(HardPrompt(hostile, (), 0.0, interactions=told))
    made = exchange.exchanged(models, written(models, pictures, "red house"), 0, "red house", "red", "old", False)
    marked = dataclasses.replace(
        made, before=hostile, old=hostile, others=(dataclasses.replace(made.others[0], phrase=hostile),)
    )
    for text in (shown, exchange.exchange_html(marked)):
        assert "&lt;b&gt;red&lt;/b&gt;" in text and hostile not in text


def test_the_way_back_names_the_prompt() -> None:
    assert exchange.back_to("red  house") == "Back to: red house"
    assert len(exchange.back_to("house " * 40)) < 80 and exchange.back_to("house " * 40).endswith("\u2026")
