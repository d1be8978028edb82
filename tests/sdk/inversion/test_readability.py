"""Readability: beam search, a language model as prior through text, words that are required, cost or must be real."""

import itertools
import math

import pytest
import torch
from PIL import Image

from hardprompts import BackendError, ImageError, NonFiniteError, PromptInverter, VocabularyError, run_search
from hardprompts.inversion.readability import (
    LanguageModelLikelihood,
    ReadableScore,
    fluency,
    open_likelihood,
    pareto_front,
    real_words,
)
from hardprompts.methods import PEZ, BeamSearch, PhraseBank
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import Candidate, PromptTemplate
from hardprompts.testing import ToyEncoder, toy_backend, toy_language_model

BACKEND = toy_backend()
VOCABULARY = BACKEND.vocabulary
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)
QUICK = {"views": 1, "restarts": 8, "progress": False, "seed": 0, "max_steps": 60}


def features(*texts: str) -> torch.Tensor:
    return BACKEND.encode_texts(texts)


def likes(*words: str):
    """A prior that finds these words likely, and all others unlikely."""

    def prior(texts):
        return torch.tensor([-sum(1.0 if word in words else 9.0 for word in text.split()) for text in texts])

    return prior


def task(text: str) -> FeatureSimilarity:
    return FeatureSimilarity(BACKEND.text_encoder, features(text)[:, None], torch.ones(1, 1))


# --- the likelihood of texts --------------------------------------------------------------


def test_the_likelihood_of_a_text_is_the_product_of_its_tokens_likelihoods() -> None:
    """Token by token and without a batch, by the toy's own logits."""
    model = toy_language_model().language_model
    texts = ["red house near the river", "old", "", "the moon over a city in the night"]
    found = LanguageModelLikelihood(model, batch_size=3)(texts)
    for text, value in zip(texts, found.tolist(), strict=True):
        row, total = [*model.frame[0], *model.vocabulary.encode(text)], 0.0
        for place in range(1, len(row)):
            before = model.vocabulary.embed(torch.tensor([row[:place]]))
            states = model.states(before, torch.ones(1, place, dtype=torch.bool))
            total += float(model.logits(states)[0, -1].log_softmax(dim=-1)[row[place]])
        assert value == pytest.approx(total, abs=1e-4)
    assert found[2] == 0


def test_fluency_is_for_each_word_and_must_be_a_number() -> None:
    texts = ["red house", "red", ""]
    assert fluency(texts, likes("red")).tolist() == [-5.0, -1.0, 0.0]
    with pytest.raises(NonFiniteError, match="'red'"):
        fluency(texts, lambda texts: torch.tensor([0.0, math.nan, 0.0]))


def test_only_causal_language_models_are_priors() -> None:
    assert isinstance(open_likelihood(toy_language_model()), LanguageModelLikelihood)
    with pytest.raises(BackendError, match="masked.*transformers:gpt2"):
        open_likelihood(toy_language_model("masked"))
    with pytest.raises(BackendError, match="not a language model"):
        open_likelihood(BACKEND)
    prior = likes("red")
    assert open_likelihood(prior) is prior


# --- the score ----------------------------------------------------------------------------


def test_the_score_is_similarity_with_likelihood_and_costs() -> None:
    asked = []

    def prior(texts):
        asked.extend(texts)
        return likes("red", "the")(texts)

    base = task("red house")
    score = ReadableScore(
        base, VOCABULARY, PromptTemplate("the {}"), prior, 0.5, (("house", 0.25), ("red red", -1.0)), 2.0
    )
    texts = ["red house", "red red", "old old old"]
    for text, gain in zip(texts, (0.5 * -11 / 3 - 0.25, 0.5 * -3 / 3 + 1.0 - 2.0, 0.5 * -28 / 4 - 4.0), strict=True):
        ids, groups = torch.tensor([VOCABULARY.encode(text)]), torch.zeros(1, dtype=torch.long)
        for _ in range(2):
            found = float(score.score(ids, groups))
            assert found == pytest.approx(float(base.score(ids, groups)) + gain, abs=1e-5)
    assert asked == [f"the {text}" for text in texts]  # each once
    assert score.unit == "cosine similarity and readability"


