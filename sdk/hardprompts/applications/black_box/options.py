"""What a search by pictures may spend, and how it spends it."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from hardprompts.prompts import PromptTemplate
from hardprompts.search.protocol import Callback
from hardprompts.search.seeds import checked_seed
from hardprompts.wording import Bans


class PictureArguments(TypedDict, total=False):
    """The fields of `PictureOptions`, as keyword arguments."""

    template: str
    seeds: Sequence[int]
    fresh_seeds: Sequence[int]
    report_at: Sequence[int]
    population: int
    survivors: int
    exploration: float
    max_words: int
    banned: Sequence[str]
    batch_size: int
    retries: int
    max_failures: int
    size: tuple[int, int] | None
    patience: int | None
    deadline: float | None
    seed: int | None
    folder: str | os.PathLike[str] | None
    callback: Callback | None
    progress: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How a budget of pictures is spent.

    Attributes:
        budget: pictures that the generator is asked for at most: those of the search, those that fail, and those on
            fresh seeds.
        template: the text that prompts are for, and are drawn in.
        seeds: that prompts are chosen by, the same for all; more for those that are ahead.
        fresh_seeds: that only what is reported is drawn with; none: nothing is drawn once more.
        report_at: numbers of pictures at which the best prompt so far is reported, on fresh seeds too, which takes as
            many more pictures of the budget for each.
        population: new prompts of a round.
        survivors: prompts that are changed.
        exploration: of the bandit; see `UpperConfidence`.
        max_words: of a prompt.
        banned: what must not occur in what the search writes; see `hardprompts.wording.Bans.of`.
        batch_size: prompts of one call of the generator.
        retries: times that a picture which did not come is asked for again.
        max_failures: calls of the generator in a row of which no picture came, after which the search ends.
        size: (width, height) that pictures must have, else they count as failures; None: any.
        patience: pictures without a better prompt, after which the search ends.
        deadline: seconds for the whole call, of which some are kept for the fresh seeds.
        seed: of all that is drawn by chance but the pictures. Default: drawn, and recorded.
        folder: where each picture and what came of it is kept, and taken from if the run is repeated: for these images,
            a judge and a generator of these names, of a function the name in its module. What the prompt draws is its
            `best.png`.
        callback: called after every call of the generator; see `hardprompts.search.Callback`. Its steps are pictures.
        progress: a progress bar with the best text so far, on a terminal or in a notebook.

    Raises:
        ValueError: a number out of range, a seed in both lists, or a budget that the fresh seeds alone use up.
        TemplateError, VocabularyError: see `PromptTemplate` and `Bans.of`.
    """

    budget: int = 100
    template: str = "{}"
    seeds: Sequence[int] = (0, 1)
    fresh_seeds: Sequence[int] = (1000, 1001, 1002, 1003)
    report_at: Sequence[int] = ()
    population: int = 4
    survivors: int = 3
    exploration: float = 0.5
    max_words: int = 16
    banned: Sequence[str] = ()
    batch_size: int = 8
    retries: int = 1
    max_failures: int = 10
    size: tuple[int, int] | None = None
    patience: int | None = None
    deadline: float | None = None
    seed: int | None = None
    folder: str | os.PathLike[str] | None = None
    callback: Callback | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("budget", "population", "survivors", "max_words", "batch_size", "max_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("retries", "exploration", "patience", "deadline"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        for name in ("seeds", "fresh_seeds"):
            object.__setattr__(self, name, tuple(checked_seed(one, f"each of {name}") for one in getattr(self, name)))
        object.__setattr__(self, "report_at", tuple(sorted(set(self.report_at))))
        if not self.seeds or any(point < 1 for point in self.report_at):
            raise ValueError(f"seeds must not be empty, nor report_at below 1; got {self.seeds} and {self.report_at}")
        if both := sorted({*self.seeds} & {*self.fresh_seeds}):
            raise ValueError(
                f"fresh_seeds must be others than seeds, and {both} are in both: nothing is chosen by them"
            )
        if self.budget <= self.reserve:
            raise ValueError(
                f"budget must be more than the {self.reserve} pictures on fresh seeds, got {self.budget}; raise it, or "
                "give fewer fresh_seeds, or less in report_at"
            )
        PromptTemplate(self.template)
        Bans.of(self.banned)

    @property
    def reserve(self) -> int:
        """Pictures on fresh seeds: of the prompt that is returned, and of those that are reported before."""
        return len(self.fresh_seeds) * (1 + sum(point < self.budget for point in self.report_at))

    @property
    def place(self) -> Path | None:
        """The folder as a path."""
        return None if self.folder is None else Path(self.folder)
