"""Prompts found by the pictures of a generator, under a budget: on a painter whose pictures hold the words."""

import json
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from painter import BACKEND, TOWER, NoisyPainter, Painter
from PIL import Image

from hardprompts import Candidate, FileFormatError, HardPrompt, PromptInverter, SearchError, VocabularyError
from hardprompts.applications import invert_by_pictures, likeness, load_generator
from hardprompts.applications.black_box import (
    AddPhrase,
    Correction,
    Crossover,
    DropPhrase,
    ExchangePhrase,
    GradientSwap,
    Mutation,
    PhraseFeatures,
    Phrases,
    PictureInversion,
    RelatedPhrase,
    Rewrite,
    Screened,
    UpperConfidence,
)
from hardprompts.applications.black_box.answers import CHOSEN, FRESH
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, ImageError, UnknownName
from hardprompts.methods.banks import PhraseTable
from hardprompts.plugins import register, unregister
from hardprompts.search import SearchProgress
from hardprompts.testing import WORDS, ToyLanguageModel

BANK = (
    PhraseTable.create("colors", ("red", "green", "blue", "white", "black")),
    PhraseTable.create("things", ("house", "boat", "dog", "cat", "tree", "river")),
)
TARGET = TOWER.picture("red house old river")


def found(paint: object = None, **options: object) -> PictureInversion:
    given = {
        "judge": BACKEND, "starts": ["old boat near", "cat"], "bank": BANK, "seed": 0, "progress": False, **options
    }  # fmt: skip
    return invert_by_pictures(TARGET, NoisyPainter() if paint is None else paint, **given)  # type: ignore[arg-type]


# --- what is found ------------------------------------------------------------------------


def test_a_planted_prompt_is_approached_and_pictures_are_counted_exactly() -> None:
    paint = NoisyPainter()
    outcome = found(paint, budget=300, report_at=(1, 10, 30, 100))
    best_at = [point.text for point in outcome.points]
    spared = 4 * (len(best_at) - len(set(best_at)))  # one prompt at two points is drawn with the fresh seeds once
    assert len(paint.drawn) == len(set(paint.drawn)) == outcome.pictures == 300 - spared
    assert max(len(texts) for texts, _ in paint.calls) == 4
    assert outcome.prompt.stop_reason == "max_pictures"
    assert outcome.prompt.score_unit == FRESH and not outcome.prompt.left_out
    by_points = {point.pictures: point.score for point in outcome.points}
    assert list(by_points) == [1, 10, 30, 100, outcome.pictures]
    assert outcome.prompt.score == list(by_points.values())[-1] > by_points[1] + 0.3  # type: ignore[operator]
    words = set(outcome.prompt.text.split())
    assert {"red", "house"} <= words
    assert outcome.prompt.candidates[0].text == outcome.prompt.text
    assert outcome.prompt.provenance["pictures"] == outcome.pictures and outcome.prompt.provenance["budget"] == 300
    assert HardPrompt.from_dict(json.loads(json.dumps(outcome.prompt.to_dict()))) == outcome.prompt
    assert json.loads(json.dumps(outcome.to_dict()))["points"][0]["pictures"] == 1


def test_the_score_is_on_fresh_seeds_that_nothing_was_chosen_by() -> None:
    paint = NoisyPainter()
    outcome = found(paint, budget=60, seeds=(5, 6), fresh_seeds=(7, 8, 9))
    text, score = outcome.prompt.text, likeness(TARGET, BACKEND)
    assert {seed for _, seed in paint.drawn} == {5, 6, 7, 8, 9}
    assert {text for text, seed in paint.drawn if seed in (7, 8, 9)} == {text}
    fresh = [score([NoisyPainter()([text], [seed])[0]])[0] for seed in (7, 8, 9)]
    chosen = [score([NoisyPainter()([text], [seed])[0]])[0] for seed in (5, 6)]
    assert outcome.prompt.score == pytest.approx(sum(fresh) / 3)
    assert outcome.chosen_at == pytest.approx(sum(chosen) / 2) and fresh != chosen
    drawn_in_full = [trial for trial in outcome.trials if len(trial.scores) == 2]
    assert outcome.chosen_at == pytest.approx(max(sum(trial.scores) / 2 for trial in drawn_in_full))


