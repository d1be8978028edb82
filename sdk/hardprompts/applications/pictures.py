"""What prompts are judged by when they are drawn: the pictures of a generator."""

import dataclasses
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from PIL import Image, ImageDraw, ImageFont

from hardprompts.encoders import Backend
from hardprompts.errors import ImageError, quoted
from hardprompts.images import ImageInput, load_images

#: What each picture is worth, higher is better: (pictures) -> one number each.
ImageScore: TypeAlias = Callable[[Sequence[Image.Image]], Sequence[float]]


@runtime_checkable
class Generate(Protocol):
    """Whatever makes pictures: a pipeline, an API, a person's own program."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image | None]:
        """One RGB picture for each prompt, drawn with the seed at its place: the same for the same two.

        None stands for a picture that was refused; see `hardprompts.applications.invert_by_pictures`, which alone
        takes that.
        """
        ...


def likeness(images: "ImageInput | Sequence[ImageInput]", judge: Backend) -> ImageScore:
    """An image score: the mean cosine similarity of a picture with these images, in [-1, 1].

    Raises:
        ImageError, BackendError: the images cannot be read, or the judge has no image tower.
    """
    targets = judge.encode_images(load_images(images))

    def score(pictures: Sequence[Image.Image]) -> list[float]:
        found: list[float] = (judge.encode_images(list(pictures)) @ targets.T).mean(dim=1).tolist()
        return found

    return score


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    score: float
    scores: tuple[float, ...]
    pictures: tuple[Image.Image, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Pictures:
    """Pictures of texts and what they are worth; each text is drawn once."""

    generate: Generate
    image_score: ImageScore | None
    seeds: tuple[int, ...]
    known: dict[str, _Drawn] = dataclasses.field(default_factory=dict)

    def of(self, texts: Sequence[str]) -> list[_Drawn]:
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        if new:
            by_seed = [self._drawn(new, seed) for seed in self.seeds]
            for place, text in enumerate(new):
                scores = tuple(scores[place] for _, scores in by_seed)
                pictures = tuple(pictures[place] for pictures, _ in by_seed)
                self.known[text] = _Drawn(math.fsum(scores) / len(scores), scores, pictures)
        return [self.known[text] for text in texts]

    def _drawn(self, texts: list[str], seed: int) -> tuple[list[Image.Image], list[float]]:
        drawn = pictures_of(self.generate, texts, [seed] * len(texts))
        given = [picture for picture in drawn if picture is not None]
        if len(given) < len(drawn):
            raise ImageError(f"generate returned no picture for {quoted(texts[drawn.index(None)])}; it needs one each")
        pictures = load_images(given)
        scores = [0.0] * len(texts) if self.image_score is None else scores_of(self.image_score, pictures)
        return pictures, scores


def pictures_of(generate: Generate, texts: Sequence[str], seeds: Sequence[int]) -> list[Any]:
    """What a generator gives for texts, whatever it is: nobody has looked at it yet.

    Raises:
        ImageError: another number of pictures than of texts.
    """
    pictures = list(generate(texts, seeds))
    if len(pictures) != len(texts):
        raise ImageError(f"generate returned {len(pictures)} pictures for {len(texts)} prompts; it needs one each")
    return pictures


def scores_of(image_score: ImageScore, pictures: Sequence[Image.Image]) -> list[float]:
    """What pictures are worth.

    Raises:
        ImageError: another number of scores than of pictures, or NaN.
    """
    scores = [float(score) for score in image_score(pictures)]
    if len(scores) != len(pictures) or any(math.isnan(score) for score in scores):
        raise ImageError(f"image_score must return {len(pictures)} numbers, one for each picture, got {scores}")
    return scores


def picture_grid(
    images: Sequence[Image.Image | None],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    cell: int | None = None,
) -> Image.Image:
    """One RGB picture of several, row by row, on white, each with its caption below.

    Args:
        images: of any sizes; None leaves a place empty.
        captions: one for each; long ones are broken into lines.
        columns: pictures in a row.
        cell: the longer side of each picture, in pixels, to which it is scaled; default: that of the largest, but
            no less than 128, so that captions can be read.

    Raises:
        ValueError: no images, `columns` or `cell` below 1, or another number of captions than of images.
    """
    given = [image for image in images if image is not None]
    if not given or columns < 1 or (cell is not None and cell < 1):
        raise ValueError(f"a grid needs images, columns and a cell, got {len(given)}, {columns}, {cell}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"captions must be {len(images)}, one for each image, got {len(captions)}")
    side = max(128, *(max(image.size) for image in given)) if cell is None else cell
    size, gap = max(10, side // 14), max(4, side // 20)
    font = ImageFont.load_default(size)
    lines = [textwrap.wrap(text, max(8, round(side / (0.55 * size)))) for text in captions or [""] * len(images)]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    texts = [max(len(own) for own in lines[row * columns : (row + 1) * columns]) for row in range(rows)]
    heights = [side + gap + count * (size + 3) for count in texts]
    grid = Image.new("RGB", (columns * (side + gap) + gap, sum(heights) + gap * (rows + 1)), "white")
    draw = ImageDraw.Draw(grid)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        left, top = gap + column * (side + gap), gap + sum(heights[:row]) + gap * row
        if image is not None:
            scale = side / max(image.size)
            shape = tuple(max(1, round(scale * length)) for length in image.size)
            scaled = image.convert("RGB").resize((shape[0], shape[1]), Image.Resampling.LANCZOS)
            grid.paste(scaled, (left + (side - shape[0]) // 2, top + (side - shape[1]) // 2))
        for number, line in enumerate(lines[place]):
            draw.text((left, top + side + gap // 2 + number * (size + 3)), line, font=font, fill="#222")
    return grid
