"""Every registered method: its contract, the brute-force optimum, the gain of refinement."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch

from hardprompts import UnknownName, run_search, search_methods
from hardprompts.methods import PEZ, PEZRefine, Refine
from hardprompts.objectives import FeatureSimilarity
from hardprompts.search.registry import method_name, method_settings, search_method
from hardprompts.search.rows import pack
from hardprompts.testing import check_search, toy_backend

BACKEND = toy_backend()
VOCABULARY = BACKEND.vocabulary


def task(target: torch.Tensor) -> FeatureSimilarity:
    return FeatureSimilarity(BACKEND.text_encoder, target.reshape(1, 1, -1), torch.ones(1, 1))


def random_targets(count: int) -> list[torch.Tensor]:
    """Targets that no text has, as pictures are: the best prompt is not known but by trying all."""
    draw = torch.randn(count, 48, generator=torch.Generator().manual_seed(9))
    texts = BACKEND.encode_texts(
        [VOCABULARY.decode(row) for row in VOCABULARY.sample((count, 5), torch.Generator().manual_seed(8)).tolist()]
    )
    return list(torch.nn.functional.normalize(texts + 0.5 * torch.nn.functional.normalize(draw, dim=1), dim=1))


@pytest.mark.parametrize("name", sorted(search_methods()))
def test_every_registered_method_passes_the_conformance_suite(name: str) -> None:
    check_search(search_method(name), max_steps=50)


@pytest.mark.parametrize("name", sorted(search_methods()))
def test_every_method_takes_prompts_of_unequal_length(name: str) -> None:
    objective = task(BACKEND.encode_texts(["red house river"])[0])
    start = pack([VOCABULARY.encode(text) for text in ("red", "old boat on snow", "house")])
    (result,) = run_search(search_method(name), objective, objective, VOCABULARY, start, max_steps=20, seed=0)
    for candidate in result.candidates:
        assert all(0 <= i < len(VOCABULARY.table) for i in candidate.token_ids)
        row = torch.tensor([candidate.token_ids])
        own = objective.score(row, torch.zeros(1, dtype=torch.long))
        assert candidate.score == pytest.approx(float(own), abs=1e-4)


@dataclasses.dataclass(frozen=True)
class _WithPaths:
    words: str = "/home/me/my words.txt"
    folder: str = "C:\\Users\\me\\words"
    cache: Path = Path("/home/me/cache")
    parts: tuple[object, ...] = (Path("/home/me/a.txt"), 2, "red/green", "a / b / c", "~/me/d.txt")

    def steps(self, objective, vocabulary, initial_ids, generator):
        yield from ()


def test_settings_of_a_method_are_json_without_folders() -> None:
    settings = method_settings(_WithPaths())
    assert settings["words"] == "…/my words.txt" and settings["folder"] == "…/words" and "cache" not in settings
    assert settings["parts"][1:] == [2, "red/green", "a / b / c", "…/d.txt"] and "home" not in json.dumps(settings)
    assert method_name(_WithPaths()) == "_WithPaths"


@pytest.mark.parametrize("name", sorted(search_methods()))
def test_settings_of_every_registered_method_are_json(name: str) -> None:
    method = search_method(name)
    assert json.loads(json.dumps(method_settings(method))) == method_settings(method) != {}
    assert method_name(name) == name and method_settings(name) == {}
    assert method_name(method) == (name if search_methods()[name] is type(method) else method_name(type(method)()))


def test_an_unknown_method_names_those_that_exist() -> None:
    with pytest.raises(UnknownName, match=r"'pezz'.*pez\+refine"):
        search_method("pezz")


@pytest.mark.parametrize("tokens", [1, 2])
def test_pez_refine_finds_the_brute_force_optimum(tokens: int) -> None:
    words = VOCABULARY.only(["red green blue cat dog bird fish horse old boat river snow night house on the"])
    everything = torch.tensor(list(itertools.product(words.allowed_ids.tolist(), repeat=tokens)))
    targets = torch.stack(random_targets(40)).unsqueeze(1)
    objective = FeatureSimilarity(BACKEND.text_encoder, targets, torch.ones(40, 1))
    groups = torch.arange(40).repeat_interleave(8)
    start = words.sample((len(groups), tokens), torch.Generator().manual_seed(0))
    search = PEZRefine(refine=Refine(delete=False, insert=False))
    results = run_search(search, objective, objective, words, start, groups=groups, seed=0)
    found = 0
    for group, result in enumerate(results):
        best = objective.score(everything, torch.full((len(everything),), group)).max()
        found += result.best.score >= float(best) - 1e-5
    assert found >= 0.95 * 40, f"{found} of 40"


def test_refine_ends_at_a_prompt_that_no_single_change_improves() -> None:
    objective = task(random_targets(1)[0])
    start = VOCABULARY.sample((1, 4), torch.Generator().manual_seed(0))
    result = run_search(Refine(candidates_per_slot=10**6), objective, objective, VOCABULARY, start, seed=0)[0]
    assert result.stop_reason == "converged"
    best, words = list(result.best.token_ids), VOCABULARY.allowed_ids.tolist()
    neighbors = [best[:i] + [w] + best[i + 1 :] for i in range(len(best)) for w in words]
    neighbors += [best[:i] + best[i + 1 :] for i in range(len(best)) if len(best) > 1]
    if len(best) < 4:
        neighbors += [best[:i] + [w] + best[i:] for i in range(len(best) + 1) for w in words]
    for length in {len(ids) for ids in neighbors}:
        batch = torch.tensor([ids for ids in neighbors if len(ids) == length])
        scores = objective.score(batch, torch.zeros(len(batch), dtype=torch.long))
        assert float(scores.max()) <= result.best.score + 1e-5


def test_refine_deletes_and_inserts() -> None:
    objective = task(BACKEND.encode_texts(["red house"])[0])
    long = torch.tensor([VOCABULARY.encode("red snow house")])
    only_delete = Refine(swap=False, insert=False)
    assert run_search(only_delete, objective, objective, VOCABULARY, long, seed=0)[0].best.text == "red house"
    short = torch.tensor([VOCABULARY.encode("red")])
    only_insert = Refine(swap=False, delete=False, max_tokens=2)
    assert run_search(only_insert, objective, objective, VOCABULARY, short, seed=0)[0].best.text == "red house"


def test_refine_keeps_the_length_when_told_to() -> None:
    objective = task(BACKEND.encode_texts(["red house"])[0])
    start = VOCABULARY.sample((4, 5), torch.Generator().manual_seed(0))
    result = run_search(Refine(insert=False, delete=False), objective, objective, VOCABULARY, start, seed=0)[0]
    assert all(len(candidate.token_ids) == 5 for candidate in result.candidates)


def test_refinement_only_adds_to_what_the_exploration_found() -> None:
    for seed, target in enumerate(random_targets(4)):
        objective = task(target)
        start = VOCABULARY.sample((8, 6), torch.Generator().manual_seed(seed))
        explored = run_search(PEZ(), objective, objective, VOCABULARY, start, max_steps=30, seed=seed)[0]
        search = PEZRefine(explore_steps=30)
        refined = run_search(search, objective, objective, VOCABULARY, start, seed=seed)[0]
        assert refined.stop_reason == "converged"
        assert refined.best.score > explored.best.score


def test_of_few_passes_most_are_left_for_the_refinement_of_fewer_prompts() -> None:
    refined = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Refine):
        def steps(self, objective, vocabulary, initial_ids, generator):
            refined.append((len(initial_ids), objective.remaining))
            return super().steps(objective, vocabulary, initial_ids, generator)

    objective = task(random_targets(1)[0])
    start = VOCABULARY.sample((8, 6), torch.Generator().manual_seed(0))
    search = PEZRefine(refine=Watched(candidates_per_slot=10))
    # To go through 6 places twice takes one prompt 144 passes.
    for passes, prompts in ((None, 4), (250, 1), (400, 2), (10_000, 4)):
        run_search(search, objective, objective, VOCABULARY, start, max_evaluations=passes, seed=0)
        count, remaining = refined.pop()
        assert count == prompts
        assert passes is None or passes == 10_000 or 0.65 * passes < remaining <= 0.75 * passes


def test_most_of_the_time_before_a_deadline_is_left_for_the_refinement_of_fewer_prompts(monkeypatch) -> None:
    refined, steps = [], []
    seconds = itertools.count()  # a second passes whenever somebody looks

    @dataclasses.dataclass(frozen=True)
    class Watched(Refine):
        def steps(self, objective, vocabulary, initial_ids, generator):
            refined.append((len(initial_ids), objective.seconds_left))
            return super().steps(objective, vocabulary, initial_ids, generator)

    for module in ("allowance", "search.loop", "search.bound"):
        monkeypatch.setattr(f"hardprompts.{module}.clock", lambda: float(next(seconds)))
    objective = task(random_targets(1)[0])
    start = VOCABULARY.sample((8, 6), torch.Generator().manual_seed(0))
    search = PEZRefine(refine=Watched(candidates_per_slot=10))
    for deadline in (100.0, 100_000.0):
        result = run_search(search, objective, objective, VOCABULARY, start, deadline=deadline, seed=0)[0]
        steps.append(result.steps)
    assert refined[0][0] < refined[1][0] == 4
    assert 0.6 * 100 < refined[0][1] <= 0.75 * 100
    assert steps[0] < 50 < steps[1]


def test_refine_tries_all_candidates_where_few_of_them_do_not_help() -> None:
    few, all_of_them = Refine(candidates_per_slot=3, first_candidates=3), Refine(candidates_per_slot=40)
    better = 0
    for seed, target in enumerate(random_targets(6)):
        objective = task(target)
        start = VOCABULARY.sample((1, 5), torch.Generator().manual_seed(seed))
        narrow, wide, at_once = (
            run_search(method, objective, objective, VOCABULARY, start, seed=seed)[0]
            for method in (
                few,
                dataclasses.replace(all_of_them, first_candidates=3),
                dataclasses.replace(all_of_them, first_candidates=40),
            )
        )
        assert wide.stop_reason == "converged" and wide.best.score >= narrow.best.score
        assert wide.evaluations < at_once.evaluations
        better += wide.best.score > narrow.best.score + 1e-6
    assert better


def test_pez_leaves_out_tokens_when_told_to() -> None:
    lengths = set()

    class Watched(FeatureSimilarity):
        def __call__(self, embeddings, groups):
            lengths.add(embeddings.shape[1])
            return super().__call__(embeddings, groups)

    target = BACKEND.encode_texts(["red house"])[:, None]
    objective = Watched(BACKEND.text_encoder, target, torch.ones(1, 1))
    start = VOCABULARY.sample((4, 5), torch.Generator().manual_seed(0))
    run_search(PEZ(token_dropout=2), objective, objective, VOCABULARY, start, max_steps=5, seed=0)
    assert lengths == {3}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: Refine(candidates_per_slot=0), "candidates_per_slot"),
        (lambda: PEZRefine(refined=0), "refined"),
        (lambda: PEZRefine(explore_steps=-1), "explore_steps"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(method, message) -> None:
    with pytest.raises(ValueError, match=message):
        method()
