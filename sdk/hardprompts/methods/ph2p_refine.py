"""The default for denoisers: PH2P explores, what it met races, and coordinate refinement betters the best."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.methods.pez_refine import Budget, PEZRefine, best_rows
from hardprompts.methods.ph2p import PH2P
from hardprompts.methods.racing import Race
from hardprompts.methods.refine import Refine
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates, Search
from hardprompts.search.rows import NO_TOKEN, Ids, filled, pack, unpack
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class PH2PRefine:
    """PH2P from every restart, then `Refine` of the best prompts that it met; both judge few prompts on all noises.

    Most of PH2P's seconds go into judging every projection on all noises, though most are no better than what there
    was. Here the projections are collected, and race with each other when the exploration is over (`Race`). The
    refinement's moves race with the prompt that they change. Where the score is not a sum over items, all are
    scored.

    Attributes:
        explore: the exploration.
        explore_steps: its steps; 0: the starts themselves are refined.
        explore_share: of a limited number of passes, and of the time before a deadline, the most that exploring
            may take.
        refine: the polish.
        refined: restarts of each task that are refined, those with the best prompts.
        race: of the projections.

    Source: `PH2P`, `Race` and `Refine`; the combination is this project's.
    """

    explore: Search = PH2P()
    explore_steps: int = 20
    explore_share: float = 0.4
    refine: Refine = Refine(candidates_per_slot=16, first_candidates=16, race=Race())
    refined: int = 1
    race: Race = Race()

    def __post_init__(self) -> None:
        if self.explore_steps < 0 or self.refined < 1:
            raise ValueError(
                f"explore_steps must not be negative and refined at least 1, got {self.explore_steps}, {self.refined}"
            )

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes PH2P's projections, without scores where they are to race, then those who won, then the moves."""
        if objective.items is None:
            whole_scores = PEZRefine(self.explore, self.explore_steps, self.refine, self.refined, self.explore_share)
            yield from whole_scores.steps(objective, vocabulary, initial_ids, generator)
            return
        budget = Budget.of(objective)
        every = torch.arange(len(initial_ids), device=initial_ids.device)
        met = [(initial_ids, every)]
        if self.explore_steps:
            whole = filled(initial_ids, vocabulary, generator)
            explored = self.explore.steps(objective, vocabulary, whole, generator)
            for candidates in islice(explored, self.explore_steps):
                rows = every if candidates.rows is None else candidates.rows
                met.append((candidates.ids, rows))
                # They are scored below, and not one by one by the run.
                yield Candidates(candidates.ids, torch.full((len(rows),), -torch.inf, device=rows.device), rows)
                if budget.spent(objective) >= self.explore_share:
                    break
        ids, rows = _distinct(met, objective.groups)
        scores = self._scores(objective, ids, rows, generator)
        yield Candidates(ids, scores, rows)
        best = best_rows(ids, scores, objective.groups[rows], self.refined)
        chosen = rows[best]
        for candidates in self.refine.steps(objective.of_rows(chosen), vocabulary, ids[best], generator):
            assert candidates.rows is not None
            yield Candidates(candidates.ids, candidates.scores, chosen[candidates.rows])

    def _scores(self, objective: BoundObjective, ids: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The scores of those who finish the race of their task, -inf for the others."""
        # Those of one task race with each other, from whatever restart they come.
        groups = objective.groups
        first = torch.stack([(groups == group).nonzero()[0, 0] for group in groups[rows]])
        parts = self.race.judged(objective, ids, first, generator)
        costs = objective.score_per_token * (ids != NO_TOKEN).sum(dim=1)
        return parts.sum(dim=1).nan_to_num(nan=-torch.inf) - costs


def _distinct(met: Sequence[tuple[Tensor, Tensor]], groups: Tensor) -> tuple[Tensor, Tensor]:
    """The prompts of each task without repetition, in the order in which they were met, and their restarts."""
    found: dict[tuple[int, Ids], int] = {}
    for ids, rows in met:
        for prompt, row in zip(unpack(ids), rows.tolist(), strict=True):
            found.setdefault((int(groups[row]), prompt), row)
    width, device = met[0][0].shape[1], groups.device
    # The width says how long prompts may become.
    packed = pack([*(prompt for _, prompt in found), (0,) * width], device)[:-1]
    return packed, torch.tensor(list(found.values()), device=device)
