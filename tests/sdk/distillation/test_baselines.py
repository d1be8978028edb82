"""Baselines: nearest tokens and a selection of the original's own words."""

from typing import Any

import pytest
import torch

from hardprompts import PromptDistiller, UnknownName
from hardprompts.distillation.features import match_features
from hardprompts.distillation.originals import words_of
from hardprompts.distillation.starts import BASELINES
from hardprompts.methods import PEZ, Refine
from hardprompts.methods.selection import Selection
from hardprompts.search.loop import run_search
from hardprompts.search.protocol import Search
from hardprompts.search.registry import search_methods
from hardprompts.search.rows import pack
from hardprompts.testing import toy_backend

BACKEND = toy_backend()


VOCABULARY = BACKEND.vocabulary


DISTILLER = PromptDistiller(BACKEND)


QUICK: dict[str, Any] = {"restarts": 6, "progress": False, "seed": 0}


LONG = "the old red house near a small river in winter night"


def embedded(text: str) -> torch.Tensor:
    return VOCABULARY.embed(torch.tensor(VOCABULARY.encode(text), dtype=torch.long))


def test_nothing_worse_than_the_original_s_own_best_words_is_returned() -> None:
    selected = PromptDistiller(BACKEND, "selection").distill(LONG, num_tokens=4, **QUICK)
    assert set(selected.text.split()) <= set(LONG.split())
    order = [LONG.split().index(word) for word in selected.text.split()]
    assert order == sorted(order)
    for limits in ({"max_steps": 0}, {"max_steps": 3}, {}):
        assert DISTILLER.distill(LONG, num_tokens=4, **limits, **QUICK).score >= selected.score - 1e-6
    whole = DISTILLER.distill("red house", num_tokens=5, **QUICK)
    assert whole.text == "red house" and whole.faithfulness is not None
    assert whole.faithfulness.matched.value == pytest.approx(1, abs=1e-4)


def test_selection_takes_the_word_that_helps_most_at_each_step() -> None:
    match = match_features(BACKEND, [[embedded(LONG)]])
    words = words_of(LONG, VOCABULARY)
    (result,) = run_search(Selection(words, 3), match, match, VOCABULARY, pack([words[0]]), top_k=50)
    chosen: list[int] = []
    for _ in range(3):
        texts = {
            index: " ".join(LONG.split()[i] for i in sorted({*chosen, index}))
            for index in range(len(words))
            if index not in chosen
        }
        distances = dict(zip(texts, match.distances(list(texts.values()), 0), strict=True))
        chosen.append(min(distances, key=distances.__getitem__))
    assert result.best.text == " ".join(LONG.split()[i] for i in sorted(chosen)) and result.steps == 3
    with pytest.raises(ValueError, match="num_tokens"):
        Selection(words, 0)


def test_baselines_are_for_what_they_can_decode_and_unknown_methods_are_named() -> None:
    with pytest.raises(ValueError, match="soft prompt has none"):
        PromptDistiller(BACKEND, "selection").distill(embedded("red"), **QUICK)
    with pytest.raises(UnknownName, match="pez"):
        PromptDistiller(BACKEND, "pezz")
    distiller = PromptDistiller(BACKEND, PEZ(learning_rate=0.3))
    assert distiller.method == "pez" and distiller.method_settings["learning_rate"] == 0.3


def test_a_plugin_s_method_is_no_baseline_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**search_methods(), "walk": Refine, "nearest-walk": Refine}
    monkeypatch.setattr("hardprompts.search.registry.search_methods", lambda: known)
    soft = embedded("old boat on river in winter night")
    found = [PromptDistiller(BACKEND, name).distill(soft, num_tokens=2, **QUICK) for name in ("walk", "nearest-walk")]
    assert found[0].token_ids == found[1].token_ids and len(found[1].token_ids) <= 2


def test_baselines_are_searches_that_may_be_given_as_objects() -> None:
    soft = embedded("old boat")
    for name, search in BASELINES.items():
        assert isinstance(search, Search)
        original = LONG if name == "selection" else soft
        by_name = PromptDistiller(BACKEND, name).distill(original, **QUICK)
        assert PromptDistiller(BACKEND, search).distill(original, **QUICK).text == by_name.text
