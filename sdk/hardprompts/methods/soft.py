"""Prompt tuning: the soft prompt itself, which no text spells; what a hard prompt can at most come near to."""

import dataclasses
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.methods.optimizers import adamw
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import filled
from hardprompts.vocabulary import Metric, Vocabulary


@dataclasses.dataclass(frozen=True)
class PromptTuning:
    """Gradient steps on a soft prompt that is never projected; its nearest tokens are what it proposes.

    As a search for hard prompts it is the baseline of nearest-neighbor decoding, which loses nearly all of what
    the soft prompt can do. Read the soft prompt with `observe`.

    Attributes:
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        metric: of the projection.
        observe: is given the soft prompts, (rows, tokens, dim), and their losses, (rows,), before each step.

    Source: Lester et al. 2021, arXiv 2104.08691. Deviations: AdamW for Adafactor.
    """

    learning_rate: float = 0.1
    weight_decay: float = 0.0
    metric: Metric = "cosine"
    observe: Callable[[Float[Tensor, "rows tokens dim"], Float[Tensor, " rows"]], None] | None = None

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the tokens nearest to every soft prompt, without end."""
        soft = vocabulary.embed(filled(initial_ids, vocabulary, generator)).float().clone()
        step = adamw(soft, self.learning_rate, self.weight_decay)
        while True:
            evaluation, grad = objective.value_and_grad(soft.to(vocabulary.table.dtype))
            if self.observe is not None:
                self.observe(soft.clone(), evaluation.loss)
            yield Candidates(vocabulary.nearest(soft, self.metric))
            step(grad)
