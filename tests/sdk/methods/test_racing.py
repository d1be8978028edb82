"""Races: few items first, the best prompts on all of them, and what the refinement makes of it."""

import dataclasses

import pytest
import simulated_device
import torch

from hardprompts import run_search
from hardprompts.methods import PH2P, PH2PRefine, Race, Refine
from hardprompts.methods.racing import spread_order
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.testing import toy_backend

BACKEND = toy_backend()
VOCABULARY = BACKEND.vocabulary
ITEMS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Noisy(FeatureSimilarity):
    """The similarity as a sum over items: each has a share of it, and noise that is the same for all prompts."""

    asked: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    items = ITEMS

    def item_scores(self, ids, groups, items):
        self.asked.append((len(ids), len(items)))
        noise = torch.randn(ITEMS, generator=torch.Generator().manual_seed(0)).to(ids.device)
        shares = self.score(ids, groups)[:, None] * (1 + 0.1 * noise) + 5 * noise - (0.1 * noise + 5 * noise).mean()
        return (shares / ITEMS)[:, items]


def noisy(text: str = "red house near river") -> Noisy:
    return Noisy(BACKEND.text_encoder, BACKEND.encode_texts([text])[:, None], torch.ones(1, 1))


def bound(score, rows: int = 1) -> BoundObjective:
    return BoundObjective(score, score, VOCABULARY, PromptTemplate(), torch.zeros(rows, dtype=torch.long))


def ids_of(*texts: str) -> torch.Tensor:
    return torch.tensor([VOCABULARY.encode(text) for text in texts])


def judged(score: Noisy, ids: torch.Tensor, race: Race = Race(), against: str | None = None) -> torch.Tensor:
    objective, rows = bound(score), torch.zeros(len(ids), dtype=torch.long)
    known = None
    if against is not None:
        start = ids_of(against)
        known = (objective.item_scores(start, rows[:1], torch.arange(ITEMS)), torch.tensor([start.shape[1]]))
    return race.judged(objective, ids, rows, torch.Generator().manual_seed(0), known)


def test_the_best_finishes_and_most_are_out_before() -> None:
    score = noisy()
    ids = torch.cat([VOCABULARY.sample((40, 4), torch.Generator().manual_seed(1)), ids_of("red house near river")])
    found = judged(score, ids)
    finished = found.isfinite().all(dim=1)
    assert bool(finished[-1]) and int(finished.sum()) < 8
    assert int(score.score(ids, torch.zeros(41, dtype=torch.long)).argmax()) == int(
        found.sum(dim=1).nan_to_num(-9).argmax()
    )
    assert sum(count * items for count, items in score.asked) < 41 * ITEMS / 3
    assert score.asked[0] == (41, 2) and [items for _, items in score.asked] == [2, 2, 4, 8]


def test_nobody_finishes_who_is_not_better() -> None:
    score = noisy()
    ids = VOCABULARY.sample((30, 4), torch.Generator().manual_seed(1))
    assert not judged(score, ids, against="red house near river").isfinite().any()
    # They differ by little from each other, item by item, so that the first round suffices.
    assert sum(count * items for count, items in score.asked[1:]) == 30 * 2
    better = torch.cat([ids, ids_of("red house near river")])
    found = judged(score, better, against="red house old boat")
    assert bool(found[-1].isfinite().all())


def test_a_lead_within_the_noise_counts_as_none() -> None:
    score = noisy()
    one, other = ids_of("red house near river"), "red house near ocean"
    assert judged(score, one, against=other).isfinite().all()
    assert not judged(score, one, Race(lead=1e9), against=other).isfinite().any()
    assert not judged(score, ids_of(other), Race(confidence=1e9), against=other).isfinite().any()


def test_passes_are_counted_by_their_share_and_end_a_race() -> None:
    objective = bound(noisy())
    ids, rows = VOCABULARY.sample((6, 4), torch.Generator()), torch.zeros(6, dtype=torch.long)
    for count, spent in ((4, 1), (4, 3), (8, 6)):
        objective.item_scores(ids, rows, torch.arange(count))
        assert objective.evaluations == spent
    from hardprompts.allowance import Allowance

    limited = bound(noisy())
    limited.limit(Allowance(max_evaluations=1))
    found = limited.item_scores(ids, rows, torch.arange(4))
    assert found.isfinite().all(dim=1).tolist() == [True] * 4 + [False] * 2 and limited.evaluations == 1
    assert not Race().judged(limited, ids, rows, torch.Generator()).isfinite().any()


