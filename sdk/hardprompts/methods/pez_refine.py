"""The default: PEZ explores from many restarts, coordinate refinement polishes the best of them."""

import dataclasses
import math
from collections.abc import Iterator
from itertools import islice

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.methods.pez import PEZ
from hardprompts.methods.refine import Refine
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates, Search
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class PEZRefine:
    """PEZ from every restart, then `Refine` of the best prompts that it met.

    Attributes:
        explore: the exploration.
        explore_steps: its steps.
        explore_share: of a limited number of passes, and of the time before a deadline, the most that exploring
            may take.
        refine: the polish.
        refined: restarts of each task, those with the best prompts, that are refined; where passes or time are
            limited fewer, so that each can be led through all its places twice.

    Source: `PEZ` and `Refine`; the combination is this project's.
    """

    explore: Search = PEZ()
    explore_steps: int = 50
    refine: Refine = Refine()
    refined: int = 4
    explore_share: float = 0.25

    def __post_init__(self) -> None:
        if self.explore_steps < 0 or self.refined < 1:
            raise ValueError(
                f"explore_steps must not be negative and refined at least 1, got {self.explore_steps}, {self.refined}"
            )

    @classmethod
    def for_language_models(cls) -> "PEZRefine":
        """PEZ with its settings for language models, and few candidates, since each is scored on many examples.

        On emoji-lm and definitions, 60 steps and 16 candidates took four times as long to as good a prompt.
        """
        return cls(PEZ.for_language_models(), 15, Refine(candidates_per_slot=8), 1)

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes PEZ's projections, then the refinement's moves."""
        budget = Budget.of(objective)
        best_ids = initial_ids.clone()
        best_scores = objective.score(initial_ids)
        for candidates in islice(self.explore.steps(objective, vocabulary, initial_ids, generator), self.explore_steps):
            scores = candidates.scores
            if scores is None:
                scores = objective.score(candidates.ids, lengths=candidates.ids.shape[1])
            better = scores > best_scores
            best_ids = torch.where(better.unsqueeze(1), candidates.ids, best_ids)
            best_scores = torch.where(better, scores, best_scores)
            yield Candidates(candidates.ids, scores)
            if budget.spent(objective) >= self.explore_share:
                break
        count = self._affordable(budget.passes_left(objective), initial_ids.shape[1], len(objective.groups.unique()))
        rows = best_rows(best_ids, best_scores, objective.groups, count)
        for candidates in self.refine.steps(objective.of_rows(rows), vocabulary, best_ids[rows], generator):
            assert candidates.rows is not None
            yield Candidates(candidates.ids, candidates.scores, rows[candidates.rows])

    def _affordable(self, passes: float, tokens: int, tasks: int) -> int:
        """How many restarts of each task so many passes can refine, `refined` at most and one at least."""
        if math.isinf(passes):
            return self.refined
        # A gradient at each place, and its candidates scored: with the first ones twice, then with the others.
        first = min(self.refine.first_candidates, self.refine.candidates_per_slot)
        one = tokens * (2 * (2 + first) + self.refine.candidates_per_slot - first)
        return max(1, min(self.refined, int(passes / (one * tasks))))


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run might spend when the method began: passes, and seconds (None: without a limit)."""

    evaluations: int
    passes: int | None
    seconds: float | None

    @classmethod
    def of(cls, objective: BoundObjective) -> "Budget":
        """What is left now."""
        return cls(objective.evaluations, objective.remaining, objective.seconds_left)

    def spent(self, objective: BoundObjective) -> float:
        """The share of the passes, or of the seconds if that is more, that is gone; 0 without a limit."""
        pairs = ((self.passes, objective.remaining), (self.seconds, objective.seconds_left))
        shares = [1 - left / whole if whole else 1.0 for whole, left in pairs if whole is not None and left is not None]
        return max(shares, default=0.0)

    def passes_left(self, objective: BoundObjective) -> float:
        """How many more there may be, before a deadline at the pace so far; infinite without a limit."""
        left = math.inf if objective.remaining is None else objective.remaining
        if self.seconds is None or objective.seconds_left is None:
            return left
        pace = (objective.evaluations - self.evaluations) / max(self.seconds - objective.seconds_left, 1e-9)
        return min(left, pace * objective.seconds_left)


def best_rows(ids: Tensor, scores: Tensor, groups: Tensor, count: int) -> Tensor:
    """The best `count` rows of each task, without two of the same prompt."""
    chosen: list[int] = []
    seen: dict[int, set[tuple[int, ...]]] = {}
    order = sorted(range(len(ids)), key=scores.tolist().__getitem__, reverse=True)
    for row, group, prompt in ((r, int(groups[r]), tuple(ids[r].tolist())) for r in order):
        met = seen.setdefault(group, set())
        if len(met) < count and prompt not in met:
            met.add(prompt)
            chosen.append(row)
    return torch.tensor(chosen, device=ids.device)
