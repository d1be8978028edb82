"""The one optimisation loop of hardprompts: `run_search`.

A search method only proposes candidates (`Search.steps`). Everything that every method needs is
here, once: restarts in one batch, several tasks in one batch, best-so-far by score, the top
candidates without duplicates, history, progress, deadline, budgets, patience, cancellation,
numbers that are not finite, memory that runs out, and one seeded generator.
"""

import copy
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.encoders import TextEncoder
from hardprompts.errors import NonFiniteError, SearchError, VocabularyError
from hardprompts.leaderboard import Leaderboard, admissible
from hardprompts.memory import is_out_of_memory, release
from hardprompts.objectives import Evaluation, FeatureObjective, Objective, Score, Stochastic
from hardprompts.prompts import Candidate, HistoryPoint, PromptTemplate
from hardprompts.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tqdm import tqdm

#: What seconds and deadlines are measured by.
clock: Callable[[], float] = time.perf_counter

#: Stands behind the last token of a row that is shorter than its batch.
NO_TOKEN = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Prompts that a method proposes in one step.

    Attributes:
        ids: (batch, tokens), with NO_TOKEN behind the end of shorter rows.
        scores: (batch,) by the run's Score, where the method already has them.
        rows: (batch,) the restart each belongs to; None: candidate i belongs to restart i.
    """

    ids: Int[Tensor, "batch tokens"]
    scores: Float[Tensor, " batch"] | None = None
    rows: Int[Tensor, " batch"] | None = None


@runtime_checkable
class Search(Protocol):
    """One published method: hyperparameters as frozen fields, and no state."""

    def steps(
        self,
        objective: "BoundObjective",
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes candidates, step by step; `run_search` decides when to stop.

        Each row of `initial_ids` is one restart. A method that cannot improve any further returns.
        """
        ...


@dataclasses.dataclass(frozen=True)
class SearchProgress:
    """How far a search has come; what a callback is given.

    Attributes:
        step: steps done.
        max_steps: steps that it may take, or None.
        best: the best prompt so far of each task; None before any was admissible.
    """

    step: int
    max_steps: int | None
    seconds: float
    evaluations: int
    best: tuple[Candidate | None, ...]


