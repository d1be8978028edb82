"""Random prompts: what any method must beat with as many passes."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import filled
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class RandomSearch:
    """Draws prompts of random tokens, or changes the best so far at random places.

    Attributes:
        mutations: places of the best prompt of each restart that change in a step; None: all of them, which
            is pure chance.
        population: prompts of each restart in a step.

    Source: the baseline of Wen et al. 2023 (arXiv 2302.03668, figure 10) and many others.
    """

    mutations: int | None = None
    population: int = 4

    def __post_init__(self) -> None:
        if self.population < 1 or (self.mutations is not None and self.mutations < 1):
            raise ValueError(f"population and mutations must be at least 1, got {self.population}, {self.mutations}")

    @classmethod
    def greedy(cls) -> "RandomSearch":
        """One random change at a time, taken if it improves: hill climbing without gradients."""
        return cls(mutations=1, population=16)

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes random prompts for every restart, without end."""
        ids = filled(initial_ids, vocabulary, generator).clone()
        count, length = ids.shape
        best = objective.score(ids, lengths=ids.shape[1])
        numbers = torch.arange(count, device=ids.device)
        rows = numbers.repeat_interleave(self.population)
        while True:
            drawn = vocabulary.sample((count * self.population, length), generator)
            order = torch.rand(drawn.shape, generator=generator).argsort(dim=1).to(ids.device)
            changed = order < (length if self.mutations is None else self.mutations)
            tried = torch.where(changed, drawn, ids[rows])
            scores = objective.score(tried, rows, lengths=length)
            yield Candidates(tried, scores, rows)
            top, place = scores.nan_to_num(nan=-torch.inf).reshape(count, -1).max(dim=1)
            better = top > best
            ids = torch.where(better.unsqueeze(1), tried.reshape(count, self.population, length)[numbers, place], ids)
            best = torch.where(better, top, best)