def test_all_are_drawn_with_the_same_seeds_and_the_better_half_with_more() -> None:
    outcome = found(budget=200, seeds=(0, 1, 2), survivors=2)
    counts = [len(trial.scores) for trial in outcome.trials]
    assert set(counts) == {1, 2, 3} and counts.count(1) > counts.count(2) + counts.count(3)
    assert {trial.mutation for trial in outcome.trials} <= {"start", "exchange", "add", "drop", "cross"}
    texts = {trial.text for trial in outcome.trials}
    assert len(texts) == len(outcome.trials)
    assert all(trial.parent in texts or trial.mutation == "start" for trial in outcome.trials)


def test_the_same_seed_gives_the_same_and_another_seed_another() -> None:
    first, again, other = found(budget=50), found(budget=50), found(budget=50, seed=1)
    assert first.prompt.text == again.prompt.text and first.trials == again.trials and first.points == again.points
    assert first.trials != other.trials


def test_without_any_text_it_begins_with_phrases_and_with_a_captioner_with_captions() -> None:
    assert all(len(own.text.split()) == 2 for own in found(starts=(), budget=20).trials if own.mutation == "start")
    told = found(starts=(), budget=20, captioner=lambda images: ["white tree" for _ in images])
    assert [own.text for own in told.trials if own.mutation == "start"] == ["white tree"]


def test_all_that_the_user_gave_is_drawn_first_within_a_quarter_of_the_budget() -> None:
    texts = ["cat", "old boat near", "dog", "green tree", "river", "blue boat", "white dog", "house near", "black cat"]
    told = [own.text for own in found(starts=texts, budget=80).trials]
    assert told[:9] == texts
    told = [own.text for own in found(starts=texts, budget=24).trials]
    assert told[:6] == texts[:6] and told[6] not in texts


def test_candidates_with_the_words_of_another_in_another_order_are_not_drawn() -> None:
    class Found(PromptInverter):
        def invert(self, *_: object, **__: object) -> HardPrompt:  # type: ignore[override]
            texts = ("red house", "house red", "red boat", "boat red house", "boat red")
            return HardPrompt("red house", (), 0.0, candidates=tuple(Candidate(text, (), 0.0) for text in texts))

    outcome = found(starts=["house red"], inverter=Found(BACKEND), budget=20, population=8)
    starts = [own.text for own in outcome.trials if own.mutation == "start"]
    assert starts == ["house red", "red house", "red boat", "boat red house"]  # the user's own stays as it is


def test_an_inverter_gives_starts_token_ids_and_mutations() -> None:
    inverter = PromptInverter(BACKEND)
    outcome = found(
        starts=("green dog",), judge=None, inverter=inverter, budget=80, template="a {} here",
        search={"num_tokens": 4, "max_evaluations": 300},
    )  # fmt: skip
    assert next(iter(outcome.trials)).text == "green dog"
    assert {"correct", "gradient", "related", "exchange, screened", "add, screened"} < set(outcome.mutations)
    assert outcome.prompt.token_ids == tuple(BACKEND.vocabulary.encode(outcome.prompt.text))
    assert outcome.prompt.model == "toy" and outcome.prompt.template == "a {} here"
    assert sum(record.tries for record in outcome.mutations.values()) >= 20
    assert outcome.prompt.provenance["judge"] == "toy"


def test_prompts_stay_within_the_words_allowed() -> None:
    outcome = found(budget=80, max_words=3, banned=["green", "/^d/"])
    assert all(len(own.text.split()) <= 3 for own in outcome.trials)
    assert not any("green" in own.text or own.text.startswith("d") for own in outcome.trials)
    with pytest.raises(VocabularyError, match="none of the 2 texts"):
        found(max_words=1, starts=("old boat", "red house"))


# --- what ends it -------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [5, 6, 11, 23, 40])
def test_no_more_pictures_are_asked_for_than_the_budget(budget: int) -> None:
    paint = NoisyPainter()
    outcome = found(paint, budget=budget)
    assert len(paint.drawn) == outcome.pictures == budget
    assert sum(seed >= 1000 for _, seed in paint.drawn) == 4


def test_a_callback_that_returns_true_ends_it_with_the_best_so_far() -> None:
    told: list[SearchProgress] = []

    def enough(progress: SearchProgress) -> bool:
        told.append(progress)
        return progress.step >= 20

    paint = NoisyPainter()
    outcome = found(paint, budget=100, callback=enough)
    assert outcome.prompt.stop_reason == "cancelled" and outcome.pictures == len(paint.drawn) == told[-1].step < 30
    assert outcome.prompt.score_unit == CHOSEN and outcome.prompt.left_out == ("pictures on fresh seeds: 0 of 4",)
    assert outcome.points[-1].score is None
    assert told[-1].max_steps == 100 and told[-1].best[0] is not None
    assert told[-1].best[0].text == outcome.prompt.text


