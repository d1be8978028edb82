"""PH2P: steps on one draw of the objective, by L-BFGS or by plain descent, between two projections."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.methods.optimizers import minimize
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import filled
from hardprompts.vocabulary import Metric, Vocabulary

#: How far L-BFGS moves a token before it knows any curvature, in token lengths.
FIRST_STEP = 0.1


@dataclasses.dataclass(frozen=True)
class PH2P:
    """Prompting hard or hardly prompting: steps on one draw of the objective, L2 projection, words only.

    Every step takes one draw of a stochastic objective (of noises and timesteps, say), moves the
    soft prompt by `inner_steps` of an optimizer, and proposes its projection onto the vocabulary.
    The paper leaves much of this open and its code does something else, so what they differ in are
    the fields: `paper` and `code` are the two readings, `lbfgs` a third that lies between them,
    and the defaults are the code's rule without what makes it depend on the model's scale.

    Attributes:
        optimizer: of the inner steps. "lbfgs" keeps the curvature of every restart apart, forgets it
            with the draw that it belongs to, and never takes a step that raises the loss.
        learning_rate: of the optimizer; for "lbfgs" the length that a step is first tried with, 1 being Newton's.
        relative: makes the steps independent of the scale of the loss. With "sgd" a rate of 1 moves the tokens
            of a restart by the mean length of a token's embedding at its first step, and by more or less as
            the gradient then grows or shrinks; with "lbfgs" it is a tenth of that at the first step of every
            draw, where there is no curvature yet. "adamw" counts its rate in the root mean square of the
            embeddings' elements. False: rates as they are, and torch's first step of L-BFGS.
        momentum: of "sgd"; 1 adds up all gradients.
        memory: steps after which "sgd" and "adamw" forget; None: never.
        inner_steps: steps of the optimizer on one draw, between two projections.
        start: where the inner steps begin. "projected": at the projection of the soft prompt, which then moves
            by as much as they did; with one inner step this is PEZ's rule. "soft": at the soft prompt.
        projection_period: steps after which the soft prompt itself becomes its projection; None: never.
        hold_draw: one draw for all inner steps; False: one for each of them.
        metric: of the projection.
        words_only: projects to words alone; see `Vocabulary.words`.

    Source: Mahajan et al. 2024, arXiv 2312.12416, section 4;
    https://github.com/ubc-vision/Prompting-Hard-Hardly-Prompting, `LatentDiffusion.on_after_backward`.
    Deviations: restarts in one batch, `relative`, and the choice of the best prompt, which there is
    by generated images (`hardprompts.applications.rerank`) and here the run's Score's. Late timesteps
    and crops belong to the objective.
    """

    optimizer: Literal["lbfgs", "sgd", "adamw"] = "sgd"
    learning_rate: float = 0.5
    relative: bool = True
    momentum: float = 0.0
    memory: int | None = None
    inner_steps: int = 1
    start: Literal["projected", "soft"] = "projected"
    projection_period: int | None = None
    hold_draw: bool = True
    metric: Metric = "l2"
    words_only: bool = True

    def __post_init__(self) -> None:
        for name, accepted in (
            ("optimizer", ("lbfgs", "sgd", "adamw")), ("start", ("projected", "soft")), ("metric", ("cosine", "l2"))
        ):  # fmt: skip
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        for name in ("memory", "inner_steps", "projection_period"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {self.momentum}")
        if self.optimizer == "lbfgs" and not self.hold_draw:
            raise ValueError("lbfgs compares losses with one another, which must be of one draw; set hold_draw=True")

    @classmethod
    def paper(cls) -> "PH2P":
        """PH2P as in the paper: L-BFGS steps on the soft prompt at fixed noise, then its projection.

        To the letter: the next steps begin at the projection. Where one draw is like the next, they then
        come back to the same prompt, and a search ends where it began; see `lbfgs`.
        """
        return cls(
            optimizer="lbfgs", learning_rate=1.0, relative=False, inner_steps=10, start="soft", projection_period=1
        )

    @classmethod
    def lbfgs(cls) -> "PH2P":
        """PH2P with L-BFGS steps from the projection at fixed noise, which move a soft prompt that stays."""
        return cls(optimizer="lbfgs", learning_rate=1.0, inner_steps=5)

    @classmethod
    def code(cls) -> "PH2P":
        """PH2P as its code does it: at each evaluation a descent step by the gradient at the projection.

        The code's L-BFGS moves a parameter that the next forward pass overwrites with the projection. What
        stays is the soft prompt less 2.4 times the gradient, which adds up over the 25 evaluations of a step.
        """
        return cls(learning_rate=2.4, relative=False, momentum=1.0, memory=25, hold_draw=False)

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the projection of every restart, without end.

        Raises:
            VocabularyError: `words_only`, and no token is a word.
        """
        words = vocabulary.words() if self.words_only else vocabulary
        ids = filled(initial_ids, vocabulary, generator)
        soft = vocabulary.embed(ids).float().clone()  # (rows, tokens, dim)
        descent = self._descent(soft, words)
        length = float(words.allowed_table.norm(dim=1).mean())
        step = 0
        while True:
            ids = words.nearest(soft, self.metric)
            hard = words.embed(ids).float()
            if self.projection_period and step % self.projection_period == 0:
                soft.copy_(hard)
            if self.memory and step % self.memory == 0:
                descent.forget()
            drawn = objective.held() if self.hold_draw else objective
            begin = hard if self.start == "projected" else soft.clone()
            if self.optimizer == "lbfgs":
                scores = self._minimize(drawn, soft, begin, length)
            else:
                scores = descent.steps(drawn, begin, self.inner_steps)
            step += 1
            if self.start == "projected":
                yield Candidates(ids, scores)
            else:
                yield Candidates(words.nearest(soft, self.metric))

    def _descent(self, soft: Tensor, vocabulary: Vocabulary) -> "_Descent":
        if self.optimizer == "adamw":
            unit = float(vocabulary.allowed_table.square().mean().sqrt()) if self.relative else 1.0
            return _Descent(soft, lambda: torch.optim.AdamW([soft], lr=self.learning_rate * unit, weight_decay=0.0))
        length = float(vocabulary.allowed_table.norm(dim=1).mean()) if self.relative else None
        return _Descent(
            soft, lambda: torch.optim.SGD([soft], lr=self.learning_rate, momentum=self.momentum), first_length=length
        )

    def _minimize(self, objective: BoundObjective, soft: Tensor, begin: Tensor, length: float) -> Tensor | None:
        """Moves `soft` by as much as L-BFGS moves `begin`; the scores at `begin`, where they are known."""
        scores: list[Tensor | None] = []

        def evaluate(flat: Tensor) -> tuple[Tensor, Tensor]:
            evaluation, grad = objective.value_and_grad(flat.view_as(begin))
            scores.append(evaluation.score)
            return evaluation.loss.float(), grad.float().flatten(1)

        first_step = FIRST_STEP * length * math.sqrt(begin.shape[1]) if self.relative else None
        end = minimize(evaluate, begin.flatten(1), self.inner_steps, self.learning_rate, first_step)
        soft.add_(end.view_as(begin) - begin)
        return scores[0]


