"""The one optimization loop of hardprompts: `run_search`.

A search method only proposes candidates (`Search.steps`). Everything that every method needs is
here, once: restarts in one batch, several tasks in one batch, best-so-far by score, the top
candidates without duplicates, history, progress, deadline, budgets, patience, cancellation,
NaN and infinity, running out of memory, and seeding.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.allowance import Allowance, clock
from hardprompts.devices import to_host
from hardprompts.errors import NonFiniteError, SearchError, warn_user
from hardprompts.objectives import DividedObjective, Objective, Score, TraceableObjective
from hardprompts.prompts import HistoryPoint, PromptTemplate
from hardprompts.search.bound import BoundObjective, _BudgetSpent
from hardprompts.search.leaderboard import Leaderboard
from hardprompts.search.memory import Room, bytes_of_a_prompt
from hardprompts.search.protocol import Callback, Candidates, Search, SearchProgress, SearchResult, StopReason
from hardprompts.search.rows import Ids, pack, unpack
from hardprompts.search.seeds import Stream, drawn_seed
from hardprompts.vocabulary import Vocabulary


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
    score_per_token: float = 0.0,
    top_k: int = 10,
    report_every: int | None = None,
    seed: int | None = None,
    callback: Callback | None = None,
    compile: bool = False,
    room: Room | None = None,
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
        max_evaluations: forward and backward passes of one prompt each, never exceeded but by the score of the first
            start of each task; what is asked for beyond it is not evaluated.
        deadline: seconds from now; likewise, the first start of each task is scored whatever it is.
        patience: steps without an improvement of any task.
        score_per_token: score that a token must add to be worth its place. Candidates are ranked by their
            score less this much for each token, and returned with the score itself.
        top_k: candidates to keep for each task.
        report_every: steps between two looks at the scores, and so between two callbacks. A look
            makes a GPU wait for the host, so the default is 10 there and 1 on the CPU; every
            candidate is considered either way.
        seed: of the only generator; default: drawn, and recorded in the result.
        callback: see `Callback`. A keyboard interrupt also ends the run with the best so far.
        compile: gradients of a shape that comes often are compiled by torch into one graph; see
            `hardprompts.search.graphs`. Numbers then differ by rounding.
        room: the memory that batches must fit into; see `hardprompts.search.memory`. None: all that the device has.

    Returns:
        One result for each task.

    Raises:
        SearchError: no admissible prompt was met: none survives the round trip in this template,
            or all spell something banned.
        NonFiniteError: all scores were NaN or infinite from the start.
        BackendError: the room is too small for a single prompt.
        ValueError: a limit is negative.
    """
    limits = Limits(max_steps, max_evaluations, deadline, patience)
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    seed = drawn_seed(seed)
    device = vocabulary.table.device
    initial_ids = initial_ids.to(device)
    groups = torch.zeros(len(initial_ids), dtype=torch.long) if groups is None else groups.cpu()
    if compile and not isinstance(objective, TraceableObjective):
        warn_user(f"compile=True does nothing here: a {type(objective).__name__} is not one fixed function")
    if room is not None and isinstance(objective, DividedObjective):
        objective.fit(initial_ids.shape[1], room.at_once)
        room = None
    elif room is not None:
        one = bytes_of_a_prompt(objective, score, vocabulary, initial_ids.shape[1])
        room.at_once(one, one, f"one prompt of {initial_ids.shape[1]} tokens")
    report_every = report_every or (1 if device.type == "cpu" else 10)
    bound = BoundObjective(
        objective, score, vocabulary, template, groups.to(device), score_per_token, compile, report_every, room
    )
    boards = [
        Leaderboard(vocabulary, template, top_k, score_per_token, initial_ids.shape[1])
        for _ in range(int(groups.max()) + 1)
    ]
    run, allowance = _Run(bound, boards, groups.tolist(), limits, callback), Allowance(deadline, max_evaluations)
    try:
        run.start(initial_ids, allowance)
        proposals = search.steps(bound, vocabulary, initial_ids, Stream.SEARCH.generator(seed))
        stop_reason = run.follow(proposals, report_every)
    except KeyboardInterrupt:
        stop_reason = StopReason.INTERRUPTED
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

    def reached(self, step: int, evaluations: int, seconds: float, without_gain: int) -> StopReason | None:
        """The first limit that is reached, or None."""
        spent = {
            "max_steps": step, "max_evaluations": evaluations, "deadline": seconds, "patience": without_gain
        }  # fmt: skip
        limits = vars(self)
        for name, value in spent.items():
            if limits[name] is not None and value >= limits[name]:
                return StopReason(name)
        return None