@pytest.mark.parametrize("items", [1, 2, 3, 5, 12, 16])
def test_every_beginning_of_the_order_is_spread(items: int) -> None:
    order = spread_order(items, torch.Generator().manual_seed(3)).tolist()
    assert sorted(order) == list(range(items))
    if items > 2:
        gap = abs(order[0] - order[1])
        assert min(gap, items - gap) >= items // 2 - 1


def test_racing_refinement_finds_what_the_exact_one_does_for_fewer_passes() -> None:
    start = ids_of("snow house near boat")
    search = Refine(candidates_per_slot=16)
    exact = run_search(search, noisy(), noisy(), VOCABULARY, start, seed=0)[0]
    raced = run_search(dataclasses.replace(search, race=Race()), noisy(), noisy(), VOCABULARY, start, seed=0)[0]
    assert exact.stop_reason == raced.stop_reason == "converged"
    assert raced.best.score > exact.best.score - 0.02
    assert raced.evaluations < 0.6 * exact.evaluations
    # What is returned was judged on all items.
    (whole,) = noisy().item_scores(
        torch.tensor([raced.best.token_ids]), torch.zeros(1, dtype=torch.long), torch.arange(ITEMS)
    )
    assert raced.best.score == pytest.approx(float(whole.sum()), abs=1e-5)


def test_one_gradient_serves_all_places_until_the_prompt_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plain = BoundObjective.value_and_grad

    def noted(self, embeddings, rows=None):
        asked.append(len(embeddings))
        return plain(self, embeddings, rows)

    monkeypatch.setattr(BoundObjective, "value_and_grad", noted)
    start = ids_of("red house near river")
    search = Refine(insert=False, delete=False, race=Race(), candidates_per_slot=4, first_candidates=4)
    run_search(search, noisy(), noisy(), VOCABULARY, start, seed=0)
    assert asked == [1]


@dataclasses.dataclass(frozen=True)
class Given:
    """An exploration that proposes what it was given."""

    texts: tuple[str, ...]

    def steps(self, objective, vocabulary, initial_ids, generator):
        ids = ids_of(*self.texts)
        yield Candidates(ids, rows=torch.zeros(len(ids), dtype=torch.long))


def test_what_an_exploration_met_races_before_the_best_is_refined() -> None:
    score = noisy()
    search = PH2PRefine(
        explore=Given(("snow cat old boat", "red house old boat", "snow cat old snow")), refine=Refine(race=Race())
    )
    found = run_search(search, score, score, VOCABULARY, ids_of("cat snow boat old"), seed=0)[0]
    assert found.best.text == "red house near river" or found.best.score > 0.95
    # None of them was scored whole before: three, with the start, began the race.
    assert score.asked[0][1] < ITEMS


@pytest.mark.skipif(not simulated_device.available, reason="this torch has no device types of its Python backend")
def test_races_run_where_the_model_is() -> None:
    with simulated_device.simulated() as device:
        backend = toy_backend(device=device)
        targets = backend.encode_texts(["red house near river"])[:, None]
        score = Noisy(backend.text_encoder, targets, torch.ones(1, 1, device=device))
        start = VOCABULARY.sample((2, 4), torch.Generator().manual_seed(0))
        search = PH2PRefine(refine=Refine(race=Race()))
        (found,) = run_search(search, score, score, backend.vocabulary, start, seed=0)
        assert found.best.score > 0.9 and found.stop_reason == "converged" and score.asked


def test_where_nothing_is_a_sum_it_is_ph2p_and_exact_refinement() -> None:
    plain = FeatureSimilarity(
        BACKEND.text_encoder, BACKEND.encode_texts(["red house near river"])[:, None], torch.ones(1, 1)
    )
    start = VOCABULARY.sample((4, 4), torch.Generator().manual_seed(0))
    found = run_search(PH2PRefine(), plain, plain, VOCABULARY, start, seed=0)[0]
    explored = run_search(PH2P(), plain, plain, VOCABULARY, start, seed=0, max_steps=20)[0]
    assert found.best.score >= explored.best.score and found.stop_reason == "converged"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Race(first_items=0), lambda: Race(kept=0.0), lambda: Race(kept=1.1), lambda: Race(confidence=-1.0),
        lambda: Race(lead=-1.0), lambda: PH2PRefine(explore_steps=-1), lambda: PH2PRefine(refined=0),
    ],
)  # fmt: skip
def test_hyperparameters_out_of_range_are_refused(make) -> None:
    with pytest.raises(ValueError, match="at least 1|not be negative"):
        make()
