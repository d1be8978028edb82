"""Language models that write prompts: what the methods have in common, and how each is a proposer, too."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.encoders import Backend, LanguageModel, LanguageModelKind, TextEncoder, load_backend, shared_backend
from hardprompts.errors import BackendError, NonFiniteError
from hardprompts.methods.banks import encode_phrases
from hardprompts.methods.word_table import WordTable
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import Ids, pack
from hardprompts.vocabulary import Vocabulary

#: Of the seconds that are left, how many may go into reading the words of a model that nobody has read before.
READING_SHARE = 0.25

#: How the proposers of a kind of language model are called.
SCHEMES: dict[LanguageModelKind, str] = {"causal": "lm", "masked": "mlm"}


@dataclasses.dataclass(frozen=True, eq=False)
class Rated:
    """Texts of several tasks that were scored together.

    Attributes:
        tasks: the task of each.
        ids: of each, as the searched model's tokenizer reads it.
        scores: of each, higher is better.
        values: what the writer makes of each, by which it proposes the best.
    """

    tasks: list[int]
    texts: list[str]
    ids: list[Ids]
    scores: Float[Tensor, " texts"]
    values: Float[Tensor, " texts"]


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """How texts are read by the model that is searched, and scored.

    Attributes:
        vocabulary: what a prompt may be made of.
        max_tokens: of a prompt.
        rate: the scores of texts, given with their ids and their tasks.
    """

    vocabulary: Vocabulary
    max_tokens: int
    rate: Callable[[list[str], list[Ids], list[int]], Float[Tensor, " texts"]]

    def ids_of(self, texts: Sequence[str]) -> list[Ids | None]:
        """The ids of each text; None where a prompt may not be this text, or it is too long."""
        every = list(dict.fromkeys(texts))
        found = dict(zip(every, encode_phrases(every, self.vocabulary, self.max_tokens), strict=True))
        return [found[text] for text in texts]

    def rated(self, texts: list[str], ids: list[Ids], tasks: list[int]) -> Float[Tensor, " texts"]:
        """The scores of texts, on the CPU; what is scored as NaN is as bad as can be."""
        if not texts:
            return torch.zeros(0)
        return self.rate(texts, ids, tasks).float().cpu().nan_to_num(nan=-torch.inf, neginf=-torch.inf)


@dataclasses.dataclass(frozen=True)
class Writer(abc.ABC):
    """A search method that lets a language model write; with a model to search, a proposer.

    The language model's tokenizer may be any, since text is what passes between the two models.
    """

    #: What kind of language model it needs.
    KIND: ClassVar[LanguageModelKind]

    language_model: str | Backend
    seed_words: int

    @abc.abstractmethod
    def write(
        self, model: LanguageModel, reading: Reading, seeds: Sequence[Sequence[str]], generator: torch.Generator
    ) -> Iterator[Rated]:
        """Writes texts for each task and has them scored, step by step.

        Args:
            seeds: of each task, the words that are nearest to its target, nearest first; none, where nobody knows.
        """
        ...

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes all that is written on the way, for each task; what the starts are does not matter.

        Raises:
            BackendError: the language model cannot be opened, or is of another kind.
            NonFiniteError: it gives NaN.
        """
        device, groups = initial_ids.device, objective.groups.tolist()
        first_rows = [groups.index(task) for task in sorted(set(groups))]
        model = self._opened(device).language_model
        assert model is not None, "that is looked at when it is opened"

        def rows(tasks: Sequence[int]) -> Int[Tensor, " texts"]:
            return torch.tensor([first_rows[task] for task in tasks], device=device)

        def rate(_: list[str], ids: list[Ids], tasks: list[int]) -> Float[Tensor, " texts"]:
            return objective.score(pack(ids, device), rows(tasks), lengths=list(map(len, ids)))

        seeds: list[list[str]] = [[] for _ in first_rows]
        if self.seed_words and objective.text_encoder is not None:
            left = objective.seconds_left
            seeds = seed_words(
                objective.text_encoder, vocabulary, objective.targets[first_rows], self.seed_words,
                None if left is None else READING_SHARE * left,
            )  # fmt: skip
        for rated in self.write(model, Reading(vocabulary, initial_ids.shape[1], rate), seeds, generator):
            if rated.texts:
                yield Candidates(pack(rated.ids, device), rated.scores.to(device), rows(rated.tasks))

    def for_model(self, backend: Backend) -> "WritingProposer":
        """What it proposes for a model.

        Raises:
            BackendError: the language model cannot be opened, or is of another kind; or what is to be searched is a
                language model, which has no features to write for.
        """
        if backend.language_model is not None:
            raise BackendError(f"{backend.name} is a language model, which has no features that texts could be for")
        return WritingProposer(self, self._checked(_open(self.language_model, backend.device)), backend)

    def _opened(self, device: torch.device) -> Backend:
        if isinstance(self.language_model, Backend):
            return self._checked(self.language_model)
        return self._checked(shared_backend(self.language_model, device=device, user=self))

    def _checked(self, backend: Backend) -> Backend:
        """The language model, if it is one of the kind that is needed."""
        model = backend.language_model
        if model is None or model.kind != self.KIND:
            what = "not a language model" if model is None else f"a {model.kind} language model"
            known = model is not None and model.kind in SCHEMES
            use = f"use {SCHEMES[model.kind]}:{backend.name}" if model is not None and known else _EXAMPLES[self.KIND]
            raise BackendError(f"{backend.name} is {what}, and {SCHEMES[self.KIND]}: takes {self.KIND} ones; {use}")
        return backend


