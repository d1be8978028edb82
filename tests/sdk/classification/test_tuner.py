"""ClassifierPromptTuner on a toy language model: the best prompt is found, bad input is explained, a fit goes on bit by bit."""

import dataclasses
import enum

import numpy as np
import pytest
import torch
from toy_classification import LABELS, examples

from hardprompts import ClassifierPromptTuner
from hardprompts.classification.data import holdout_split, sorted_classes
from hardprompts.errors import BackendError, NonFiniteError
from hardprompts.methods import Refine
from hardprompts.testing import ToyLanguageModel, toy_backend, toy_language_model

KINDS = ("causal", "masked", "seq2seq")


TEMPLATE = "{prompt} {text} the {label}"


def tuner(kind: str = "causal", **options) -> ClassifierPromptTuner:
    chosen = {"num_tokens": 3, "template": TEMPLATE, "restarts": 2, "max_steps": 6, "random_state": 0, **options}
    # Set afterwards, since the checks of types would stop misuse before the messages do.
    return ClassifierPromptTuner(toy_language_model(kind), progress=False).set_params(**chosen)


def test_the_default_finds_the_brute_force_optimum_of_one_token() -> None:
    texts, labels = examples(20)
    fitted = tuner(
        num_tokens=1,
        holdout=0.0,
        max_steps=None,
        restarts=4,
        top_k=1,
        method=Refine(candidates_per_slot=10**6, insert=False, delete=False),
    )
    fitted.fit(texts, labels)
    parts = fitted.prompted()
    targets = [LABELS[::-1].index(label) for label in labels]  # the classes are in alphabetical order
    assert list(fitted.classes_) == ["moon", "sun"]
    losses = {
        word: parts.measure(word, texts, targets, with_category_errors=False).loss
        for word in (fitted.backend.vocabulary.decode([i]) for i in fitted.backend.vocabulary.allowed_ids.tolist())
    }
    assert losses[fitted.prompt_] == pytest.approx(min(losses.values()), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_returned_is_what_was_scored(kind: str) -> None:
    texts, labels = examples(24)
    fitted = tuner(kind).fit(texts, labels)
    parts, prompt = fitted.prompted(), fitted.hard_prompt_
    assert prompt.text == fitted.prompt_
    assert parts.encoder.misread(prompt.text, prompt.token_ids, texts) == []
    assert fitted.backend.vocabulary.encode(prompt.text) == list(prompt.token_ids)
    table = fitted.backend.vocabulary.embed(torch.tensor([prompt.token_ids]))
    by_ids = parts.reader.word_scores([parts.encoder.row(text) for text in texts], table)[0]
    by_text = parts.class_scores(fitted.prompt_, texts)
    assert torch.allclose(parts.labels.class_scores(by_ids), by_text, atol=1e-5)
    assert np.allclose(fitted.predict_proba(texts), by_text.softmax(dim=1).numpy(), atol=1e-5)
    again = tuner(kind).fit(texts, labels)
    assert again.prompt_ == fitted.prompt_
    assert again.report_ == fitted.report_


def test_holdout_never_divides_what_belongs_together() -> None:
    texts = ["A film.", "a  FILM.", "good", "bad", "fine", "poor", "odd", "dull"] * 3
    targets = [0, 0, 1, 0, 1, 0, 1, 0] * 3
    groups = [i // 8 if text == "good" else f"{i % 8}" for i, text in enumerate(texts)]
    for seed in range(20):
        learn, held = holdout_split(texts, targets, 0.3, torch.Generator().manual_seed(seed), groups)
        assert sorted(learn + held) == list(range(len(texts)))
        assert {" ".join(texts[i].lower().split()) for i in learn}.isdisjoint(
            " ".join(texts[i].lower().split()) for i in held
        )
        assert {groups[i] for i in learn}.isdisjoint(groups[i] for i in held)
        assert {targets[i] for i in learn} == {0, 1}
        assert held
    assert holdout_split(["a", "b"], [0, 1], 0.5, torch.Generator()) == ([0, 1], [])


def test_an_interrupted_fit_goes_on_bit_by_bit(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = examples(20)
    whole = tuner(seeds=3).fit(texts, labels)
    calls = []

    def interrupt(progress) -> None:
        calls.append(progress.step)
        if len(calls) == 9:  # in the second search
            raise KeyboardInterrupt

    halted = tuner(seeds=3, checkpoint=tmp_path, callback=interrupt).fit(texts, labels)
    assert halted.prompt_, "the best so far is kept"
    assert len(list(tmp_path.glob("search-*.json"))) == 1
    resumed = tuner(seeds=3, checkpoint=tmp_path).fit(texts, labels)
    assert len(list(tmp_path.glob("search-*.json"))) == 3
    assert (resumed.prompt_, resumed.report_, resumed.seed_) == (whole.prompt_, whole.report_, whole.seed_)
    assert np.array_equal(resumed.predict_proba(texts), whole.predict_proba(texts))
    monkeypatch.setattr("hardprompts.search.options.run_search", lambda *a, **k: pytest.fail("searched again"))
    tuner(seeds=3, checkpoint=tmp_path).fit(texts, labels)
    monkeypatch.undo()
    other = tuner(seeds=3, checkpoint=tmp_path, num_tokens=2).fit(texts, labels)
    assert len(other.hard_prompt_.token_ids) <= 2, "searches of other settings are not taken"


class Mood(enum.Enum):
    GOOD = "+"
    BAD = "-"


@pytest.mark.parametrize(
    ("options", "texts", "labels", "message"),
    [
        ({}, "red house", ["sun"], "put it into a list"),
        ({}, ["red", "blue"], ["sun"], "as many labels"),
        ({}, ["red", "blue"], ["sun", "sun"], "two classes"),
        ({}, [], [], "two classes"),
        ({}, ["red", 3], ["sun", "moon"], r"X\[1\]"),
        ({}, ["red", "blue"], ["sun", None], r"y\[1\]"),
        ({}, ["red", "blue"], ["sun", float("nan")], r"y\[1\]"),
        ({}, ["red", "blue"], [0, 1], "are not words"),
        ({"num_tokens": 0}, ["red", "blue"], ["sun", "moon"], "num_tokens"),
        ({"holdout": 1.0}, ["red", "blue"], ["sun", "moon"], "holdout"),
        ({"init": "words"}, ["red", "blue"], ["sun", "moon"], "init"),
        ({"fluency_weight": 1.0}, ["red", "blue"], ["sun", "moon"], "fluency_weight"),
        ({"max_length": 0}, ["red", "blue"], ["sun", "moon"], "max_length"),
        ({"template": "{text} {label}"}, ["red", "blue"], ["sun", "moon"], "slots"),
        ({"num_tokens": 90}, ["red", "blue"], ["sun", "moon"], "shorter"),
    ],
)
def test_misuse_is_explained(options, texts, labels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tuner(**options).fit(texts, labels)


def test_models_that_cannot_classify_are_refused() -> None:
    with pytest.raises(BackendError, match="not a language model"):
        ClassifierPromptTuner(toy_backend()).fit(["a", "b"], ["sun", "moon"])
    with pytest.raises(BackendError, match="ClassifierPromptTuner"):
        toy_language_model().encode_texts(["red"])
    with pytest.raises(ValueError, match="not fitted"):
        tuner().predict(["red"])
    with pytest.raises(ValueError, match="not fitted"):
        tuner().save_pretrained("nowhere")


def test_numbers_that_are_not_finite_are_named() -> None:
    model = ToyLanguageModel.create()
    broken = dataclasses.replace(model, value=model.value * torch.nan)
    backend = dataclasses.replace(toy_language_model(), language_model=broken)
    texts, labels = examples(8)
    with pytest.raises(NonFiniteError, match="NaN"):
        ClassifierPromptTuner(backend, template=TEMPLATE, num_tokens=2, max_steps=2, progress=False).fit(texts, labels)


def test_empty_texts_are_counted() -> None:
    texts, labels = examples(12)
    fitted = tuner(max_steps=1).fit([*texts, "", " "], [*labels, "sun", "moon"])
    assert any("2 of 14 texts are empty" in note for note in fitted.report_["notes"])
    assert fitted.predict_proba([""]).shape == (1, 2)


def test_classes_are_in_order() -> None:
    assert sorted_classes([2, 10, 1]) == [1, 2, 10]
    assert sorted_classes(["b", "a"]) == ["a", "b"]
    assert sorted_classes([Mood.BAD, Mood.GOOD]) == [Mood.GOOD, Mood.BAD]
