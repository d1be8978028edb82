"""Tuners as pickles, copies and jobs: small, without the model, which is opened once for all of them."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from toy_classification import NAMES, TEXTS, quick_tuner

from hardprompts import ClassifierPromptTuner, close_models, hookimpl, load_backend, plugins
from hardprompts.encoders import KEPT_MODELS, Backend, shared_backend
from hardprompts.errors import BackendError
from hardprompts.testing import toy_language_model

EMBEDDED = "emoji:emoji-lm"


class Counted:
    """A plugin whose models count how often they were opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.backends = hookimpl(lambda: {"counted": self.open})

    def open(self, name: str, *, device: Any, dtype: Any) -> Backend:
        self.opened.append(name)
        return toy_language_model(seed=len(name))


@pytest.fixture
def counted() -> Iterator[Counted]:
    plugin = Counted()
    plugins.register(plugin, "counted")
    close_models()
    yield plugin
    close_models()
    plugins.unregister("counted")


# --- one opening --------------------------------------------------------------------------


def test_a_grid_of_two_by_three_opens_its_model_once(counted: Counted) -> None:
    search = GridSearchCV(quick_tuner("counted:a"), {"num_tokens": [1, 2]}, cv=3).fit(TEXTS, NAMES)
    assert search.score(TEXTS, NAMES) >= 0
    cross_val_score(quick_tuner("counted:a"), TEXTS, NAMES, cv=2)
    assert counted.opened == ["a"]


def test_a_vote_of_more_models_than_are_kept_opens_each_once(counted: Counted) -> None:
    names = [f"counted:{'x' * i}" for i in range(1, KEPT_MODELS + 3)]
    tuners = [(name, quick_tuner(name, verbalizer=["moon", "sun"])) for name in names]
    voted = VotingClassifier(tuners).fit(TEXTS, NAMES)
    for _ in range(2):
        voted.predict(TEXTS)
    assert len(counted.opened) == len(names)


def test_what_nobody_uses_is_let_go(counted: Counted) -> None:
    tuners = [quick_tuner(f"counted:{'x' * i}") for i in range(1, KEPT_MODELS + 3)]
    models = [weakref.ref(each.backend) for each in tuners]
    assert all(model() is not None for model in models)
    del tuners
    gc.collect()
    assert [model() is not None for model in models] == [False, False, *[True] * KEPT_MODELS]
    close_models()
    gc.collect()
    assert not any(model() for model in models)


def test_a_closed_model_is_opened_again_when_it_is_used(counted: Counted) -> None:
    fitted = quick_tuner("counted:a").fit(TEXTS, NAMES)
    before = fitted.predict_proba(TEXTS)
    close_models()
    assert np.array_equal(fitted.predict_proba(TEXTS), before)
    assert counted.opened == ["a", "a"]


def test_other_dtypes_and_names_are_other_models(counted: Counted) -> None:
    import torch

    first = quick_tuner("counted:a")
    assert first.backend is first.backend is quick_tuner("counted:a", device="cpu").backend
    assert quick_tuner("counted:a", dtype=torch.float64).backend is not first.backend
    assert quick_tuner("counted:b").backend is not first.backend
    assert counted.opened == ["a", "a", "b"]
    before = first.backend
    assert first.set_params(model="counted:bb").backend is not before
    assert counted.opened == ["a", "a", "b", "bb"]


def test_threads_wait_for_one_opening(counted: Counted) -> None:
    found: list[Backend] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        found.append(quick_tuner("counted:a").backend)

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert counted.opened == ["a"] and len({id(each) for each in found}) == 1


def test_files_that_have_changed_are_opened_again(counted: Counted, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"first")
    name = f"counted:{tmp_path}"
    first = quick_tuner(name).fit(TEXTS, NAMES)
    (tmp_path / "model.safetensors").write_bytes(b"trained further")
    assert quick_tuner(name).backend is not first.backend
    assert len(counted.opened) == 2
    first.predict(TEXTS)
    assert len(counted.opened) == 2, "a fitted tuner keeps the model that it was fitted with"


# --- pickles ------------------------------------------------------------------------------


def embedded_tuner(model: Any = EMBEDDED, **options: Any) -> ClassifierPromptTuner:
    """A real model's, and enough searching that some prompt survives the round trip."""
    template = "{prompt} {text}. It was {label}"
    return quick_tuner(model, **{"template": template, "method": "refine", "max_steps": 2, **options})


@pytest.fixture(scope="module")
def fitted() -> ClassifierPromptTuner:
    return embedded_tuner(num_tokens=4).fit(TEXTS, NAMES)


def test_a_fitted_tuner_is_small_and_predicts_the_same(fitted: ClassifierPromptTuner, tmp_path: Path) -> None:
    before = fitted.predict_proba(TEXTS)
    data = pickle.dumps(fitted)
    assert len(data) < 10_000
    joblib.dump(fitted, tmp_path / "tuner.joblib")
    assert (tmp_path / "tuner.joblib").stat().st_size < 10_000
    for again in (pickle.loads(data), joblib.load(tmp_path / "tuner.joblib"), copy.deepcopy(fitted)):
        assert again.get_params() == fitted.get_params()
        assert again.hard_prompt_ == fitted.hard_prompt_
        assert np.array_equal(again.predict_proba(TEXTS), before)
        assert again.backend is fitted.backend
    assert pickle.dumps(clone(fitted)) == pickle.dumps(quick_tuner().set_params(**fitted.get_params()))


