"""Few examples, drawn anew for each seed."""

import json

import numpy as np
import pytest
from toy_classification import examples

from hardprompts import ClassifierPromptTuner
from hardprompts.testing import toy_language_model

TEMPLATE = "{prompt} {text} the {label}"


def tuner(kind: str = "causal", **options) -> ClassifierPromptTuner:
    chosen = {"num_tokens": 3, "template": TEMPLATE, "restarts": 2, "max_steps": 6, "random_state": 0, **options}
    # Set afterwards, since the checks of types would stop misuse before the messages do.
    return ClassifierPromptTuner(toy_language_model(kind), progress=False).set_params(**chosen)


def test_few_shots_are_drawn_anew_for_each_seed(tmp_path) -> None:
    from hardprompts.classification import few_shot

    texts, labels = examples(40)
    model = tuner(max_steps=2, restarts=1, init="random", checkpoint=tmp_path)
    drawn: list[int] = []
    report = few_shot(model, texts, labels, shots=2, seeds=3, report=lambda run: drawn.append(run.seed))
    assert drawn == [0, 1, 2]
    assert len({run.prompt for run in report.runs}) > 1
    assert report.tested == 40 - 2 * 2 * 2
    assert {path.name for path in tmp_path.iterdir()} == {"draw-0", "draw-1", "draw-2"}
    assert report.accuracy.mean == pytest.approx(np.mean([run.accuracy for run in report.runs]))
    assert report.gain.mean == pytest.approx(np.mean([run.accuracy - run.empty for run in report.runs]))
    assert not hasattr(model, "prompt_"), "the tuner that was given stays as it is"
    # A draw is a fit of its own: the same examples, half of them held out.
    from hardprompts.classification.shots import _drawn

    places = _drawn(texts, labels, 4, 1)
    assert sorted(labels[i] for i in places) == ["moon"] * 4 + ["sun"] * 4
    alone = tuner(max_steps=2, restarts=1, init="random", holdout=0.5, random_state=1).fit([texts[i] for i in places], [labels[i] for i in places])  # fmt: skip
    assert alone.prompt_ == report.runs[1].prompt
    assert alone.report_["examples"] == {"learned_from": 4, "held_out": 4}
    left = [i for i in range(40) if i not in places]
    assert alone.score([texts[i] for i in left], [labels[i] for i in left]) == report.runs[1].accuracy
    other = few_shot(model, texts, labels, shots=2, seeds=[1], test=examples(10, seed=3))
    assert other.tested == 10
    assert other.runs[0].prompt == alone.prompt_
    assert json.loads(json.dumps(report.to_dict()))["shots"] == 2
    assert len(report.table().splitlines()) == 3


def test_few_shots_stop_at_what_they_cannot_draw() -> None:
    from hardprompts.classification import few_shot

    texts, labels = examples(8)
    with pytest.raises(ValueError, match="take fewer shots"):
        few_shot(tuner(), texts, labels, shots=3)
    with pytest.raises(ValueError, match="take fewer shots"):
        few_shot(tuner(), [texts[0]] * 8, labels, shots=2)
    with pytest.raises(ValueError, match="shots must be"):
        few_shot(tuner(), texts, labels, shots=0)
    with pytest.raises(ValueError, match="pass some as test"):
        few_shot(tuner(max_steps=1), texts, labels, shots=2)

    def interrupt(progress) -> None:
        raise KeyboardInterrupt

    texts, labels = examples(20)
    halted = few_shot(tuner(callback=interrupt), texts, labels, shots=2, seeds=4)
    assert [run.stop_reason for run in halted.runs] == ["interrupted"]
