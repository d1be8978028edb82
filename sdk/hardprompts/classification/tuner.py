"""ClassifierPromptTuner: a few words that make a frozen language model a classifier."""

import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import os
import types
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from typing_extensions import Unpack

from hardprompts.classification.data import as_array, as_labels, as_texts, holdout_split, sorted_classes, stratified
from hardprompts.classification.measures import Measures
from hardprompts.classification.objective import FluencyKind, LabelLikelihood
from hardprompts.classification.prompted import PromptedModel, language_model
from hardprompts.classification.saved import SavedSearch, SavedTuner
from hardprompts.classification.template import ClassificationTemplate
from hardprompts.classification.verbalizer import Verbalizer, suggest_verbalizer
from hardprompts.encoders import Backend, LanguageModel, load_backend
from hardprompts.errors import FileFormatError, NonFiniteError, SearchError
from hardprompts.hub.client import PullOptions, PushOptions, PushResult, pull_files
from hardprompts.hub.names import TUNER_FILE
from hardprompts.prompts import Candidate, HardPrompt, HistoryPoint
from hardprompts.search.loop import run_search
from hardprompts.search.progress import on_bar
from hardprompts.search.protocol import Callback, Search, SearchResult
from hardprompts.search.registry import language_model_search, search_method
from hardprompts.search.rows import random_starts
from hardprompts.vocabulary import Vocabulary

#: Steps of a method that would never stop by itself.
DEFAULT_MAX_STEPS = 300

#: The paper's share of the fluency in the loss, where a model knows any.
DEFAULT_FLUENCY_WEIGHT = 0.003

Init = Literal["labels", "random"]

#: Arguments of the constructor that are JSON values and are kept with a fitted tuner.
_KEPT = (
    "template", "num_tokens", "length_normalized", "max_length", "fluency_weight", "fluency", "restarts", "seeds",
    "batch_size", "score_size", "holdout", "init", "initial_prompt", "random_state", "top_k", "max_steps",
    "max_evaluations", "deadline", "patience",
)  # fmt: skip


