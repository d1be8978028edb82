"""AutoPromptSGD: gradient steps whose result is projected onto the vocabulary every time."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int

from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import filled
from hardprompts.vocabulary import Metric, Vocabulary


@dataclasses.dataclass(frozen=True)
class AutoPromptSGD:
    """Projected gradient descent: the prompt is on the vocabulary at every step, and forgets how it got there.

    A step only counts if it reaches the neighbourhood of another token, so the rate is everything.

    Attributes:
        learning_rate: in `relative` units, or as it is.
        relative: with a rate of 1 a step moves the tokens of a restart by the mean length of a token's
            embedding, whatever the scale of the loss.
        metric: of the projection.

    Source: the baseline of that name in PEZ (arXiv 2302.03668, section 5), which is AutoPrompt's first-order
    step (arXiv 2010.15980) for all places at once. Deviations: `relative` rates, since those of
    the paper (1, 3 and 10) depend on its model; plain descent where its code has Adafactor.
    """

    learning_rate: float = 2.0
    relative: bool = True
    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[torch.Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the projection of every step, without end."""
        ids = filled(initial_ids, vocabulary, generator)
        size = float(vocabulary.allowed_table.norm(dim=1).mean())
        while True:
            hard = vocabulary.embed(ids).float()
            evaluation, grad = objective.value_and_grad(vocabulary.embed(ids))
            yield Candidates(ids, evaluation.score)
            step = grad.float()
            if self.relative:
                step = step * size / step.norm(dim=2).mean(dim=1).clamp_min(1e-30)[:, None, None]
            ids = vocabulary.nearest(hard - self.learning_rate * step, self.metric)
