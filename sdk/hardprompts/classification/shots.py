"""Prompts from a few examples of each class, once for each of many draws: how well they do, and how that varies."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hardprompts.allowance import Allowance
from hardprompts.classification.data import as_labels, as_texts, sorted_classes
from hardprompts.classification.judging import JudgedTexts
from hardprompts.evaluation import Interval, markdown_table, t_interval
from hardprompts.search.protocol import BY_CALLER
from hardprompts.search.seeds import Stream, checked_seed

if TYPE_CHECKING:
    from hardprompts.classification.tuner import ClassifierPromptTuner

#: Steps of a search from a few examples where nothing else limits it: each sees all of them, so these are epochs.
EPOCHS = 100


@dataclasses.dataclass(frozen=True)
class FewShotRun:
    """One draw of examples.

    Attributes:
        seed: of the draw and of the search.
        accuracy, balanced_accuracy: of its prompt on the test texts.
        empty: the accuracy of the empty template there.
        stop_reason: see `SearchResult`.
    """

    seed: int
    prompt: str
    accuracy: float
    balanced_accuracy: float
    empty: float
    evaluations: int
    stop_reason: str


@dataclasses.dataclass(frozen=True)
class FewShotReport:
    """What prompts from a few examples reach, over many draws.

    Attributes:
        shots: examples of each class that were learned from; as many more chose the prompt.
        tested: texts that it was measured on.
        left_out: what there was no time for, in words.
    """

    shots: int
    tested: int
    runs: tuple[FewShotRun, ...]
    left_out: tuple[str, ...] = ()

    @property
    def accuracy(self) -> Interval:
        """The mean over the draws, with Student's 95 % interval."""
        return t_interval([run.accuracy for run in self.runs])

    @property
    def gain(self) -> Interval:
        """What it is above the empty template, likewise."""
        return t_interval([run.accuracy - run.empty for run in self.runs])

    def table(self) -> str:
        """A Markdown table: the empty template, the prompts, and the gain."""
        empty = sum(run.empty for run in self.runs) / len(self.runs)
        return markdown_table(
            [
                ("shots", "draws", "tested on", "empty template", "accuracy", "gain", "worst draw"),
                (
                    str(self.shots), str(len(self.runs)), str(self.tested), f"{empty:.3f}", str(self.accuracy),
                    str(self.gain), f"{min(run.accuracy for run in self.runs):.3f}",
                ),
            ]
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {**dataclasses.asdict(self), "runs": [dataclasses.asdict(run) for run in self.runs]}


def few_shot(
    tuner: "ClassifierPromptTuner",
    X: Iterable[Any],
    y: Iterable[Any],
    *,
    shots: int,
    seeds: int | Sequence[int] = 10,
    test: tuple[Iterable[Any], Iterable[Any]] | None = None,
    report: Callable[[FewShotRun], None] | None = None,
    deadline: float | None = None,
) -> FewShotReport:
    """Fits a tuner to a few examples, once for each of several draws, and measures every prompt.

    Each draw takes `2 * shots` examples of every class: half to learn from, half to choose by. With a checkpoint
    folder, each draw has a folder of its own in it, so that what was stopped goes on. A keyboard interrupt ends it
    with the draws that are done.

    Args:
        tuner: its settings are taken, but for the holdout, seeds and random_state; it is not fitted itself. Where it
            has no limit, 100 steps.
        X, y: examples to draw from.
        shots: examples of each class, k.
        seeds: how many draws, or the seed of each.
        test: texts and labels to measure on; None: those that a draw leaves.
        report: called after each draw.
        deadline: seconds for the whole call, of which each draw gets an equal part; the tuner's own deadline is for
            each fit. Where time is short, prompts are measured on fewer texts, and draws that there was no time for
            are left out, but for the first; the report says so.

    Raises:
        ValueError: a class has fewer than `2 * shots` examples that differ, or nothing is left to measure on.
        Others: as `ClassifierPromptTuner.fit`.

    Source: Wen et al. 2023, arXiv 2302.03668, section 5.2 (k of each class, a holdout of the same size, 100 epochs).
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")
    texts = as_texts(X)
    labels = as_labels(y, len(texts))
    given_seeds = seeds if isinstance(seeds, Iterable) else range(seeds)
    chosen = [checked_seed(seed, "each of seeds") for seed in given_seeds]
    if not chosen:
        raise ValueError("seeds is 0; give one draw or more")
    given = None if test is None else (as_texts(test[0]), list(test[1]))
    runs: list[FewShotRun] = []
    limits = (tuner.max_steps, tuner.max_evaluations, tuner.deadline, tuner.patience)
    tested = 0
    allowance = Allowance(deadline)
    for number, seed in enumerate(chosen):
        if runs and allowance.is_over:
            break
        share = allowance.share(len(chosen) - number)
        taken = _drawn(texts, labels, 2 * shots, seed)
        own = type(tuner)(**tuner.get_params(deep=False))
        own.set_params(
            model=tuner.backend, holdout=0.5, seeds=1, random_state=seed,
            max_steps=EPOCHS if all(limit is None for limit in limits) else tuner.max_steps,
            deadline=_shorter(tuner.deadline, share.keeping(0).seconds_left),
            checkpoint=None if tuner.checkpoint is None else Path(os.fspath(tuner.checkpoint), f"draw-{seed}"),
        )  # fmt: skip
        try:
            own.fit([texts[i] for i in taken], [labels[i] for i in taken])
            left = sorted(set(range(len(texts))) - set(taken))
            judged = given or ([texts[i] for i in left], [labels[i] for i in left])
            if not judged[0]:
                raise ValueError("the draw leaves no texts to measure on; pass some as test=")
            texts_of_draw = JudgedTexts(own.prompted(), *own.labeled(*judged))
            figures = texts_of_draw.measure(own.prompt_, share, 2)
            empty = texts_of_draw.measure("", share) or texts_of_draw.measure_few("")
            texts_of_draw.note(allowance, f"test texts of draw {seed}")
            assert figures is not None, "the first prompt is always measured"
        except KeyboardInterrupt:
            if not runs:
                raise
            break
        tested = figures.count
        run = FewShotRun(
            seed, own.prompt_, figures.accuracy, figures.balanced_accuracy, empty.accuracy,
            own.hard_prompt_.evaluations, own.stop_reason_,
        )  # fmt: skip
        runs.append(run)
        if report is not None:
            report(run)
        if run.stop_reason in BY_CALLER:
            break
    allowance.leave_out("draws", len(runs), len(chosen))
    return FewShotReport(shots, tested, tuple(runs), tuple(allowance.left_out))


def _shorter(one: float | None, other: float | None) -> float | None:
    """The shorter of two deadlines."""
    return min((each for each in (one, other) if each is not None), default=None)


def _drawn(texts: Sequence[str], labels: Sequence[Any], per_class: int, seed: int) -> list[int]:
    """The places of as many examples of each class, no two of them alike."""
    generator = Stream.SHOTS.generator(seed)
    found: list[int] = []
    seen: set[str] = set()
    for label in sorted_classes(labels):
        own = [i for i, given in enumerate(labels) if given == label]
        taken: list[int] = []
        for place in torch.randperm(len(own), generator=generator).tolist():
            key = " ".join(texts[own[place]].casefold().split())
            if key not in seen and len(taken) < per_class:
                seen.add(key)
                taken.append(own[place])
        if len(taken) < per_class:
            raise ValueError(
                f"the class {label!r} has {len(taken)} examples that differ, and {per_class} are needed: half to learn "
                "from, half to choose by; take fewer shots"
            )
        found += taken
    return sorted(found)
