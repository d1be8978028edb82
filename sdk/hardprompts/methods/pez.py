"""PEZ: gradient steps on a soft prompt, with gradients taken at its projection onto the vocabulary."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.methods.optimizers import Adafactor, adamw
from hardprompts.search.bound import BoundObjective
from hardprompts.search.draws import Draws
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import filled
from hardprompts.vocabulary import Metric, Vocabulary


@dataclasses.dataclass(frozen=True)
class PEZ:
    """Hard prompts made easy, as in the paper.

    Every step projects the soft prompt to the nearest tokens, takes the gradient of the loss
    there, and applies it to the soft prompt. The soft prompt itself is never projected.

    Attributes:
        learning_rate: of the optimizer.
        weight_decay: of AdamW, on the soft prompt.
        metric: of the projection.
        token_dropout: tokens left out of the prompt at random at every step, the same place for
            all restarts, so that each must carry its own weight; 0 in the paper.
        optimizer: "adamw" for images, "adafactor" for language models, as in the paper's experiments; "sgd" is
            the algorithm as it is printed.

    Source: Wen et al. 2023, arXiv 2302.03668, algorithm 1;
    https://github.com/YuxinWenRick/hard-prompts-made-easy, `optimize_prompt_loop`.
    Deviations: one forward pass serves both the gradient and the score; the loss is summed over
    the restarts, not averaged, so that a restart does not depend on how many there are. The latest
    `prompt_lm` of the reference projects the soft prompt at the end of every step too, which makes it
    another method (`AutoPromptSGD`); this is the algorithm of the paper and of the first `prompt_lm`.
    """

    learning_rate: float = 0.1
    weight_decay: float = 0.1
    metric: Metric = "cosine"
    token_dropout: int = 0
    optimizer: Literal["adamw", "adafactor", "sgd"] = "adamw"

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "adafactor", "sgd"):
            raise ValueError(f"optimizer must be adamw, adafactor or sgd, got {self.optimizer!r}")

    @classmethod
    def for_language_models(cls) -> "PEZ":
        """The settings of the paper's section 5: Adafactor with a rate of 0.3; the paper also tried 0.1 and 0.5."""
        return cls(learning_rate=0.3, weight_decay=0.0, optimizer="adafactor")

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
        step = self._optimizer(soft)
        draws = Draws(lambda: (self._places_left(ids.shape[1], generator),), ids.device, objective.look_every)
        while True:
            ids = vocabulary.nearest(soft, self.metric)
            hard = vocabulary.embed(ids)
            if self.token_dropout and ids.shape[1] > self.token_dropout:
                (kept,) = draws.next()
                _, grad = objective.value_and_grad(hard[:, kept])
                grad = torch.zeros_like(soft).index_copy_(1, kept, grad.float())
                scores = None
            else:
                evaluation, grad = objective.value_and_grad(hard)
                scores = evaluation.score
            step(grad.float())
            yield Candidates(ids, scores)

    def _places_left(self, tokens: int, generator: torch.Generator) -> Int[Tensor, " left"]:
        """The places of a step's prompts, in order, without those left out."""
        return torch.randperm(tokens, generator=generator)[self.token_dropout :].sort().values

    def _optimizer(self, soft: Tensor) -> Callable[[Tensor], None]:
        """What applies a gradient to the soft prompt, in place."""
        if self.optimizer == "adafactor":
            return Adafactor(soft, self.learning_rate).step
        if self.optimizer == "adamw":
            return adamw(soft, self.learning_rate, self.weight_decay)

        def step(grad: Tensor) -> None:
            soft.sub_(grad, alpha=self.learning_rate)

        return step
