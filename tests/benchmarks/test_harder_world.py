"""The harder world: what is true of a scene, what a text states, and that the picture shows it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageChops

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The benchmarks as modules, without drawings of others; a folder where a test may put some."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delenv("HARDPROMPTS_EMOJI_DRAWINGS", raising=False)
    return tmp_path


def scene():
    import harder_world as world

    fox = world.Group("fox", ((16, 16), (48, 16)), "small", None, "noto")
    tree = world.Group("tree", ((16, 48),), "large", "wood", "twemoji")
    duck = world.Group("duck", ((48, 48),), "medium", None, "fluent")
    return world.HarderScene((fox, tree, duck), "red", "neon")


def test_a_seed_gives_one_scene_and_the_artists_change_nothing_else() -> None:
    import harder_world as world

    seed = world.REPORTING_SEED
    assert world.sample(seed) == world.sample(seed) != world.sample(seed + 1)
    alone = world.sample(seed, artists=("noto",))
    assert {group.artist for group in alone.groups} == {"noto"}
    assert world.statements(alone) == world.statements(world.sample(seed))
    assert not {world.CHOOSING_SEED + i for i in range(10_000)} & {seed + i for i in range(10_000)}
    for broken in ({"kinds": 4}, {"objects": ["fox", "nothing"]}, {"artists": ("picasso",)}, {"artists": ()}):
        with pytest.raises(ValueError, match="1 to 3 kinds"):
            world.sample(seed, **broken)


def test_every_statement_is_there() -> None:
    import harder_world as world

    assert world.statements(scene()) == {
        *{("object", name) for name in ("fox", "tree", "duck")},
        *{("count", "fox", 2), ("count", "tree", 1), ("count", "duck", 1)},
        *{("size", "fox", "small"), ("size", "tree", "large"), ("size", "duck", "medium")},
        ("material", "tree", "wood"),
        *{("at", "fox", "top"), ("at", "tree", "left"), ("at", "tree", "bottom"), ("at", "duck", "right")},
        ("at", "duck", "bottom"),
        *{("above", "fox", "tree"), ("above", "fox", "duck"), ("left of", "tree", "duck")},
        *{("left of", "tree", "fox"), ("left of", "fox", "duck")},
        *{("background", "red"), ("style", "neon")},
    }


@pytest.mark.parametrize(
    ("text", "true", "false"),
    [
        ("two foxes and a duck on crimson", {("count", "fox", 2), ("background", "red"), ("object", "duck")}, set()),
        ("three foxes", {("object", "fox")}, {("count", "fox", 3)}),
        ("a duck right of a wooden tree", {("left of", "tree", "duck"), ("material", "tree", "wood")}, set()),
        ("the tree is above the foxes", set(), {("above", "tree", "fox")}),
        ("foxes over a big tree", {("above", "fox", "tree"), ("size", "tree", "large")}, set()),
        ("a tree in the bottom left corner", {("at", "tree", "bottom"), ("at", "tree", "left")}, set()),
        ("a duck at the left of a fox", {("object", "duck")}, {("left of", "duck", "fox")}),
        ("bird, glowing", {("object", "duck"), ("style", "neon")}, set()),
        ("a hot dog and a lion, blue", set(), {("object", "hot dog"), ("object", "lion"), ("background", "blue")}),
        ("a picture of style", set(), set()),
    ],
)
def test_what_a_text_states(text: str, true: set, false: set) -> None:
    import harder_world as world

    of = scene()
    said, right = world.stated(text, of), world.statements(of)
    assert true <= said & right
    assert said - right == false


def test_a_word_for_several_things_is_read_without_a_scene_too() -> None:
    import harder_world as world

    assert ("object", "bird") in world.stated("bird") and ("object", "hot dog") in world.stated("hot dogs")
    assert world.stated("framed picture") == {("object", "framed picture")}


def test_captions_state_all_that_they_should_and_nothing_false() -> None:
    import harder_world as world

    of = scene()
    assert world.caption(of) == (
        "a neon picture of two small foxes above a large wooden tree left of a medium duck on a red background"
    )
    assert world.caption(of, ()) == "a neon picture of a fox, a tree and a duck on a red background"
    for kinds in (1, 2, 3):
        for one in world.choosing(60, kinds=kinds):
            assert world.match(world.caption(one), one) == world.Match(1, 1), world.caption(one)
            assert world.match(world.caption(one, ()), one).precision == 1
            assert world.match(world.caption(one, ()), one).recall < 1
    assert world.match("nonsense", of) == world.Match(0, 0)


def test_the_picture_shows_the_drawings_where_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    import harder_world as world

    of = dataclasses.replace(scene(), style="flat")
    picture = world.render(of, size=128)
    assert picture.size == (128, 128) and picture.mode == "RGB"
    for group in of.groups:
        rest = dataclasses.replace(of, groups=tuple(one for one in of.groups if one is not group))
        box = ImageChops.difference(picture, world.render(rest, size=128)).getbbox()
        assert box is not None
        middle = ((box[0] + box[2]) / 4, (box[1] + box[3]) / 4)
        assert np.allclose(middle, group.center, atol=4), group
    assert world.available_artists() == ("noto",) and "Noto drew theirs" in world.who_draws()

    drawn = np.zeros((1, 8, 8, 4), np.uint8)
    drawn[..., 1] = drawn[..., 3] = 255  # a green square
    np.savez(folder / "fluent.npz", names=np.array(["duck"]), drawings=drawn)
    monkeypatch.setenv("HARDPROMPTS_EMOJI_DRAWINGS", str(folder))
    assert world.available_artists() == ("noto", "fluent")
    assert world.render(of, size=128).getpixel((96, 96)) == (0, 255, 0)
    assert world.render(of, size=128).getpixel((32, 96)) == picture.getpixel((32, 96))


def test_materials_change_the_drawing_alone() -> None:
    import dataclasses

    import harder_world as world

    of = dataclasses.replace(scene(), style="flat")
    pictures = set()
    for material in (None, *world.MATERIALS):
        tree = dataclasses.replace(of.groups[1], material=material)
        picture = world.render(dataclasses.replace(of, groups=(of.groups[0], tree, of.groups[2])))
        pictures.add(picture.tobytes())
        assert picture.crop((0, 0, 64, 30)).tobytes() == world.render(of).crop((0, 0, 64, 30)).tobytes()
    assert len(pictures) == 1 + len(world.MATERIALS)


def test_what_a_model_sees_is_measured() -> None:
    import harder_world as world

    from hardprompts import load_backend

    found = world.seen(load_backend("emoji:emoji-clip"), world.choosing(12, kinds=1, artists=("noto",)))
    assert found["thing by noto"]["right"] > 0.4 and found["background"]["right"] > 0.5
    assert found["thing by noto"]["chance"] == pytest.approx(1 / 16)