# --- beam search --------------------------------------------------------------------------


def test_a_wide_beam_finds_the_brute_force_optimum_of_similarity_and_likelihood() -> None:
    words = VOCABULARY.only(["red green old house boat cat river near the in snow moon"])
    base = task("red house near")
    prior = open_likelihood(toy_language_model())
    score = ReadableScore(base, words, prior=prior, prior_weight=0.02)
    start = words.sample((1, 3), torch.Generator().manual_seed(0))
    search = BeamSearch(beams=200, candidates=1000)
    (result,) = run_search(search, base, score, words, start, seed=0)
    assert result.steps == 3 and result.stop_reason == "converged"
    best = -math.inf
    for length in (1, 2, 3):
        ids = torch.tensor(list(itertools.product(words.allowed_ids.tolist(), repeat=length)))
        best = max(best, float(score.score(ids, torch.zeros(len(ids), dtype=torch.long)).max()))
    assert result.best.score == pytest.approx(best, abs=1e-5)


def test_beams_grow_by_one_token_and_the_best_of_each_length_go_on() -> None:
    base = task("red house near river")
    start = VOCABULARY.sample((2, 3), torch.Generator().manual_seed(0))
    seen = []
    score = type("Watched", (FeatureSimilarity,), {"score": lambda self, ids, groups: seen.append(ids) or FeatureSimilarity.score(self, ids, groups)})(
        BACKEND.text_encoder, base.targets, base.weights
    )  # fmt: skip
    search = BeamSearch(beams=2, candidates=5, connectors=("the", "no such word"))
    run_search(search, base, score, VOCABULARY, start, seed=0)
    first, second, third = (batch for batch in seen[1:] if len(batch) > 2)
    assert first.shape[1] == 1 and len(first) <= 6 and VOCABULARY.encode("the") in first.tolist()
    groups = torch.zeros(len(first), dtype=torch.long)
    best = first[base.score(first, groups).topk(2).indices].flatten().tolist()
    assert {row[0] for row in second.tolist()} == set(best)
    groups = torch.zeros(len(second), dtype=torch.long)
    best = second[base.score(second, groups).topk(2).indices].tolist()
    assert {tuple(row[:2]) for row in third.tolist()} == set(map(tuple, best))


def test_each_task_has_its_own_beams() -> None:
    prompts = PromptInverter(BACKEND, "beam").invert_each(
        list(features("red house", "old boat")), num_tokens=2, **{**QUICK, "token_cost": 0.0}
    )
    assert [prompt.text for prompt in prompts] == ["red house", "old boat"]


# --- options of the inverter --------------------------------------------------------------


@pytest.mark.parametrize("method", ["pez+refine", "beam"])
def test_a_prior_makes_prompts_likelier_and_weight_zero_nothing(method: str) -> None:
    target = features("red house near river")
    plain = PromptInverter(BACKEND, method).invert(target, num_tokens=3, **QUICK)
    prior = open_likelihood(toy_language_model())
    inverter = PromptInverter(BACKEND, method, prior=toy_language_model())
    silent = inverter.invert(target, num_tokens=3, prior_weight=0.0, **QUICK)
    assert silent.text == plain.text
    weighed = inverter.invert(target, num_tokens=3, prior_weight=3.0, **QUICK)
    assert fluency([weighed.text], prior) > fluency([plain.text], prior)
    assert weighed.score < plain.score
    assert weighed.score == pytest.approx(inverter.score(weighed.text, target), abs=1e-5)
    assert VOCABULARY.encode(weighed.text) == list(weighed.token_ids)