class ClassifierPromptTuner:
    """A scikit-learn classifier that learns a few words and leaves the language model as it is.

    `fit` searches for a hard prompt that makes the model say the right label words; `predict` fills the
    prompt and a text into the template and reads which label the model finds likeliest. The prompt is text:
    what is scored is what the model's tokenizer makes of the filled template, so it can be pasted anywhere.

    Args:
        model: "scheme:name" as `load_backend` takes it, or a `Backend` with a language model.
        template: the text to complete, with {prompt}, {text} and {label} once each; white space counts.
        verbalizer: the word of each label, or several: {0: "bad", 1: ["good", "great"]}. None: the labels' own
            names. "suggest": words from the texts, if they do better on the held-out ones than the names.
        num_tokens: tokens of the prompt, 1 or more; methods that insert and delete return as many or fewer.
        method: a search method by name, with its settings for language models if it has any, or a `Search`.
        fluency_weight: share of the prompt's own likelihood in the loss, in [0, 1). None: 0.003 for a causal
            model, 0 for others, which know no fluency.
        fluency: "ids" as in PEZ, or "embeddings" as in FluentPrompt; see `LabelLikelihood`.
        init: what the first restart begins with: "labels", the label words over and over, or "random". All
            other restarts begin at random.
        initial_prompt: text that every restart begins with, instead.
        vocabulary: phrases whose tokens alone may be used, or a `Vocabulary`.
        banned: strings that must not occur in the prompt, whatever their case.
        restarts: prompts that are searched for in one batch.
        seeds: searches one after the other, with the seeds random_state, random_state + 1, ...
        batch_size: examples that a gradient is taken over.
        score_size: examples, drawn evenly from the classes, that candidates are ranked by during the search.
        holdout: share of the examples that no search sees and that the best prompt is chosen by; 0: choose
            by the examples that were learned from. Texts that are alike are never on both sides.
        length_normalized: divides the log-likelihood of a label word by its number of tokens.
        max_length: tokens of a filled template; longer texts are cut at their end. None: the model's context.
        max_steps, max_evaluations, deadline, patience, top_k: see `run_search`; the deadline is for all of `fit`.
        random_state: seed of everything; None: drawn, and recorded in `seed_`.
        checkpoint: a folder. Each search that ends is written there, and `fit` with the same data and
            settings takes it from there: after an interruption it ends as it would have without.
        max_batch_tokens: tokens that go through the model at once; None: by the device.
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

    _estimator_type = "classifier"

    prompt_: str
    hard_prompt_: HardPrompt
    classes_: npt.NDArray[Any]
    verbalizer_: Verbalizer
    history_: tuple[HistoryPoint, ...]
    report_: dict[str, Any]
    seed_: int
    stop_reason_: str

    def __init__(
        self,
        model: "str | Backend",
        *,
        template: str = "{prompt} {text} It was {label}",
        verbalizer: "Mapping[Any, str | Sequence[str]] | Verbalizer | Literal['suggest'] | None" = None,
        num_tokens: int = 10,
        method: "str | Search" = "pez+refine",
        fluency_weight: float | None = None,
        fluency: FluencyKind = "ids",
        init: Init = "labels",
        initial_prompt: str | None = None,
        vocabulary: "Sequence[str] | Vocabulary | None" = None,
        banned: Sequence[str] = (),
        restarts: int = 4,
        seeds: int = 1,
        batch_size: int = 32,
        score_size: int = 128,
        holdout: float = 0.2,
        length_normalized: bool = False,
        max_length: int | None = None,
        max_steps: int | None = None,
        max_evaluations: int | None = None,
        deadline: float | None = None,
        patience: int | None = None,
        top_k: int = 10,
        random_state: int | None = None,
        checkpoint: "str | os.PathLike[str] | None" = None,
        max_batch_tokens: int | None = None,
        device: "torch.device | str | None" = None,
        dtype: torch.dtype | None = None,
        callback: Callback | None = None,
        progress: bool = True,
    ) -> None:
        self.model = model
        self.template = template
        self.verbalizer = verbalizer
        self.num_tokens = num_tokens
        self.method = method
        self.fluency_weight = fluency_weight
        self.fluency = fluency
        self.init = init
        self.initial_prompt = initial_prompt
        self.vocabulary = vocabulary
        self.banned = banned
        self.restarts = restarts
        self.seeds = seeds
        self.batch_size = batch_size
        self.score_size = score_size
        self.holdout = holdout
        self.length_normalized = length_normalized
        self.max_length = max_length
        self.max_steps = max_steps
        self.max_evaluations = max_evaluations
        self.deadline = deadline
        self.patience = patience
        self.top_k = top_k
        self.random_state = random_state
        self.checkpoint = checkpoint
        self.max_batch_tokens = max_batch_tokens
        self.device = device
        self.dtype = dtype
        self.callback = callback
        self.progress = progress

    # --- scikit-learn's manners -----------------------------------------------------------

    @classmethod
    def _parameters(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor, by name."""
        return {name: getattr(self, name) for name in self._parameters()}

    def set_params(self, **parameters: Any) -> "ClassifierPromptTuner":
        """Sets arguments of the constructor; returns the tuner itself.

        Raises:
            ValueError: there is no such argument.
        """
        known = self._parameters()
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(f"ClassifierPromptTuner has no parameter {name!r}; it has {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __sklearn_clone__(self) -> "ClassifierPromptTuner":
        # A frozen model is shared: a copy would double its memory for nothing.
        return type(self)(**self.get_params())

    def __sklearn_tags__(self) -> Any:
        tags = types.SimpleNamespace
        return tags(
            estimator_type="classifier", transformer_tags=None, regressor_tags=None, no_validation=False,
            non_deterministic=False, requires_fit=True, array_api_support=False, _skip_test=False,
            classifier_tags=tags(poor_score=False, multi_class=True, multi_label=False),
            target_tags=tags(required=True, one_d_labels=True, two_d_labels=False, positive_only=False,
                             multi_output=False, single_output=True),
            input_tags=tags(one_d_array=True, two_d_array=False, three_d_array=False, sparse=False, categorical=False,
                            string=True, dict=False, positive_only=False, allow_nan=False, pairwise=False),
        )  # fmt: skip

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "prompt_")

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        given = {
            name: value for name, value in self.get_params().items()
            if name == "model" or value is not defaults[name].default
        }  # fmt: skip
        model = self.model if isinstance(self.model, str) else self.model.name
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if name != "model")
        return f"ClassifierPromptTuner({model!r}{', ' if shown else ''}{shown})"

    # --- to learn -------------------------------------------------------------------------

    @property
    def backend(self) -> Backend:
        """The model, opened at its first use."""
        if isinstance(self.model, Backend):
            return self.model
        key = (self.model, str(self.device), self.dtype)
        if getattr(self, "_opened", (None, None))[0] != key:
            self._opened = (key, load_backend(self.model, device=self.device, dtype=self.dtype))
        return self._opened[1]

    def fit(
        self, X: Iterable[Any], y: Iterable[Any], groups: Sequence[Hashable] | None = None
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
        self._check()
        texts = as_texts(X)
        labels = as_labels(y, len(texts))
        model = language_model(self.backend)
        classes = sorted_classes(labels)
        if len(classes) < 2:
            raise ValueError(f"a classifier needs two classes or more, got {classes} alone in {len(labels)} labels")
        targets = [classes.index(label) for label in labels]
        seed = torch.seed() % 2**31 if self.random_state is None else int(self.random_state)
        generator = torch.Generator().manual_seed(seed ^ 0xDA7A)
        learn, held = holdout_split(texts, targets, self.holdout, generator, groups)
        template = ClassificationTemplate(self.template)
        verbalizer, notes = self._verbalizer(model, template, classes, texts, targets, learn, held)
        prompted = self._with_words(model, template, verbalizer)
        data = _Data.of(prompted, texts, targets, learn, held)
        notes += self._notes(prompted, texts, data, held)
        found = self._searches(prompted, data, seed)
        best, measures, result = self._choose(prompted, data, [result for _, result in found])
        self._keep(prompted, classes, best, measures, result, data, notes)
        return self

    def _check(self) -> None:
        for name in ("num_tokens", "restarts", "seeds", "batch_size", "score_size", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.init not in ("labels", "random"):
            raise ValueError(f'init must be "labels" or "random", got {self.init!r}')

    def _with_words(
        self, model: LanguageModel, template: ClassificationTemplate, verbalizer: Verbalizer
    ) -> PromptedModel:
        return PromptedModel.create(
            model, template, verbalizer, prompt_tokens=self.num_tokens, max_length=self.max_length,
            max_batch_tokens=self.max_batch_tokens, length_normalized=self.length_normalized,
        )  # fmt: skip

    def _verbalizer(
        self,
        model: LanguageModel,
        template: ClassificationTemplate,
        classes: Sequence[Any],
        texts: Sequence[str],
        targets: Sequence[int],
        learn: Sequence[int],
        held: Sequence[int],
    ) -> tuple[Verbalizer, list[str]]:
        """The words of the classes, and what is to be noted about them."""
        if not isinstance(self.verbalizer, str):
            return Verbalizer.of(classes, self.verbalizer), []
        if self.verbalizer != "suggest":
            raise ValueError(f'verbalizer must be a mapping, None or "suggest", got {self.verbalizer!r}')
        words = suggest_verbalizer([texts[i] for i in learn], [classes[targets[i]] for i in learn], model)
        options = [Verbalizer.of(classes, words)]
        if all(isinstance(label, str) for label in classes):
            options.append(Verbalizer.of(classes, None))
        judged = list(held or learn)
        own, right = [texts[i] for i in judged], [targets[i] for i in judged]
        figures = [
            self._with_words(model, template, option).measure("", own, right, with_category_errors=False)
            for option in options
        ]
        best = max(range(len(options)), key=lambda i: figures[i].rank)
        shown = ", ".join(
            f"{label}: {'/'.join(words)}" for label, words in zip(classes, options[best].words, strict=True)
        )
        return options[best], [f"label words chosen by {len(judged)} {'held-out ' if held else ''}texts: {shown}"]

    def _notes(self, prompted: PromptedModel, texts: Sequence[str], data: "_Data", held: Sequence[int]) -> list[str]:
        notes = []
        if prompted.labels.shared:
            notes.append(
                f"{', '.join(map(repr, prompted.labels.shared))} begin with the same token as a word of another class; "
                "they are distinguished as whole sequences"
            )
        cut = sum(a.strip() != b for a, b in zip(texts, data.texts, strict=True))
        if cut:
            notes.append(f"{cut} of {len(texts)} texts are too long and were cut at their end")
        empty = sum(not text.strip() for text in texts)
        if empty:
            notes.append(f"{empty} of {len(texts)} texts are empty")
        if self.holdout and not held:
            notes.append("too few examples to hold any out: the prompt was chosen by those that it was learned from")
        return notes

    def _searches(self, prompted: PromptedModel, data: "_Data", seed: int) -> list[tuple[int, SearchResult]]:
        """One search for each seed; those that a checkpoint holds are taken from there."""
        found: list[tuple[int, SearchResult]] = []
        method = self._search()
        mark = self._fingerprint(data, method)
        for number in range(self.seeds):
            own = seed + number
            saved = None if self.checkpoint is None else SavedSearch(Path(self.checkpoint), own, mark)
            result = None if saved is None else saved.read()
            if result is None:
                result = self._run(prompted, data, method, own)
                if saved is not None and result.stop_reason not in ("interrupted", "cancelled"):
                    saved.write(result)
            found.append((own, result))
            if result.stop_reason in ("interrupted", "cancelled"):
                break
        return found

    def _run(self, prompted: PromptedModel, data: "_Data", method: Search, seed: int) -> SearchResult:
        model = prompted.encoder.model
        words = model.vocabulary.narrowed(self.vocabulary, self.banned)
        weight = self.fluency_weight
        if weight is None:
            weight = DEFAULT_FLUENCY_WEIGHT if model.kind == "causal" else 0.0
        generator = torch.Generator().manual_seed(seed ^ 0xBA7C)
        objective = LabelLikelihood(
            prompted.reader,
            [data.rows[i] for i in data.learn],
            [data.targets[i] for i in data.learn],
            sample_size=self.batch_size,
            scored=stratified([data.targets[i] for i in data.learn], self.score_size, generator),
            fluency_weight=weight,
            fluency=self.fluency,
            length_normalized=self.length_normalized,
            generator=generator,
        )
        if len(data.learn) <= min(self.batch_size, self.score_size):  # every pass takes them all
            objective = dataclasses.replace(objective, sample_size=None, scored=None)
        limits = (self.max_steps, self.max_evaluations, self.deadline, self.patience)
        with tqdm(disable=None if self.progress else True, desc="prompt", unit="step", leave=False) as bar:
            (result,) = run_search(
                method,
                objective,
                objective,
                words,
                self._starts(prompted, words, seed),
                template=prompted.encoder.template.for_search(),
                max_steps=DEFAULT_MAX_STEPS if all(limit is None for limit in limits) else self.max_steps,
                max_evaluations=self.max_evaluations,
                deadline=None if self.deadline is None else self.deadline / self.seeds,
                patience=self.patience,
                top_k=self.top_k,
                seed=seed,
                callback=on_bar(self.callback, bar),
            )
        return result

    def _search(self) -> Search:
        """The method, with its settings for language models where it has any."""
        if not isinstance(self.method, str):
            return self.method
        return language_model_search(search_method(self.method))

    def _starts(self, prompted: PromptedModel, words: Vocabulary, seed: int) -> Int[Tensor, "rows tokens"]:
        ids = random_starts(words, self.restarts, self.num_tokens, seed, self.initial_prompt)
        if self.init == "labels" and self.initial_prompt is None:
            tokens = [i for word in prompted.labels.ids for i in word if bool(words.allowed[i])]
            if tokens:
                ids[0] = torch.tensor([tokens[i % len(tokens)] for i in range(self.num_tokens)], device=ids.device)
        return ids

    def _choose(
        self, prompted: PromptedModel, data: "_Data", results: Sequence[SearchResult]
    ) -> tuple[Candidate, Measures, SearchResult]:
        """The candidate that does best on the held-out texts, of those that keep their ids beside every text."""
        judged = data.held or data.learn
        own, right = [data.texts[i] for i in judged], [data.targets[i] for i in judged]
        best: tuple[Candidate, Measures, SearchResult] | None = None
        refused: list[str] = []
        for result in results:
            for candidate in result.candidates:
                misread = prompted.encoder.misread(candidate.text, candidate.token_ids, data.texts)
                if misread:
                    refused.append(candidate.text)
                    continue
                measures = prompted.measure(candidate.text, own, right, with_category_errors=False)
                if best is None or measures.rank > best[1].rank:
                    best = candidate, measures, result
        if best is None:
            raise SearchError(
                f"none of the {len(refused)} best prompts, such as {refused[0]!r}, keeps its tokens beside every text "
                f"in {self.template!r}; put a space or a line break around {{prompt}}"
            )
        if not np.isfinite(best[1].loss):
            raise NonFiniteError("the likelihoods are NaN or infinite; use dtype=torch.float32")
        return best

    def _keep(
        self,
        prompted: PromptedModel,
        classes: Sequence[Any],
        best: Candidate,
        measures: Measures,
        result: SearchResult,
        data: "_Data",
        notes: list[str],
    ) -> None:
        judged = data.held or data.learn
        own, right = [data.texts[i] for i in judged], [data.targets[i] for i in judged]
        vocabulary = prompted.encoder.model.vocabulary
        full = prompted.measure(best.text, own, right)
        empty = prompted.measure("", own, right)
        if full.rank <= empty.rank:
            notes = [*notes, "the prompt does no better than the empty template; more examples or label words may help"]
        search = self._search()
        self.classes_ = as_array(classes)
        self.verbalizer_ = prompted.labels.verbalizer
        self.prompt_ = best.text
        self.seed_, self.stop_reason_, self.history_ = result.seed, result.stop_reason, result.history
        self.report_ = {
            "measured_on": "holdout" if data.held else "training",
            "examples": {"learned_from": len(data.learn), "held_out": len(data.held)},
            "prompt": full.to_dict(),
            "empty_template": empty.to_dict(),
            "notes": notes,
        }
        self.hard_prompt_ = HardPrompt(
            text=best.text,
            token_ids=best.token_ids,
            score=full.accuracy,
            template=prompted.encoder.template.for_search().text,
            model=self.backend.name,
            method=self.method if isinstance(self.method, str) else type(search).__name__,
            score_unit="accuracy on held-out texts" if data.held else "accuracy on the texts learned from",
            tokens=vocabulary.token_texts(best.token_ids),
            candidates=(Candidate(best.text, best.token_ids, full.accuracy),),
            history=result.history,
            seed=result.seed,
            stop_reason=result.stop_reason,
            evaluations=result.evaluations,
            provenance={
                "classification_template": self.template,
                "label_words": {
                    str(label): list(words) for label, words in zip(classes, self.verbalizer_.words, strict=True)
                },
                "report": self.report_,
                "settings": repr(search),
                "hardprompts": importlib.metadata.version("hardprompts"),
                "torch": torch.__version__,
                "steps": result.steps,
                "seconds": round(result.seconds, 3),
            },
        )

    def _fingerprint(self, data: "_Data", method: Search) -> str:
        """What a search depends on, beside its seed."""
        settings = {
            name: repr(value)
            for name, value in self.get_params().items()
            if name
            not in (
                "model",
                "method",
                "seeds",
                "random_state",
                "checkpoint",
                "callback",
                "progress",
                "vocabulary",
                "verbalizer",
            )
        }
        words = self.vocabulary
        shown = words.allowed_ids.tolist() if isinstance(words, Vocabulary) else words
        facts = [
            self.backend.name,
            settings,
            repr(method),
            repr(shown),
            data.rows,
            data.targets,
            data.learn,
            data.labels,
        ]
        return hashlib.sha256(json.dumps(facts, default=repr).encode()).hexdigest()

    # --- to use ---------------------------------------------------------------------------

    def prompted(self) -> PromptedModel:
        """The model with the template and the label words in use, for any prompt.

        Raises:
            ValueError: the tuner is not fitted.
        """
        if not hasattr(self, "prompt_"):
            raise ValueError("this ClassifierPromptTuner is not fitted yet; call fit, or from_pretrained")
        return self._with_words(language_model(self.backend), ClassificationTemplate(self.template), self.verbalizer_)

    def predict_proba(self, X: Iterable[Any]) -> npt.NDArray[Any]:
        """(texts, classes) the probability of each class, in the order of `classes_`.

        Raises:
            ValueError: the tuner is not fitted, or something in `X` is not a text.
        """
        texts, prompted = as_texts(X), self.prompted()
        if not texts:
            return np.zeros((0, len(self.classes_)))
        scores = prompted.class_scores(self.prompt_, texts).double()
        return scores.softmax(dim=1).cpu().numpy()

    def predict(self, X: Iterable[Any]) -> npt.NDArray[Any]:
        """(texts,) the likeliest label of each text."""
        places = self.predict_proba(X).argmax(axis=1)
        likely: npt.NDArray[Any] = self.classes_[places]
        return likely

    def score(self, X: Iterable[Any], y: Iterable[Any]) -> float:
        """The share of texts whose label is predicted, in [0, 1]."""
        return self.evaluate(X, y, with_category_errors=False).accuracy

    def evaluate(
        self, X: Iterable[Any], y: Iterable[Any], *, prompt: str | None = None, with_category_errors: bool = True
    ) -> Measures:
        """How well the prompt does on labeled texts, or another one: "" is the empty template.

        Raises:
            ValueError: a label that `fit` did not see.
        """
        texts, prompted = as_texts(X), self.prompted()
        known = list(self.verbalizer_.classes)
        labels = as_labels(y, len(texts))
        unknown = sorted({repr(label) for label in labels if label not in known})
        if unknown:
            raise ValueError(f"labels that fit did not see: {', '.join(unknown)}; known are {known}")
        targets = [known.index(label) for label in labels]
        chosen = self.prompt_ if prompt is None else prompt
        return prompted.measure(chosen, texts, targets, with_category_errors=with_category_errors)

    def fill(self, text: str, label: str = "") -> str:
        """The whole text to paste: the template with the prompt and `text`, up to where the label goes."""
        if label:
            return ClassificationTemplate(self.template).fill(self.prompt_, text.strip(), label)
        return ClassificationTemplate(self.template).around_label(self.prompt_, text.strip())[0]

    # --- to keep --------------------------------------------------------------------------

    def save_pretrained(self, save_directory: "str | os.PathLike[str]") -> Path:
        """Writes the fitted tuner, without the model, into a folder; returns the path of its file.

        Raises:
            ValueError: it is not fitted, or its labels are neither numbers, strings nor enums.
        """
        return self._saved().write(Path(save_directory))

    def _saved(self) -> SavedTuner:
        if not hasattr(self, "prompt_"):
            raise ValueError("this ClassifierPromptTuner is not fitted yet; there is nothing to save")
        kept = {name: getattr(self, name) for name in _KEPT}
        kept["method"] = self.hard_prompt_.method
        return SavedTuner(self.backend.name, kept, self.verbalizer_, self.hard_prompt_, self.report_)

    def push_to_hub(self, repo_id: str, *, license: str | None = None, **options: Unpack[PushOptions]) -> PushResult:
        """Puts the fitted tuner, without the model, into a repository of the Hub, with its report in the card.

        `ClassifierPromptTuner.from_pretrained(repo_id)` reads it from there, and `HardPrompt.from_pretrained` its
        prompt alone. The arguments and the other errors are those of `HardPrompt.push_to_hub`.

        Raises:
            ValueError: it is not fitted, or its labels are neither numbers, strings nor enums.
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
        **parameters: Any,
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
        folder = pull_files(pretrained_model_name_or_path, [TUNER_FILE], **where)
        saved = SavedTuner.read(folder)
        unknown = sorted(set(saved.parameters) - set(_KEPT) - {"method"})
        if unknown:
            raise FileFormatError(
                f"the tuner in {os.fspath(pretrained_model_name_or_path)!r} has unknown parameters {unknown}"
            )
        options = {"verbalizer": saved.verbalizer, **saved.parameters, **parameters}
        tuner = cls(saved.model if model is None else model, **options)
        tuner.verbalizer_, tuner.classes_ = saved.verbalizer, as_array(saved.verbalizer.classes)
        tuner.hard_prompt_, tuner.prompt_ = saved.prompt, saved.prompt.text
        tuner.history_, tuner.report_ = saved.prompt.history, dict(saved.report)
        tuner.seed_, tuner.stop_reason_ = saved.prompt.seed or 0, saved.prompt.stop_reason
        return tuner


@dataclasses.dataclass(frozen=True, eq=False)
class _Data:
    """The examples of a fit: rows with the prompt's place open, and which are learned from."""

    texts: list[str]
    targets: list[int]
    rows: list[tuple[int, ...]]
    learn: list[int]
    held: list[int]
    labels: list[tuple[int, ...]]

    @classmethod
    def of(
        cls,
        prompted: PromptedModel,
        texts: Sequence[str],
        targets: Sequence[int],
        learn: Sequence[int],
        held: Sequence[int],
    ) -> "_Data":
        cut = [prompted.encoder.cut(text) for text in texts]
        rows = [prompted.encoder.row(text) for text in cut]
        return cls(cut, list(targets), rows, list(learn), list(held), list(prompted.labels.ids))
