"""PEZ: gradient steps on a soft prompt, with gradients taken at its projection onto the vocabulary."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.search import BoundObjective, Candidates, filled
from hardprompts.vocabulary import Metric, Vocabulary


@dataclasses.dataclass(frozen=True)
class PEZ:
    """Hard prompts made easy, as in the paper.

    Every step projects the soft prompt to the nearest tokens, takes the gradient of the loss
    there, and applies it to the soft prompt with AdamW.

    Attributes:
        learning_rate: of AdamW.
        weight_decay: of AdamW, on the soft prompt.
        metric: of the projection.
        token_dropout: tokens left out of the prompt at random at every step, the same place for
            all restarts, so that each must carry its own weight; 0 in the paper.

    Source: Wen et al. 2023, arXiv 2302.03668, algorithm 1;
    https://github.com/YuxinWenRick/hard-prompts-made-easy, `optimize_prompt_loop`.
    Deviations: one forward pass serves both the gradient and the score; the loss is summed over
    the restarts, not averaged, so that a restart does not depend on how many there are.
    """

    learning_rate: float = 0.1
    weight_decay: float = 0.1
    metric: Metric = "cosine"
    token_dropout: int = 0

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the projection of every restart, without end."""
        ids = filled(initial_ids, vocabulary, generator)
        soft = vocabulary.embed(ids).float().clone()  # (rows, tokens, dim)
        optimizer = torch.optim.AdamW([soft], lr=self.learning_rate, weight_decay=self.weight_decay)
        while True:
            ids = vocabulary.nearest(soft, self.metric)
            hard = vocabulary.embed(ids)
            if self.token_dropout and ids.shape[1] > self.token_dropout:
                order = torch.randperm(ids.shape[1], generator=generator)[self.token_dropout :]
                kept = order.sort().values.to(ids.device)
                _, grad = objective.value_and_grad(hard[:, kept])
                soft.grad = torch.zeros_like(soft).index_copy_(1, kept, grad.float())
                scores = None
            else:
                evaluation, grad = objective.value_and_grad(hard)
                soft.grad = grad.float()
                scores = evaluation.score
            optimizer.step()
            yield Candidates(ids, scores)