_EXAMPLES: dict[LanguageModelKind, str] = {
    "causal": "use one that writes from left to right, such as lm:transformers:gpt2",
    "masked": "use one that fills in masks, such as mlm:transformers:FacebookAI/roberta-base",
}


def _open(model: str | Backend, device: torch.device) -> Backend:
    return model if isinstance(model, Backend) else load_backend(model, device=device)


@dataclasses.dataclass(frozen=True, eq=False)
class WritingProposer:
    """Proposes what a language model writes for a model's features.

    Attributes:
        opened: the language model.
        backend: the model that texts are proposed for, which reads each as it comes about.
    """

    writer: Writer
    opened: Backend
    backend: Backend

    def propose(
        self, features: Float[Tensor, "targets features"], count: int, max_tokens: int, generator: torch.Generator
    ) -> list[list[str]]:
        """For each row of unit features, up to `count` texts of at most `max_tokens` tokens, best first.

        Raises:
            NonFiniteError: features are NaN or infinite, or the language model gives NaN.
        """
        if not features.isfinite().all():
            raise NonFiniteError(
                "features that a language model is to write texts for are NaN or infinite; check the images"
            )
        assert self.opened.language_model is not None, "that is looked at when it is opened"

        def rate(texts: list[str], _: list[Ids], tasks: list[int]) -> Float[Tensor, " texts"]:
            return (self.backend.encode_texts(texts) * features[tasks].float()).sum(dim=1)

        vocabulary, tower, writer = self.backend.vocabulary, self.backend.text_encoder, self.writer
        seeds: list[list[str]] = [[] for _ in features]
        if writer.seed_words:
            seeds = seed_words(tower, vocabulary.narrowed(None, (), None), features, writer.seed_words)
        best: list[dict[Ids, tuple[float, str]]] = [{} for _ in features]
        for rated in writer.write(self.opened.language_model, Reading(vocabulary, max_tokens, rate), seeds, generator):
            for task, text, ids, value in zip(rated.tasks, rated.texts, rated.ids, rated.values.tolist(), strict=True):
                if value > best[task].get(ids, (-torch.inf, ""))[0]:
                    best[task][ids] = (value, text)
        return [[text for _, text in sorted(own.values(), key=lambda one: -one[0])[:count]] for own in best]


@torch.no_grad()
def seed_words(
    tower: TextEncoder,
    vocabulary: Vocabulary,
    targets: Float[Tensor, "tasks features"],
    count: int,
    seconds: float | None = None,
) -> list[list[str]]:
    """For each target the words of a vocabulary that are nearest to it by themselves, nearest first.

    They come from the table of the model's words, which is made once for each model and costs a search nothing.

    Args:
        seconds: that reading the words may take, where nobody has.
    """
    units = vocabulary.units
    known = WordTable.of(tower).features(units, seconds=seconds, progress=False)
    nearest = (targets.to(known) @ known.T).topk(min(count, len(units)), dim=1).indices.tolist()
    return [[vocabulary.decode(units[place]) for place in row] for row in nearest]


def check_finite(logits: Tensor, name: str) -> None:
    """Raises NonFiniteError where a language model gives NaN; minus infinity is a token that it never predicts."""
    if logits.isnan().any():
        raise NonFiniteError(
            f"{name} gives NaN for what comes next, so nothing can be written with it; load it with "
            "dtype=torch.float32, or get its files again if they are so there, too"
        )
