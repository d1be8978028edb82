"""What the gradient follows (Objective) and what picks the winner (Score)."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.encoders import Backend, TextEncoder, normalize
from hardprompts.errors import BackendError, TemplateError
from hardprompts.hub.machine import model_label
from hardprompts.prompts import SLOT, PromptTemplate
from hardprompts.vocabulary import EmbeddedTemplate


class Evaluation(NamedTuple):
    """What an objective says of a batch of prompts.

    Attributes:
        loss: (batch,) lower is better; what gradients are taken of.
        score: (batch,) what the run's Score would say of prompts with exactly these embeddings,
            where that falls out of the same forward pass; else None. Without it, a method whose
            objective equals its score would pay for every forward pass twice.
    """

    loss: Float[Tensor, " batch"]
    score: Float[Tensor, " batch"] | None = None


@runtime_checkable
class Objective(Protocol):
    """What the gradient follows. May be stochastic (see `Stochastic`), may differ from the Score."""

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        """The loss of prompts given as embeddings; `groups` tells which task each is for."""
        ...


@runtime_checkable
class Stochastic(Protocol):
    """What an objective offers if every call draws at random (a mini-batch, noises, noise levels).

    Optional: an objective without it is taken to be the same function at every call. A method that
    compares losses with one another (a line search, an estimate of curvature) follows a held one.
    """

    def held(self) -> Objective:
        """The same objective with one draw, made now, for all its calls; this one goes on drawing."""
        ...


@runtime_checkable
class FeatureObjective(Protocol):
    """What an objective offers if its score is the similarity of a prompt's own features with those of a target.

    Optional. A method may then reason about what a prompt still lacks, and not only try.

    Attributes:
        text_encoder: what gives the features.
        mean_targets: (groups, features) whose dot product with the unit features is the score.
    """

    @property
    def text_encoder(self) -> TextEncoder: ...

    @property
    def mean_targets(self) -> Float[Tensor, "groups features"]: ...

    def features(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Unit features of the filled template."""
        ...


@runtime_checkable
class DividedObjective(Protocol):
    """What an objective offers if it divides its own passes into batches that fit into memory. Optional."""

    def fit(self, num_tokens: int, at_once: Callable[[int, int, str], int]) -> None:
        """Learns how much goes through the model at once, for gradients of prompts of `num_tokens` tokens.

        Args:
            at_once: how many fit, of something of which one takes the first number of bytes and two the second; the
                text is what it is called. See `hardprompts.search.memory.Room`.
        """
        ...


@runtime_checkable
class TraceableObjective(Protocol):
    """What an objective offers if its evaluation is one function of embeddings and of tensors that are known before.

    Optional. A search can then compile it, once for all objectives of the same function.

    Attributes:
        function: the model that is evaluated, and what else tells its functions from each other.
    """

    @property
    def function(self) -> tuple[object, Hashable]: ...

    def arguments(self, groups: Int[Tensor, " batch"]) -> tuple[Tensor, ...]:
        """The tensors beside the embeddings, a row for each prompt; what is drawn at random is drawn here."""
        ...

    def evaluate(self, embeddings: Float[Tensor, "batch tokens dim"], *arguments: Tensor) -> Evaluation:
        """What a call of the objective gives, from these."""
        ...