def test_another_process_opens_it(fitted: ClassifierPromptTuner, tmp_path: Path) -> None:
    (tmp_path / "tuner.pickle").write_bytes(pickle.dumps(fitted))
    code = (
        "import pathlib, pickle, sys\n"
        "tuner = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "print(*tuner.predict(['red house in the fire', 'old house in the night']))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "tuner.pickle"], capture_output=True, text=True, check=False
    )
    assert found.stdout.split() == list(fitted.predict(["red house in the fire", "old house in the night"])), (
        found.stderr
    )


def test_jobs_of_joblib_give_what_one_process_gives() -> None:
    alone = cross_val_score(quick_tuner(), TEXTS, NAMES, cv=2)
    for backend in ("loky", "threading"):
        with joblib.parallel_config(backend):
            assert np.array_equal(
                cross_val_score(quick_tuner(), TEXTS, NAMES, cv=2, n_jobs=2, error_score="raise"), alone
            )


@pytest.mark.parametrize("device", ["cuda:63", "mps:7", "xpu:5"])
def test_a_pickle_from_another_device_opens_on_the_default_one_and_says_so(fitted: Any, device: str) -> None:
    away = copy.copy(fitted).set_params(device=device)
    with pytest.warns(UserWarning, match=f"pickled with the device {device}, which is not here .*it opens on"):
        again = pickle.loads(pickle.dumps(away))
    assert again.device not in (None, device)
    assert again.predict(TEXTS).tolist() == fitted.predict(TEXTS).tolist()
    opened = load_backend(EMBEDDED, device="cpu").reopened_by(*_elsewhere(device))
    with pytest.warns(UserWarning, match=f"{EMBEDDED} was pickled on {device}"):
        assert pickle.loads(pickle.dumps(opened)).name == EMBEDDED


def _elsewhere(device: str) -> tuple[Any, ...]:
    opening, (name, _, dtype, options) = load_backend(EMBEDDED, device="cpu").__reduce__()
    return opening, name, device, dtype, options


def test_an_open_model_is_pickled_by_what_opens_it() -> None:
    import torch

    opened = load_backend(EMBEDDED, device="cpu", dtype=torch.float32)
    tuner = embedded_tuner(opened).fit(TEXTS, NAMES)
    data = pickle.dumps(tuner)
    assert len(data) < 10_000
    assert pickle.loads(data).predict(TEXTS).tolist() == tuner.predict(TEXTS).tolist()
    assert copy.deepcopy(opened) is opened is copy.copy(opened)
    assert pickle.loads(pickle.dumps(opened)) is shared_backend(EMBEDDED, device="cpu")


def test_a_model_of_parts_says_what_to_do() -> None:
    import dataclasses

    changed = dataclasses.replace(load_backend(EMBEDDED, device="cpu"), note="not the one that the name opens")
    tuner = embedded_tuner(changed).fit(TEXTS, NAMES)
    assert copy.deepcopy(tuner).model is changed
    with pytest.raises(BackendError, match=r"not opened by a name.*transformers:FOLDER.*reopened_by.*threading"):
        pickle.dumps(tuner)
    with joblib.parallel_config("threading"):
        cross_val_score(tuner, TEXTS, NAMES, cv=2, n_jobs=2, error_score="raise")
    reopened = embedded_tuner(changed.reopened_by(toy_language_model)).fit(TEXTS, NAMES)
    assert pickle.loads(pickle.dumps(reopened)).model.name == "toy-lm"


# --- randomness, settings -----------------------------------------------------------------


def test_a_random_state_of_numpy_is_drawn_from() -> None:
    state = np.random.RandomState(3)
    first = quick_tuner(random_state=state)
    copied = clone(first)
    assert copied.random_state is not state
    assert first.fit(TEXTS, NAMES).seed_ == copied.fit(TEXTS, NAMES).seed_
    assert first.fit(TEXTS, NAMES).seed_ != copied.seed_, "every fit draws another one"
    again = quick_tuner(random_state=first.seed_).fit(TEXTS, NAMES)
    assert again.prompt_ == first.prompt_


@pytest.mark.parametrize("seed", [-1, 2**64, True, 1.0, "1", np.random.default_rng(0)])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"random_state must be a whole number from 0 to 2\*\*64 - 1"):
        quick_tuner(random_state=seed).fit(TEXTS, NAMES)


def test_settings_from_a_grid_of_numpy_are_saved(tmp_path: Path) -> None:
    found = GridSearchCV(quick_tuner(), {"num_tokens": np.arange(1, 3), "holdout": np.array([0.25])}, cv=2).fit(
        TEXTS, NAMES
    )
    best = found.best_estimator_.set_params(random_state=np.random.RandomState(0), length_normalized=np.bool_(True))
    best.save_pretrained(tmp_path)
    again = ClassifierPromptTuner.from_pretrained(tmp_path, model=toy_language_model())
    assert again.num_tokens == best.num_tokens and type(again.num_tokens) is int
    assert (again.random_state, again.length_normalized) == (best.seed_, True)
