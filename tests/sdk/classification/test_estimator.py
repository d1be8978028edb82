"""The tuner as one of scikit-learn's estimators."""

import pytest
from toy_classification import examples

from hardprompts import ClassifierPromptTuner
from hardprompts.testing import toy_language_model

TEMPLATE = "{prompt} {text} the {label}"


def tuner(kind: str = "causal", **options) -> ClassifierPromptTuner:
    chosen = {"num_tokens": 3, "template": TEMPLATE, "restarts": 2, "max_steps": 6, "random_state": 0, **options}
    # Set afterwards, since the checks of types would stop misuse before the messages do.
    return ClassifierPromptTuner(toy_language_model(kind), progress=False).set_params(**chosen)


def test_parameters_are_kept_as_they_are_given() -> None:
    model = tuner()
    assert model.get_params()["num_tokens"] == 3
    assert model.set_params(num_tokens=5) is model
    assert model.num_tokens == 5
    with pytest.raises(ValueError, match="no parameter 'tokens'"):
        model.set_params(tokens=3)
    assert "num_tokens=5" in repr(model)


def test_it_works_inside_scikit_learn() -> None:
    pytest.importorskip("sklearn")
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    texts, labels = examples(18)
    model = tuner(max_steps=1, restarts=1, method="pez")
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert copy.model is model.model
    assert is_classifier(model)
    grid = GridSearchCV(model, {"num_tokens": [1, 2]}, cv=2).fit(texts, labels)
    assert grid.best_params_["num_tokens"] in (1, 2)
    assert len(cross_val_score(model, texts, labels, cv=2)) == 2
    pipeline = Pipeline([("tidy", FunctionTransformer(lambda own: [text.lower() for text in own])), ("tuner", model)])
    assert len(pipeline.fit(texts, labels).predict(texts)) == 18
    assert pipeline.set_params(tuner__num_tokens=2)


def test_tables_are_taken() -> None:
    pandas = pytest.importorskip("pandas")
    texts, labels = examples(12)
    frame = pandas.DataFrame({"text": texts, "label": labels}).sample(frac=1, random_state=0)
    fitted = tuner(max_steps=1).fit(frame["text"], frame["label"])
    assert (fitted.predict(frame["text"]) == fitted.predict(frame[["text"]])).all()
    frame.loc[0, "text"] = None
    with pytest.raises(ValueError, match="is not a text"):
        fitted.predict(frame["text"])