def test_the_prior_reads_text_so_its_tokenizer_may_be_any() -> None:
    def letters(texts):
        return torch.tensor([-float(len(text)) for text in texts])

    target = features("mountain portrait")
    prompt = PromptInverter(BACKEND, prior=letters).invert(target, num_tokens=2, prior_weight=20.0, **QUICK)
    assert len(prompt.text.replace(" ", "")) < len("mountainportrait")


def test_penalties_and_rewards_move_words() -> None:
    target = features("red house")
    inverter = PromptInverter(BACKEND)
    without = inverter.invert(target, num_tokens=2, penalties={"Red": 50.0}, **QUICK)
    assert "red" not in without.text.split()
    assert inverter.invert(target, num_tokens=2, penalties={"red": 1e-6}, **QUICK).text == "red house"
    inverter = PromptInverter(BACKEND, "pez+refine")  # the default never says a word twice
    twice = inverter.invert(features("red red"), num_tokens=2, **{**QUICK, "token_cost": 0.0})
    once = inverter.invert(features("red red"), num_tokens=2, repetition_penalty=50.0, **{**QUICK, "token_cost": 0.0})
    assert twice.text == "red red" and len(set(once.text.split())) == len(once.text.split())


@pytest.mark.parametrize("method", ["pez+refine", "pez", "beam", "phrase-bank"])
def test_required_words_are_in_every_prompt_that_is_returned(method: str) -> None:
    target = features("the red house in snow")
    prompt = PromptInverter(BACKEND, method).invert(
        target, num_tokens=4, template="the {} in snow", required=["Old", "boat"], **QUICK
    )
    assert prompt.template == "the {} in snow" and prompt.filled == f"the {prompt.text} in snow"
    before, after = VOCABULARY.template_ids(PromptTemplate(prompt.template))
    for candidate in prompt.candidates:
        assert candidate.text.startswith("old boat ") and 2 < len(candidate.token_ids) <= 4
        own = VOCABULARY.encode(f"the {candidate.text} in snow")
        assert own == [*before, *candidate.token_ids, *after]
    assert prompt.score == pytest.approx(float(features(prompt.filled) @ target.T), abs=1e-5)
    assert len(prompt.attributions) == len(prompt.token_ids)


def test_required_words_that_cannot_be_are_refused() -> None:
    inverter, target = PromptInverter(BACKEND), features("red house")
    for options, error, message in (
        ({"required": ["zebra"]}, VocabularyError, "'zebra'"),
        ({"required": ["red"], "banned": ["red"]}, VocabularyError, "banned"),
        ({"required": ["red", "house"], "num_tokens": 2}, ValueError, "nothing to search for"),
        ({"required": "red"}, ValueError, "list of words"),
        ({"required": [" "]}, ValueError, "empty"),
        ({"penalties": {"": 1.0}}, ValueError, "empty"),
        ({"penalties": {"red": math.nan}}, ValueError, "finite"),
        ({"prior_weight": -1.0}, ValueError, "prior_weight"),
        ({"words": ["zebra"]}, VocabularyError, "1 words"),
        ({"words": "red"}, ValueError, "list of words"),
        ({"caption": "red", "initial_prompt": "red"}, ValueError, "not both"),
    ):
        with pytest.raises(error, match=message):
            inverter.invert(target, **{**QUICK, **options})


def test_only_real_words_are_used() -> None:
    prompt = PromptInverter(BACKEND).invert(
        features("red house near river"), num_tokens=3, words=["House ", "BOAT", "old", "zebra"], **QUICK
    )
    assert {word for c in prompt.candidates for word in c.text.split()} <= {"house", "boat", "old"}
    letters = PromptInverter(BACKEND).invert(features("red house"), num_tokens=2, words=True, **QUICK)
    assert letters.text == "red house"
    assert VOCABULARY.encode("house") == real_words(VOCABULARY, ["house"]).allowed_ids.tolist()


# --- caption ------------------------------------------------------------------------------


def test_a_caption_is_where_half_of_the_restarts_begin() -> None:
    target = features("red house near river")
    prompt = PromptInverter(BACKEND, PEZ()).invert(
        target, num_tokens=6, caption="red house near river", **{**QUICK, "max_steps": 0, "token_cost": 0.0}
    )
    assert prompt.text == "red house near river"
    begun = [c.text for c in prompt.candidates if c.text.startswith("red house near river")]
    assert len(begun) == 4 and sum(len(text.split()) == 6 for text in begun) == 3


def test_a_captioner_is_asked_once_for_each_task() -> None:
    asked: list[int] = []

    def captioner(pictures):
        assert all(isinstance(picture, Image.Image) and picture.mode == "RGB" for picture in pictures)
        asked.append(len(pictures))
        return ["zebra old boat on the river in snow", "red house"]

    pictures = [TOWER.picture("old boat on the river"), TOWER.picture("red house")]
    prompts = PromptInverter(BACKEND, PEZ(), captioner=captioner).invert_each(
        pictures, num_tokens=5, **{**QUICK, "max_steps": 0, "token_cost": 0.0}
    )
    assert asked == [2] and [prompt.text for prompt in prompts] == ["old boat on the river", "red house"]
    with pytest.raises(ImageError, match="needs images"):
        PromptInverter(BACKEND, captioner=captioner).invert(features("red house"), **QUICK)
    with pytest.raises(ValueError, match="2 captions for 1 images"):
        PromptInverter(BACKEND, captioner=captioner).invert(pictures[0], **QUICK)
    given = PromptInverter(BACKEND, PhraseBank(mode="fast"), captioner=captioner).invert_each(
        pictures, num_tokens=3, **QUICK
    )
    assert any(c.text.startswith("red house") for c in given[1].candidates)


# --- trade-offs ---------------------------------------------------------------------------


def test_the_front_is_what_no_other_betters() -> None:
    offers = [
        Candidate("a b c", (1, 2, 3), 0.9),
        Candidate("a b", (1, 2), 0.8),
        Candidate("a c", (1, 3), 0.7),  # bettered by "a b", but for its fluency
        Candidate("b", (2,), 0.1),
        Candidate("c c c", (3, 3, 3), 0.85),  # bettered
    ]
    assert [offer.candidate.text for offer in pareto_front(offers)] == ["a b c", "a b", "b"]
    likely = pareto_front(offers, likes("a", "c"))
    assert [offer.candidate.text for offer in likely] == ["a b c", "c c c", "a b", "a c", "b"]
    assert [offer.fluency for offer in likely] == pytest.approx([-11 / 3, -1.0, -5.0, -1.0, -9.0])
    assert pareto_front([]) == ()


def test_the_inverter_returns_the_front_behind_the_best() -> None:
    target = features("red house near river")
    prior = open_likelihood(toy_language_model())
    inverter = PromptInverter(BACKEND, prior=prior)
    prompt = inverter.invert(target, num_tokens=4, pareto=True, **QUICK)
    assert len(prompt.pareto) > 2 and min(point.tokens for point in prompt.pareto) == 1
    assert prompt.candidates[0].text == prompt.text
    texts = [candidate.text for candidate in prompt.candidates]
    assert set(texts) - {prompt.text} <= {point.candidate.text for point in prompt.pareto}
    assert len(set(texts)) == len(texts)
    for point in prompt.pareto:
        text = point.candidate.text
        assert point.similarity == pytest.approx(inverter.score(text, target), abs=1e-5) == point.candidate.score
        assert point.fluency == pytest.approx(float(fluency([text], prior)), abs=1e-4)
    goods = [(point.similarity, -point.tokens, point.fluency) for point in prompt.pareto]
    for one, other in itertools.permutations(goods, 2):
        assert not all(a >= b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["beams", "candidates", "probes"])
def test_hyperparameters_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        BeamSearch(**{name: 0})
