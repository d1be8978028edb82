"""Pictures to look at: small ones that are part of a page, and those in which the regions of phrases are drawn."""

import base64
import io
import itertools
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFont

from hardprompts.wording import Region, WordEvidence

#: Pictures whose longer side is below this many pixels are enlarged to see anything of them.
LEAST_SIDE = 128

#: Of phrases, one after the other: readable below white letters, and on pictures with a white line beside it.
COLORS = ("#0e7490", "#b45309", "#7c3aed", "#15803d", "#be123c", "#4d7c0f", "#1d4ed8", "#a21caf")

#: What is left of the light outside of the regions, where those of one phrase are shown.
OUTSIDE = 0.35

#: Letters of a label, at most.
MOST_LETTERS = 60

#: The last letter that the font of labels has.
LAST_LETTER = "\u024f"


def shown_picture(image: Image.Image, side: int) -> Image.Image:
    """An RGB picture of at most `side` pixels in either direction; tiny ones are enlarged, their pixels as squares."""
    longer = max(image.size)
    scale = min(side / longer, max(1, LEAST_SIDE // longer))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def jpeg_address(image: Image.Image, side: int) -> str:
    """A picture of at most `side` pixels in either direction as an address that holds it: "data:image/jpeg;..."."""
    written = io.BytesIO()
    shown_picture(image, side).save(written, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def picture_with_regions(image: Image.Image, evidence: Sequence[WordEvidence], side: int = 512) -> Image.Image:
    """An RGB picture in which the regions of phrases are framed, each phrase in a color of its own, with its name.

    A phrase that has regions nowhere has no frame. Where there is one phrase alone, the picture is dark outside of its
    regions. A phrase in letters that the labels cannot show is called by its number in `evidence`.

    Args:
        evidence: of the phrases, as in `HardPrompt.evidence`.
        side: the longer side of the result in pixels, at most; tiny pictures are enlarged.

    Raises:
        ValueError: `side` is below 1.
    """
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}")
    picture = shown_picture(image, side)
    shown = [(place, one) for place, one in enumerate(evidence) if one.regions]
    if len(evidence) == 1 and shown:
        dark = picture.point(lambda value: round(OUTSIDE * value))
        picture = Image.composite(picture, dark, _covered(picture.size, shown[0][1].regions, 0))
    width = max(2, max(picture.size) // 160)
    for depth, (place, one) in enumerate(shown):
        _frame(picture, one.regions, COLORS[place % len(COLORS)], depth * (width + 1), width)
    _Labels(picture).write([(_label(place, one), one.regions, COLORS[place % len(COLORS)]) for place, one in shown])
    return picture


def _covered(size: tuple[int, int], regions: Sequence[Region], inset: int) -> Image.Image:
    """A mask that is white where a region is, each made smaller by as many pixels on all sides."""
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    for region in regions:
        left, top, right, bottom = _box(size, region)
        if right - left > 2 * inset and bottom - top > 2 * inset:
            draw.rectangle((left + inset, top + inset, right - 1 - inset, bottom - 1 - inset), fill=255)
    return mask


def _box(size: tuple[int, int], region: Region) -> tuple[int, int, int, int]:
    """A region in pixels, at least one in either direction."""
    (left, right), (top, bottom) = (
        (min(round(low * length), length - 1), round(high * length))
        for low, high, length in ((region[0], region[2], size[0]), (region[1], region[3], size[1]))
    )
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _frame(picture: Image.Image, regions: Sequence[Region], color: str, inset: int, width: int) -> None:
    """Draws the outline of what regions cover together, and a white line inside of it."""
    outer, middle, inner = (_covered(picture.size, regions, inset + more) for more in (0, width, width + 1))
    picture.paste(color, mask=ImageChops.subtract(outer, middle))
    picture.paste("white", mask=ImageChops.subtract(middle, inner))


def _label(place: int, one: WordEvidence) -> str:
    name = one.phrase if one.phrase.isprintable() and max(one.phrase) <= LAST_LETTER else f"{place + 1}"
    return name if one.probability is None else f"{name} {percent(one.probability)}"


def percent(probability: float) -> str:
    """A probability in whole percents, and never as a certainty: "97%", ">99%", "<1%"."""
    return ">99%" if probability > 0.99 else "<1%" if probability < 0.01 else f"{probability:.0%}"


class _Labels:
    """Names beside regions, in places of their own while there is room."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture, self._draw = picture, ImageDraw.Draw(picture)
        self._size = max(10, max(picture.size) // 32)
        self._font = ImageFont.load_default(self._size)
        self._taken: list[tuple[int, int, int, int]] = []

    def write(self, labels: Sequence[tuple[str, Sequence[Region], str]]) -> None:
        for text, regions, color in labels:
            left, top, _, _ = _box(self._picture.size, min(regions, key=lambda region: (region[1], region[0])))
            fitting = self._fitting(text)
            width, height = round(self._font.getlength(fitting)) + 8, self._size + 6
            x = max(0, min(left, self._picture.width - width))
            y = self._free(x, min(top, max(0, self._picture.height - height)), width, height)
            self._taken.append((x, y, x + width, y + height))
            self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
            self._draw.text((x + 4, y + 1), fitting, fill="white", font=self._font)

    def _free(self, x: int, y: int, width: int, height: int) -> int:
        """The first place from here downwards, then from the top, where no label is."""
        most = max(0, self._picture.height - height)
        for place in itertools.chain(range(y, most + 1), range(y)):
            if not any(
                x < right and left < x + width and place < bottom and top < place + height
                for left, top, right, bottom in self._taken
            ):
                return place
        return y

    def _fitting(self, text: str) -> str:
        room = self._picture.width - 8
        text = text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"
        while len(text) > 1 and self._font.getlength(text) > room:
            text = f"{text[:-2]}…" if text.endswith("…") else f"{text[:-1]}…"
        return text
