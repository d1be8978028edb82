"""FluentPrompt: projected Langevin dynamics, whose noise dies away."""

import dataclasses
import math
from collections.abc import Iterator

import torch
from jaxtyping import Int

from hardprompts.search.bound import BoundObjective
from hardprompts.search.draws import Draws
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import filled
from hardprompts.vocabulary import Metric, Vocabulary


@dataclasses.dataclass(frozen=True)
class FluentPrompt:
    """Gradient steps with noise, projected every time: e <- Proj(e - lr * grad + sqrt(2 lr beta) z).

    Attributes:
        learning_rate: lr; in `relative` units a rate of 1 moves a token by the mean length of an embedding.
        beta_start, beta_end: the noise, which falls geometrically from the one to the other over `anneal_steps`
            steps and then stays. Its standard deviation is counted in the root mean square of the
            embeddings' elements if `relative`.
        relative: see above.
        metric: of the projection.

    Source: Shi et al. 2022, arXiv 2212.10539, section 3; beta from 1 to 1e-4 as there and in PEZ's comparison.
    The fluency is a part of the objective. Deviations: `relative` rates, plain descent for its AdamW.
    """

    learning_rate: float = 2.0
    beta_start: float = 1.0
    beta_end: float = 1e-4
    anneal_steps: int = 100
    relative: bool = True
    metric: Metric = "l2"

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or not 0 < self.beta_end <= self.beta_start or self.anneal_steps < 1:
            raise ValueError(
                "learning_rate must be positive, beta_end in (0, beta_start] and anneal_steps at least 1, got "
                f"{self.learning_rate}, {self.beta_end}, {self.beta_start}, {self.anneal_steps}"
            )

    def beta(self, step: int) -> float:
        """The noise of a step, from 0."""
        share = min(1.0, step / max(1, self.anneal_steps - 1))
        return self.beta_start * math.exp(share * math.log(self.beta_end / self.beta_start))

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[torch.Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the projection of every step, without end."""
        ids = filled(initial_ids, vocabulary, generator)
        table = vocabulary.allowed_table
        length, element = float(table.norm(dim=1).mean()), float(table.square().mean().sqrt())
        shape = (*ids.shape, table.shape[1])
        draws = Draws(lambda: (torch.randn(shape, generator=generator),), ids.device, objective.look_every)
        number = 0
        while True:
            (noise,) = draws.next()
            hard = vocabulary.embed(ids).float()
            evaluation, grad = objective.value_and_grad(vocabulary.embed(ids))
            yield Candidates(ids, evaluation.score)
            step = grad.float()
            if self.relative:
                step = step * length / step.norm(dim=2).mean(dim=1).clamp_min(1e-30)[:, None, None]
                noise = noise * element
            spread = math.sqrt(2 * self.learning_rate * self.beta(number))
            ids = vocabulary.nearest(hard - self.learning_rate * step + spread * noise, self.metric)
            number += 1
