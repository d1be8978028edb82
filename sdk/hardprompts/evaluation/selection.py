"""Prompts that are chosen by noisy scores, reported without what choosing flatters."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Choice = TypeVar("Choice")

#: Numbers of pictures that results are usually reported at.
BUDGETS = (1, 10, 30, 100)


@dataclasses.dataclass(frozen=True)
class FreshScore(Generic[Choice]):
    """The best of several candidates, and how good it is by seeds that it was not chosen by.

    Attributes:
        best: the candidate with the highest mean score by the seeds for choosing.
        chosen_at: that mean: the highest of several noisy ones, so more than the candidate is worth on average.
        score: its mean score by the fresh seeds, which nothing was chosen by.
    """

    best: Choice
    chosen_at: float
    score: float


def best_by_fresh_seeds(
    candidates: Sequence[Choice],
    score: Callable[[Choice, int], float],
    choosing: Sequence[int],
    reporting: Sequence[int],
) -> FreshScore[Choice]:
    """The candidate that is best by some seeds, reported by others.

    Args:
        score: of a candidate with a seed, such as the similarity of the picture that it makes; higher is better.
        choosing, reporting: seeds; none may be in both.

    Raises:
        ValueError: there are no candidates or no seeds of one kind, or a seed is in both.
    """
    if not candidates or not choosing or not reporting:
        raise ValueError(
            f"a choice needs candidates, seeds to choose by and seeds to report; got {len(candidates)}, "
            f"{len(choosing)} and {len(reporting)}"
        )
    if both := sorted(set(choosing) & set(reporting)):
        raise ValueError(
            f"the seeds {both} are for choosing and for reporting: what was chosen by a seed looks better with it than "
            "it is; report with others"
        )

    def mean(candidate: Choice, seeds: Sequence[int]) -> float:
        return sum(score(candidate, seed) for seed in seeds) / len(seeds)

    means = [mean(candidate, choosing) for candidate in candidates]
    at = max(range(len(means)), key=means.__getitem__)
    return FreshScore(candidates[at], means[at], mean(candidates[at], reporting))


def best_within(scores: Sequence[float], budgets: Sequence[int] = BUDGETS) -> dict[int, float]:
    """The best score that a search had met after each number of tries; what it never tried does not count.

    Args:
        scores: in the order in which they were met, one for each picture, query or pass.
        budgets: numbers of tries, 1 or more.

    Raises:
        ValueError: there are no scores, or a budget is below 1.
    """
    if not scores or any(budget < 1 for budget in budgets):
        raise ValueError(f"budgets must be at least 1 and scores there, got {len(scores)} scores and {list(budgets)}")
    return {budget: max(scores[:budget]) for budget in budgets}
