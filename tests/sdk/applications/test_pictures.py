"""Grids of pictures with captions."""

import pytest
from painter import Painter
from PIL import Image

from hardprompts.applications.pictures import Generate, picture_grid


def test_a_grid_holds_every_picture_in_its_place() -> None:
    colors = ["red", "lime", "blue", "yellow", "black"]
    images = [Image.new("RGB", (40 + 10 * i, 30), color) for i, color in enumerate(colors)]
    grid = picture_grid([*images, None], columns=3, cell=90)
    gap = (grid.width - 3 * 90) // 4
    assert grid.mode == "RGB" and grid.width == 3 * 90 + 4 * gap
    pitch = (grid.height - gap) // 2
    for place, color in enumerate(colors):
        row, column = divmod(place, 3)
        center = (gap + column * (90 + gap) + 45, gap + row * pitch + 45)
        assert grid.getpixel(center) == Image.new("RGB", (1, 1), color).getpixel((0, 0)), place
    assert grid.getpixel((gap + 2 * (90 + gap) + 45, gap + pitch + 45)) == (255, 255, 255)  # the empty place


def test_captions_are_written_below_and_broken_into_lines() -> None:
    images = [Image.new("RGB", (64, 64), "white")] * 2
    bare, short, long = (
        picture_grid(images, captions, columns=2)
        for captions in (None, ["red", "boat"], ["red house near the old river " * 4, "boat"])
    )
    assert bare.size[0] == short.size[0] == long.size[0] and bare.height < short.height < long.height
    assert bare.getextrema() == ((255, 255),) * 3
    assert short.getextrema()[0][0] < 100


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "needs images"),
        ([None], {}, "needs images"),
        ([Image.new("RGB", (4, 4))], {"columns": 0}, "columns"),
        ([Image.new("RGB", (4, 4))], {"cell": 0}, "cell"),
        ([Image.new("RGB", (4, 4))], {"captions": ["a", "b"]}, "captions must be 1"),
    ],
)
def test_grids_that_cannot_be_are_refused(images, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        picture_grid(images, **options)


def test_a_painter_is_a_generator() -> None:
    assert isinstance(Painter(), Generate)
