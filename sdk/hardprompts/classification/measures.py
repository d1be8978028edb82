"""How well labels are predicted: accuracy, balance, what was answered, and which answers were not labels at all."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is known of predictions on labeled texts.

    Attributes:
        accuracy: share of right answers, in [0, 1].
        balanced_accuracy: the mean over the classes of the share of right answers, so that one constant
            answer never exceeds 1 / classes.
        loss: mean cross entropy of the right class, in nats.
        histogram: how often each class was answered; all in one is a collapse, not a classifier.
        category_errors: share of texts that the model itself, out of its whole vocabulary, would not answer with
            a label; None where that was not asked.
        count: texts.
    """

    accuracy: float
    balanced_accuracy: float
    loss: float
    histogram: tuple[int, ...]
    category_errors: float | None
    count: int

    @classmethod
    def of(
        cls,
        scores: Float[Tensor, "rows classes"],
        targets: Sequence[int],
        choices: Int[Tensor, " rows"] | None = None,
        label_tokens: Sequence[int] = (),
    ) -> "Measures":
        """From the log-likelihoods of the classes, up to a constant for each row.

        Args:
            choices: the token that the model would begin its answer with, out of all.
            label_tokens: the tokens that begin a label.

        Raises:
            ValueError: there are no texts.
        """
        if not len(targets):
            raise ValueError("there are no texts to measure on; give at least one")
        right = torch.tensor(targets, device=scores.device)
        answers = scores.argmax(dim=1)
        hits = (answers == right).double()
        classes = scores.shape[1]
        recalls = [hits[right == number].mean() for number in right.unique().tolist()]
        errors = None
        if choices is not None:
            known = torch.isin(choices.cpu(), torch.tensor(label_tokens))
            errors = 1 - float(known.double().mean())
        return cls(
            accuracy=float(hits.mean()),
            balanced_accuracy=float(torch.stack(recalls).mean()),
            loss=float(-scores.double().log_softmax(dim=1)[torch.arange(len(right)), right].mean()),
            histogram=tuple(answers.bincount(minlength=classes).tolist()),
            category_errors=errors,
            count=len(targets),
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {**dataclasses.asdict(self), "histogram": list(self.histogram)}

    @property
    def rank(self) -> tuple[float, float]:
        """What the best prompt has most of: accuracy, then likelihood."""
        return self.accuracy, -self.loss
