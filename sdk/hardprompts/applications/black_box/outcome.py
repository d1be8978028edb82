"""What a search by pictures found, with all that it drew."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from hardprompts.applications.pictures import picture_grid
from hardprompts.images import ImageInput, load_images
from hardprompts.prompts import HardPrompt


@dataclasses.dataclass(frozen=True)
class Trial:
    """One prompt that was drawn.

    Attributes:
        text: the prompt, which goes into the slot of the template.
        mutation: that made it; "start" for those that the search began with.
        parent: the prompt that it was made of; "" for those.
        scores: of its pictures by the seeds that are chosen by, in their order; those that did not come are left out.
    """

    text: str
    mutation: str
    parent: str
    scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class PicturePoint:
    """The best prompt after so many pictures, and how good it is.

    Attributes:
        pictures: that had been asked for.
        text: what the search would have returned then.
        score: on the fresh seeds; None where there was no room to draw them.
        picture: what the prompt draws, RGB: with the first of the fresh seeds, or where there was no room for that, the
            last that was drawn of it. None where it is of an earlier run whose pictures were removed.
    """

    pictures: int
    text: str
    score: float | None
    picture: Image.Image | None = None

    @property
    def caption(self) -> str:
        """What stands below the picture."""
        score = "" if self.score is None else f"  {self.score:.3f}"
        return f"after {self.pictures} pictures: {self.text}{score}"


@dataclasses.dataclass(frozen=True)
class MutationRecord:
    """How often a mutation was tried, and how often its prompt beat the one that it was made of, by the first seed."""

    tries: int
    successes: int


@dataclasses.dataclass(frozen=True)
class PictureInversion:
    """The outcome of `invert_by_pictures`.

    Attributes:
        prompt: the best prompt; its score is on fresh seeds, and `score_unit` says so.
        chosen_at: its score by the seeds that it was chosen by: the highest of several noisy ones, so more than the
            prompt is worth on average.
        trials: all that were drawn, in order.
        points: the best prompt at the numbers of pictures that were asked for; the last one is at the end.
        mutations: the record of each.
        pictures: that were asked for in all, those of earlier runs that were taken over included.
        failures: of these, those that did not come.
        recalled: of these, those that an earlier run in the same folder had drawn.
    """

    prompt: HardPrompt
    chosen_at: float
    trials: tuple[Trial, ...]
    points: tuple[PicturePoint, ...]
    mutations: Mapping[str, MutationRecord]
    pictures: int
    failures: int
    recalled: int

    @property
    def picture(self) -> Image.Image | None:
        """What the prompt draws; see `PicturePoint`."""
        return self.points[-1].picture

    def grid(self, images: "ImageInput | Sequence[ImageInput]" = (), columns: int = 4) -> Image.Image:
        """The images, and beside them what the best prompt drew at each number of pictures, with its score.

        Args:
            images: what the prompt is of.
            columns: pictures in a row.

        Raises:
            ImageError: the images cannot be read.
            ValueError: there is neither an image nor a picture.
        """
        given: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        targets = load_images(given) if given else []
        captions = [*["the image"] * len(targets), *(point.caption for point in self.points)]
        return picture_grid([*targets, *(point.picture for point in self.points)], captions, columns)

    def to_dict(self) -> dict[str, Any]:
        """All of it but the pictures as JSON values."""
        return {
            "prompt": self.prompt.to_dict(),
            "chosen_at": self.chosen_at,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
            "points": [{"pictures": point.pictures, "text": point.text, "score": point.score} for point in self.points],
            "mutations": {name: dataclasses.asdict(record) for name, record in self.mutations.items()},
            "pictures": self.pictures,
            "failures": self.failures,
            "recalled": self.recalled,
        }