#: Called after every step; returning True stops the search, which then returns the best so far.
#: Whatever it raises goes through to the caller.
Callback = Callable[[SearchProgress], bool | None]


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found for one task.

    Attributes:
        candidates: the best prompts, best first, without duplicates; never empty.
        history: one point for each improvement of the best score.
        stop_reason: "max_steps", "max_evaluations", "deadline", "patience", "converged" (the
            method had nothing left to try), "cancelled", "interrupted" or "non_finite".
        evaluations: forward and backward passes of one prompt each, over all tasks of the run.
    """

    candidates: tuple[Candidate, ...]
    history: tuple[HistoryPoint, ...]
    seed: int
    stop_reason: str
    steps: int
    seconds: float
    evaluations: int

    @property
    def best(self) -> Candidate:
        """The best prompt found."""
        return self.candidates[0]


class _BudgetSpent(Exception):
    """The passes that are left do not suffice for what a method asks for."""


@dataclasses.dataclass
class _Spent:
    """Passes so far, their limit, the moment the time is over, how many prompts memory holds at once (None: any)."""

    evaluations: int = 0
    max_evaluations: int | None = None
    deadline: float | None = None
    batch_limit: int | None = None


class BoundObjective:
    """The objective and the score of one run, as a method sees them: counted, and batched to memory.

    `rows` tells which restart each sequence belongs to; None: sequence i belongs to restart i.
    """

    def __init__(
        self,
        objective: Objective,
        score: Score,
        vocabulary: Vocabulary,
        template: PromptTemplate,
        groups: Int[Tensor, " rows"],
        token_cost: float = 0.0,
    ) -> None:
        self.groups = groups
        self.token_cost = token_cost
        self._objective = objective
        self._score = score
        self._vocabulary = vocabulary
        self._template = template
        self._follows_score = objective is score  # type: ignore[comparison-overlap]  # one class may be both
        self._spent = _Spent()

    @property
    def evaluations(self) -> int:
        """Forward and backward passes of one prompt each, so far."""
        return self._spent.evaluations

    @property
    def remaining(self) -> int | None:
        """Passes that the run may still spend; None: there is no limit."""
        limit = self._spent.max_evaluations
        return None if limit is None else max(0, limit - self._spent.evaluations)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the run's deadline, 0 behind it; None: there is none."""
        deadline = self._spent.deadline
        return None if deadline is None else max(0.0, deadline - clock())

    def limit(self, max_evaluations: int | None, deadline: float | None = None) -> None:
        """From now on the passes of the run, those so far included, stay within this number.

        Args:
            deadline: when the run ends, by `clock`; what a method asks for is evaluated nevertheless.
        """
        self._spent.max_evaluations, self._spent.deadline = max_evaluations, deadline

    def of_rows(self, rows: Int[Tensor, " chosen"]) -> "BoundObjective":
        """The same for some of the restarts, which count from 0 again; the passes add up in one count."""
        chosen = copy.copy(self)
        chosen.groups = self.groups[rows]
        return chosen

    def held(self) -> "BoundObjective":
        """The same with one draw for all calls, if the objective is stochastic; the passes add up in one count."""
        if not isinstance(self._objective, Stochastic):
            return self
        chosen = copy.copy(self)
        chosen._objective = self._objective.held()
        return chosen

    def admissible(self, ids: Sequence[int], max_tokens: int) -> tuple[int, ...] | None:
        """The ids of the prompt's text as it is read back, if a prompt of them may be returned; else None.

        Nearly always they are `ids` themselves, whose score is known; any others have another.
        """
        return admissible(self._vocabulary, self._template, ids, max_tokens)

    def value_and_grad(
        self, embeddings: Float[Tensor, "batch tokens dim"], rows: Int[Tensor, " batch"] | None = None
    ) -> tuple[Evaluation, Float[Tensor, "batch tokens dim"]]:
        """The evaluation of each sequence, and the gradient of its loss with respect to its embeddings.

        `Evaluation.score` is None unless the objective's forward pass gives the run's score. Where the passes
        left are too few for all of the batch the run ends here.
        """
        if self.remaining is not None and self.remaining < 2 * len(embeddings):
            raise _BudgetSpent

        def part(embeddings: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                leaf = embeddings.detach().requires_grad_()
                evaluation = self._objective(leaf, groups)
                (grad,) = torch.autograd.grad(evaluation.loss.sum(), leaf)
            score = evaluation.score if self._follows_score else None
            found = (evaluation.loss.detach(), grad)
            return found if score is None else (*found, score.detach())

        loss, grad, *score = self._in_parts(part, embeddings, self._groups_of(rows))
        self._spent.evaluations += 2 * len(embeddings)
        return Evaluation(loss, score[0] - self.token_cost * embeddings.shape[1] if score else None), grad

    def score(
        self, ids: Int[Tensor, "batch tokens"], rows: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """The run's score of each sequence, less what its tokens cost; rows may end in NO_TOKEN.

        A row of no tokens scores -inf, and so do those for which no passes are left, from the last row on.
        """
        groups = self._groups_of(rows)
        scores = torch.full((len(ids),), -torch.inf, device=ids.device)
        lengths = (ids != NO_TOKEN).sum(dim=1)
        count = len(ids) if self.remaining is None else min(len(ids), self.remaining)
        for length in lengths[:count].unique().tolist():
            if length == 0:
                continue
            chosen = (lengths[:count] == length).nonzero().squeeze(1)
            (scores[chosen],) = self._in_parts(
                lambda part, part_groups: (self._score.score(part, part_groups),), ids[chosen, :length], groups[chosen]
            )
        self._spent.evaluations += count
        return scores - self.token_cost * lengths

    # --- where the score is a similarity of features ------------------------------------------

    @property
    def text_encoder(self) -> TextEncoder | None:
        """What gives the features that the objective compares with its targets; None: it compares none."""
        return self._objective.text_encoder if isinstance(self._objective, FeatureObjective) else None

    @property
    def targets(self) -> Float[Tensor, "rows features"]:
        """What the features of each restart's prompts are compared with, where there is a `text_encoder`."""
        assert isinstance(self._objective, FeatureObjective)
        return self._objective.mean_targets[self.groups]

    @property
    def scores_features(self) -> bool:
        """Whether the score falls out of the features, so that both cost one pass."""
        return self._follows_score and isinstance(self._objective, FeatureObjective)

    def features(
        self, ids: Int[Tensor, "batch tokens"], rows: Int[Tensor, " batch"] | None = None
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, " batch"]]:
        """The unit features of each sequence, and its similarity with its target less what its tokens cost.

        That is the run's score if `scores_features`. Rows may end in NO_TOKEN. Those for which no passes are left,
        from the last row on, have features of 0 and -inf.
        """
        assert isinstance(self._objective, FeatureObjective)
        whole, groups, lengths = self._objective, self._groups_of(rows), (ids != NO_TOKEN).sum(dim=1)
        found = torch.zeros(len(ids), whole.mean_targets.shape[1], device=ids.device)
        scores = torch.full((len(ids),), -torch.inf, device=ids.device)
        count = len(ids) if self.remaining is None else min(len(ids), self.remaining)

        @torch.no_grad()
        def part(ids: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
            features = whole.features(self._vocabulary.embed(ids))
            return features, (features * whole.mean_targets[groups]).sum(dim=1)

        for length in lengths[:count].unique().tolist():
            chosen = (lengths[:count] == length).nonzero().squeeze(1)
            found[chosen], scores[chosen] = self._in_parts(part, ids[chosen, :length], groups[chosen])
        self._spent.evaluations += count
        return found, scores - self.token_cost * lengths

    def _groups_of(self, rows: Tensor | None) -> Tensor:
        return self.groups if rows is None else self.groups[rows]

    def _in_parts(
        self, function: Callable[[Tensor, Tensor], tuple[Tensor, ...]], batch: Tensor, groups: Tensor
    ) -> list[Tensor]:
        """`function` over the batch, in parts that fit into memory, which are found by halving."""
        while True:
            limit = self._spent.batch_limit or len(batch)
            try:
                parts = [function(b, g) for b, g in zip(batch.split(limit), groups.split(limit), strict=True)]
                return [torch.cat(values) if len(parts) > 1 else values[0] for values in zip(*parts, strict=True)]
            except RuntimeError as error:
                if not is_out_of_memory(error) or limit == 1:
                    raise
                self._spent.batch_limit = max(1, min(limit, len(batch)) // 2)
            release()
            warnings.warn(
                f"out of memory with {min(limit, len(batch))} prompts at once; going on with {self._spent.batch_limit}",
                RuntimeWarning,
                stacklevel=2,
            )


def run_search(
    search: Search,
    objective: Objective,
    score: Score,
    vocabulary: Vocabulary,
    initial_ids: Int[Tensor, "rows tokens"],
    *,
    groups: Int[Tensor, " rows"] | None = None,
    template: PromptTemplate = PromptTemplate(),
    max_steps: int | None = None,
    max_evaluations: int | None = None,
    deadline: float | None = None,
    patience: int | None = None,
    token_cost: float = 0.0,
    top_k: int = 10,
    report_every: int | None = None,
    seed: int | None = None,
    callback: Callback | None = None,
) -> list[SearchResult]:
    """Runs a method and returns the best prompts of each task, whatever made it stop.

    Args:
        search: the method.
        objective: what its gradients follow.
        score: what picks the winner. May be the same object as `objective`, which saves passes.
        initial_ids: (rows, tokens) one row per restart.
        groups: (rows,) the task of each row, 0, 1, ...; default: all rows are restarts of one task.
        template: where the prompts must survive the round trip.
        max_steps: steps of the method; at least one of the limits, or a method that converges,
            is what ends the run.
        max_evaluations: forward and backward passes of one prompt each, never exceeded but by the scores of
            `initial_ids`; what a method asks for beyond it is not evaluated.
        deadline: seconds from now.
        patience: steps without an improvement of any task.
        token_cost: score that a token must add to be worth its place. Candidates are ranked by their
            score less this much for each token, and returned with the score itself.
        top_k: candidates to keep for each task.
        report_every: steps between two looks at the scores, and so between two callbacks. A look
            makes a GPU wait for the host, so the default is 10 there and 1 on the CPU; every
            candidate is considered either way.
        seed: of the only generator; default: drawn, and recorded in the result.
        callback: see `Callback`. A keyboard interrupt also ends the run with the best so far.

    Returns:
        One result for each task.

    Raises:
        SearchError: no admissible prompt was met: none survives the round trip in this template,
            or all spell something banned.
        NonFiniteError: all scores were NaN or infinite from the start.
        ValueError: a limit is negative.
    """
    limits = Limits(max_steps, max_evaluations, deadline, patience)
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    seed = torch.seed() % 2**31 if seed is None else seed
    device = vocabulary.table.device
    initial_ids = initial_ids.to(device)
    groups = torch.zeros(len(initial_ids), dtype=torch.long) if groups is None else groups.cpu()
    bound = BoundObjective(objective, score, vocabulary, template, groups.to(device), token_cost)
    boards = [
        Leaderboard(vocabulary, template, top_k, token_cost, initial_ids.shape[1]) for _ in range(int(groups.max()) + 1)
    ]
    run = _Run(bound, boards, groups.tolist(), limits, callback)
    try:
        run.pending.append((0, Candidates(initial_ids)))
        run.look()
        bound.limit(max_evaluations, run.ends)
        proposals = search.steps(bound, vocabulary, initial_ids, torch.Generator().manual_seed(seed))
        stop_reason = run.follow(proposals, report_every or (1 if device.type == "cpu" else 10))
    except KeyboardInterrupt:
        stop_reason = "interrupted"
        if not all(board.scores for board in boards):
            raise
    run.check()
    return [
        SearchResult(board.top(), tuple(history), seed, stop_reason, run.step, run.seconds, bound.evaluations)
        for board, history in zip(boards, run.histories, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What ends a run, beside the method's own end; see `run_search`.

    Raises:
        ValueError: a limit is negative.
    """

    max_steps: int | None = None
    max_evaluations: int | None = None
    deadline: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, limit in dataclasses.asdict(self).items():
            if limit is not None and limit < 0:
                raise ValueError(f"{name} must not be negative, got {limit}")

    def reached(self, step: int, evaluations: int, seconds: float, without_gain: int) -> str | None:
        """The first limit that is reached, by name, or None."""
        spent = {
            "max_steps": step, "max_evaluations": evaluations, "deadline": seconds, "patience": without_gain
        }  # fmt: skip
        limits = vars(self)
        return next((name for name, value in spent.items() if limits[name] is not None and value >= limits[name]), None)


class _Run:
    """One run on its way: what was proposed, what was the best of it, how far it came."""

    def __init__(
        self,
        bound: BoundObjective,
        boards: Sequence[Leaderboard],
        tasks: Sequence[int],
        limits: Limits,
        callback: Callback | None,
    ) -> None:
        self.bound, self.boards, self.tasks, self.limits, self.callback = bound, boards, tasks, limits, callback
        self.histories: list[list[HistoryPoint]] = [[] for _ in boards]
        self.pending: list[tuple[int, Candidates]] = []
        self.step = self.last_gain = 0
        self.met_finite = False
        self._start = clock()

    @property
    def seconds(self) -> float:
        return clock() - self._start

    @property
    def ends(self) -> float | None:
        """When the deadline is, by `clock`."""
        return None if self.limits.deadline is None else self._start + self.limits.deadline

    def follow(self, proposals: Iterator[Candidates], report_every: int) -> str:
        """Takes in what the method proposes until something ends it; returns what did."""
        while True:
            stop_reason = self.limits.reached(
                self.step, self.bound.evaluations, self.seconds, self.step - self.last_gain
            )
            try:
                candidates = None if stop_reason else next(proposals, None)
            except _BudgetSpent:
                stop_reason, candidates = "max_evaluations", None
            if candidates is None:
                self.look()
                return stop_reason or "converged"
            self.step += 1
            self.pending.append((self.step, candidates))
            if len(self.pending) < report_every:
                continue
            self.look()
            if candidates.scores is not None and bool(candidates.scores.isnan().all()):
                return "non_finite"
            if self.callback is not None and self.callback(self.progress()):
                return "cancelled"

    def progress(self) -> SearchProgress:
        """How far the run has come."""
        best = tuple(board.best() for board in self.boards)
        return SearchProgress(self.step, self.limits.max_steps, self.seconds, self.bound.evaluations, best)

    def look(self) -> None:
        """Offers the pending candidates to the leaderboards of their tasks."""
        for at_step, candidates in self.pending:
            respelled = self._take(candidates, at_step)
            if respelled is not None:
                self._take(respelled, at_step)
        self.pending.clear()

    def _take(self, candidates: Candidates, at_step: int) -> Candidates | None:
        """Offers candidates; returns those that are read back as other tokens, which have other scores."""
        rows = list(range(len(candidates.ids))) if candidates.rows is None else candidates.rows.tolist()
        scores = self.bound.score(candidates.ids, candidates.rows) if candidates.scores is None else candidates.scores
        ids, found = candidates.ids.tolist(), scores.tolist()
        finite = [i for i, value in enumerate(found) if math.isfinite(value)]
        self.met_finite = self.met_finite or bool(finite)
        others: dict[tuple[int, ...], int] = {}
        for index in sorted(finite, key=lambda i: -found[i]):
            task = self.tasks[rows[index]]
            prompt, board = tuple(i for i in ids[index] if i != NO_TOKEN), self.boards[task]
            before = board.best_score
            other = board.offer(prompt, found[index])
            if other is not None:
                others.setdefault(other, rows[index])
            if board.best_score > before:
                self.last_gain = at_step
                plain = board.plain(prompt, found[index])
                self.histories[task].append(HistoryPoint(at_step, self.seconds, self.bound.evaluations, plain))
        if not others:
            return None
        device = candidates.ids.device
        return Candidates(pack(list(others), device), rows=torch.tensor(list(others.values()), device=device))

    def check(self) -> None:
        """Raises if there is nothing to return."""
        if not self.met_finite:
            raise NonFiniteError(
                "every score was NaN or infinite; check the image features, or use dtype=torch.float32 if the "
                "model overflows in half precision"
            )
        for board in self.boards:
            if not board.scores:
                raise SearchError(
                    f"none of the {board.rejected} prompts that were tried survives the round trip in the template "
                    f"{board.template.text!r} without spelling something banned; put a space around the slot, or "
                    "ban less"
                )


def random_starts(
    vocabulary: Vocabulary, rows: int, num_tokens: int, seed: int, initial_prompt: str | None = None
) -> Int[Tensor, "rows tokens"]:
    """Random tokens for every restart, which begin with the tokens of `initial_prompt`.

    Raises:
        VocabularyError: the initial prompt has no tokens, or more than `num_tokens`.
    """
    # Another stream than the search's own, which starts from the same seed.
    ids = vocabulary.sample((rows, num_tokens), torch.Generator().manual_seed(seed ^ 0x5EED))
    if initial_prompt is not None:
        given = vocabulary.encode(initial_prompt)
        if not 0 < len(given) <= num_tokens:
            raise VocabularyError(
                f"initial_prompt {initial_prompt!r} has {len(given)} tokens; it needs 1 to num_tokens = {num_tokens}"
            )
        ids[:, : len(given)] = torch.tensor(given, device=ids.device)
    return ids


def filled(
    ids: Int[Tensor, "rows tokens"], vocabulary: Vocabulary, generator: torch.Generator
) -> Int[Tensor, "rows tokens"]:
    """The rows with random tokens in place of NO_TOKEN, for methods that move prompts of one length."""
    missing = ids == NO_TOKEN
    if not bool(missing.any()):
        return ids
    drawn = vocabulary.sample((ids.shape[0], ids.shape[1]), generator)
    return torch.where(missing, drawn.to(ids.device), ids)


def pack(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Int[Tensor, "rows tokens"]:
    """Rows of ids of any length as one tensor, with NO_TOKEN behind the shorter ones."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[NO_TOKEN] * (width - len(row))] for row in rows], device=device)


def on_bar(callback: Callback | None, bar: "tqdm[Any]") -> Callback:
    """A callback that shows the best so far on a progress bar, then calls `callback`, which may stop the run."""

    def report(progress: SearchProgress) -> bool | None:
        bar.total = progress.max_steps
        best = next((candidate for candidate in progress.best if candidate is not None), None)
        if best is not None:
            bar.set_postfix_str(f"{best.score:.3f} {best.text}", refresh=False)
        bar.update(progress.step - bar.n)
        return None if callback is None else callback(progress)

    return report
