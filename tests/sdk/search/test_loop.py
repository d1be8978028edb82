import dataclasses
import time
import types
from collections.abc import Iterator

import pytest
import torch

from hardprompts import NonFiniteError, PromptTemplate, SearchError, run_search
from hardprompts.methods import PEZ, Refine
from hardprompts.objectives import Evaluation, FeatureSimilarity
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import NO_TOKEN, pack
from hardprompts.testing import toy_backend

BACKEND = toy_backend()
VOCABULARY = BACKEND.vocabulary


def similarity(*texts: str) -> FeatureSimilarity:
    """One task for each text."""
    return FeatureSimilarity(BACKEND.text_encoder, BACKEND.encode_texts(texts)[:, None], torch.ones(len(texts), 1))


def initial(rows: int = 4, tokens: int = 4, seed: int = 0) -> torch.Tensor:
    return VOCABULARY.sample((rows, tokens), torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class Scripted:
    """Proposes the given candidates, one batch a step."""

    batches: tuple[Candidates, ...]
    pause: float = 0.0

    def steps(self, objective, vocabulary, initial_ids, generator) -> Iterator[Candidates]:
        for batch in self.batches:
            time.sleep(self.pause)
            yield batch


def proposing(*texts: str) -> Scripted:
    return Scripted(tuple(Candidates(torch.tensor([VOCABULARY.encode(text)])) for text in texts))


def run(search, target="red house", **options):
    objective = similarity(target)
    start = torch.tensor([VOCABULARY.encode("the snow")])
    return run_search(search, objective, objective, VOCABULARY, start, seed=0, **options)[0]


def test_keeps_the_best_so_far_and_the_top_without_duplicates() -> None:
    result = run(proposing("old boat", "red house", "red house", "cat dog", "red boat"), top_k=3)
    assert result.best.text == "red house" and result.best.score == pytest.approx(1, abs=1e-5)
    texts = [candidate.text for candidate in result.candidates]
    assert len(texts) == len(set(texts)) == 3
    assert [c.score for c in result.candidates] == sorted((c.score for c in result.candidates), reverse=True)
    assert result.stop_reason == "converged" and result.steps == 5


def test_history_rises_and_ends_at_the_best() -> None:
    result = run(PEZ(), max_steps=60)
    scores = [point.score for point in result.history]
    assert scores == sorted(scores) and scores[-1] == result.best.score
    assert [point.step for point in result.history] == sorted(point.step for point in result.history)


def test_candidates_that_fail_the_round_trip_are_never_kept() -> None:
    piece = VOCABULARY.tokenizer.tokens.index("ca")
    broken = Scripted((Candidates(torch.tensor([[piece, *VOCABULARY.encode("red")]]), torch.tensor([9.0])),))
    result = run(broken)
    assert all(piece not in candidate.token_ids for candidate in result.candidates)


def test_a_template_in_which_nothing_survives_is_an_error() -> None:
    with pytest.raises(SearchError, match="round trip"):
        run(proposing("cat dog"), template=PromptTemplate("x{}y"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_steps": 3}, "max_steps"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_evaluations": 10}, "max_evaluations"),
        ({"deadline": 0.05}, "deadline"),
        ({"deadline": 0}, "deadline"),
        ({"patience": 5}, "patience"),
        ({"callback": lambda progress: progress.step == 4}, "cancelled"),
    ],
)
def test_every_limit_stops_the_search_with_the_best_so_far(options, reason) -> None:
    result = run(PEZ(), **options)
    assert result.stop_reason == reason
    assert result.best.text


def test_evaluations_are_forward_and_backward_passes_of_one_prompt() -> None:
    objective = similarity("red house")
    result = run_search(PEZ(), objective, objective, VOCABULARY, initial(6), max_steps=10, seed=0)[0]
    assert result.evaluations == 6 + 10 * 6 * 2  # the start, then one forward and one backward a step


def test_passes_beyond_the_limit_are_not_made() -> None:
    objective = similarity("red house")
    scored = []

    def score(ids, groups):
        scored.append(len(ids))
        return objective.score(ids, groups)

    one = VOCABULARY.encode("red house")
    wide = Candidates(torch.tensor([VOCABULARY.encode("cat dog")] * 5 + [one]), rows=torch.zeros(6, dtype=torch.long))
    counted = types.SimpleNamespace(unit="toy", score=score)
    for limit, best in ((9, "cat dog"), (10, "red house")):
        scored.clear()
        start = torch.tensor([VOCABULARY.encode("cat dog")] * 4)
        result = run_search(Scripted((wide,)), objective, counted, VOCABULARY, start, max_evaluations=limit, seed=0)[0]
        assert sum(scored) == result.evaluations == limit and result.best.text == best
    # A gradient is of the whole batch or not at all.
    result = run_search(PEZ(), objective, objective, VOCABULARY, initial(6), max_evaluations=6 + 12 + 11, seed=0)[0]
    assert (result.evaluations, result.stop_reason) == (6 + 12, "max_evaluations")


def test_the_starts_are_scored_even_without_a_budget() -> None:
    assert run(PEZ(), max_evaluations=0).best.text


def test_a_start_that_may_be_returned_is_found_even_without_time() -> None:
    banning, objective = VOCABULARY.without(["river"]), similarity("red house")
    starts = torch.tensor([VOCABULARY.encode("old river"), VOCABULARY.encode("dog boat")])
    for rows, text in ((starts, "dog boat"), (starts[:1], "old")):
        result = run_search(PEZ(), objective, objective, banning, rows, deadline=0.0, seed=0)[0]
        assert (result.best.text, result.evaluations) == (text, 1)


