"""Joining, avoiding, ranking by pictures, evolving: with the toy model, whose pictures hold the words of their prompt."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from PIL import Image

from hardprompts import (
    BackendError,
    Candidate,
    HardPrompt,
    ImageError,
    PromptInverter,
    TemplateError,
    VocabularyError,
    run_search,
)
from hardprompts.applications import (
    Generate,
    Individual,
    concatenate,
    evolve,
    likeness,
    negative_prompt,
    picture_grid,
    rerank,
)
from hardprompts.methods import Evolution
from hardprompts.methods.evolution import cross
from hardprompts.objectives import FeatureSimilarity
from hardprompts.testing import ToyEncoder, toy_backend

BACKEND = toy_backend()
VOCABULARY = BACKEND.vocabulary
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)


def prompt(text: str, template: str = "{}", model: str = "toy") -> HardPrompt:
    return HardPrompt(text, tuple(VOCABULARY.encode(text)), 0.5, template=template, model=model)


class Painter:
    """Draws the words of a prompt, and keeps count."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, ...], int]] = []

    def __call__(self, prompts: Sequence[str], seed: int) -> Sequence[Image.Image]:
        self.calls.append((tuple(prompts), seed))
        return [TOWER.picture(text) for text in prompts]

    @property
    def drawn(self) -> list[tuple[str, int]]:
        return [(text, seed) for texts, seed in self.calls for text in texts]


def cosine(a: str, b: str) -> float:
    first, second = BACKEND.encode_texts([a, b])
    return float(first @ second)


# --- joining ------------------------------------------------------------------------------


def test_joined_prompts_are_encoded_checked_and_scored_anew() -> None:
    joined = concatenate([prompt("red house"), prompt("old boat"), prompt("night")], BACKEND, separator=" near ")
    assert joined.text == joined.filled == "red house near old boat near night"
    assert joined.token_ids == tuple(VOCABULARY.encode(joined.text)) and joined.tokens == tuple(joined.text.split())
    parts = ("red house", "old boat", "night")
    assert joined.score == pytest.approx(sum(cosine(joined.text, part) for part in parts) / 3, abs=1e-5)
    assert joined.score_unit == "cosine similarity with its parts"
    assert joined.candidates == (Candidate(joined.text, joined.token_ids, joined.score),)
    assert joined.provenance["parts"] == list(parts)


def test_joined_prompts_are_scored_against_images_and_in_their_template() -> None:
    template = "the {} in snow"
    joined = concatenate([prompt("red", template), prompt("house", template)], BACKEND, images=TOWER.picture("boat"))
    assert joined.filled == "the red house in snow" and joined.score_unit == "cosine similarity"
    assert joined.score == pytest.approx(cosine("the red house in snow", "boat"), abs=1e-5)


def test_the_sum_of_prompts_opens_their_model(toy_plugin: str) -> None:
    a, b, c = prompt("red house"), prompt("old boat"), prompt("night")
    assert a + b == concatenate([a, b], BACKEND)
    assert (a + b + c).text == "red house old boat night"
    with pytest.raises(TypeError):
        _ = a + "boat"  # type: ignore[operator]


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([], VocabularyError, "no prompts"),
        ([prompt("red", model=""), prompt("boat", model="")], BackendError, r"no model.*concatenate"),
        ([prompt("red"), prompt("boat", model="other")], BackendError, r"'other', 'toy'"),
        ([prompt("red", "the {}"), prompt("boat")], TemplateError, "different templates"),
    ],
)
def test_prompts_that_cannot_be_joined_by_themselves(prompts, error, message) -> None:
    with pytest.raises(error, match=message):
        concatenate(prompts)


def test_joined_prompts_must_fit_and_survive() -> None:
    long = prompt("red house near the old boat on the river")
    with pytest.raises(TemplateError, match="room for 16"):
        concatenate([long, long], BACKEND)
    with pytest.raises(VocabularyError, match="not encoded to ids that spell it"):
        concatenate([prompt("red"), prompt("boat")], BACKEND, separator="")


# --- avoiding -----------------------------------------------------------------------------


def test_a_negative_prompt_leaves_out_what_is_wanted() -> None:
    inverter = PromptInverter(BACKEND)
    options = {"num_tokens": 2, "views": 1, "restarts": 8, "progress": False, "seed": 0}
    unwanted, wanted = TOWER.picture("red house"), TOWER.picture("blue house")
    alone = negative_prompt(unwanted, inverter, **options)
    contrast = negative_prompt(unwanted, inverter, wanted, unlike_weight=0.8, **options)
    assert alone.text == "red house"
    assert cosine(contrast.text, "blue house") < cosine(alone.text, "blue house")
    assert contrast.provenance["use"] == "negative prompt"
    with pytest.raises(ValueError, match="wanted"):
        negative_prompt(unwanted, inverter, unlike=wanted, **options)


# --- ranking by pictures ------------------------------------------------------------------


def candidates(*texts: str) -> HardPrompt:
    found = tuple(
        Candidate(text, tuple(VOCABULARY.encode(text)), 0.9 - 0.1 * place) for place, text in enumerate(texts)
    )
    return dataclasses.replace(
        prompt(texts[0]), candidates=found, tokens=tuple(texts[0].split()), attributions=(0.1,) * 2, score=0.9
    )


