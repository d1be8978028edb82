"""ClassifierPromptTuner: a few words that make a frozen language model a classifier."""

import copy
import dataclasses
import os
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from typing_extensions import Unpack

from hardprompts.classification.data import as_array, as_labels, as_texts
from hardprompts.classification.files import SavedTuner
from hardprompts.classification.fitting import FittedPrompt, fit_prompt
from hardprompts.classification.measures import Measures
from hardprompts.classification.options import (
    KEPT,
    PARAMETERS,
    TunerArguments,
    TunerOptions,
    check_parameters,
    with_parameters,
)
from hardprompts.classification.prompted import PromptedModel, language_model
from hardprompts.classification.template import ClassificationTemplate
from hardprompts.classification.verbalizer import Verbalizer
from hardprompts.encoders import Backend, available_or_default, load_backend, shared_backend
from hardprompts.errors import FileFormatError, MissingExtra
from hardprompts.hub.client import PullOptions, PushOptions, PushResult, pull_files
from hardprompts.hub.names import TUNER_FILE
from hardprompts.prompts import HardPrompt, HistoryPoint
from hardprompts.search.seeds import checked_seed

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingExtra("ClassifierPromptTuner", "sklearn", error) from error


class ClassifierPromptTuner(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """A scikit-learn classifier that learns a few words and leaves the language model as it is.

    `fit` searches for a hard prompt that makes the model say the right label words; `predict` fills the
    prompt and a text into the template and reads which label the model finds likeliest. The prompt is text:
    what is scored is what the model's tokenizer makes of the filled template, so it can be pasted anywhere.

    Args:
        model: "scheme:name" as `load_backend` takes it, or a `Backend` with a language model.
        template: the text to complete, with {prompt}, {text} and {label} once each; white space counts.
        verbalizer: the word of each label, or several: {0: "bad", 1: ["good", "great"]}; a list has them in the order
            of the sorted labels, as ensembles that number the labels need it. None: the labels' own names. "suggest":
            words from the texts, if they do better on the held-out ones than the names.
        num_tokens: tokens of the prompt, 1 or more; methods that insert and delete return as many or fewer.
        method: a search method by name, with its settings for language models if it has any, or a `Search`.
        fluency_weight: share of the prompt's own likelihood in the loss, in [0, 1). None: 0.003 for a causal
            model, 0 for others, which know no fluency.
        fluency: "ids" as in PEZ, or "embeddings" as in FluentPrompt; see `LabelLikelihood`.
        init: what the first restart begins with: "labels", the label words over and over, or "random". All
            other restarts begin at random.
        initial_prompt: text that every restart begins with, instead.
        vocabulary: phrases whose tokens alone may be used, or a `Vocabulary`.
        words: True: only tokens that are real words; a list: these words alone; False: any tokens. None: real words,
            if the model has enough of them and `vocabulary` is not given.
        banned: what must not occur in the prompt, whatever its case; see `hardprompts.wording.Bans.of`.
        restarts: prompts that are searched for in one batch. None: 4.
        seeds: searches one after the other, with the seeds random_state, random_state + 1, ...
        batch_size: examples that a gradient is taken over.
        score_size: examples, drawn evenly from the classes, that candidates are ranked by during the search.
        holdout: share of the examples that no search sees and that the best prompt is chosen by; 0: choose
            by the examples that were learned from. Texts that are alike are never on both sides.
        length_normalized: divides the log-likelihood of a label word by its number of tokens.
        max_length: tokens of a filled template; longer texts are cut at their end. None: the model's context.
        max_steps, max_evaluations, deadline, patience, top_k: see `run_search`; deadline and evaluations are for all
            of `fit`, its choices and its report too, which then look at fewer texts; what was left out is in
            `hard_prompt_.left_out`. A prompt with `score_size` texts is one evaluation. 300 steps, if there is no
            limit at all.
        token_cost: what a token must add to be worth its place, as a share of the spread (standard deviation) of the
            score of random prompts. None: nothing.
        random_state: seed of everything, 0 to 2**64 - 1; None: drawn, and recorded in `seed_`; a `RandomState` of
            numpy: drawn from it at each `fit`.
        checkpoint: a folder. Each search that ends is written there, and `fit` with the same data and
            settings takes it from there: after an interruption it ends as it would have without.
        max_batch_tokens: tokens that go through the model at once; None: by the device.
        vram: memory of the device, in bytes or as "8GB": how many tokens go through the model at once is measured and
            chosen by it. None: by `max_batch_tokens`, and half as many where memory runs out.
        device, dtype: as for `load_backend`, where `model` is a name.
        callback: see `run_search`.
        progress: a progress bar, on a terminal or in a notebook.

    Attributes (after `fit`):
        prompt_: the text of the prompt. `hard_prompt_` is the same with all that is known about it.
        classes_: the labels, in the order of `predict_proba`'s columns.
        verbalizer_: the words in use.
        history_: best score so far against steps, seconds and evaluations, of the search that won.
        report_: figures on the held-out examples, of this prompt and of the empty one, and what was noted.
        seed_, stop_reason_: of the search that won.

    Source: Wen et al. 2023, arXiv 2302.03668, section 5. Deviations: prompts survive the round trip, several
    restarts, a holdout without duplicates, label words as whole sequences, no lone space before the label.
    """

    prompt_: str
    hard_prompt_: HardPrompt
    classes_: npt.NDArray[Any]
    verbalizer_: Verbalizer
    history_: tuple[HistoryPoint, ...]
    report_: dict[str, Any]
    seed_: int
    stop_reason_: str

    @with_parameters
    def __init__(self, model: "str | Backend", **options: Unpack[TunerArguments]) -> None:
        check_parameters(options)
        self.model = model
        for name, default in PARAMETERS.items():  # nothing is checked before `fit`, as in all of scikit-learn
            setattr(self, name, options.get(name, default))

    def __sklearn_clone__(self) -> "ClassifierPromptTuner":
        # A frozen model is shared: scikit-learn's copy of it would double its memory for nothing.
        parameters = self.get_params(deep=False)
        parameters["random_state"] = copy.deepcopy(self.random_state)  # a RandomState changes when it is drawn from
        clone = type(self)(**parameters)
        if hasattr(self, "_metadata_request"):  # what `set_fit_request` stored
            clone._metadata_request = copy.deepcopy(self._metadata_request)
        return clone

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array, tags.input_tags.string = True, False, True
        return tags

    @property
    def options(self) -> TunerOptions:
        """The parameters but for the model, checked.

        Raises:
            ValueError: one is out of range.
        """
        given = {name: _plain(getattr(self, name)) for name in PARAMETERS}
        seed = given.pop("random_state")
        if seed is None or isinstance(seed, np.random.RandomState):
            return TunerOptions(**given)
        return TunerOptions(seed=checked_seed(seed, "random_state"), **given)

    def __setstate__(self, state: dict[str, Any]) -> None:
        device = state.get("device")
        if device is not None:  # a pickle may come from a machine with another one
            place = available_or_default(str(device), "this tuner was pickled with the device")
            state = {**state, "device": device if place == str(device) else place}
        super().__setstate__(state)

    @property
    def backend(self) -> Backend:
        """The model, opened at its first use, and once for all tuners that name the same; see `shared_backend`."""
        if isinstance(self.model, Backend):
            return self.model
        return shared_backend(self.model, device=self.device, dtype=self.dtype, user=self, opening=load_backend)

    # --- to learn -------------------------------------------------------------------------

    def fit(
        self, X: Iterable[Any], y: Iterable[Any], groups: Iterable[Hashable] | None = None
    ) -> "ClassifierPromptTuner":
        """Searches for the prompt.

        A keyboard interrupt ends it with the best prompt so far.

        Args:
            X: texts: a list, an array, a Series. White space at their ends does not count.
            y: labels: numbers, strings or enums.
            groups: for each text what it belongs to (a document, an author): the holdout never divides a group.

        Raises:
            ValueError: labels without words, a single class, an argument out of range.
            TemplateError: the template lacks a slot or is too long.
            VocabularyError: a label word has no tokens of its own, or no token is left to search over.
            BackendError: no language model, or one that lacks what is asked for.
            SearchError: no prompt survives the round trip beside all texts.
            NonFiniteError: the model returns NaN.
        """
        options = self.options
        if isinstance(self.random_state, np.random.RandomState):  # drawn here alone: it gives another one each time
            options = dataclasses.replace(options, seed=int(self.random_state.randint(2**31 - 1)))
        allowance = options.allowance()  # opening the model takes of it, too
        self._learn(fit_prompt(self.backend, options, X, y, groups, allowance))
        return self

    def _learn(self, fitted: FittedPrompt) -> None:
        self.verbalizer_, self.hard_prompt_, self.report_ = fitted.verbalizer, fitted.prompt, fitted.report
        self.classes_ = as_array(fitted.verbalizer.classes)
        self.prompt_, self.history_ = fitted.prompt.text, fitted.prompt.history
        self.seed_, self.stop_reason_ = fitted.prompt.seed or 0, fitted.prompt.stop_reason

    # --- to use ---------------------------------------------------------------------------

    def prompted(self) -> PromptedModel:
        """The model with the template and the label words in use, for any prompt.

        Raises:
            NotFittedError: the tuner is not fitted.
        """
        check_is_fitted(self)
        return self.options.prompted(language_model(self.backend), self.verbalizer_)

    def predict_proba(self, X: Iterable[Any]) -> npt.NDArray[Any]:
        """(texts, classes) the probability of each class, in the order of `classes_`.

        Raises:
            NotFittedError: the tuner is not fitted.
            ValueError: there are no texts, or something in `X` is not a text.
        """
        return self._class_scores(X).softmax(dim=1).cpu().numpy()

    def _class_scores(self, X: Iterable[Any]) -> Tensor:
        prompted, texts = self.prompted(), as_texts(X)
        if not texts:
            raise ValueError("X has no texts; give at least one")
        return prompted.class_scores(self.prompt_, texts).double()

    def predict_log_proba(self, X: Iterable[Any]) -> npt.NDArray[Any]:
        """(texts, classes) the logarithm of `predict_proba`, which raises the same."""
        return self._class_scores(X).log_softmax(dim=1).cpu().numpy()

    def predict(self, X: Iterable[Any]) -> npt.NDArray[Any]:
        """(texts,) the likeliest label of each text. Raises as `predict_proba`."""
        places = self.predict_proba(X).argmax(axis=1)
        likely: npt.NDArray[Any] = self.classes_[places]
        return likely

    def score(self, X: Iterable[Any], y: Iterable[Any], sample_weight: npt.ArrayLike | None = None) -> float:
        """The share of texts whose label is predicted, in [0, 1].

        A label that `fit` did not see is a miss, as in all of scikit-learn: a part of the examples may lack a rare one.

        Args:
            sample_weight: (texts,) how much each text counts; default: all the same.

        Raises:
            ValueError: `fit` saw none of these labels, or there are not as many weights as texts.
        """
        # The mixin's accuracy knows numbers and strings alone; labels here may be enums.
        check_is_fitted(self)
        texts, known = as_texts(X), list(self.verbalizer_.classes)
        labels = as_labels(y, len(texts))
        if not any(label in known for label in labels):
            self.labeled(texts, labels)
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=float)
        if weights is not None and weights.shape != (len(texts),):
            raise ValueError(f"{len(texts)} texts need as many weights, got the shape {weights.shape}")
        places = self.predict_proba(texts).argmax(axis=1)
        right = [known[place] == label for place, label in zip(places, labels, strict=True)]
        return float(np.average(right, weights=weights))

    def evaluate(
        self, X: Iterable[Any], y: Iterable[Any], *, prompt: str | None = None, with_category_errors: bool = True
    ) -> Measures:
        """How well the prompt does on labeled texts, or another one: "" is the empty template.

        Raises:
            ValueError: a label that `fit` did not see.
        """
        prompted, (texts, targets) = self.prompted(), self.labeled(X, y)
        chosen = self.prompt_ if prompt is None else prompt
        return prompted.measure(chosen, texts, targets, with_category_errors=with_category_errors)

    def labeled(self, X: Iterable[Any], y: Iterable[Any]) -> tuple[list[str], list[int]]:
        """The texts, and the place of each one's label among the classes.

        Raises:
            ValueError: a label that `fit` did not see.
        """
        check_is_fitted(self)
        texts, known = as_texts(X), list(self.verbalizer_.classes)
        labels = as_labels(y, len(texts))
        unknown = sorted({repr(label) for label in labels if label not in known})
        if unknown:
            raise ValueError(f"labels that fit did not see: {', '.join(unknown)}; known are {known}")
        return texts, [known.index(label) for label in labels]

    def fill(self, text: str, label: str = "") -> str:
        """The whole text to paste: the template with the prompt and `text`, up to where the label goes."""
        check_is_fitted(self)
        template = ClassificationTemplate(self.template)
        if label:
            return template.fill(self.prompt_, text.strip(), label)
        return template.around_label(self.prompt_, text.strip())[0]

    # --- to keep --------------------------------------------------------------------------

    def save_pretrained(self, save_directory: "str | os.PathLike[str]") -> Path:
        """Writes the fitted tuner, without the model, into a folder; returns the path of its file.

        Raises:
            NotFittedError: it is not fitted.
            HardPromptsError: its labels are neither numbers, strings nor enums.
        """
        return self._saved().write(Path(save_directory))

    def _saved(self) -> SavedTuner:
        check_is_fitted(self)
        kept = {**{name: _plain(getattr(self, name)) for name in KEPT}, "method": self.hard_prompt_.method}
        if isinstance(self.random_state, np.random.RandomState):
            kept["random_state"] = self.seed_
        return SavedTuner(self.backend.name, kept, self.verbalizer_, self.hard_prompt_, self.report_)

    def push_to_hub(self, repo_id: str, *, license: str | None = None, **options: Unpack[PushOptions]) -> PushResult:
        """Puts the fitted tuner, without the model, into a repository of the Hub, with its report in the card.

        `ClassifierPromptTuner.from_pretrained(repo_id)` reads it from there, and `HardPrompt.from_pretrained` its
        prompt alone. The arguments and the other errors are those of `HardPrompt.push_to_hub`.

        Raises:
            NotFittedError: it is not fitted.
            HardPromptsError: its labels are neither numbers, strings nor enums.
        """
        return self._saved().push_to_hub(repo_id, license=license, **options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: "str | os.PathLike[str]",
        *,
        model: "str | Backend | None" = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: "str | os.PathLike[str] | None" = None,
        local_files_only: bool = False,
        **parameters: Unpack[TunerArguments],
    ) -> "ClassifierPromptTuner":
        """The tuner that `save_pretrained` wrote into a folder, or `push_to_hub` into a repository of the Hub.

        Args:
            pretrained_model_name_or_path: a folder; or "user/name", if there is no folder of that name.
            model: instead of the one that it was fitted with.
            revision, token, cache_dir, local_files_only: see `HardPrompt.from_pretrained`.
            parameters: arguments of the constructor, instead of those that it was fitted with.

        Raises:
            FileFormatError: there is no tuner in that folder, or it is damaged.
            HubError: there is no such repository, no tuner is in it, or it cannot be reached and is not in the cache.
        """
        where: PullOptions = {
            "revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only
        }  # fmt: skip
        saved = SavedTuner.read(pull_files(pretrained_model_name_or_path, [TUNER_FILE], **where))
        unknown = sorted(set(saved.parameters) - {*KEPT, "method"})
        if unknown:
            place = os.fspath(pretrained_model_name_or_path)
            raise FileFormatError(f"the tuner in {place!r} has unknown parameters {unknown}")
        options: Any = {"verbalizer": saved.verbalizer, **saved.parameters, **parameters}
        tuner = cls(saved.model if model is None else model, **options)
        tuner._learn(FittedPrompt(saved.verbalizer, saved.prompt, dict(saved.report)))
        return tuner


def _plain(value: Any) -> Any:
    """A parameter as plain Python has it: a grid over an array gives numbers and arrays of numpy."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
