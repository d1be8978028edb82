"""The options of `ClassifierPromptTuner`: those of every search, and those of its own."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch

from hardprompts.classification.objective import FluencyKind
from hardprompts.classification.prompted import PromptedModel
from hardprompts.classification.template import ClassificationTemplate
from hardprompts.classification.verbalizer import GivenWords, Verbalizer
from hardprompts.encoders import LanguageModel
from hardprompts.search.options import SearchArguments, SearchOptions, check_names
from hardprompts.search.protocol import Search

Init = Literal["labels", "random"]

#: The words of each label; None: the labels' own names; "suggest": words from the texts.
LabelWords = GivenWords | Literal["suggest"]

#: The paper's share of the fluency in the loss, where a model knows any.
DEFAULT_FLUENCY_WEIGHT = 0.003


class TunerArguments(SearchArguments, total=False):
    """The fields of `TunerOptions`, as keyword arguments; `random_state`, as scikit-learn says, is the seed."""

    template: str
    verbalizer: LabelWords
    num_tokens: int
    words: bool | Sequence[str] | None
    method: str | Search
    fluency_weight: float | None
    fluency: FluencyKind
    init: Init
    seeds: int
    batch_size: int
    score_size: int
    holdout: float
    length_normalized: bool
    max_length: int | None
    random_state: int | np.random.RandomState | None
    checkpoint: str | os.PathLike[str] | None
    max_batch_tokens: int | None
    device: torch.device | str | None
    dtype: torch.dtype | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunerOptions(SearchOptions):
    """The options of a fit, which are explained at `ClassifierPromptTuner`.

    Raises:
        ValueError: one is out of range.
    """

    DEFAULT_RESTARTS: ClassVar[int] = 4
    DEFAULT_MAX_STEPS: ClassVar[int] = 300
    COUNTS: ClassVar[tuple[str, ...]] = (*SearchOptions.COUNTS, "num_tokens", "seeds", "batch_size", "score_size")
    PASTED: ClassVar[tuple[str, ...]] = ()  # language models are given plain text

    template: str = "{prompt} {text} It was {label}"
    verbalizer: GivenWords | str = None
    num_tokens: int = 10
    words: bool | Sequence[str] | None = None
    method: str | Search = "pez+refine"
    fluency_weight: float | None = None
    fluency: FluencyKind = "ids"
    init: str = "labels"
    seeds: int = 1
    batch_size: int = 32
    score_size: int = 128
    holdout: float = 0.2
    length_normalized: bool = False
    max_length: int | None = None
    checkpoint: str | os.PathLike[str] | None = None
    max_batch_tokens: int | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in ("labels", "random"):
            raise ValueError(f'init must be "labels" or "random", got {self.init!r}')
        if isinstance(self.verbalizer, str) and self.verbalizer != "suggest":
            raise ValueError(f'verbalizer must be a mapping, a list, None or "suggest", got {self.verbalizer!r}')
        if isinstance(self.words, str):
            raise ValueError(f"words takes a list of words, got the text {self.words!r}")

    def fluency_share(self, model: LanguageModel) -> float:
        """The share of the fluency in the loss: what was asked for, or the default for this kind of model."""
        if self.fluency_weight is not None:
            return self.fluency_weight
        return DEFAULT_FLUENCY_WEIGHT if model.kind == "causal" else 0.0

    def prompted(self, model: LanguageModel, verbalizer: Verbalizer) -> PromptedModel:
        """A model with the template and these label words, and with room for the prompt."""
        return PromptedModel.create(
            model, ClassificationTemplate(self.template), verbalizer, prompt_tokens=self.num_tokens,
            max_length=self.max_length, max_batch_tokens=self.max_batch_tokens,
            length_normalized=self.length_normalized,
        )  # fmt: skip


#: The parameters of the tuner beside its model, and the default of each: the fields of `TunerOptions`, of which
#: scikit-learn calls the seed `random_state`.
PARAMETERS: Mapping[str, Any] = {
    "random_state" if field.name == "seed" else field.name: field.default for field in dataclasses.fields(TunerOptions)
}

#: Parameters that are not JSON values, or that belong to one machine.
_NOT_KEPT = frozenset(
    "verbalizer method vocabulary banned words callback progress checkpoint device dtype max_batch_tokens vram".split()
)

#: Parameters that are JSON values and are kept with a fitted tuner.
KEPT = tuple(name for name in PARAMETERS if name not in _NOT_KEPT)


def check_parameters(given: Iterable[str]) -> None:
    """Raises unless the tuner has parameters of these names.

    Raises:
        TypeError: it has not; the message has the nearest.
    """
    if "seed" in given:
        raise TypeError("ClassifierPromptTuner calls its seed random_state, as scikit-learn does")
    check_names("ClassifierPromptTuner", given, PARAMETERS)


Constructor = TypeVar("Constructor", bound=Callable[..., Any])


def with_parameters(init: Constructor) -> Constructor:
    """A constructor whose signature has each of the tuner's parameters, with its default, instead of `**options`.

    scikit-learn reads the parameters of an estimator there, and `help` and notebooks show them.
    """
    own = [one for one in inspect.signature(init).parameters.values() if one.kind is not one.VAR_KEYWORD]
    keyword = inspect.Parameter.KEYWORD_ONLY
    named = [inspect.Parameter(name, keyword, default=default) for name, default in PARAMETERS.items()]
    vars(init)["__signature__"] = inspect.Signature([*own, *named])
    return init