@dataclasses.dataclass
class _Told:
    """Candidates as the host knows them."""

    ids: list[Ids]
    scores: list[float]
    rows: list[int]


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

    def start(self, initial_ids: Int[Tensor, "rows tokens"], allowance: Allowance) -> None:
        """Takes in the first start of each task whatever it costs, the others if the allowance has room for them.

        The first is the first one that may be returned; where there is none, the longest beginning of one that may.
        """
        device = initial_ids.device
        if not allowance.is_limited:
            self.pending.append((0, Candidates(initial_ids)))
            self.look()
            self.bound.limit(allowance)
            return
        firsts = [self._first(unpack(initial_ids), task) for task in sorted(set(self.tasks))]
        own = torch.tensor([row for row, _ in firsts], device=device)
        self.pending.append((0, Candidates(pack([ids for _, ids in firsts], device), rows=own)))
        self.look()
        self.bound.limit(allowance)
        whole = {row for row, ids in firsts if ids == unpack(initial_ids[row : row + 1])[0]}
        others = torch.tensor([row for row in range(len(initial_ids)) if row not in whole], dtype=torch.long)
        if len(others):
            others = others.to(device)
            scores = self.bound.score(initial_ids[others], others)
            self.pending.append((0, Candidates(initial_ids[others], scores, others)))
            self.look()

    def _first(self, starts: Sequence[Ids], task: int) -> tuple[int, Ids]:
        """The row of the first start of a task that may be returned, and its ids, or their longest beginning."""
        rows = [row for row, own in enumerate(self.tasks) if own == task]
        longest = max(map(len, starts))
        for row in rows:
            if self.bound.admissible(starts[row], longest) is not None:
                return row, starts[row]
        for row in rows:
            for length in range(len(starts[row]) - 1, 0, -1):
                if self.bound.admissible(starts[row][:length], longest) is not None:
                    return row, starts[row][:length]
        return rows[0], starts[rows[0]]

    def follow(self, proposals: Iterator[Candidates], report_every: int) -> StopReason:
        """Takes in what the method proposes until something ends it; returns what did."""
        while True:
            stop_reason = self.limits.reached(
                self.step, self.bound.evaluations, self.seconds, self.step - self.last_gain
            )
            try:
                candidates = None if stop_reason else next(proposals, None)
            except _BudgetSpent:
                stop_reason, candidates = StopReason.MAX_EVALUATIONS, None
            if candidates is None:
                self.look()
                return stop_reason or StopReason.CONVERGED
            self.step += 1
            self.pending.append((self.step, candidates))
            if len(self.pending) < report_every:
                continue
            if self.look():
                return StopReason.NON_FINITE
            if self.callback is not None and self.callback(self.progress()):
                return StopReason.CANCELLED

    def progress(self) -> SearchProgress:
        """How far the run has come."""
        best = tuple(board.best() for board in self.boards)
        return SearchProgress(self.step, self.limits.max_steps, self.seconds, self.bound.evaluations, best)

    def look(self) -> bool:
        """Offers the pending candidates to the leaderboards of their tasks; whether the last had only NaN as scores."""
        proposed, is_nan = self._on_host([candidates for _, candidates in self.pending]), False
        for (at_step, candidates), told in zip(self.pending, proposed, strict=True):
            is_nan = candidates.scores is not None and all(map(math.isnan, told.scores))
            respelled = self._take(told, at_step)
            if respelled is not None:
                for own in self._on_host([respelled]):
                    self._take(own, at_step)
        self.pending.clear()
        return is_nan

    def _on_host(self, proposed: Sequence[Candidates]) -> "list[_Told]":
        """Candidates with their scores, all brought to the host together, but for scores that are only made now."""
        parts = [(one.ids, one.scores, one.rows) for one in proposed]
        arrived = iter(to_host(*(part for own in parts for part in own if part is not None)))
        told = []
        for one in proposed:
            ids = unpack(next(arrived))
            scores = None if one.scores is None else next(arrived).tolist()
            told.append(_Told(ids, scores or [], list(range(len(ids))) if one.rows is None else next(arrived).tolist()))
        # Proposed within the deadline: its scores are due.
        due = [(one, own) for one, own in zip(proposed, told, strict=True) if one.scores is None]
        made = [
            self.bound.score(one.ids, one.rows, lengths=[len(ids) for ids in own.ids], timed=False) for one, own in due
        ]
        for (_, own), found in zip(due, to_host(*made), strict=True):
            own.scores = found.tolist()
        return told

    def _take(self, told: "_Told", at_step: int) -> Candidates | None:
        """Offers candidates; returns those that are read back as other tokens, which have other scores."""
        found = told.scores
        finite = [i for i, value in enumerate(found) if math.isfinite(value)]
        self.met_finite = self.met_finite or bool(finite)
        others: dict[tuple[int, ...], int] = {}
        for index in sorted(finite, key=lambda i: -found[i]):
            row, prompt = told.rows[index], told.ids[index]
            task = self.tasks[row]
            board = self.boards[task]
            before = board.best_score
            other = board.offer(prompt, found[index])
            if other is not None:
                others.setdefault(other, row)
            if board.best_score > before:
                self.last_gain = at_step
                plain = board.plain(prompt, found[index])
                self.histories[task].append(HistoryPoint(at_step, self.seconds, self.bound.evaluations, plain))
        if not others:
            return None
        device = self.bound.groups.device
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
