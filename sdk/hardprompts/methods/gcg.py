"""GCG: swaps at random places, drawn from the tokens of steepest descent, the best of which is taken."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.search import BoundObjective, Candidates, filled
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class GCG:
    """Greedy coordinate gradient.

    Every step takes the `top_k` tokens of steepest descent for each place, draws `search_width` swaps of one
    token each from them, scores all, and goes on from the best, even if it is worse than before.

    Attributes:
        search_width: swaps of each restart in a step; 512 in the paper.
        top_k: tokens of each place that swaps are drawn from; 256 in the paper.

    Source: Zou et al. 2023, arXiv 2307.15043, algorithm 1. Deviations: restarts in one batch, scores of the whole
    objective, and prompts that do not survive the round trip are kept out of the result, not of the walk.
    """

    search_width: int = 32
    top_k: int = 64

    def __post_init__(self) -> None:
        if self.search_width < 1 or self.top_k < 1:
            raise ValueError(f"search_width and top_k must be at least 1, got {self.search_width}, {self.top_k}")

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the swaps of every restart, without end."""
        ids = filled(initial_ids, vocabulary, generator).clone()
        count, width = min(self.top_k, len(vocabulary.allowed_ids)), self.search_width
        numbers = torch.arange(len(ids), device=ids.device)
        while True:
            _, grad = objective.value_and_grad(vocabulary.embed(ids))
            slope = grad.float() @ vocabulary.allowed_table.T  # (rows, tokens, allowed)
            best = vocabulary.allowed_ids[slope.topk(count, dim=2, largest=False).indices]
            slots = torch.randint(ids.shape[1], (len(ids), width), generator=generator).to(ids.device)
            choice = torch.randint(count, (len(ids), width), generator=generator).to(ids.device)
            tokens = best[numbers.unsqueeze(1), slots, choice]  # (rows, width)
            tried = ids.unsqueeze(1).expand(-1, width, -1).clone()
            tried.scatter_(2, slots.unsqueeze(2), tokens.unsqueeze(2))
            rows = numbers.repeat_interleave(width)
            scores = objective.score(tried.flatten(0, 1), rows)
            yield Candidates(tried.flatten(0, 1), scores, rows)
            ids = tried[numbers, scores.nan_to_num(nan=-torch.inf).reshape(len(ids), width).argmax(dim=1)]
