"""Whether prompts that one model likes are liked by others: the scores of several judges, and how far they agree."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from hardprompts.evaluation.intervals import Interval, t_interval
from hardprompts.evaluation.judges import rank_agreement
from hardprompts.evaluation.texts import filled
from hardprompts.prompts import HardPrompt

#: A judge's score of each text, the first text being for the first target, and so on; higher is better.
Judge = Callable[[Sequence[str]], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class TransferMatrix:
    """What each judge makes of the prompts of each method, for the same targets.

    Attributes:
        scores: of each method by each judge, one for each target, in the same order everywhere.
    """

    scores: Mapping[str, Mapping[str, tuple[float, ...]]]

    @property
    def methods(self) -> tuple[str, ...]:
        """The rows."""
        return tuple(self.scores)

    @property
    def judges(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(next(iter(self.scores.values())))

    def interval(self, method: str, judge: str) -> Interval:
        """The mean over the targets, with its 95 % interval.

        Raises:
            MissingExtra: SciPy is not installed.
        """
        return t_interval(self.scores[method][judge])

    def agreement(self) -> dict[tuple[str, str], float]:
        """How far each two judges agree on which method's prompt is best for a target, in [-1, 1].

        It is Kendall's tau over the methods, for each target by itself and then the mean: some targets are harder than
        others whatever the method, which says nothing about prompts. Targets for which a judge has no preference do not
        count; NaN if none is left.

        Raises:
            ValueError: there are fewer than two judges or two methods.
        """
        found: dict[tuple[str, str], list[float]] = {}
        for target in range(len(self.scores[self.methods[0]][self.judges[0]])):
            own = {judge: [self.scores[method][judge][target] for method in self.methods] for judge in self.judges}
            for pair, tau in rank_agreement(own).items():
                found.setdefault(pair, []).append(tau)
        kept = {pair: [tau for tau in taus if not math.isnan(tau)] for pair, taus in found.items()}
        return {pair: sum(taus) / len(taus) if taus else math.nan for pair, taus in kept.items()}

    def agreement_on_methods(self) -> dict[tuple[str, str], float]:
        """How far each two judges agree on which method is better on average: Kendall's tau of the means.

        Raises:
            ValueError: there are fewer than two judges or two methods.
        """
        return rank_agreement(
            {judge: [_mean(self.scores[method][judge]) for method in self.methods] for judge in self.judges}
        )

    def rows(self) -> list[list[str]]:
        """The rows of a table (`markdown_table`): for each method the mean by each judge.

        Raises:
            MissingExtra: SciPy is not installed.
        """
        head = ["", *self.judges]
        return [head, *([method, *(str(self.interval(method, j)) for j in self.judges)] for method in self.methods)]


def transfer_matrix(prompts: Mapping[str, Sequence[HardPrompt | str]], judges: Mapping[str, Judge]) -> TransferMatrix:
    """What each judge makes of the prompts of each method.

    Args:
        prompts: of each method, one for each target, in the same order everywhere. Prompts found with one model each
            make the rows of the matrix that shows how they transfer.
        judges: see `Judge`, such as `lambda texts: prompt_image_similarities(texts, images, judge)`. The searched model
            may be among them, to show what it flatters; `check_independent` says which are free of that.

    Raises:
        ValueError: there is no method, judge or target, or methods or scores differ in number.
    """
    counts = {len(own) for own in prompts.values()}
    if not judges or len(counts) != 1 or not min(counts):
        raise ValueError(
            "a transfer matrix needs judges, and methods with a prompt for each of the same targets; got "
            f"{len(judges)} judges and {sorted(counts)} prompts"
        )
    (count,) = counts
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for method, own in prompts.items():
        texts = [filled(prompt) for prompt in own]
        found[method] = {name: tuple(map(float, judge(texts))) for name, judge in judges.items()}
        for name, scores in found[method].items():
            if len(scores) != count:
                raise ValueError(f"the judge {name!r} gave {len(scores)} scores for the {count} prompts of {method!r}")
    return TransferMatrix(found)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
