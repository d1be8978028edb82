"""What a search by pictures found, with all that it drew."""

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    """

    pictures: int
    text: str
    score: float | None


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

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            **dataclasses.asdict(self),
            "prompt": self.prompt.to_dict(),
            "mutations": {name: dataclasses.asdict(record) for name, record in self.mutations.items()},
        }