def test_the_looks_at_the_scores_may_be_rarer_than_the_steps() -> None:
    every, seldom = (
        run_search(PEZ(), objective, objective, VOCABULARY, initial(), max_steps=33, seed=0, report_every=interval)[0]
        for objective in [similarity("red house near river")]
        for interval in (1, 10)
    )
    assert every.candidates == seldom.candidates and every.evaluations == seldom.evaluations


def test_tasks_share_a_batch_and_not_their_prompts() -> None:
    texts = ("red house", "old boat", "night rain")
    objective = similarity(*texts)
    groups = torch.arange(3).repeat_interleave(8)
    results = run_search(
        Refine(candidates_per_slot=200), objective, objective, VOCABULARY, initial(24, 2), groups=groups, seed=0
    )
    assert [result.best.text for result in results] == list(texts)


def test_a_run_alone_finds_what_it_finds_among_others() -> None:
    together = run_search(
        PEZ(), objective := similarity("red house", "old boat"), objective, VOCABULARY, initial(8),
        groups=torch.tensor([0] * 4 + [1] * 4), max_steps=30, seed=0,
    )  # fmt: skip
    alone = run_search(
        PEZ(), objective := similarity("old boat"), objective, VOCABULARY, initial(8)[4:], max_steps=30, seed=0
    )
    assert together[1].best.token_ids == alone[0].best.token_ids


def test_keyboard_interrupt_returns_the_best_so_far() -> None:
    def interrupt(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    result = run(PEZ(), callback=interrupt, max_steps=50)
    assert result.stop_reason == "interrupted" and result.steps == 3


def test_other_exceptions_of_a_callback_reach_the_caller() -> None:
    class Cancelled(Exception):
        pass

    def cancel(progress):
        raise Cancelled

    with pytest.raises(Cancelled):
        run(PEZ(), callback=cancel, max_steps=50)


def test_scores_that_are_not_finite_never_win() -> None:
    rows = torch.tensor([VOCABULARY.encode(text) for text in ("cat dog", "old boat", "red boat")])
    script = Scripted((Candidates(rows, torch.tensor([float("nan"), 0.5, float("inf")]), torch.zeros(3).long()),))
    assert "cat dog" not in [c.text for c in run(script).candidates]
    assert "red boat" not in [c.text for c in run(script).candidates]


def test_a_model_that_returns_nan_from_the_start_is_an_error() -> None:
    objective = similarity("red house")
    objective.targets.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="float32"):
        run_search(PEZ(), objective, objective, VOCABULARY, initial(), max_steps=5)


def test_a_model_that_turns_to_nan_stops_with_the_best_so_far() -> None:
    good = Candidates(torch.tensor([VOCABULARY.encode("red boat")]))
    bad = Candidates(torch.tensor([VOCABULARY.encode("cat dog")]), torch.tensor([float("nan")]))
    result = run(Scripted((good, bad, good)))
    assert result.stop_reason == "non_finite" and result.steps == 2 and result.best.score > 0


@pytest.mark.parametrize("name", ["max_steps", "deadline", "max_evaluations", "patience"])
def test_negative_limits_are_refused(name) -> None:
    with pytest.raises(ValueError, match=name):
        run(PEZ(), **{name: -1})


class Crowded:
    """An objective that has no memory for more than three prompts at once."""

    unit = "toy"

    def __init__(self, limit: int = 3) -> None:
        self.inner, self.limit, self.largest = similarity("red house"), limit, 0

    def _check(self, batch) -> None:
        if len(batch) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.largest = max(self.largest, len(batch))

    def __call__(self, embeddings, groups) -> Evaluation:
        self._check(embeddings)
        return self.inner(embeddings, groups)

    def score(self, ids, groups):
        self._check(ids)
        return self.inner.score(ids, groups)


def test_out_of_memory_halves_the_batch_says_so_and_goes_on() -> None:
    crowded, roomy = Crowded(), similarity("red house")
    with pytest.warns(RuntimeWarning, match="going on with"):
        small = run_search(PEZ(), crowded, crowded, VOCABULARY, initial(10), max_steps=20, seed=0)[0]
    large = run_search(PEZ(), roomy, roomy, VOCABULARY, initial(10), max_steps=20, seed=0)[0]
    assert 1 <= crowded.largest <= 3
    assert small.best.token_ids == large.best.token_ids and small.evaluations == large.evaluations


def test_no_memory_for_a_single_prompt_is_the_callers_error() -> None:
    crowded = Crowded(limit=0)
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(RuntimeWarning):
        run_search(PEZ(), crowded, crowded, VOCABULARY, initial(2), max_steps=2, seed=0)


def test_rows_of_different_lengths_are_scored_like_rows_by_themselves() -> None:
    objective = similarity("red house")
    bound = BoundObjective(objective, objective, VOCABULARY, PromptTemplate(), torch.zeros(1, dtype=torch.long))
    prompts = [VOCABULARY.encode(text) for text in ("red", "old red boat", "red house")]
    rows = torch.zeros(3, dtype=torch.long)
    together = bound.score(pack(prompts), rows)
    apart = torch.cat([objective.score(torch.tensor([ids]), rows[:1]) for ids in prompts])
    assert torch.allclose(together, apart, atol=1e-6)
    assert bound.score(torch.tensor([[NO_TOKEN]]), rows[:1]).item() == -torch.inf
