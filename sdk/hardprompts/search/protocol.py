"""What a search method is, what it proposes, and what a search returns."""

import dataclasses
import enum
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.encoders import TextEncoder
from hardprompts.prompts import Candidate, HistoryPoint
from hardprompts.search.bound import BoundObjective
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Prompts that a method proposes in one step.

    Attributes:
        ids: (batch, tokens), with NO_TOKEN behind the end of shorter rows.
        scores: (batch,) by the run's Score, where the method already has them.
        rows: (batch,) the restart each belongs to; None: candidate i belongs to restart i.
    """

    ids: Int[Tensor, "batch tokens"]
    scores: Float[Tensor, " batch"] | None = None
    rows: Int[Tensor, " batch"] | None = None


@runtime_checkable
class Search(Protocol):
    """One published method: hyperparameters as frozen fields, and no state."""

    def steps(
        self,
        objective: "BoundObjective",
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes candidates, step by step; `run_search` decides when to stop.

        Each row of `initial_ids` is one restart. A method that cannot improve any further returns.
        """
        ...


@runtime_checkable
class WordSearch(Protocol):
    """What a method offers if it knows what every word of a vocabulary means by itself. Optional."""

    def read_words(self, encoder: TextEncoder, progress: bool = True) -> None:
        """Reads the words of a model now, which the first search would do."""
        ...


@dataclasses.dataclass(frozen=True)
class StartsAlone:
    """A search that stays where it starts, and proposes nothing: for prompts that are only to be scored."""

    def steps(
        self,
        objective: "BoundObjective",
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Nothing: `run_search` itself scores the starts."""
        yield from ()


@dataclasses.dataclass(frozen=True)
class SearchProgress:
    """How far a search has come; what a callback is given.

    Attributes:
        step: steps done.
        max_steps: steps that it may take, or None.
        best: the best prompt so far of each task; None before any was admissible.
        expected_seconds: that the search will take in all, where that was measured before; else None.
    """

    step: int
    max_steps: int | None
    seconds: float
    evaluations: int
    best: tuple[Candidate | None, ...]
    expected_seconds: float | None = None


#: Called after every step, and now and then while something is measured before or behind the search, with the progress
#: so far; returning True stops the search, which then returns the best so far. Whatever it raises goes through to the
#: caller.
Callback = Callable[[SearchProgress], bool | None]


class StopReason(str, enum.Enum):
    """Why a search ended; equal to its value, and written as it."""

    MAX_STEPS = "max_steps"
    MAX_EVALUATIONS = "max_evaluations"
    DEADLINE = "deadline"
    PATIENCE = "patience"
    CONVERGED = "converged"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    NON_FINITE = "non_finite"
    PROPOSED = "proposed"
    MAX_PICTURES = "max_pictures"
    FAILURES = "failures"

    __str__ = str.__str__

    @property
    def sentence(self) -> str:
        """The reason in words."""
        return _SENTENCES[self]


#: Reasons that are the caller's: the method and the limits would have gone on.
BY_CALLER = (StopReason.CANCELLED, StopReason.INTERRUPTED)

_SENTENCES = {
    StopReason.MAX_STEPS: "the maximum number of steps was reached",
    StopReason.MAX_EVALUATIONS: "the maximum number of evaluations was reached",
    StopReason.DEADLINE: "the time was up",
    StopReason.PATIENCE: "there was no improvement for a while",
    StopReason.CONVERGED: "the method had nothing left to try",
    StopReason.CANCELLED: "the callback ended the search",
    StopReason.INTERRUPTED: "the search was interrupted",
    StopReason.NON_FINITE: "the scores became NaN",
    StopReason.PROPOSED: "the best of what was proposed, without a search",
    StopReason.MAX_PICTURES: "the pictures of the budget were drawn",
    StopReason.FAILURES: "the generator failed too often in a row",
}


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found for one task.

    Attributes:
        candidates: the best prompts, best first, without duplicates; never empty.
        history: one point for each improvement of the best score.
        stop_reason: why it ended, a `StopReason`.
        evaluations: forward and backward passes of one prompt each, over all tasks of the run.
    """

    candidates: tuple[Candidate, ...]
    history: tuple[HistoryPoint, ...]
    seed: int
    stop_reason: str
    steps: int
    seconds: float
    evaluations: int

    @property
    def best(self) -> Candidate:
        """The best prompt found."""
        return self.candidates[0]
