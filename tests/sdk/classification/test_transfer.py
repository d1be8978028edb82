"""Figures of classifiers, by hand; and what other models make of a prompt."""

import json

import pytest
import torch
from toy_classification import examples

from hardprompts import ClassifierPromptTuner
from hardprompts.classification import evaluate_transfer
from hardprompts.classification.measures import Measures
from hardprompts.testing import toy_language_model

TEMPLATE = "{prompt} {text} the {label}"


def tuner(kind: str = "causal", **options) -> ClassifierPromptTuner:
    chosen = {"num_tokens": 3, "template": TEMPLATE, "restarts": 2, "max_steps": 6, "random_state": 0, **options}
    # Set afterwards, since the checks of types would stop misuse before the messages do.
    return ClassifierPromptTuner(toy_language_model(kind), progress=False).set_params(**chosen)


def test_measures_count() -> None:
    scores = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]).log_softmax(dim=1)
    found = Measures.of(scores, [0, 0, 1, 1], torch.tensor([5, 9, 5, 6]), [5, 6])
    assert found.accuracy == 0.75
    assert found.balanced_accuracy == 0.75
    assert found.histogram == (3, 1)
    assert found.category_errors == 0.25
    assert Measures.of(scores[:3], [0, 0, 1]).balanced_accuracy == 0.5
    with pytest.raises(ValueError, match="no texts"):
        Measures.of(scores[:0], [])


def test_transfer_reports_what_each_model_makes_of_the_prompt() -> None:
    texts, labels = examples(20)
    fitted = tuner(max_steps=4).fit(texts, labels)
    others = [fitted.backend, toy_language_model("causal", seed=5), toy_language_model("masked", seed=2)]
    reports = evaluate_transfer(fitted, others, texts, labels, random_prompts=3)
    assert [report.model for report in reports] == ["toy-lm"] * 3
    own = reports[0]
    assert own.prompt.raw.accuracy == pytest.approx(fitted.score(texts, labels))
    assert own.empty.raw == fitted.evaluate(texts, labels, prompt="")
    assert own.gain.mean == pytest.approx(own.prompt.raw.accuracy - own.empty.raw.accuracy)
    for report in reports:
        assert report.prompt.interval.low <= report.prompt.raw.accuracy <= report.prompt.interval.high
        assert sum(report.prompt.raw.histogram) == 20
        assert report.best_random is not None
        json.dumps(report.to_dict())
    from hardprompts.classification.transfer import transfer_table

    assert len(transfer_table(reports).splitlines()) == 2 + 9
    with pytest.raises(ValueError, match="did not see"):
        evaluate_transfer(fitted, others, ["red"], ["star"])


def test_calibration_undoes_a_constant_prior() -> None:
    from hardprompts.classification.prompted import batch_prior

    draw = torch.Generator().manual_seed(0)
    targets = [i % 2 for i in range(200)]
    signal = torch.tensor([[1.0, 0.0] if target == 0 else [0.0, 1.0] for target in targets])
    biased = 3 * signal + torch.randn(200, 2, generator=draw) * 0.1 + torch.tensor([6.0, 0.0])
    assert Measures.of(biased, targets).accuracy == 0.5
    assert Measures.of(biased - batch_prior(biased), targets).accuracy > 0.95
