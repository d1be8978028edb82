"""Labels of any kind come back after saving, and damaged files are named."""

import enum
import json

import numpy as np
import pytest
from toy_classification import examples

from hardprompts import ClassifierPromptTuner
from hardprompts.errors import FileFormatError
from hardprompts.testing import toy_language_model

TEMPLATE = "{prompt} {text} the {label}"


def tuner(kind: str = "causal", **options) -> ClassifierPromptTuner:
    chosen = {"num_tokens": 3, "template": TEMPLATE, "restarts": 2, "max_steps": 6, "random_state": 0, **options}
    # Set afterwards, since the checks of types would stop misuse before the messages do.
    return ClassifierPromptTuner(toy_language_model(kind), progress=False).set_params(**chosen)


class Mood(enum.Enum):
    GOOD = "+"
    BAD = "-"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1], {0: "sun", 1: "moon"}), (["sun", "moon"], None), ([Mood.GOOD, Mood.BAD], {Mood.GOOD: "sun", Mood.BAD: "moon"}),
        (["👩\u200d🎨", "ja\u00adja"], {"👩\u200d🎨": "sun", "ja\u00adja": "moon"}),
        (["\u202eabc", "a/b\\c"], {"\u202eabc": "sun", "a/b\\c": "moon"}), (["", "CON"], {"": "sun", "CON": "moon"}),
        (np.array([0, 1]), {0: "sun", 1: ["moon", "star"]}), ([True, False], {True: "sun", False: "moon"}),
    ],
)  # fmt: skip
def test_labels_of_any_kind_come_back_after_saving(labels, words, tmp_path) -> None:
    texts, _ = examples(12)
    y = [labels[i % 2] for i in range(12)]
    fitted = tuner(verbalizer=words, max_steps=2).fit(np.array(texts), y)
    assert set(fitted.predict(texts)) <= set(fitted.classes_.tolist())
    assert fitted.score(texts, y) == pytest.approx(
        np.mean([a == b for a, b in zip(fitted.predict(texts), y, strict=True)])
    )
    path = fitted.save_pretrained(tmp_path / "saved")
    assert json.loads(path.read_text())["prompt"]["text"] == fitted.prompt_
    loaded = ClassifierPromptTuner.from_pretrained(tmp_path / "saved", model=toy_language_model())
    assert np.array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))
    assert loaded.hard_prompt_ == fitted.hard_prompt_
    if not isinstance(labels[0], Mood):
        assert np.array_equal(loaded.predict(texts), fitted.predict(texts))


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"format_version": 9}', "\ud800"])
def test_damaged_files_are_named(damage: str, tmp_path) -> None:
    (tmp_path / "tuner.json").write_bytes(damage.encode("utf-8", "surrogatepass"))
    with pytest.raises(FileFormatError, match=r"tuner\.json"):
        ClassifierPromptTuner.from_pretrained(tmp_path)
    with pytest.raises(FileFormatError, match=r"no tuner\.json"):
        ClassifierPromptTuner.from_pretrained(tmp_path / "none")
