"""ClassifierPromptTuner as a scikit-learn estimator, and hardprompts without scikit-learn."""

import dataclasses
import enum
import inspect
import subprocess
import sys
import typing

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, get_tags

from hardprompts import ClassifierPromptTuner
from hardprompts.classification.options import TunerArguments, TunerOptions
from hardprompts.testing import toy_language_model

TEXTS = [f"{word} house in the {clue}" for word in ("red", "old", "green") for clue in ("fire", "night") for _ in "abc"]
LABELS = ["sun" if text.endswith("fire") else "moon" for text in TEXTS]


def tuner(**options) -> ClassifierPromptTuner:
    chosen = {
        "template": "{prompt} {text} the {label}", "num_tokens": 2, "method": "pez", "restarts": 1, "max_steps": 1,
        "random_state": 0, "progress": False, **options,
    }  # fmt: skip
    return ClassifierPromptTuner(toy_language_model(), **chosen)


# --- parameters ---------------------------------------------------------------------------


def test_each_option_is_a_parameter_with_the_default_of_its_declaration() -> None:
    declared = {field.name: field.default for field in dataclasses.fields(TunerOptions)}
    declared["random_state"] = declared.pop("seed")
    plain = ClassifierPromptTuner("emoji:emoji-lm")
    assert plain.get_params() == {"model": "emoji:emoji-lm", **declared}
    shown = inspect.signature(ClassifierPromptTuner).parameters
    assert {name: one.default for name, one in shown.items() if name != "model"} == declared
    assert plain.options == TunerOptions()
    # The seed of every search goes by scikit-learn's name, and by no other.
    assert typing.get_type_hints(TunerArguments).keys() - {"seed"} == declared.keys()


def test_parameters_are_kept_as_they_are_given() -> None:
    words = ["red", "blue"]
    model = tuner(vocabulary=words, num_tokens=-3)  # what is out of range is found out by fit
    assert model.get_params()["vocabulary"] is words
    assert model.set_params(num_tokens=5) is model
    assert model.num_tokens == 5
    with pytest.raises(ValueError, match="Invalid parameter 'tokens'"):
        model.set_params(tokens=3)
    with pytest.raises(ValueError, match="restarts must be at least 1, got 0"):
        tuner(restarts=0).fit(TEXTS, LABELS)


def test_an_option_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"no option 'num_token'.*'num_tokens'"):
        ClassifierPromptTuner("emoji:emoji-lm", num_token=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="calls its seed random_state"):
        ClassifierPromptTuner("emoji:emoji-lm", seed=3)


def test_it_is_shown_by_what_differs_from_the_defaults() -> None:
    assert repr(ClassifierPromptTuner("emoji:emoji-lm", num_tokens=3)) == (
        "ClassifierPromptTuner(model='emoji:emoji-lm', num_tokens=3)"
    )
    shown = repr(ClassifierPromptTuner(toy_language_model()))
    assert "toy-lm" in shown
    assert len(shown) < 120, "an open model is not printed with all its weights"


# --- scikit-learn's own checks ------------------------------------------------------------


def test_what_check_estimator_proves() -> None:
    """It runs a single check, that the tuner can be cloned, and skips all others, which fit tables of numbers."""
    with pytest.warns(UserWarning, match="requires input"):
        ran = estimator_checks.check_estimator(tuner(), on_skip=None)
    assert {one["status"] for one in ran} == {"passed"}
    assert len(ran) == 1


@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable", "check_no_attributes_set_in_init", "check_parameters_default_constructible",
        "check_get_params_invariance", "check_set_params", "check_estimator_repr", "check_valid_tag_types",
        "check_mixin_order", "check_estimators_unfitted",
    ],
)  # fmt: skip
def test_it_passes_the_checks_that_need_no_numbers(check: str) -> None:
    # By name, since check_estimator skips these too.
    getattr(estimator_checks, check)("ClassifierPromptTuner", tuner())


