"""Long prompts and soft prompts become short ones by the front door, on the toy model."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_distillation import BACKEND, DISTILLER, LONG, QUICK, VOCABULARY, embedded, noisy

from hardprompts import (
    BackendError,
    DistilledPrompt,
    FileFormatError,
    HardPrompt,
    PromptDistiller,
    SoftPrompt,
    TemplateError,
    VocabularyError,
)
from hardprompts.distillation.features import match_features
from hardprompts.distillation.matching import MeanMatch
from hardprompts.prompts import PromptTemplate


@pytest.mark.parametrize("text", ["boat", "red house", "old boat on river"])
@pytest.mark.parametrize("inside", ["{}", "the {} in snow"])
def test_the_embeddings_of_words_are_these_words(text: str, inside: str) -> None:
    prompt = DISTILLER.distill(embedded(text), templates=inside, **QUICK)
    assert isinstance(prompt, DistilledPrompt) and isinstance(prompt, HardPrompt)
    assert prompt.text == text and prompt.score == pytest.approx(1, abs=1e-5) and prompt.template == inside
    found = prompt.faithfulness
    assert found is not None and found.held_out is not None
    assert found.matched.value == pytest.approx(1, abs=1e-4) and found.held_out.value == pytest.approx(1, abs=1e-4)
    assert VOCABULARY.encode(prompt.filled) == VOCABULARY.encode(inside.replace("{}", text))
    assert len(prompt.attributions) == len(prompt.tokens) == len(text.split())
    assert prompt.candidates[0].text == text and prompt.provenance["match"] == "features"


def test_a_soft_prompt_that_is_far_from_words_is_decoded_by_what_it_does() -> None:
    soft = noisy("red house near river", 3.0)
    found = {}
    for method in ("nearest", "nearest-l2", "pez+refine"):
        prompt = PromptDistiller(BACKEND, method).distill(soft, num_tokens=4, **QUICK)
        assert prompt.faithfulness is not None and prompt.faithfulness.held_out is not None
        found[method] = prompt.faithfulness
    ours = found.pop("pez+refine")
    assert ours.matched.value > max(other.matched.value for other in found.values()) + 0.1
    assert ours.held_out.value > max(other.held_out.value for other in found.values())


def test_what_is_found_is_the_best_that_there_is() -> None:
    soft = noisy("red house", 2.0)
    bank = "red house old boat river snow night cat".split()
    prompt = DISTILLER.distill(soft, num_tokens=2, vocabulary=bank, **QUICK)
    match = match_features(BACKEND, [[soft]])
    texts = [" ".join(words) for count in (1, 2) for words in itertools.product(bank, repeat=count)]
    best = min(match.distances(texts, 0))
    assert 1 - prompt.score == pytest.approx(best, abs=1e-5)


def test_several_templates_count_alike_and_the_text_survives_in_each() -> None:
    soft, templates = noisy("red house", 1.0), ["{}", "the {} in snow", "big {}"]
    prompt = DISTILLER.distill(soft, num_tokens=3, templates=templates, **QUICK)
    alone = DISTILLER.distill(soft, num_tokens=3, templates="{}", **QUICK)
    parts = [match_features(BACKEND, [[soft]], PromptTemplate(text)) for text in templates]
    mean = MeanMatch(tuple(parts))
    assert prompt.score == pytest.approx(1 - sum(p.distances([prompt.text], 0)[0] for p in parts) / 3, abs=1e-5)
    assert mean.distances([prompt.text], 0) <= [d + 1e-6 for d in mean.distances([alone.text], 0)]
    for text in templates:
        assert VOCABULARY.survives_round_trip(prompt.token_ids, PromptTemplate(text))
    assert prompt.template == "{}" and prompt.faithfulness is not None
    assert prompt.faithfulness.matched.templates == tuple(templates)
    assert not set(templates) & set(prompt.faithfulness.held_out.templates)  # type: ignore[union-attr]


def test_each_soft_prompt_of_several_gets_its_own() -> None:
    texts = ["red house", "old boat on river", "cat", "night rain"]
    prompts = DISTILLER.distill_each([embedded(text) for text in texts], batch_tasks=3, **QUICK)
    assert [prompt.text for prompt in prompts] == texts
    assert DISTILLER.distill_each([], **QUICK) == []
    for method in ("nearest", "nearest-l2"):
        nearest = PromptDistiller(BACKEND, method).distill_each([embedded(text) for text in texts], **QUICK)
        assert [prompt.text for prompt in nearest] == texts


def test_more_tokens_keep_more() -> None:
    shares = []
    for ratio in (0.1, 0.3, 0.7):
        found = DISTILLER.distill(LONG, ratio=ratio, **QUICK).faithfulness
        assert found is not None
        shares.append(found.matched.value)
    assert shares == sorted(shares) and shares[-1] > 0.9


@pytest.mark.parametrize(
    "text", ["---\nred: house\n- [boat]\n...", "<b>red</b> <script>alert('house')</script> boat", "red house {} `boat`"]
)
def test_any_text_may_be_distilled(text: str, tmp_path: Path) -> None:
    prompt = DISTILLER.distill(text + " red house boat", num_tokens=2, max_steps=1, **QUICK)
    assert prompt.provenance["original"].startswith(text)
    prompt.save_pretrained(tmp_path)
    assert DistilledPrompt.from_pretrained(tmp_path) == prompt
    assert "<script>" not in prompt._repr_html_()


def test_a_hard_prompt_is_taken_whole() -> None:
    hard = HardPrompt("red house", (0, 1), 0.0, template="the {} in snow")
    prompt = DISTILLER.distill(hard, num_tokens=5, **QUICK)
    assert prompt.text == "the red house in snow"


def test_the_same_seed_gives_the_same_prompt_and_nothing_is_kept_between_calls() -> None:
    before = dict(vars(DISTILLER))
    options = {**QUICK, "num_tokens": 3, "max_steps": 5}
    first, second = (DISTILLER.distill(noisy("old boat on river", 2.0), **options) for _ in range(2))
    assert first.candidates == second.candidates and vars(DISTILLER) == before


@pytest.mark.parametrize("what", [LONG, "soft"])
def test_cancelling_keeps_the_best(what: str) -> None:
    original = what if what == LONG else noisy("red house", 2.0)
    steps = []

    def stop(progress: Any) -> bool:
        steps.append(progress.step)
        return len(steps) == 2

    prompt = DISTILLER.distill(original, num_tokens=4, callback=stop, **QUICK)
    assert len(steps) == 2 and prompt.stop_reason == "cancelled" and prompt.text


def test_budgets_are_for_the_whole_call() -> None:
    prompt = DISTILLER.distill(LONG, num_tokens=4, max_evaluations=300, **QUICK)
    assert 100 < prompt.evaluations < 900  # a step is finished once it is begun
    assert DISTILLER.distill(LONG, num_tokens=4, deadline=0.0, **QUICK).text
    banned = DISTILLER.distill(LONG, num_tokens=4, banned=["RED", "ver"], max_steps=30, **QUICK)
    assert "red" not in banned.text and "ver" not in banned.text
    bank = DISTILLER.distill(LONG, num_tokens=3, vocabulary=["boat house", "snow"], max_steps=30, **QUICK)
    assert set(bank.text.split()) <= {"boat", "house", "snow"}


@pytest.mark.parametrize(
    ("what", "options", "error", "message"),
    [
        ("", {}, ValueError, "no tokens"),
        ("zebra", {}, ValueError, "no tokens"),
        (torch.zeros(0, 32), {}, ValueError, "not empty"),
        (torch.full((2, 32), float("nan")), {}, ValueError, "NaN"),
        (torch.zeros(2, 3, 4), {}, ValueError, "tokens, dim"),
        (torch.zeros(2, 33), {}, BackendError, "32 wide"),
        (SoftPrompt({"clip_l": torch.zeros(1, 768)}), {}, BackendError, "SD 1.x"),
        (Path("nowhere.safetensors"), {}, FileFormatError, "nowhere"),
        (torch.zeros(17, 32), {"num_tokens": 2}, TemplateError, "17 tokens"),
        (LONG, {"num_tokens": 17}, TemplateError, "room for 16"),
        (LONG, {"num_tokens": 0}, ValueError, "num_tokens"),
        (LONG, {"num_tokens": 2, "ratio": 0.5}, ValueError, "not both"),
        (LONG, {"ratio": 0.0}, ValueError, "ratio"),
        (LONG, {"ratio": 1.5}, ValueError, "ratio"),
        (LONG, {"templates": "no slot"}, TemplateError, "0 slots"),
        (LONG, {"templates": []}, TemplateError, "templates is empty"),
        (LONG, {"match": "noise"}, BackendError, "no denoiser"),
        (LONG, {"match": "hidden_states"}, BackendError, "features only"),
        (LONG, {"banned": list("abcdefghijklmnopqrstuvwxyz")}, VocabularyError, "no token is left"),
        (LONG, {"num_tokens": 1, "initial_prompt": "red house"}, VocabularyError, "2 tokens"),
        (LONG, {"token_cost": -1.0}, ValueError, "token_cost"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_with_their_value(what: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        DISTILLER.distill(what, **{**QUICK, **options})
