"""MAC: greedy coordinate gradient with momentum, so that one step's gradient does not decide alone."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.methods.gcg import GCG
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class MAC:
    """GCG whose swaps are drawn by a running mean of the slopes: m <- momentum * m + (1 - momentum) * slope.

    The slopes of a place, one for each token, are scaled to length 1 before, and the mean begins with those of
    the first step.

    Attributes:
        momentum: in [0, 1); 0 is GCG.
        search: the swaps.

    Source: Zhang and Wei 2024, arXiv 2405.01229; https://github.com/weizeming/momentum-attack-llm,
    `individual_gcg`, whose 0.4 is the default here. Deviations: those of `GCG`; the length of the slopes is
    taken over the tokens that the search may use.
    """

    momentum: float = 0.4
    search: GCG = GCG()

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the swaps of every restart, without end."""
        mean: Tensor | None = None

        def direction(slopes: Float[Tensor, "rows tokens allowed"]) -> Float[Tensor, "rows tokens allowed"]:
            nonlocal mean
            unit = slopes / slopes.norm(dim=2, keepdim=True).clamp_min(1e-30)
            mean = unit if mean is None else self.momentum * mean + (1 - self.momentum) * unit
            return mean

        yield from self.search.steps_along(direction, objective, vocabulary, initial_ids, generator)