def test_it_says_what_it_takes() -> None:
    tags = get_tags(tuner())
    assert is_classifier(tuner())
    assert tags.target_tags.required
    assert (tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (True, True, False)


# --- inside scikit-learn ------------------------------------------------------------------


def test_a_clone_shares_the_model() -> None:
    model = tuner()
    copy = clone(model.fit(TEXTS, LABELS))
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert copy.model is model.model
    assert not hasattr(copy, "prompt_")


def test_it_works_in_grids_and_pipelines() -> None:
    grid = GridSearchCV(tuner(), {"num_tokens": [1, 2]}, cv=2).fit(TEXTS, LABELS)
    assert grid.best_params_["num_tokens"] in (1, 2)
    assert len(grid.best_estimator_.hard_prompt_.token_ids) <= grid.best_params_["num_tokens"]
    assert len(cross_val_score(tuner(), TEXTS, LABELS, cv=2)) == 2
    tidy = FunctionTransformer(lambda own: [text.lower() for text in own])
    pipeline = Pipeline([("tidy", tidy), ("tuner", tuner())])
    assert len(pipeline.fit(TEXTS, LABELS).predict(TEXTS)) == len(TEXTS)
    assert pipeline.set_params(tuner__num_tokens=1).named_steps["tuner"].num_tokens == 1


def test_groups_reach_fit_through_a_cross_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fit = ClassifierPromptTuner.fit

    def watched(self, X, y, groups=None):
        seen.append(groups)
        return fit(self, X, y, groups)

    monkeypatch.setattr(ClassifierPromptTuner, "fit", watched)
    groups = np.array([i // 6 for i in range(len(TEXTS))])  # each has texts of both classes
    with config_context(enable_metadata_routing=True):
        model = tuner().set_fit_request(groups=True)
        cross_validate(model, np.array(TEXTS), np.array(LABELS), cv=GroupKFold(3), params={"groups": groups})
    assert [len(own) for own in seen] == [12, 12, 12]


def test_a_score_may_weigh_its_texts() -> None:
    fitted = tuner().fit(TEXTS, LABELS)
    right = np.array(fitted.predict(TEXTS) == np.array(LABELS))
    assert fitted.score(TEXTS, LABELS) == pytest.approx(right.mean())
    first = [1.0] + [0.0] * (len(TEXTS) - 1)
    assert fitted.score(TEXTS, LABELS, sample_weight=first) == float(right[0])
    with pytest.raises(ValueError, match="did not see"):
        fitted.score(TEXTS[:1], ["star"])


def test_enums_are_scored() -> None:
    class Mood(enum.Enum):
        GOOD = 1
        BAD = 2

    labels = [Mood.GOOD if label == "sun" else Mood.BAD for label in LABELS]
    fitted = tuner(verbalizer={Mood.GOOD: "sun", Mood.BAD: "moon"}).fit(TEXTS, labels)
    hits = [a is b for a, b in zip(fitted.predict(TEXTS), labels, strict=True)]
    assert fitted.score(TEXTS, labels) == pytest.approx(np.mean(hits))


def test_what_is_not_fitted_or_empty_is_refused() -> None:
    for use in (tuner().predict, tuner().predict_proba, tuner().fill, tuner().save_pretrained):
        with pytest.raises(NotFittedError, match="not fitted"):
            use("folder")
    with pytest.raises(ValueError, match="no texts"):
        tuner().fit(TEXTS, LABELS).predict_proba([])


def test_tables_are_taken() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS}).sample(frac=1, random_state=0)
    fitted = tuner().fit(frame["text"], frame["label"])
    assert (fitted.predict(frame["text"]) == fitted.predict(frame[["text"]])).all()
    frame.loc[0, "text"] = None
    with pytest.raises(ValueError, match="is not a text"):
        fitted.predict(frame["text"])


# --- randomness ---------------------------------------------------------------------------


def test_without_a_random_state_nobody_elses_randomness_is_touched() -> None:
    # In a process of its own: what checks types while tests run draws from Python's generator.
    code = inspect.getsource(fit_and_compare)
    found = subprocess.run(
        [sys.executable, "-c", f"{code}\nfit_and_compare()"], check=False, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


def fit_and_compare() -> None:
    import random

    import numpy as np
    import torch

    from hardprompts import ClassifierPromptTuner
    from hardprompts.testing import toy_language_model

    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    texts, labels = ["red fire", "old night"] * 4, ["sun", "moon"] * 4
    options = {"num_tokens": 2, "max_steps": 1, "progress": False}
    first, second = (ClassifierPromptTuner(toy_language_model(), **options).fit(texts, labels) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(map(np.array_equal, np.random.get_state(), before[1]))
    assert random.getstate() == before[2]
    assert first.seed_ != second.seed_
    again = ClassifierPromptTuner(toy_language_model(), random_state=first.seed_, **options).fit(texts, labels)
    assert again.prompt_ == first.prompt_


# --- length ---


def test_a_token_must_be_worth_its_place() -> None:
    options = {"num_tokens": 3, "method": "refine", "max_steps": 4, "holdout": 0.0}
    plain = tuner(**options).fit(TEXTS, LABELS).hard_prompt_
    short = tuner(**options, token_cost=100.0).fit(TEXTS, LABELS).hard_prompt_
    assert len(plain.token_ids) == 3
    assert len(short.token_ids) == 1


# --- words --------------------------------------------------------------------------------


def test_prompts_are_of_real_words_unless_others_are_asked_for() -> None:
    from hardprompts.classification import Verbalizer
    from hardprompts.classification.data import Examples
    from hardprompts.classification.prompt_search import PromptSearch
    from hardprompts.encoders import load_backend
    from hardprompts.methods import PEZ

    model = load_backend("emoji:emoji-lm", device="cpu").language_model
    verbalizer = Verbalizer.of(["animal", "food"], None)
    examples = Examples.of(["a dog", "a pie"], ["animal", "food"], None, 0.0, torch.Generator())

    def texts(**chosen) -> set[str]:
        options = TunerOptions(**chosen)
        search = PromptSearch(options.prompted(model, verbalizer), examples, options, PEZ())
        return set(search.words.token_texts(search.words.allowed_ids.tolist()))

    assert "Engl" in texts(words=False)
    assert "Engl" not in texts()
    assert texts() == texts(words=True)
    assert "dog" in texts()
    assert texts(words=["dog", "house"]) == {"dog", "house"}
    assert texts(vocabulary=["dog in a house"]) == {"dog", "in", "a", "house"}


# --- without scikit-learn -----------------------------------------------------------------

WITHOUT = """
import sys

class Hidden:
    def find_spec(name, path=None, target=None):
        if name == "sklearn":
            raise ModuleNotFoundError("No module named 'sklearn'", name=name)

sys.meta_path.insert(0, Hidden)
"""


def run(code: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code], capture_output=True, check=False, text=True, input=text
    )


def test_without_scikit_learn_all_else_works_and_the_tuner_says_what_to_install() -> None:
    found = run(
        "import hardprompts, hardprompts.classification as room\n"
        "from hardprompts.errors import MissingExtra\n"
        "for place, names in ((hardprompts, hardprompts.__all__), (room, room.__all__)):\n"
        "    for name in names:\n"
        "        if name != 'ClassifierPromptTuner':\n"
        "            getattr(place, name)\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        from hardprompts import ClassifierPromptTuner\n"
        "    except MissingExtra as error:\n"
        "        print(error)\n"
    )
    assert found.returncode == 0, found.stderr
    said = 'ClassifierPromptTuner needs the package sklearn, which is not installed: pip install "hardprompts[sklearn]"'
    assert found.stdout.splitlines() == [said, said]


@pytest.mark.parametrize("command", ["'classify', 'folder'", "'tune', sys.argv[0]"])
def test_without_scikit_learn_the_command_line_says_what_to_install(command: str, tmp_path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("text,label\nred house,sun\n")
    code = (
        f"sys.argv = [{str(table)!r}]\nfrom hardprompts.cli import main\nsys.argv = ['hardprompts', {command}]\nmain()"
    )
    found = run(code, "a text\n")
    assert found.returncode == 2
    assert 'pip install "hardprompts[sklearn]"' in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr
