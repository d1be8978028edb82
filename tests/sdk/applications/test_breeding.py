"""Prompts bred from prompts, by a score or by someone who chooses."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from painter import BACKEND, TOWER, Painter
from PIL import Image

from hardprompts import HardPrompt, TemplateError, VocabularyError, run_search
from hardprompts.applications.breeding import Individual, evolve
from hardprompts.applications.pictures import likeness
from hardprompts.methods import Evolution
from hardprompts.methods.evolution import cross
from hardprompts.objectives import FeatureSimilarity

VOCABULARY = BACKEND.vocabulary


def prompt(text: str, template: str = "{}", model: str = "toy") -> HardPrompt:
    return HardPrompt(text, tuple(VOCABULARY.encode(text)), 0.5, template=template, model=model)


def cosine(a: str, b: str) -> float:
    first, second = BACKEND.encode_texts([a, b])
    return float(first @ second)


def test_crossover_takes_places_from_both_parents() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (1, 2, 3, 4), (11, 12, 13, 14, 15, 16)
    uniform = {cross(first, second, "uniform", 6, generator) for _ in range(300)}
    for child in uniform:
        assert len(child) in (4, 6)
        assert all(token in (first[i : i + 1] + second[i : i + 1]) for i, token in enumerate(child))
    # Either parent gives each of the four shared places: 16 ways for both lengths, where the longer end is fixed.
    assert len(uniform) == 32
    points = {cross(first, second, "one-point", 6, generator) for _ in range(3000)}
    ways = {
        (first[:i] + second[j:])[:6] or first[:6]
        for i, j in itertools.product(range(len(first) + 1), range(len(second) + 1))
    }
    assert points == ways
    assert all(len(cross(first, second, "uniform", 3, generator)) == 3 for _ in range(20))


def test_breeding_finds_what_both_parents_have_and_beats_both() -> None:
    paint = Painter()
    target = TOWER.picture("red house near old river")
    lineage = evolve(
        [prompt("red house near"), "snow dog wood old river"], paint, BACKEND, likeness(target, BACKEND),
        generations=10, population=20, survivors=6, seed=0,
    )  # fmt: skip
    start = max(own.score for own in lineage.generation(0))
    assert lineage.prompt.score > start + 0.1
    assert lineage.prompt.score == pytest.approx(cosine(lineage.prompt.text, "red house near old river"), abs=1e-5)
    assert lineage.prompt.score == max(own.score for own in lineage.individuals)
    assert lineage.prompt.method == "evolution" and lineage.prompt.stop_reason == "max_steps"
    assert lineage.prompt.provenance["parents"] == ["red house near", "snow dog wood old river"]
    assert HardPrompt.from_dict(lineage.prompt.to_dict()) == lineage.prompt


def small(**options) -> object:
    settings = {"generations": 3, "population": 6, "survivors": 3, "seed": 0, **options}
    return evolve(["red house", "old boat on river"], Painter(), BACKEND, likeness(TOWER.picture("red boat"), BACKEND), **settings)  # fmt: skip


def test_every_prompt_is_drawn_once_survives_the_round_trip_and_knows_where_it_comes_from() -> None:
    paint = Painter()
    lineage = evolve(
        ["red house", "old boat on river"], paint, BACKEND, likeness(TOWER.picture("red boat"), BACKEND),
        template="the {} in snow", generations=4, population=6, survivors=3, seeds=(0, 5), seed=1,
    )  # fmt: skip
    assert len(paint.drawn) == len(set(paint.drawn)) == 2 * len(lineage.individuals)
    assert {text for text, _ in paint.drawn} == {f"the {own.text} in snow" for own in lineage.individuals}
    by_text = {own.text: own for own in lineage.individuals}
    for own in lineage.individuals:
        assert VOCABULARY.encode(own.text) == list(own.token_ids) and len(own.pictures) == 2
        assert len(own.token_ids) <= 4
        assert bool(own.parents) is (own.generation > 0)
        assert all(by_text[parent].generation < own.generation for parent in own.parents)
    assert [len(lineage.generation(number)) for number in range(5)] == [2, 6, 6, 6, 6]
    youngest = lineage.individuals[-1]
    ancestors = lineage.ancestors(youngest.text)
    assert set(youngest.parents) <= {own.text for own in ancestors} < set(by_text)
    assert any(own.generation == 0 for own in ancestors)
    with pytest.raises(LookupError, match="no prompt 'zebra'"):
        lineage.ancestors("zebra")
    grid = lineage.grid(columns=6)
    assert grid.mode == "RGB" and grid.width > grid.height / 5


def test_the_seed_decides() -> None:
    def texts(lineage) -> list[str]:
        return [own.text for own in lineage.individuals]

    assert texts(small()) == texts(small())
    assert texts(small()) != texts(small(seed=1))
    assert texts(small(crossover="one-point")) != texts(small())


def test_without_mutation_children_have_the_parents_tokens_but_where_they_would_be_copies() -> None:
    lineage = small(mutation_rate=0.0, neighbors=1, generations=1, population=12)
    parents = [own.token_ids for own in lineage.generation(0)]
    strangers = [len(set(own.token_ids) - set(itertools.chain(*parents))) for own in lineage.generation(1)]
    assert max(strangers) <= 1 and min(strangers) == 0
    # A copy may only have become its token's nearest neighbor.
    nearest = {int(VOCABULARY.neighbors(torch.tensor([t]), 1)) for ids in parents for t in ids}
    assert {t for own in lineage.generation(1) for t in own.token_ids} <= nearest | set(itertools.chain(*parents))


def test_someone_chooses_in_the_stead_of_a_score() -> None:
    shown: list[list[Individual]] = []

    def choose(individuals: Sequence[Individual]) -> list[int]:
        shown.append(list(individuals))
        # Likes boats.
        return [place for place, own in enumerate(individuals) if "boat" in own.text][:3]

    lineage = evolve(
        ["red house", "old boat on river"], Painter(), BACKEND, choose=choose, generations=4, population=6, seed=0
    )
    assert len(shown) == 4 and all(own.pictures for own in shown[0])
    assert {"red house", "old boat on river"} <= {own.text for own in shown[0]}  # all parents had children
    assert lineage.prompt.text == next(own.text for own in shown[-1] if "boat" in own.text)
    assert "boat" in lineage.prompt.text and lineage.prompt.score_unit == "times chosen"
    assert lineage.prompt.score == sum(
        lineage.prompt.text in [own.text for own in round if "boat" in own.text][:3] for round in shown
    )
    assert all(any(own.text == c.text for own in shown[-1]) for c in lineage.prompt.candidates)


def test_choosing_nothing_ends_it_and_choosing_what_is_not_there_is_an_error() -> None:
    rounds = iter([[0, 1], []])
    lineage = evolve(["red house", "old boat"], Painter(), BACKEND, choose=lambda own: next(rounds), generations=9, seed=0)  # fmt: skip
    assert lineage.prompt.stop_reason == "converged" and lineage.prompt.text == "red house"
    assert max(own.generation for own in lineage.individuals) == 2
    with pytest.raises(ValueError, match="places from 0"):
        evolve(["red house", "old boat"], Painter(), BACKEND, choose=lambda own: [99], seed=0)


def test_an_interrupt_returns_the_best_so_far() -> None:
    class Impatient(Painter):
        def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image]:
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().__call__(prompts, seeds)

    lineage = evolve(
        ["red house", "old boat"], Impatient(), BACKEND, likeness(TOWER.picture("red boat"), BACKEND), seed=0
    )
    assert lineage.prompt.stop_reason == "interrupted"
    assert max(own.generation for own in lineage.individuals) == 2  # what was born but not drawn is left out


def test_banned_words_do_not_come_in_by_mutation() -> None:
    words = VOCABULARY.without(["dog", "snow"])
    lineage = small(vocabulary=words, mutation_rate=1.0, generations=6)
    assert not any({"dog", "snow"} & set(own.text.split()) for own in lineage.individuals)


@pytest.mark.parametrize(
    ("parents", "options", "error", "message"),
    [
        (["red"], {"image_score": None}, ValueError, "image_score or choose"),
        (["red"], {"seeds": ()}, ValueError, "needs a seed"),
        (["red"], {"generations": -1}, ValueError, "generations"),
        (["red"], {"population": 0}, ValueError, "population"),
        (["red"], {"mutation_rate": 2.0}, ValueError, "mutation_rate"),
        (["red"], {"max_tokens": 17}, TemplateError, "17 tokens"),
        ([], {}, VocabularyError, "no parents"),
        (["zebra"], {}, VocabularyError, "'zebra'"),
    ],
)
def test_an_evolution_that_cannot_be_is_refused(parents, options, error, message) -> None:
    settings = {"image_score": likeness(TOWER.picture("red"), BACKEND), "seed": 0, **options}
    with pytest.raises(error, match=message):
        evolve(parents, Painter(), BACKEND, **settings)


def test_evolution_of_several_tasks_keeps_them_apart() -> None:
    texts = ("red house", "old boat", "night rain")
    objective = FeatureSimilarity(BACKEND.text_encoder, BACKEND.encode_texts(texts)[:, None], torch.ones(3, 1))
    start = VOCABULARY.sample((24, 2), torch.Generator().manual_seed(0))
    results = run_search(
        Evolution(population=12), objective, objective, VOCABULARY, start,
        groups=torch.arange(3).repeat_interleave(8), max_steps=25, seed=0,
    )  # fmt: skip
    assert [result.best.text for result in results] == list(texts)
