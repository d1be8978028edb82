"""Choosing flatters, and fresh seeds do not: shown with candidates that are all worth the same."""

import random

import pytest

from hardprompts.evaluation import best_by_fresh_seeds, best_within


def luck(candidate: int, seed: int) -> float:
    return random.Random(f"{candidate} {seed}").gauss(0, 1)


def test_of_candidates_that_are_worth_the_same_the_best_is_no_better_by_fresh_seeds() -> None:
    runs = [
        best_by_fresh_seeds(range(40), lambda one, seed, run=run: luck(1000 * run + one, seed), [0, 1], [2, 3, 4, 5])
        for run in range(60)
    ]
    flattered, honest = (sum(getattr(run, name) for run in runs) / 60 for name in ("chosen_at", "score"))
    assert flattered > 1.2
    assert abs(honest) < 0.2


def test_the_best_candidate_is_the_one_with_the_highest_mean() -> None:
    found = best_by_fresh_seeds(["a", "b"], lambda one, seed: {"a": 1.0, "b": 2.0}[one] + 0.1 * seed, [0, 2], [10])
    assert (found.best, found.chosen_at, found.score) == ("b", pytest.approx(2.1), pytest.approx(3.0))


def test_seeds_that_chose_may_not_report() -> None:
    with pytest.raises(ValueError, match=r"the seeds \[1\] are for choosing and for reporting"):
        best_by_fresh_seeds(["a"], lambda one, seed: 0.0, [0, 1], [1, 2])
    for candidates, choosing, reporting in (([], [0], [1]), (["a"], [], [1]), (["a"], [0], [])):
        with pytest.raises(ValueError, match="needs candidates"):
            best_by_fresh_seeds(candidates, lambda one, seed: 0.0, choosing, reporting)


def test_the_best_so_far_after_each_number_of_tries() -> None:
    assert best_within([0.1, 0.5, 0.3, 0.9], budgets=(1, 3, 10)) == {1: 0.1, 3: 0.5, 10: 0.9}
    with pytest.raises(ValueError, match="at least 1"):
        best_within([], budgets=(1,))
    with pytest.raises(ValueError, match="at least 1"):
        best_within([0.1], budgets=(0,))
