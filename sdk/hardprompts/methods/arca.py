"""ARCA: coordinate ascent, where a place's tokens are ranked by a first-order step averaged over random tokens."""

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
class ARCA:
    """One place after the other takes the best token that is found for it, the others being fixed.

    The gradient at one token says little of tokens far from it. So the place is filled with random tokens, the
    gradients there are averaged, the tokens that a step along the mean likes best are scored, and the best of
    them is taken. Where the vocabulary is so small that scoring all of it costs no more passes, that is done
    instead, and the search ends when no place can be bettered.

    Attributes:
        averaged: random tokens that the gradient is averaged over; 32 in the paper.
        candidates: tokens that are scored; 32 in the paper.

    Source: Jones et al. 2023, arXiv 2303.04381; https://github.com/ejones313/auditing-llms, `arca.py`.
    Deviations: the exact, autoregressive part of the paper's score is not possible with an objective that only
    knows embeddings: exact is, instead, the whole score of a vocabulary that is small enough; the token that
    stands there is a candidate too, so the score never falls; restarts in one batch.
    """

    averaged: int = 32
    candidates: int = 32

    def __post_init__(self) -> None:
        if self.averaged < 1 or self.candidates < 1:
            raise ValueError(f"averaged and candidates must be at least 1, got {self.averaged}, {self.candidates}")

    def exact(self, vocabulary: Vocabulary) -> bool:
        """Whether scoring every token takes no more passes than ranking them first."""
        return len(vocabulary.allowed_ids) <= 2 * self.averaged + self.candidates

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the candidates of one place of every restart, from the first to the last and again."""
        ids = filled(initial_ids, vocabulary, generator).clone()
        best = objective.score(ids, lengths=ids.shape[1]).nan_to_num(nan=-torch.inf)
        numbers = torch.arange(len(ids), device=ids.device)
        exact, unchanged = self.exact(vocabulary), 0
        while not (exact and unchanged >= ids.shape[1]):
            for slot in range(ids.shape[1]):
                tokens = (
                    vocabulary.allowed_ids.expand(len(ids), -1)
                    if exact
                    else self._likely(ids, slot, objective, vocabulary, generator)
                )
                tried = ids.repeat_interleave(tokens.shape[1], dim=0)
                tried[:, slot] = tokens.reshape(-1)
                rows = numbers.repeat_interleave(tokens.shape[1])
                scores = objective.score(tried, rows, lengths=ids.shape[1])
                yield Candidates(tried, scores, rows)
                top, place = scores.nan_to_num(nan=-torch.inf).reshape(len(ids), -1).max(dim=1)
                better = top > best + 1e-7
                ids[better, slot] = tokens[numbers, place][better]
                best = torch.where(better, top, best)
                unchanged = 0 if bool(better.any()) else unchanged + 1

    def _likely(
        self,
        ids: Int[Tensor, "rows tokens"],
        slot: int,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        generator: torch.Generator,
    ) -> Int[Tensor, "rows candidates"]:
        """The tokens that a first-order step at a place likes best, its gradient averaged over random tokens."""
        probes = ids.repeat_interleave(self.averaged, dim=0)
        probes[:, slot] = vocabulary.sample((len(probes),), generator)
        rows = torch.arange(len(ids), device=ids.device).repeat_interleave(self.averaged)
        _, grad = objective.value_and_grad(vocabulary.embed(probes), rows)
        mean = grad[:, slot].float().reshape(len(ids), self.averaged, -1).mean(dim=1)
        return vocabulary.steepest(vocabulary.slopes(mean), self.candidates)
