"""What is left of one call: its seconds, its passes, and whether the caller ended it."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

#: What seconds and deadlines are measured by.
clock: Callable[[], float] = time.perf_counter

#: Seconds between two looks at whether the caller wants the call to end, while no search is running.
LOOK_EVERY = 0.5

#: Seconds for what is still measured of a result after the caller ended the search.
GRACE = 5.0

#: What a search leaves for the work behind it: a share of the time, and at most a share of the passes.
KEPT_TIME, KEPT_PASSES = 0.15, 0.25

#: Items of the first batch where there is a deadline: how long one takes is not known before.
FIRST_BATCH = 8

#: The share of the time that is left which one batch may take.
BATCH_TIME = 0.25

Item = TypeVar("Item")
Value = TypeVar("Value")


class Allowance:
    """What one call may still spend on all that it does: on preparing, on searching, on measuring what was found.

    A front door makes one when it is called, and hands it, or parts of it, to whatever works for that call. Parts
    have less, and what they spend is spent of the whole.

    Attributes:
        evaluations: forward and backward passes of one prompt each, so far.
        left_out: what there was no time and no passes for, in words.
    """

    def __init__(
        self,
        deadline: float | None = None,
        max_evaluations: int | None = None,
        *,
        whole: "Allowance | None" = None,
    ) -> None:
        self.evaluations = 0
        self.left_out: list[str] = [] if whole is None else list(whole.left_out)
        self._ends = None if deadline is None else clock() + deadline
        self._max_evaluations = max_evaluations
        self._whole = whole
        self._stopped = ""
        self._look: Callable[[], bool] | None = None
        self._looked = 0.0

    # --- what is left ---------------------------------------------------------------------

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, 0 behind it; None: there is none."""
        ends = [one._ends for one in self._chain() if one._ends is not None]
        return max(0.0, min(ends) - clock()) if ends else None

    @property
    def remaining(self) -> int | None:
        """Passes that are left; None: there is no limit."""
        pairs = ((one._max_evaluations, one.evaluations) for one in self._chain())
        return min((max(0, limit - spent) for limit, spent in pairs if limit is not None), default=None)

    @property
    def is_limited(self) -> bool:
        """Whether there is a deadline or a limit of passes."""
        return self.seconds_left is not None or self.remaining is not None

    @property
    def stopped(self) -> str:
        """Why the caller ended the call, "interrupted" or "cancelled"; "" if nobody did."""
        return self._root._stopped

    @property
    def is_over(self) -> bool:
        """Whether nothing more should be begun: the time is up, or the caller wants the call to end."""
        root = self._root
        if root._look is not None and not root._stopped and clock() - root._looked >= LOOK_EVERY:
            root._looked = clock()
            if root._look():
                self.stop("cancelled", grace=0.0)
        return self.seconds_left == 0.0

    def affords(self, passes: int) -> bool:
        """Whether there is still time, and so many passes are left."""
        return not self.is_over and (self.remaining is None or self.remaining >= passes)

    # --- spending -------------------------------------------------------------------------

    def spend(self, passes: int) -> None:
        """Counts passes that were made."""
        for one in self._chain():
            one.evaluations += passes

    def watch(self, look: Callable[[], bool]) -> None:
        """Asks the caller now and then, not before `LOOK_EVERY` seconds from now, whether to end the call (True)."""
        self._root._look, self._root._looked = look, clock()

    def grant(self, passes: int) -> None:
        """Allows more passes than were asked for: those that come on top, of a cheaper kind; or, below 0, fewer."""
        for one in self._chain():
            if one._max_evaluations is not None:
                one._max_evaluations += passes

    def stop(self, reason: str, grace: float = GRACE) -> None:
        """Ends the call: nothing new is searched, and what is measured of the result takes `grace` seconds at most."""
        root = self._root
        root._stopped = root._stopped or reason
        root._ends = min(math.inf if root._ends is None else root._ends, clock() + grace)

    def leave_out(self, what: str, done: int, total: int) -> None:
        """Notes what there was no room for, if there was not; nothing of what has no name."""
        if what and done < total:
            self.left_out.append(f"{what}: {int(done)} of {total}")

    def share(self, parts: int, max_evaluations: int | None = None) -> "Allowance":
        """One of `parts` equal parts of what is left.

        Args:
            max_evaluations: passes that it may take, if it is another number.
        """
        seconds, passes = self.seconds_left, self.remaining
        most = passes // parts if max_evaluations is None and passes is not None else max_evaluations
        return Allowance(None if seconds is None else seconds / parts, most, whole=self)

    def keeping(self, passes: int) -> "Allowance":
        """What is left, less what is kept for measuring what a search finds.

        Args:
            passes: that the measuring would take.
        """
        seconds, left = self.seconds_left, self.remaining
        return Allowance(
            None if seconds is None else (1 - KEPT_TIME) * seconds,
            None if left is None else left - min(passes, int(KEPT_PASSES * left)),
            whole=self,
        )

    # --- measuring ------------------------------------------------------------------------

    def batches(
        self, items: Sequence[Item], size: int = 256, passes: int = 1, first: int = FIRST_BATCH
    ) -> Iterator[Sequence[Item]]:
        """The items in batches, as long as there is room for more; with a deadline they grow from small ones.

        Args:
            size: items of a batch, at most.
            passes: that each item takes, which are counted here.
            first: items of the first batch where there is a deadline, at most.
        """
        done, began = 0, clock()
        while done < len(items) and not self.is_over:
            count = min(size, len(items) - done)
            if (seconds := self.seconds_left) is not None:
                pace = done / max(clock() - began, 1e-9)
                count = min(count, max(1, int(BATCH_TIME * seconds * pace)) if done else first)
            if (left := self.remaining) is not None and passes:
                count = min(count, left // passes)
            if count < 1:
                return
            self.spend(count * passes)
            yield items[done : done + count]
            done += count

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Around what is measured of a result that is already there: a keyboard interrupt ends it, and no more."""
        try:
            yield
        except KeyboardInterrupt:
            self.stop("interrupted", grace=0.0)

    def measured(
        self,
        what: str,
        items: Sequence[Item],
        measure: Callable[[Sequence[Item]], Sequence[Value]],
        *,
        size: int = 256,
        passes: int = 1,
    ) -> list[Value] | None:
        """What is measured of each item; None, with a note in `left_out`, where there is no room for all of them.

        A keyboard interrupt ends the measuring, and no more.

        Args:
            what: is measured, for the note; "": no note.
            measure: of one batch.
            size, passes: see `batches`.
        """
        found: list[Value] = []
        if self.affords(passes * len(items)):
            with self.reporting():
                for batch in self.batches(items, size, passes):
                    found += measure(batch)
        self.leave_out(what, len(found), len(items))
        return found if len(found) == len(items) else None

    def insist(self, work: Callable[[], Value], passes: int = 0) -> Value:
        """What a result cannot do without, whatever is left; after a keyboard interrupt it is done again."""
        self.spend(passes)
        try:
            return work()
        except KeyboardInterrupt:
            self.stop("interrupted", grace=0.0)
            return work()

    # --- the whole ------------------------------------------------------------------------

    def _chain(self) -> "Iterator[Allowance]":
        """This, what it is a part of, and so on."""
        one: Allowance | None = self
        while one is not None:
            yield one
            one = one._whole

    @property
    def _root(self) -> "Allowance":
        return list(self._chain())[-1]