class _Descent:
    """First-order steps of every restart, and what their optimizer remembers during one run."""

    def __init__(
        self, soft: Tensor, make: Callable[[], torch.optim.Optimizer], first_length: float | None = None
    ) -> None:
        self._soft, self._make, self._first_length = soft, make, first_length
        self._factor = torch.full((len(soft), 1, 1), torch.nan, device=soft.device)
        self.forget()

    def forget(self) -> None:
        self._optimizer = self._make()

    def steps(self, objective: BoundObjective, begin: Tensor, count: int) -> Tensor | None:
        """Moves the soft prompt by as much as the steps move `begin`; the scores at `begin`, where they are known."""
        scores, here = None, begin
        for index in range(count):
            evaluation, grad = objective.value_and_grad(here)
            if index == 0:
                scores = evaluation.score
            before = self._soft.clone()
            self._soft.grad = self._scaled(grad.float())
            self._optimizer.step()
            here = here + (self._soft - before)
        return scores

    def _scaled(self, grad: Float[Tensor, "rows tokens dim"]) -> Float[Tensor, "rows tokens dim"]:
        # A restart whose gradient is not finite stays where it is; its optimizer must not remember it either.
        grad = torch.where(grad.isfinite().flatten(1).all(dim=1)[:, None, None], grad, 0.0)
        if self._first_length is None:
            return grad
        length = grad.norm(dim=2).mean(dim=1)[:, None, None]
        first = self._factor.isnan() & (length > 0)
        self._factor = torch.where(first, self._first_length / length, self._factor)
        return grad * self._factor.nan_to_num(0.0)