def test_an_interrupt_patience_and_a_deadline_end_it_with_the_best_so_far() -> None:
    class Interrupted(NoisyPainter):
        def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image]:
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().__call__(prompts, seeds)

    assert found(Interrupted()).prompt.stop_reason == "interrupted"
    patient = found(budget=1000, patience=40)
    assert patient.prompt.stop_reason == "patience" and patient.prompt.score_unit == FRESH
    assert patient.pictures < 1000
    assert found(budget=10**6, deadline=0.5).prompt.stop_reason == "deadline"
    hurried = NoisyPainter()
    outcome = found(hurried, deadline=1e-6, inverter=PromptInverter(BACKEND))
    assert outcome.prompt.stop_reason == "deadline" and len(hurried.drawn) == 1 and outcome.prompt.left_out
    with pytest.raises(KeyboardInterrupt):
        found(lambda prompts, seeds: (_ for _ in ()).throw(KeyboardInterrupt))


def test_a_search_that_has_nothing_new_to_draw_converges() -> None:
    one = (PhraseTable.create("colors", ("red", "blue")),)
    outcome = found(starts=["red"], bank=one, mutations=[ExchangePhrase(Phrases(one))], budget=50)
    assert outcome.prompt.stop_reason == "converged" and [own.text for own in outcome.trials] == ["red", "blue"]


# --- generators that fail -----------------------------------------------------------------


class Failing(NoisyPainter):
    """A service that fails at some pictures, in a way of its own."""

    def __init__(self, fails: Callable[[str, int, int], object]) -> None:
        super().__init__()
        self.fails = fails
        self.tries: dict[tuple[str, int], int] = {}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image]:
        pictures = list(super().__call__(prompts, seeds))
        for place, pair in enumerate(zip(prompts, seeds, strict=True)):
            self.tries[pair] = self.tries.get(pair, 0) + 1
            answer = self.fails(*pair, self.tries[pair])
            if isinstance(answer, Exception):
                raise answer
            if answer is not False:
                pictures[place] = answer  # type: ignore[call-overload]
        return pictures


BLACK = Image.new("RGB", (8, 8))


@pytest.mark.parametrize("answer", [OSError("busy"), None, BLACK, "not a picture"])
def test_what_fails_once_is_asked_for_again_and_counted(answer: object) -> None:
    paint = Failing(lambda text, seed, tries: answer if tries == 1 and "blue" in text else False)
    outcome = found(paint, budget=80)
    assert outcome.pictures == len(paint.drawn) == 80 and outcome.failures > 0
    assert all(count <= 2 for count in paint.tries.values())
    drawn = [own for own in outcome.trials if "blue" in own.text]
    assert drawn and any(own.scores for own in drawn)


def test_pictures_of_a_wrong_size_are_failures_where_the_size_is_known() -> None:
    three = Failing(lambda text, seed, tries: False)
    outcome = found(three, starts=["old boat near"], size=(4, 1), budget=60)
    assert all(len(own.text.split()) == 3 for own in outcome.trials if own.scores) and outcome.failures > 0


def test_a_prompt_that_is_always_refused_takes_nothing_else_along() -> None:
    paint = Failing(lambda text, seed, tries: RuntimeError("blocked") if "house" in text else False)
    outcome = found(paint, budget=200, retries=0, max_failures=50)
    refused = [own for own in outcome.trials if "house" in own.text]
    assert refused and not any(own.scores for own in refused)
    assert "house" not in outcome.prompt.text and outcome.pictures == len(paint.drawn) <= 200


def test_a_generator_that_breaks_down_does_not_lose_what_was_found() -> None:
    down = Failing(lambda text, seed, tries: OSError("down") if len(down.calls) > 4 else False)
    outcome = found(down, budget=100, max_failures=6)
    assert outcome.prompt.stop_reason == "failures" and outcome.chosen_at > 0
    assert outcome.failures >= 6 and outcome.pictures == len(down.drawn) < 60  # those of the last call, too
    with pytest.raises(SearchError, match="no picture came of the 4 .*OSError: down") as raised:
        found(Failing(lambda *_: OSError("down")), budget=100)
    assert isinstance(raised.value.__cause__, OSError)