def test_the_candidate_with_the_best_pictures_wins() -> None:
    paint = Painter()
    asked = candidates("old boat", "red house", "red boat")
    outcome = rerank(asked, paint, likeness(TOWER.picture("red house"), BACKEND), seeds=(3, 4))
    assert outcome.ranked[0].text == outcome.prompt.text == "red house"
    scores = [cosine(entry.text, "red house") for entry in outcome.ranked]
    assert scores == sorted(scores, reverse=True)
    assert [entry.score for entry in outcome.ranked] == pytest.approx(scores, abs=1e-5)
    assert outcome.prompt.token_ids == tuple(VOCABULARY.encode("red house")) and outcome.prompt.tokens == ()
    assert [c.score for c in outcome.prompt.candidates] == [entry.score for entry in outcome.ranked]
    assert outcome.prompt.score_unit == "mean image score" and outcome.prompt.attributions == ()
    assert outcome.prompt.provenance["reranked"]["before"][0] == {"text": "old boat", "score": 0.9, "unit": "cosine similarity"}  # fmt: skip
    assert sorted(paint.drawn) == sorted((c.text, seed) for c in asked.candidates for seed in (3, 4))
    assert HardPrompt.from_dict(outcome.prompt.to_dict()) == outcome.prompt
    assert outcome.grid().width > outcome.ranked[0].pictures[0].width


def test_scores_are_means_over_the_seeds() -> None:
    def noisy(pictures: Sequence[Image.Image]) -> list[float]:
        return [len(pictures) + picture.width for picture in pictures]

    def sized(prompts: Sequence[str], seed: int) -> list[Image.Image]:
        return [Image.new("RGB", (len(text) * seed, 4)) for text in prompts]

    outcome = rerank(candidates("red house", "boat"), sized, noisy, seeds=(1, 2, 6))
    assert outcome.prompt.score == pytest.approx(2 + 9 * 3) and outcome.ranked[0].scores == (11, 20, 56)
    assert outcome.prompt.tokens == ("red", "house")  # it was the first before


def test_only_the_top_is_drawn_and_in_the_template() -> None:
    paint = Painter()
    asked = dataclasses.replace(candidates("old boat", "red house", "cat"), template="the {} in snow")
    outcome = rerank(asked, paint, lambda pictures: [1.0] * len(pictures), seeds=(0,), top=2)
    assert [text for text, _ in paint.drawn] == ["the old boat in snow", "the red house in snow"]
    assert len(outcome.prompt.candidates) == 2
    bare = rerank(prompt("cat"), paint, lambda pictures: [1.0] * len(pictures), seeds=(0,))
    assert bare.prompt.text == "cat"


@pytest.mark.parametrize(
    ("generate", "score", "options", "error", "message"),
    [
        (lambda prompts, seed: [Image.new("RGB", (4, 4))], None, {}, ImageError, "1 pictures for 2 prompts"),
        (None, lambda pictures: [1.0], {}, ImageError, "2 numbers"),
        (None, lambda pictures: [math.nan] * len(pictures), {}, ImageError, "nan"),
        (None, None, {"seeds": ()}, ValueError, "at least one seed"),
        (None, None, {"top": 0}, ValueError, "top=0"),
    ],
)
def test_generators_and_scores_that_do_not_answer_are_named(generate, score, options, error, message) -> None:
    with pytest.raises(error, match=message):
        rerank(candidates("red house", "boat"), generate or Painter(), score or (lambda p: [1.0] * len(p)), **options)


# --- evolution ----------------------------------------------------------------------------


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
    lineage = small(mutation_rate=0.0, neighbours=1, generations=1, population=12)
    parents = [own.token_ids for own in lineage.generation(0)]
    strangers = [len(set(own.token_ids) - set(itertools.chain(*parents))) for own in lineage.generation(1)]
    assert max(strangers) <= 1 and min(strangers) == 0
    # A copy may only have become its token's nearest neighbour.
    nearest = {int(VOCABULARY.neighbours(torch.tensor([t]), 1)) for ids in parents for t in ids}
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
        def __call__(self, prompts: Sequence[str], seed: int) -> Sequence[Image.Image]:
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().__call__(prompts, seed)

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


# --- looking ------------------------------------------------------------------------------


def test_a_grid_holds_every_picture_in_its_place() -> None:
    colours = ["red", "lime", "blue", "yellow", "black"]
    images = [Image.new("RGB", (40 + 10 * i, 30), colour) for i, colour in enumerate(colours)]
    grid = picture_grid([*images, None], columns=3, cell=90)
    gap = (grid.width - 3 * 90) // 4
    assert grid.mode == "RGB" and grid.width == 3 * 90 + 4 * gap
    pitch = (grid.height - gap) // 2
    for place, colour in enumerate(colours):
        row, column = divmod(place, 3)
        centre = (gap + column * (90 + gap) + 45, gap + row * pitch + 45)
        assert grid.getpixel(centre) == Image.new("RGB", (1, 1), colour).getpixel((0, 0)), place
    assert grid.getpixel((gap + 2 * (90 + gap) + 45, gap + pitch + 45)) == (255, 255, 255)  # the empty place


def test_captions_are_written_below_and_broken_into_lines() -> None:
    images = [Image.new("RGB", (64, 64), "white")] * 2
    bare, short, long = (
        picture_grid(images, captions, columns=2)
        for captions in (None, ["red", "boat"], ["red house near the old river " * 4, "boat"])
    )
    assert bare.size[0] == short.size[0] == long.size[0] and bare.height < short.height < long.height
    assert bare.getextrema() == ((255, 255),) * 3
    assert short.getextrema()[0][0] < 100


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "needs images"),
        ([None], {}, "needs images"),
        ([Image.new("RGB", (4, 4))], {"columns": 0}, "columns"),
        ([Image.new("RGB", (4, 4))], {"cell": 0}, "cell"),
        ([Image.new("RGB", (4, 4))], {"captions": ["a", "b"]}, "captions must be 1"),
    ],
)
def test_grids_that_cannot_be_are_refused(images, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        picture_grid(images, **options)


def test_a_painter_is_a_generator() -> None:
    assert isinstance(Painter(), Generate)
