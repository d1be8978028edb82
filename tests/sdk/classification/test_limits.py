"""Deadlines and budgets hold for all of a fit, and for what is measured of prompts afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from toy_classification import examples, quick_tuner

from hardprompts import allowance
from hardprompts.classification import choice, judging, transfer
from hardprompts.classification.prompted import PromptedModel
from hardprompts.classification.shots import few_shot
from hardprompts.classification.transfer import evaluate_transfer, transfer_table
from hardprompts.search import bound, loop
from hardprompts.testing import toy_language_model

#: Seconds that a text takes under one prompt.
SECONDS = 0.01


class Clock:
    """A clock that goes on as texts are read."""

    def __init__(self) -> None:
        self.now, self.read = 0.0, 0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the limits look at; the measuring of texts, not the search, moves it."""
    made, scores = Clock(), PromptedModel._scores

    def slowly(self: PromptedModel, rows: Any, soft: Any) -> torch.Tensor:
        made.now += SECONDS * len(rows)
        made.read += len(rows)
        return scores(self, rows, soft)

    monkeypatch.setattr(PromptedModel, "_scores", slowly)
    for module in (allowance, loop, bound, transfer):
        monkeypatch.setattr(module, "clock", made)
    return made


TEXTS, LABELS = examples(600)


def test_a_fit_without_limits_measures_all_that_was_held_out(clock: Clock) -> None:
    tuner = quick_tuner(top_k=3).fit(TEXTS[:60], LABELS[:60])
    assert tuner.hard_prompt_.left_out == () and tuner.report_["empty_template"]["count"] == 12


def test_a_deadline_is_for_the_choice_and_the_report_too(clock: Clock) -> None:
    tuner = quick_tuner(top_k=3, deadline=2.0, holdout=0.5).fit(TEXTS, LABELS)
    assert clock.now < 2.2
    (told,) = (one for one in tuner.hard_prompt_.left_out if one.startswith("held-out texts"))
    kept, total = (int(number) for number in told.split(": ")[1].split(" of "))
    assert judging.FEWEST <= kept < total == 300
    assert any("no room within the limits" in note for note in tuner.report_["notes"])
    clock.now = 0.0
    tuner = quick_tuner(deadline=0.0, holdout=0.5, verbalizer="suggest").fit(TEXTS, LABELS)
    assert clock.now <= 5 * judging.FEWEST * SECONDS and tuner.prompt_ and tuner.report_["empty_template"] is None


def test_a_budget_is_for_all_of_a_fit(clock: Clock) -> None:
    tuner = quick_tuner(max_evaluations=12, score_size=50, holdout=0.5, max_steps=None).fit(TEXTS, LABELS)
    assert tuner.hard_prompt_.evaluations <= 16 and tuner.hard_prompt_.left_out
    assert clock.read <= 12 * 50


def test_an_interrupt_while_prompts_are_compared_keeps_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = judging.JudgedTexts.measure, []

    def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, *arguments, **options)

    monkeypatch.setattr(judging.JudgedTexts, "measure", interrupted)
    tuner = quick_tuner(top_k=5, max_steps=5, restarts=4).fit(TEXTS[:60], LABELS[:60])
    assert tuner.prompt_ and tuner.stop_reason_ == "interrupted"
    assert any(one.startswith("candidates") for one in tuner.hard_prompt_.left_out)
    assert choice.REPORTED >= 1


def test_few_shots_within_a_deadline(clock: Clock) -> None:
    report = few_shot(quick_tuner(), TEXTS, LABELS, shots=4, seeds=6, deadline=4.0)
    assert clock.now < 4.5 and report.left_out and 1 <= len(report.runs) <= 6
    whole = few_shot(quick_tuner(), TEXTS[:60], LABELS[:60], shots=4, seeds=2)
    assert whole.left_out == () and len(whole.runs) == 2


@pytest.mark.parametrize("limits", [{"deadline": 3.0}, {"deadline": 0.0}, {"max_evaluations": 300}])
def test_transfer_within_limits(limits: dict[str, Any], clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = quick_tuner().fit(TEXTS[:60], LABELS[:60])
    words: Callable[..., Any] = type(tuner.prompted().reader).word_scores

    def slowly(self: Any, rows: Any, *prompts: Any) -> torch.Tensor:
        clock.now += SECONDS * len(rows)
        return words(self, rows, *prompts)

    monkeypatch.setattr(type(tuner.prompted().reader), "word_scores", slowly)
    models = [toy_language_model() for _ in range(3)]
    backends = [quick_tuner(model).backend for model in models]
    clock.now = 0.0
    reports = evaluate_transfer(tuner, backends, TEXTS, LABELS, **limits)
    assert 1 <= len(reports) <= 3 and any(report.left_out for report in reports)
    assert "No room within the limits" in transfer_table(reports)
    assert clock.now < max(limits.get("deadline", 4.0) * 1.3, 1.0)
    assert all(not report.left_out for report in evaluate_transfer(tuner, backends, TEXTS[:20], LABELS[:20]))
