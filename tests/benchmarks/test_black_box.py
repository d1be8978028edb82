"""The benchmark of black boxes: its dictionary, its illustrator, and the page that has its tables."""

import json
from pathlib import Path

import pytest

from hardprompts import load_backend
from hardprompts_emoji import scenes

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks as modules."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_half_of_the_words_change_places_within_their_kind() -> None:
    from black_box import dictionary

    words = dictionary(load_backend("emoji:emoji-clip-reference", device="cpu"))
    assert sorted(words) == sorted(words.values()) and all(word != drawn for word, drawn in words.items())
    colors = {word for own in scenes.BACKGROUNDS.values() for word in own}
    assert {word in colors for word in words} == {True, False}
    assert all(words[word] in colors for word in words if word in colors)
    assert 0.4 < len(colors & set(words)) / len(colors) < 0.6


def test_the_illustrator_draws_what_it_reads_and_leaves_the_rest_to_the_seed() -> None:
    from black_box import Illustrator, Renamed

    draw = Illustrator()
    whole = scenes.Scene((scenes.SceneObject("fox", "large", "center"),), "teal", "neon")
    (picture,) = draw(["a neon fox on a turquoise background"], [3])
    assert picture.tobytes() == scenes.render(whole, seed=3).tobytes()
    one, two = draw(["fox", "fox"], [1, 2])
    assert one.tobytes() != two.tobytes() and one.tobytes() == draw(["a fox"], [1])[0].tobytes()
    behind = Renamed({"wolf": "fox", "fox": "wolf"}, draw)
    assert behind(["neon wolf teal"], [3])[0].tobytes() == picture.tobytes()


@pytest.mark.parametrize("generator", ["scenes", "emoji-sd"])
def test_the_page_has_the_figures_that_were_measured(generator: str) -> None:
    found = json.loads(
        (ROOT / "benchmarks" / "results" / f"black_box_{generator.replace('-', '_')}.json").read_text(encoding="utf-8")
    )
    page = (ROOT / "docs" / "black_box.md").read_text(encoding="utf-8")
    page = page.partition(f"<!-- {generator} -->")[2].partition(f"<!-- end of {generator} -->")[0]
    for name, row in found["figures"].items():
        (line, *_) = (line for line in page.splitlines() if line.startswith(f"| {name} "))
        mean, half = row[f"at_{found['budget']}"]
        assert f"{mean:.3f} ± {half:.3f}" in line
