"""Edits: on pictures whose color says what they show, so that every figure can be counted by hand."""

from collections.abc import Sequence

import pytest
from PIL import Image

from hardprompts import HardPrompt
from hardprompts.evaluation import EditOutcome, Exchange, edit_figures, edit_outcomes, edit_values

ANIMALS, COLORS = ("fox", "wolf", "bear"), ("red", "blue")


def exchange(kind: str, old: str, new: str, *others: tuple[str, str]) -> Exchange:
    return Exchange(lambda word: word in old.split(), new, (kind, old), (kind, new), frozenset(others))


def written_in(text: str, old: str, new: str) -> str | None:
    return exchange("object", old, new).written(text)


@pytest.mark.parametrize(
    ("text", "old", "expected"),
    [
        ("a red fox", "fox", "a red wolf"),
        ("A Fox, red", "fox", "A wolf, red"),
        ("a hot air balloon at night", "hot air balloon", "a wolf at night"),
        ("hot, air", "hot air", "wolf, air"),  # a comma ends the run
        ("fox bear fox", "fox", "wolf bear fox"),  # one word is exchanged: the first
        ("foxes", "fox", None),
        ("", "fox", None),
        ("(fox:1.2) [bear]", "fox", "(wolf:1.2) [bear]"),
    ],
)
def test_a_word_or_a_run_of_words_is_exchanged(text: str, old: str, expected: str | None) -> None:
    assert written_in(text, old, "wolf") == expected


class World:
    """Draws what a text says, as it remembers; a "dusk" turns everything blue as soon as there is a wolf."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, int]] = []

    def draw(self, texts: Sequence[str], targets: Sequence[int]) -> list[Image.Image]:
        self.jobs += zip(texts, targets, strict=True)
        return [Image.new("RGB", (1, 1), (place, 0, 0)) for place in range(len(texts))]

    def read(self, images: Sequence[Image.Image], targets: Sequence[int]) -> list[set[tuple[str, str]]]:
        return [self._shown(self.jobs[image.getpixel((0, 0))[0]][0]) for image in images]

    def _shown(self, text: str) -> set[tuple[str, str]]:
        words = text.split()
        shown = {("object", word) for word in words if word in ANIMALS}
        colors = ["blue"] if {"dusk", "wolf"} <= set(words) else [word for word in words if word in COLORS]
        return shown | {("color", word) for word in colors}


def outcomes_of(text: str | HardPrompt) -> tuple[EditOutcome, ...]:
    """What becomes of a prompt for a red fox where the fox becomes a wolf, and red blue."""
    world = World()
    asked = [
        exchange("object", "fox", "wolf", ("color", "red")),
        exchange("color", "red", "blue", ("object", "fox")),
    ]
    return edit_outcomes([text], [asked], world.draw, world.read)[0]


def test_a_prompt_with_a_word_for_each_thing_can_be_edited() -> None:
    animal, color = outcomes_of("red fox")
    assert animal.after == "red wolf" and color.after == "blue fox"
    for one in (animal, color):
        assert one.named and one.success and one.clean and one.locality == 1.0


def test_a_word_that_works_only_with_another_is_not_local() -> None:
    animal, color = outcomes_of("red fox dusk")
    assert animal.success and animal.locality == 0.0 and not animal.clean
    assert color.success and color.locality == 1.0


def test_an_exchange_that_changes_nothing_is_local_and_no_success() -> None:
    animal, _ = outcomes_of("fox red fox")
    assert animal.after == "wolf red fox"
    assert animal.named and not animal.success and not animal.clean and animal.locality == 1.0


def test_a_prompt_without_the_word_cannot_be_edited() -> None:
    animal, color = outcomes_of("red bear")
    assert not animal.named and not animal.success and animal.locality is None and animal.after is None
    assert color.success and color.locality is None  # the fox was not there before: nothing could stay
    assert not color.clean


def test_a_saved_prompt_is_edited_in_its_template() -> None:
    animal, _ = outcomes_of(HardPrompt("fox", (1,), 0.5, "a red {}"))
    assert animal.before == "a red fox" and animal.after == "a red wolf" and animal.clean


def test_each_text_of_a_target_is_drawn_once_and_other_targets_from_other_noise() -> None:
    world = World()
    same = [exchange("object", "fox", "wolf"), exchange("object", "fox", "wolf")]
    edit_outcomes(["fox", "fox"], [same, same], world.draw, world.read)
    assert sorted(world.jobs) == [("fox", 0), ("fox", 1), ("wolf", 0), ("wolf", 1)]


def test_figures_are_means_over_targets_of_means_over_exchanges() -> None:
    found = [outcomes_of("red fox"), outcomes_of("red fox dusk"), outcomes_of("red bear")]
    assert edit_values(found, "named") == (1.0, 1.0, 0.5)
    assert edit_values(found, "locality") == (1.0, 0.5, None)
    assert edit_values(found, "clean") == (1.0, 0.5, 0.0)
    figures = edit_figures(found)
    assert figures.named.mean == pytest.approx(5 / 6) and figures.locality.count == 2
    assert figures.success.mean == pytest.approx(2.5 / 3)
    assert len(figures.row()) == len(figures.HEAD)


def test_what_cannot_be_measured_is_said() -> None:
    world = World()
    with pytest.raises(ValueError, match="each prompt needs its exchanges, got 1 prompts and 0 lists"):
        edit_outcomes(["fox"], [], world.draw, world.read)
    with pytest.raises(ValueError, match="2 texts need as many pictures and readings, got 0"):
        edit_outcomes(["fox"], [[exchange("object", "fox", "wolf")]], lambda *_: [], lambda *_: [])
    with pytest.raises(ValueError, match="unknown figure 'speed'; known: named"):
        edit_values([], "speed")
    with pytest.raises(ValueError, match="no prompt has the figure 'named'"):
        edit_figures([])
    assert edit_outcomes([], [], world.draw, world.read) == ()
