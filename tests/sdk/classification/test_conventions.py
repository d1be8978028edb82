"""ClassifierPromptTuner inside scikit-learn's ensembles, searches, wrappers and helper functions: each works, or says why not."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    HalvingGridSearchCV,
    LeaveOneOut,
    RandomizedSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils.validation import check_is_fitted
from toy_classification import NAMES, TEXTS, quick_tuner

WORDS = ["moon", "sun"]  # of the labels in sorted order
ARRAY, LABELS = np.array(TEXTS, dtype=object), np.array(NAMES)
COLUMN = ARRAY[:, None]
THREE = [("sun", "moon", "star")[i % 3] for i in range(len(TEXTS))]


def same(first: Any, second: Any) -> bool:
    return bool(np.array_equal(first, second))


# --- what it is given ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [tuple(TEXTS), ARRAY, np.array(TEXTS), COLUMN, np.array(TEXTS)[:, None]],
    ids=["tuple", "objects", "strings", "column", "column of strings"],
)
def test_texts_in_any_container_are_the_same_texts(texts: Any) -> None:
    plain = quick_tuner().fit(TEXTS, NAMES)
    fitted = quick_tuner().fit(texts, LABELS)
    assert fitted.prompt_ == plain.prompt_
    assert same(fitted.predict_proba(texts), plain.predict_proba(TEXTS))
    assert fitted.classes_.tolist() == WORDS


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (np.array([TEXTS, TEXTS]).T, r"shape \(18, 2\).*one column"),
        (np.array(TEXTS)[:, None, None], r"shape \(18, 1, 1\)"),
        ("red house", "put it into a list"),
        ([1, 2], r"X\[0\] is 1, which is not a text"),
        ([], "no texts"),
    ],
)
def test_what_is_not_a_column_of_texts_is_refused(texts: Any, message: str) -> None:
    fitted = quick_tuner().fit(TEXTS, NAMES)
    for use in (fitted.predict, fitted.predict_proba, fitted.predict_log_proba):
        with pytest.raises(ValueError, match=message):
            use(texts)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([NAMES, NAMES]).T, r"y has the shape \(18, 2\).*MultiOutputClassifier"),
        ([["sun"], ["sun", "moon"]] * 9, r"y\[0\] is \['sun'\].*MultiOutputClassifier"),
        (["sun"] * 18, "two classes"),
        ([name == "sun" for name in NAMES], r"\[False, True\] are not words; pass verbalizer=\{label: word"),
        (np.linspace(0, 1, 18), "are not words"),
        ([*NAMES[:-1], None], r"y\[17\] is None"),
        ([*NAMES[:-1], float("nan")], r"y\[17\] is nan"),
    ],
)
def test_what_is_not_a_label_for_each_text_is_refused(labels: Any, message: str) -> None:
    model = quick_tuner()
    with pytest.raises(ValueError, match=message):
        model.fit(TEXTS, labels)


@pytest.mark.parametrize("kind", [bool, int, np.int8, np.bool_, np.str_])
def test_labels_of_any_kind_keep_it(kind: type) -> None:
    labels = np.array([kind(name == "sun") for name in NAMES])
    for words in (WORDS, {labels[3].item(): "moon", labels[0].item(): "sun"}, np.array(WORDS)):
        fitted = quick_tuner(verbalizer=words).fit(TEXTS, labels)
        assert fitted.classes_.dtype.kind == np.array(labels.tolist()).dtype.kind
        assert fitted.verbalizer_.words == (("moon",), ("sun",))
        assert fitted.score(TEXTS, labels) == quick_tuner().fit(TEXTS, NAMES).score(TEXTS, NAMES)


def test_pandas_is_taken() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "number": range(18)}, index=range(100, 118))
    column, labels = frame["text"], pandas.Series(NAMES, index=frame.index)
    plain = quick_tuner().fit(TEXTS, NAMES).predict(TEXTS)
    for text, label in ((column, labels), (column.astype("string"), labels.astype("category"))):
        assert same(quick_tuner().fit(text, label).predict(frame[["text"]]), plain)
    only = ColumnTransformer([("text", "passthrough", ["text"])])
    for chosen in (
        make_pipeline(only, quick_tuner()),
        make_pipeline(only, quick_tuner()).set_output(transform="pandas"),
    ):
        assert same(chosen.fit(frame, labels).predict(frame), plain)
    assert permutation_importance(
        quick_tuner().fit(column, labels), frame[["text"]], labels
    ).importances_mean.shape == (1,)
    for missing in (pandas.NA, None, pandas.NaT):
        with pytest.raises(ValueError, match=r"y\[17\] is .*not a label"):
            quick_tuner().fit(TEXTS, np.array([*NAMES[:-1], missing], dtype=object))
    with pytest.raises(ValueError, match=r"shape \(18, 2\)"):
        quick_tuner().fit(frame, labels)


# --- labels that are numbered before they come --------------------------------------------


@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_a_vote_of_tuners_answers_with_names(voting: str) -> None:
    pair = [("a", quick_tuner(verbalizer=WORDS)), ("b", quick_tuner(verbalizer=WORDS, random_state=1))]
    voted = VotingClassifier(pair, voting=voting).fit(TEXTS, NAMES)
    assert set(voted.predict(TEXTS)) <= set(WORDS)
    alone = VotingClassifier(pair[:1], voting=voting).fit(TEXTS, NAMES)
    assert same(alone.predict(TEXTS), quick_tuner().fit(TEXTS, NAMES).predict(TEXTS))
    assert not hasattr(alone, "n_features_in_")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (None, r"verbalizer=\[word of 0, word of 1, \.\.\.\]"),
        ({"sun": "gold", "moon": "silver"}, r"verbalizer=\['silver', 'gold'\]"),
    ],
)
def test_numbered_labels_without_words_name_the_cause_and_what_to_give(words: Any, said: str) -> None:
    message = f"VotingClassifier.*number the labels, in sorted order.*as a list: {said}"
    pair = [("a", quick_tuner(verbalizer=words))]
    for meta in (
        VotingClassifier(pair),
        StackingClassifier(pair, cv=2),
        BaggingClassifier(quick_tuner(verbalizer=words)),
    ):
        with pytest.raises(ValueError, match=message):
            meta.fit(COLUMN, LABELS)
    with pytest.raises(ValueError, match=message):
        cross_val_predict(quick_tuner(verbalizer=words), TEXTS, NAMES, cv=2, method="predict_proba")
    with pytest.raises(ValueError) as unlike:  # names that are no numbers have another cause
        quick_tuner(verbalizer={"stars": "star"}).fit(TEXTS, NAMES)
    assert "VotingClassifier" not in str(unlike.value)


def test_a_list_of_words_is_in_the_order_of_the_labels() -> None:
    from hardprompts.classification import Verbalizer

    assert Verbalizer.of(["moon", "sun"], ["silver", ["gold", "fire"]]).words == (("silver",), ("gold", "fire"))
    assert Verbalizer.of([-1, 1], ["silver", "gold"]).classes == (-1, 1)
    assert Verbalizer.of([0, 2], ["a", "b", "c"]).words == (("a",), ("c",)), "a fold that lacks the label 1"
    assert Verbalizer.of([1, 2], ["a", "b"]).words == (("a",), ("b",))
    for words, message in ((["a"], "list of 1"), (["a", "b", "c"], "list of 3"), ("ab", "the text 'ab'")):
        with pytest.raises(ValueError, match=message):
            Verbalizer.of(["moon", "sun"], words)


# --- ensembles and wrappers ---------------------------------------------------------------


def bag_of_words() -> Pipeline:
    return make_pipeline(CountVectorizer(), LogisticRegression())


@pytest.mark.parametrize(
    ("meta", "texts"),
    [
        (StackingClassifier([("a", quick_tuner(verbalizer=WORDS)), ("b", bag_of_words())], cv=2), TEXTS),
        (StackingClassifier([("a", quick_tuner(verbalizer=WORDS))], cv=2, stack_method="predict_proba"), ARRAY),
        (VotingClassifier([("a", quick_tuner(verbalizer=WORDS)), ("b", bag_of_words())], voting="soft"), TEXTS),
        (BaggingClassifier(quick_tuner(verbalizer=WORDS), n_estimators=2, random_state=0), COLUMN),
        (CalibratedClassifierCV(quick_tuner(), cv=2), TEXTS),
        (CalibratedClassifierCV(quick_tuner(verbalizer=WORDS), cv=2, ensemble=False, method="isotonic"), ARRAY),
        (CalibratedClassifierCV(FrozenEstimator(quick_tuner().fit(TEXTS, NAMES))), TEXTS),
        (FrozenEstimator(quick_tuner().fit(TEXTS, NAMES)), TEXTS),
        (OneVsRestClassifier(quick_tuner(verbalizer=WORDS)), TEXTS),
        (OutputCodeClassifier(quick_tuner(verbalizer=WORDS), random_state=0), TEXTS),
        (TunedThresholdClassifierCV(quick_tuner(), cv=2), TEXTS),
        (FixedThresholdClassifier(quick_tuner(), threshold=0.3, pos_label="sun"), TEXTS),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_it_works_inside(meta: BaseEstimator, texts: Any) -> None:
    fitted = clone(meta).fit(texts, NAMES)
    assert set(fitted.predict(texts)) <= set(WORDS)
    assert 0 <= fitted.score(texts, NAMES) <= 1
    check_is_fitted(fitted)


def test_three_classes_one_against_the_others() -> None:
    fitted = OneVsRestClassifier(quick_tuner(verbalizer=["moon", "sun"])).fit(TEXTS, THREE)
    assert fitted.predict_proba(TEXTS).shape == (18, 3)
    assert [each.verbalizer_.classes for each in fitted.estimators_] == [(0, 1)] * 3


def test_several_labels_at_once_have_a_tuner_each() -> None:
    both = np.array([NAMES, NAMES[::-1]]).T
    fitted = MultiOutputClassifier(quick_tuner()).fit(TEXTS, both)
    assert fitted.predict(TEXTS).shape == (18, 2)


@pytest.mark.parametrize(
    ("meta", "labels"),
    [
        (OneVsOneClassifier(quick_tuner(verbalizer=WORDS)), THREE),
        (ClassifierChain(quick_tuner(verbalizer=WORDS)), np.array([NAMES, NAMES[::-1]]).T == "sun"),
        (
            SelfTrainingClassifier(quick_tuner(verbalizer=WORDS)),
            [(name == "sun") if i % 2 else -1 for i, name in enumerate(NAMES)],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_takes_numbers_alone_gets_the_places_of_the_texts(meta: BaseEstimator, labels: Any) -> None:
    # These turn texts into floats before any tuner sees them, and say so.
    with pytest.raises(ValueError, match="could not convert string to float"):
        clone(meta).fit(COLUMN, np.array(labels))
    by_place = make_pipeline(FunctionTransformer(texts_at), quick_tuner(verbalizer=WORDS))
    wrapped = meta.__class__(by_place)
    fitted = wrapped.fit(
        np.arange(len(TEXTS))[:, None], np.array(labels).astype(object if meta.__class__ is OneVsOneClassifier else int)
    )
    assert len(fitted.predict(np.array([[0], [3]]))) == 2


def texts_at(places: Any) -> list[str]:
    return [TEXTS[int(place)] for place in places[:, 0]]


def test_weights_while_learning_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="ClassifierPromptTuner doesn't support sample_weight"):
        AdaBoostClassifier(quick_tuner()).fit(COLUMN, NAMES)


# --- searches and helper functions --------------------------------------------------------


@pytest.mark.parametrize(
    "search",
    [
        GridSearchCV(quick_tuner(), {"num_tokens": [1, 2]}, cv=2),
        RandomizedSearchCV(quick_tuner(), {"num_tokens": [1, 2], "holdout": [0.0, 0.2]}, n_iter=2, cv=2, random_state=0),
        HalvingGridSearchCV(quick_tuner(), {"num_tokens": [1, 2]}, cv=2, min_resources=9, random_state=0),
        HalvingGridSearchCV(quick_tuner(), {"num_tokens": [1, 2]}, cv=2, resource="max_steps", max_resources=3),
        GridSearchCV(VotingClassifier([("a", quick_tuner(verbalizer=WORDS))]), {"a__num_tokens": [1, 2]}, cv=2),
        GridSearchCV(make_pipeline(FunctionTransformer(), quick_tuner()), {"classifierprompttuner__num_tokens": [1, 2]}, cv=2),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_search_for_the_best_settings(search: Any) -> None:
    found = search.fit(TEXTS, NAMES)
    assert 0 <= found.best_score_ <= 1
    assert next(value for name, value in found.best_params_.items() if name.endswith("num_tokens")) in (1, 2)
    assert len(found.predict(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("scoring", ["accuracy", "balanced_accuracy", "f1_macro", "roc_auc", "neg_log_loss"])
def test_scores_of_a_cross_validation(scoring: str) -> None:
    found = cross_val_score(quick_tuner(), TEXTS, NAMES, cv=2, scoring=scoring, error_score="raise")
    assert np.isfinite(found).all()


def test_predictions_of_a_cross_validation() -> None:
    assert set(cross_val_predict(quick_tuner(), TEXTS, NAMES, cv=2)) <= set(WORDS)
    likely = cross_val_predict(quick_tuner(verbalizer=WORDS), TEXTS, NAMES, cv=2, method="predict_proba")
    logs = cross_val_predict(quick_tuner(verbalizer=WORDS), TEXTS, NAMES, cv=2, method="predict_log_proba")
    assert np.allclose(np.exp(logs), likely) and np.allclose(likely.sum(axis=1), 1)


def test_curves_and_importances() -> None:
    assert validation_curve(quick_tuner(), TEXTS, NAMES, param_name="num_tokens", param_range=[1, 2], cv=2)[
        1
    ].shape == (2, 2)
    sizes = {"train_sizes": [0.5, 1.0], "shuffle": True, "random_state": 0}
    assert learning_curve(quick_tuner(), TEXTS, NAMES, cv=2, **sizes)[1].shape == (2, 2)
    fitted = quick_tuner().fit(TEXTS, NAMES)
    assert permutation_importance(fitted, COLUMN, NAMES, n_repeats=2).importances_mean.shape == (1,)


def test_a_pipeline_may_choose_what_its_steps_return() -> None:
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    chosen = make_pipeline(lower, quick_tuner()).set_output(transform="default").fit(TEXTS, NAMES)
    assert same(chosen.predict(TEXTS), quick_tuner().fit(TEXTS, NAMES).predict(TEXTS))


# --- parts that lack a label --------------------------------------------------------------


def test_a_fold_without_a_rare_label_is_learned_and_scored() -> None:
    rare = [*NAMES[:-1], "star"]
    folds = StratifiedKFold(3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        for words in (None, {name: name for name in ("sun", "moon", "star")}):
            found = cross_validate(
                quick_tuner(verbalizer=words), TEXTS, rare, cv=folds, error_score="raise", return_estimator=True
            )
            assert np.isfinite(found["test_score"]).all()
            assert sorted({len(each.classes_) for each in found["estimator"]}) == [2, 3]
        voted = VotingClassifier([("a", quick_tuner(verbalizer=["moon", "star", "sun"]))])
        assert np.isfinite(cross_val_score(voted, TEXTS, rare, cv=folds, error_score="raise")).all()
    noted = quick_tuner(verbalizer={"sun": "sun", "moon": "moon", "star": "star"}).fit(TEXTS, NAMES)
    assert any("words for ['star'], which no text has" in note for note in noted.report_["notes"])


def test_a_label_that_fit_did_not_see_is_a_miss() -> None:
    fitted = quick_tuner().fit(TEXTS, NAMES)
    whole = fitted.score(TEXTS, NAMES)
    right = int(np.argmax(fitted.predict(TEXTS) == LABELS))
    changed = [*NAMES]
    changed[right] = "star"
    assert fitted.score(TEXTS, changed) == pytest.approx(whole - 1 / len(TEXTS))
    with pytest.raises(ValueError, match="did not see: 'star'"):
        fitted.score(TEXTS, ["star"] * len(TEXTS))
    with pytest.raises(ValueError, match="did not see: 'star'"):
        fitted.evaluate(TEXTS, changed)
    with pytest.raises(ValueError, match=r"as many weights, got the shape \(2,\)"):
        fitted.score(TEXTS, NAMES, sample_weight=[1, 2])


def test_leaving_one_out() -> None:
    few, names = TEXTS[:2] + TEXTS[3:5], NAMES[:2] + NAMES[3:5]
    assert set(cross_val_score(quick_tuner(), few, names, cv=LeaveOneOut(), error_score="raise")) <= {0.0, 1.0}


# --- parameters ---------------------------------------------------------------------------


def test_parameters_that_are_arrays_go_round() -> None:
    given = {"words": np.array(["red", "old", "blue"]), "banned": np.array(["blue"]), "verbalizer": np.array(WORDS)}
    model = quick_tuner(**given)
    copied = clone(model)
    assert all(copied.get_params()[name] is value for name, value in given.items())
    assert set(copied.fit(TEXTS, NAMES).prompt_.split()) <= {"red", "old"}
    assert "words=array" in repr(model)
    assert clone(model).set_params(**model.get_params(deep=True)).get_params() == model.get_params()
    assert "ClassifierPromptTuner" in model._repr_html_()


def test_weights_and_groups_are_routed_where_they_are_asked_for() -> None:
    weights = np.linspace(0, 1, len(TEXTS))
    with config_context(enable_metadata_routing=True):
        model = quick_tuner().set_score_request(sample_weight=True)
        found = cross_validate(model, TEXTS, NAMES, cv=2, params={"sample_weight": weights}, error_score="raise")
        assert clone(model)._metadata_request.score.requests == {"sample_weight": True}
        own = quick_tuner().fit(TEXTS[9:], NAMES[9:])
    halves = [own.score(TEXTS[:9], NAMES[:9], sample_weight=weights[:9])]
    assert len(found["test_score"]) == 2 and np.isfinite(halves).all()
    assert not hasattr(model, "partial_fit")


def test_copies_and_jobs() -> None:
    fitted = quick_tuner().fit(TEXTS, NAMES)
    for copied in (copy.copy(fitted), copy.deepcopy(fitted)):
        assert copied.model is fitted.model
        assert same(copied.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