def test_a_wrong_number_of_pictures_is_a_failure_that_says_so() -> None:
    with pytest.raises(SearchError, match="1 pictures for 2 prompts") as raised:
        found(lambda prompts, seeds: [TARGET], retries=0, max_failures=1)
    assert isinstance(raised.value.__cause__, ImageError)


def test_a_generator_that_ignores_seeds_draws_each_prompt_once() -> None:
    paint = Painter()
    with pytest.warns(UserWarning, match="whatever the seed"):
        outcome = found(paint, budget=60)
    assert sum(seed == 1 for _, seed in paint.drawn) <= 4  # until it was noticed
    assert sum(seed >= 1000 for _, seed in paint.drawn) == 1
    assert outcome.pictures == 60 and outcome.prompt.score == pytest.approx(outcome.chosen_at)
    assert outcome.prompt.provenance["seeds"] == [0]


def test_a_judge_that_breaks_its_contract_is_named() -> None:
    with pytest.raises(ImageError, match="image_score must return 1 numbers"):
        found(judge=lambda pictures: [])


# --- runs that are continued --------------------------------------------------------------


def same(first: PictureInversion, second: PictureInversion) -> None:
    assert first.prompt.text == second.prompt.text and first.prompt.score == second.prompt.score
    assert first.trials == second.trials and first.points == second.points and first.pictures == second.pictures
    assert first.failures == second.failures and first.mutations == second.mutations


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def flaky() -> Failing:
        return Failing(lambda text, seed, tries: OSError("busy") if "cat" in text and seed == 0 else False)

    options = {"budget": 120, "report_at": (10, 30)}
    whole = found(flaky(), **options)
    for step in (7, 50, 90):
        folder = tmp_path / str(step)
        cut = found(flaky(), folder=folder, callback=lambda progress, step=step: progress.step >= step, **options)
        assert cut.prompt.stop_reason == "cancelled" and cut.pictures < 120
        paint = flaky()
        again = found(paint, folder=folder, **options)
        same(whole, again)
        assert again.recalled == cut.pictures and len(paint.drawn) == 120 - cut.pictures
    paint = flaky()
    same(whole, found(paint, folder=tmp_path / "7", **options))
    assert not paint.drawn


def test_a_larger_budget_goes_on_from_a_smaller_one(tmp_path: Path) -> None:
    small = found(folder=tmp_path, budget=60)
    paint = NoisyPainter()
    large = found(paint, folder=tmp_path, budget=150)
    same(large, found(budget=150))
    assert large.recalled >= small.pictures - 4 and len(paint.drawn) == 150 - large.recalled


def test_a_run_that_a_breakdown_ended_asks_again(tmp_path: Path) -> None:
    whole = found(budget=80)
    down = Failing(lambda text, seed, tries: OSError("down") if len(down.calls) > 4 else False)
    first = found(down, folder=tmp_path, budget=80, max_failures=6)
    assert first.prompt.stop_reason == "failures"
    for _ in range(2):
        same(whole, found(Failing(lambda *_: False), folder=tmp_path, budget=80, max_failures=6))


def test_half_a_line_is_dropped_and_damage_or_another_run_is_refused(tmp_path: Path) -> None:
    whole = found(folder=tmp_path, budget=40)
    path = tmp_path / "pictures.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:12]) + lines[12][:20])
    paint = NoisyPainter()
    same(whole, found(paint, folder=tmp_path, budget=40))
    assert len(paint.drawn) == 40 - 11
    with pytest.raises(FileFormatError, match="another run: it differs in images"):
        invert_by_pictures(TOWER.picture("cat dog"), NoisyPainter(), BACKEND, 40, folder=tmp_path, progress=False)
    with pytest.raises(FileFormatError, match="differs in judge"):
        found(folder=tmp_path, budget=40, judge=lambda pictures: [0.0] * len(pictures))
    path.write_text("".join([*lines[:3], "{]\n", *lines[3:]]))
    with pytest.raises(FileFormatError, match="is damaged"):
        found(folder=tmp_path, budget=40)


# --- pictures -----------------------------------------------------------------------------


def test_what_the_prompt_draws_comes_along(tmp_path: Path) -> None:
    outcome = found(budget=80, report_at=(1, 30), folder=tmp_path)
    for point in outcome.points:
        (drawn,) = NoisyPainter()([point.text], [1000])  # the first of the fresh seeds
        assert point.picture is not None and point.picture.tobytes() == drawn.tobytes()
    assert outcome.picture == outcome.points[-1].picture
    with Image.open(tmp_path / "best.png") as best:
        assert best.convert("RGB").tobytes() == outcome.picture.tobytes()  # type: ignore[union-attr]
    grid = outcome.grid(TARGET)
    assert grid.width > 4 * 128 and outcome.grid().width < grid.width
    assert "picture" not in json.loads(json.dumps(outcome.to_dict()))["points"][0]
    chosen = found(budget=80, fresh_seeds=())
    assert chosen.picture is not None and chosen.points[-1].score is None


def test_pictures_of_a_folder_are_taken_from_it_and_need_not_be_there(tmp_path: Path) -> None:
    first = found(folder=tmp_path, budget=40, inverter=PromptInverter(BACKEND), search={"max_evaluations": 300})
    kept = sorted((tmp_path / "pictures").glob("*.png"))
    assert len(kept) > 20
    again = found(folder=tmp_path, budget=40, inverter=PromptInverter(BACKEND), search={"max_evaluations": 300})
    same(first, again)
    assert again.recalled == 40 and again.picture == first.picture
    for path in kept:
        path.unlink()
    without = found(folder=tmp_path, budget=40)
    assert without.prompt.score_unit == FRESH
    for path in kept:
        path.write_bytes(b"no picture")
    with pytest.raises(FileFormatError, match="damaged"):
        found(folder=tmp_path, budget=40, inverter=PromptInverter(BACKEND), search={"max_evaluations": 300})


# --- misuse -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": 4}, ValueError, "more than the 4 pictures on fresh seeds"),
        ({"budget": 12, "report_at": (1, 10)}, ValueError, "more than the 12 pictures"),
        ({"seeds": (0, 1000)}, ValueError, r"\[1000\] are in both"),
        ({"seeds": ()}, ValueError, "seeds must not be empty"),
        ({"population": 0}, ValueError, "population must be at least 1"),
        ({"retries": -1}, ValueError, "retries must not be negative"),
        ({"bugdet": 4}, TypeError, "did you mean 'budget'"),
        ({"judge": None}, ValueError, "judge is missing"),
        ({"mutations": []}, ValueError, "mutations must be one or more"),
        ({"bank": [PhraseTable("none", ())]}, VocabularyError, "the bank has no phrases"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        found(**options)


# --- parts --------------------------------------------------------------------------------


def test_the_bandit_comes_to_prefer_what_succeeds() -> None:
    draws = random.Random(0)
    bandit = UpperConfidence(["bad", "good"])
    for _ in range(200):
        name = bandit.choose()
        bandit.pull(name)
        if draws.random() < (0.6 if name == "good" else 0.1):
            bandit.reward(name)
    assert bandit.arms["good"].pulls > 150
    untried = UpperConfidence(["a", "b"])
    untried.pull("a")
    assert untried.choose() == "b"


def test_mutations_change_what_they_say() -> None:
    phrases, generator = Phrases(BANK), torch.Generator().manual_seed(0)

    def texts(mutation: Mutation, *parents: str) -> set[str | None]:
        return {mutation.mutated(parents, generator) for _ in range(60)}

    exchanged = texts(ExchangePhrase(phrases), "red, house")
    assert {text and text.split()[1] for text in exchanged} >= {"house", "boat"}
    assert all(text is None or text.split()[0].endswith(",") for text in exchanged)
    assert all(text is None or (text.split()[0].strip(",") in BANK[0].phrases) for text in exchanged)
    assert texts(DropPhrase(phrases), "red house") == {"red", "house"} and texts(DropPhrase(phrases), "red") == {None}
    assert all(len(text.split()) == 2 for text in texts(AddPhrase(phrases), "red") if text)
    assert texts(Crossover(phrases), "red") == {None}
    assert all(set(text.split()) <= {"red", "house", "old", "boat"} for text in texts(Crossover(phrases), "red house", "old boat") if text)  # fmt: skip
    many = Phrases([PhraseTable.create("things", ("old boat", "boat", "red"))])
    assert many.split("red old boat, near boat") == ["red", "old boat,", "near", "boat"]


def test_the_gradient_and_screening_lead_towards_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    target = BACKEND.encode_images([TARGET])[0]

    def mean(mutation: Mutation) -> float:
        texts = [text for _ in range(60) if (text := mutation.mutated(["red house old dog"], generator))]
        return float((BACKEND.encode_texts(texts) @ target).mean())

    blind = AddPhrase(Phrases([PhraseTable.create("words", WORDS)]))
    swap = ExchangePhrase(Phrases([PhraseTable.create("words", WORDS)]))
    assert mean(Screened(blind, BACKEND, target)) > mean(blind) + 0.05
    assert mean(GradientSwap(BACKEND, target)) > mean(swap) + 0.05


def test_related_phrases_are_those_that_the_model_finds_alike() -> None:
    phrases, generator = Phrases([PhraseTable.create("words", WORDS)]), torch.Generator().manual_seed(0)
    related = RelatedPhrase(phrases, PhraseFeatures(phrases, BACKEND), count=3)
    features = BACKEND.encode_texts(list(WORDS))
    similar = (features[WORDS.index("house")] @ features.T).topk(4).indices.tolist()
    near = {f"{WORDS[place]}," for place in similar} - {"house,"}
    assert {related.mutated(["house,"], generator) for _ in range(60)} == near
    single = Phrases([PhraseTable.create("words", ["house"])])
    alone = RelatedPhrase(single, PhraseFeatures(single, BACKEND))
    assert alone.mutated(["house"], generator) is None


def test_a_word_that_is_drawn_as_another_is_corrected_and_what_it_draws_is_remembered() -> None:
    phrases, generator = Phrases(BANK), torch.Generator().manual_seed(0)
    target = BACKEND.encode_images([TOWER.picture("red house")])[0]
    correction = Correction(phrases, PhraseFeatures(phrases, BACKEND), target)

    def texts(parent: str) -> list[str | None]:
        return [correction.mutated([parent], generator) for _ in range(60)]

    assert set(texts("red house")) == {None}  # it was not drawn
    correction.drawn("red house", TOWER.picture("blue house"))
    changed = texts("red house")
    assert "red house" not in changed and None not in changed
    assert sum(str(text) in ("green house", "blue house", "white house", "black house") for text in changed) > 30
    correction.drawn("green house", TOWER.picture("red house"))
    correction.drawn("white boat", TOWER.picture("white boat"))
    changed = texts("white boat")
    assert changed.count("green boat") > 10 > changed.count("red boat")


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_language_model_rewrites(kind: str) -> None:
    model = Backend.of_language_model(ToyLanguageModel.create(kind), device=torch.device("cpu"), dtype=torch.float32)  # type: ignore[arg-type]
    rewrite, generator = Rewrite(model), torch.Generator().manual_seed(0)
    texts = {rewrite.mutated(["red house old river"], generator) for _ in range(50)} - {None}
    assert len(texts) > 15
    kept = [len(set(str(text).split()) & {"red", "house", "old", "river"}) for text in texts]
    assert min(kept) >= 2 and max(kept) == 4
    outcome = found(language_model=model, budget=60)
    assert outcome.mutations["rewrite"].tries > 0
    with pytest.raises(BackendError, match="no language model"):
        found(language_model=BACKEND)


def test_generators_are_opened_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Plugin:
        from hardprompts import hookimpl

        @hookimpl
        def generators(self) -> dict[str, object]:
            return {"painted": lambda name, *, device, dtype, steps=1: NoisyPainter()}

    register(Plugin(), "painted")
    try:
        opened = load_generator("painted:red", steps=2)
        assert opened.name == "painted:red (steps=2)" and len(opened(["red house"], [0])) == 1
        with pytest.raises(BackendError, match="no option guidance"):
            load_generator("painted:red", guidance=2)
    finally:
        unregister("painted")
    (tmp_path / "my_service.py").write_text("def draw(prompts, seeds):\n    return [None for _ in prompts]\nNAME = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_generator("python:my_service:draw")(["a"], [0]) == [None]
    for name, message in [
        ("python:my_service", "names no function"), ("python:my_service:other", "has no function"),
        ("python:no_such_module:draw", "no module 'no_such_module'"), ("python:my_service:NAME", "is a int"),
    ]:  # fmt: skip
        with pytest.raises(BackendError, match=message):
            load_generator(name)
    with pytest.raises(UnknownName, match="python:MODULE:FUNCTION"):
        load_generator("midjourney")


def test_no_warning_comes_of_a_quiet_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found(budget=30)