@runtime_checkable
class Score(Protocol):
    """What picks the winner: deterministic, of tokens that survive the round trip; higher is better.

    Attributes:
        unit: what the number is, for display.
    """

    @property
    def unit(self) -> str: ...

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The scores of prompts; `groups` tells which task each is for."""
        ...


@runtime_checkable
class ItemizedScore(Protocol):
    """What a score offers if it is a sum over items (noises, say), each of which says something by itself. Optional.

    Prompts that are compared on some of the items first need not all be judged on all of them.

    Attributes:
        items: how many there are.
    """

    @property
    def items(self) -> int: ...

    def item_scores(
        self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"], items: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "batch chosen"]:
        """What each of these items adds to the scores of prompts; over all items that is the score."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSimilarity:
    """Cosine similarity of the prompt's text features with target features: Objective and Score at once.

    The targets of one task are any number of unit vectors, of images or of texts, with weights
    that sum to one; negative weights push away. Since a weighted mean of cosines is the dot
    product with the weighted mean of the targets, the score needs one vector per task.

    Attributes:
        text_encoder: the tower that is searched through.
        targets: (groups, targets, features) unit vectors.
        weights: (groups, targets); 0 where a task has fewer targets than another.
        template: where the prompt is scored.
        sample_size: targets drawn at random at each call for the loss (the PEZ reference's
            `batch_size`); None for all. The score always takes all.
        generator: for that draw.
        drawn: the places of the targets that every call takes for the loss; None: each call draws.

    Source: PEZ (arXiv 2302.03668), section 4.1; equals the reference's
    `1 - cosine` for one target or equal weights.
    """

    text_encoder: TextEncoder
    targets: Float[Tensor, "groups targets features"]
    weights: Float[Tensor, "groups targets"]
    template: PromptTemplate = PromptTemplate()
    sample_size: int | None = None
    generator: torch.Generator | None = None
    drawn: Int[Tensor, " drawn"] | None = None

    unit = "cosine similarity"

    @functools.cached_property
    def mean_targets(self) -> Float[Tensor, "groups features"]:
        """The weighted mean of each task's targets: the score is the dot product with it."""
        return (self.targets * self.weights.unsqueeze(-1)).sum(dim=1)

    @functools.cached_property
    def _fixed(self) -> EmbeddedTemplate:
        return EmbeddedTemplate.of(self.text_encoder.vocabulary, self.template)

    def free_tokens(self) -> int:
        """Tokens that the model's context leaves for the prompt."""
        return self._fixed.room(self.text_encoder.max_tokens)

    def features(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Unit features of the filled template."""
        return normalize(self.text_encoder.encode(self._fixed.around(embeddings)))

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        return self.evaluate(embeddings, *self.arguments(groups))

    @property
    def function(self) -> tuple[object, Hashable]:
        """The tower and the template: targets are arguments."""
        return self.text_encoder, self.template

    def arguments(self, groups: Int[Tensor, " batch"]) -> tuple[Tensor, ...]:
        """What the score compares each prompt with and, where that is something else, what its loss does."""
        drawn = self._draw() if self.drawn is None else self.drawn
        if drawn is None:
            return (self._target(groups),)
        weights = self.weights[groups][:, drawn]
        weights = weights / weights.abs().sum(dim=1, keepdim=True).clamp_min(1e-12)
        return self._target(groups), (self.targets[groups][:, drawn] * weights.unsqueeze(-1)).sum(dim=1)

    def evaluate(self, embeddings: Float[Tensor, "batch tokens dim"], *arguments: Tensor) -> Evaluation:
        """The similarities of prompts with their `arguments`."""
        features = self.features(embeddings)
        similarities = [(features * target).sum(dim=1) for target in arguments]
        return Evaluation(1 - similarities[-1], similarities[0])

    def held(self) -> "FeatureSimilarity":
        """The same with one draw of targets for the loss of all its calls."""
        drawn = self._draw() if self.drawn is None else None
        return self if drawn is None else dataclasses.replace(self, drawn=drawn)

    def _draw(self) -> Int[Tensor, " drawn"] | None:
        """The places of `sample_size` targets; None where all are taken."""
        if self.sample_size is None or self.sample_size >= self.targets.shape[1]:
            return None
        return torch.randperm(self.targets.shape[1], generator=self.generator)[: self.sample_size].to(
            self.targets.device
        )

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        with torch.no_grad():
            features = self.features(self.text_encoder.vocabulary.embed(ids))
            return (features * self._target(groups)).sum(dim=1)

    def _target(self, groups: Int[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
        return self.mean_targets[groups]


@dataclasses.dataclass(frozen=True, eq=False)
class JudgedSimilarity:
    """Cosine similarity by another model, from the prompt's text: a Score nobody follows the gradient of.

    Picking the winner by a second encoder stops the search where it begins to overfit the first.

    Attributes:
        judge: the other model; its tokenizer may be another.
        searched: the model that is searched through, whose ids the score is given.
        targets: (groups, features) weighted mean of the targets' unit features by the judge.
    """

    judge: Backend
    searched: Backend
    targets: Float[Tensor, "groups features"]
    template: PromptTemplate = PromptTemplate()

    @property
    def unit(self) -> str:
        return f"cosine similarity by {model_label(self.judge.name)}"

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        vocabulary = self.searched.vocabulary
        texts = [self.template.fill(vocabulary.decode(row)) for row in ids.tolist()]
        features = self.judge.encode_texts(texts)
        scores = (features * self.targets[groups.to(self.targets.device)]).sum(dim=1)
        return scores.to(ids.device)


def check_template(text_encoder: TextEncoder, template: PromptTemplate, model: str) -> None:
    """Raises a clear error where a model reads a template in another way than the search does.

    The features of a filled template are compared, from its tokens' embeddings and by the model's own tokenizer and
    pass: an end token that is typed as text, say, ends the text for the model alone.

    Raises:
        TemplateError: they differ.
    """
    vocabulary = text_encoder.vocabulary
    words = vocabulary.sample_that_survives(template)
    around = EmbeddedTemplate.of(vocabulary, template)
    if template.text == SLOT or words is None or around.room(text_encoder.max_tokens) < len(words):
        return
    filled = template.fill(vocabulary.decode(words))
    with torch.no_grad():
        found = normalize(text_encoder.encode(around.around(vocabulary.embed_ids(words).unsqueeze(0))))
        difference = float((found - normalize(text_encoder.encode_text([filled]))).norm())
    tolerance = 5e-2 if vocabulary.table.dtype.itemsize <= 2 else 1e-2
    if not difference <= tolerance:  # also when it is NaN
        signs = vocabulary.signs_in(template.fill(""))
        what = f"{signs[0]!r} is not text to its tokenizer; " if signs else ""
        raise TemplateError(
            f"{model} reads the template {template.text!r} differently from its tokens (features differ by "
            f"{difference:.2g}): {what}leave out of it what is not plain text"
        )


def check_length(num_tokens: int, free_tokens: int, template: PromptTemplate, model: str) -> None:
    """Raises a clear error unless `num_tokens` tokens fit into the model's context beside the template.

    Raises:
        ValueError: `num_tokens` is below 1.
        TemplateError: the template and the tokens together are too long.
        BackendError: the model's context has no room for a single token.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
    if free_tokens < 1 and template.text == SLOT:
        raise BackendError(f"{model} has no room for a token")
    if num_tokens > free_tokens:
        raise TemplateError(
            f"{num_tokens} tokens do not fit: {model} has room for {max(free_tokens, 0)} beside the template "
            f"{template.text!r}; use fewer tokens or a shorter template"
        )
