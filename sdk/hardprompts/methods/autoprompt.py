"""AutoPrompt: one place at a time, the tokens that a first-order step likes best are tried out."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.search.bound import BoundObjective
from hardprompts.search.draws import Draws
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import filled
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class AutoPrompt:
    """HotFlip with k candidates: a random place, the k best tokens there by gradient, the best of them if it improves.

    With one candidate it is HotFlip itself, which takes what the gradient says.

    Attributes:
        candidates: tokens tried in a step, k.

    Source: Shin et al. 2020, arXiv 2010.15980, section 2.2; Ebrahimi et al. 2018, arXiv 1712.06751, for k = 1;
    https://github.com/ucinlp/autoprompt, `create_trigger`. Deviations: restarts in one batch; candidates are
    compared by the run's score instead of fresh mini-batches.
    """

    candidates: int = 10

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")

    @classmethod
    def hotflip(cls) -> "AutoPrompt":
        """One candidate."""
        return cls(candidates=1)

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the candidates at one random place of every restart, without end."""
        ids = filled(initial_ids, vocabulary, generator).clone()
        best = objective.score(ids, lengths=ids.shape[1])
        count = min(self.candidates, len(vocabulary.allowed_ids))
        numbers = torch.arange(len(ids), device=ids.device)
        tokens_of_each, rows_of_each = ids.shape[1], (len(ids),)
        draws = Draws(
            lambda: (torch.randint(tokens_of_each, rows_of_each, generator=generator),),
            ids.device,
            objective.look_every,
        )
        while True:
            (slots,) = draws.next()
            _, grad = objective.value_and_grad(vocabulary.embed(ids))
            tokens = vocabulary.steepest(vocabulary.slopes(grad[numbers, slots]), count)  # (rows, count)
            tried = ids.repeat_interleave(count, dim=0)
            tried[torch.arange(len(tried), device=ids.device), slots.repeat_interleave(count)] = tokens.reshape(-1)
            rows = numbers.repeat_interleave(count)
            scores = objective.score(tried, rows, lengths=ids.shape[1])
            yield Candidates(tried, scores, rows)
            # What is not a number never wins.
            top, place = scores.nan_to_num(nan=-torch.inf).reshape(len(ids), count).max(dim=1)
            better = top > best
            ids = torch.where(better.unsqueeze(1), tried.reshape(len(ids), count, -1)[numbers, place], ids)
            best = torch.where(better, top, best)
