"""Pictures with regions: framed where phrases hold, whatever the picture and the phrase are like."""

import base64
import io

import pytest
from PIL import Image, ImageChops

from hardprompts.images import picture_with_regions
from hardprompts.images.showing import COLORS, jpeg_address, shown_picture
from hardprompts.wording import Region, WordEvidence

TOP_LEFT: Region = (0.0, 0.0, 0.5, 0.5)


def fox(*regions: Region, phrase: str = "fox", probability: float | None = None) -> WordEvidence:
    return WordEvidence(phrase, "subject", 0.1, probability=probability, regions=regions)


def changed(picture: Image.Image, plain: Image.Image) -> tuple[int, int, int, int] | None:
    """The box in which pictures differ."""
    return ImageChops.difference(picture, plain).getbbox()


def test_a_frame_is_where_the_region_is_and_nowhere_else() -> None:
    plain = Image.new("RGB", (400, 200), "#808080")
    found = picture_with_regions(plain, [fox((0.5, 0.25, 1.0, 0.75)), fox()])
    assert found.size == (400, 200) and found.mode == "RGB" and changed(found, plain) == (200, 50, 400, 150)
    assert found.getpixel((399, 149)) == tuple(bytes.fromhex(COLORS[0][1:]))
    assert found.getpixel((300, 120)) == (128, 128, 128)
    assert changed(picture_with_regions(plain, []), plain) is None
    assert changed(picture_with_regions(plain, [fox()]), plain) is None
    assert plain.getpixel((399, 149)) == (128, 128, 128)  # it is not drawn into


def test_of_one_phrase_the_rest_is_dark_and_overlapping_regions_are_one() -> None:
    plain = Image.new("RGB", (400, 400), "#c8c8c8")
    found = picture_with_regions(plain, [fox(TOP_LEFT, (0.25, 0.25, 0.75, 0.75))])
    assert found.getpixel((390, 390)) == (70, 70, 70) and found.getpixel((250, 250)) == (200, 200, 200)
    assert found.getpixel((100, 150)) == (200, 200, 200)  # the border of the second region, inside of the first


def test_phrases_with_the_same_region_are_told_apart() -> None:
    found = picture_with_regions(
        Image.new("RGB", (512, 512)), [fox(TOP_LEFT), fox(TOP_LEFT, phrase="owl"), fox(TOP_LEFT, phrase="x")]
    )
    seen = {color for _, color in found.getcolors(512 * 512) or ()}
    for color in COLORS[:3]:
        assert tuple(bytes.fromhex(color[1:])) in seen


@pytest.mark.parametrize("phrase", ["狐", "<script>", "a|b", "x" * 900, "[bold]", "é", "\n"])
@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000), (64, 64)])
def test_any_phrase_and_any_picture_can_be_drawn(phrase: str, size: tuple[int, int]) -> None:
    several = [fox(TOP_LEFT, (0.9, 0.9, 1.0, 1.0), phrase=phrase, probability=0.5)] * 12
    for mode in ("L", "RGB", "RGBA", "P"):
        found = picture_with_regions(Image.new(mode, size), several, side=300)
        assert found.mode == "RGB" and 128 <= max(found.size) <= 300


def test_tiny_pictures_are_enlarged_and_big_ones_made_small() -> None:
    assert shown_picture(Image.new("RGB", (1, 1)), 640).size == (128, 128)
    assert shown_picture(Image.new("RGB", (50, 25)), 640).size == (100, 50)
    assert shown_picture(Image.new("RGB", (4000, 1000)), 640).size == (640, 160)
    assert shown_picture(Image.new("RGB", (4000, 1)), 640).size == (640, 1)
    assert shown_picture(Image.new("RGB", (1, 1)), 64).size == (64, 64)
    with pytest.raises(ValueError, match="side must be at least 1"):
        picture_with_regions(Image.new("RGB", (4, 4)), [], side=0)


def test_an_address_holds_the_picture() -> None:
    head, _, data = jpeg_address(Image.new("L", (300, 200), 77), 150).partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (150, 100)
