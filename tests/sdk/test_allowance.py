"""What is left of a call, over all that it does."""

import pytest

from hardprompts import allowance as module
from hardprompts.allowance import GRACE, Allowance


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What all allowances look at."""
    stopped = Clock()
    monkeypatch.setattr(module, "clock", stopped)
    return stopped


def test_parts_have_less_and_spend_of_the_whole(clock: Clock) -> None:
    whole = Allowance(10.0, 100)
    part = whole.share(2)
    assert (part.seconds_left, part.remaining) == (5.0, 50)
    part.spend(30)
    clock.now = 4.0
    assert (part.seconds_left, part.remaining) == (1.0, 20)
    assert (whole.seconds_left, whole.remaining, whole.evaluations) == (6.0, 70, 30)
    whole.spend(60)
    assert part.remaining == 10  # no more than the whole has
    assert Allowance().share(3).seconds_left is None and not Allowance().share(3).is_limited


def test_a_search_leaves_something_for_what_is_measured_behind_it(clock: Clock) -> None:
    whole = Allowance(10.0, 1000)
    assert whole.keeping(90).remaining == 910 and whole.keeping(90).seconds_left == pytest.approx(8.5)
    assert whole.keeping(900).remaining == 750  # never more than a quarter
    assert Allowance(max_evaluations=3).keeping(9).remaining == 3


def test_batches_stay_within_the_passes_and_are_counted() -> None:
    allowance = Allowance(max_evaluations=10)
    assert [len(part) for part in allowance.batches(range(100), 4, passes=2)] == [4, 1]
    assert allowance.evaluations == 10 and list(allowance.batches(range(5))) == []
    assert [len(part) for part in Allowance().batches(range(10), 4)] == [4, 4, 2]


def test_batches_stay_within_the_time_and_grow_to_what_there_is_time_for(clock: Clock) -> None:
    allowance, sizes = Allowance(10.0), []
    for part in allowance.batches(range(1000), 256):
        sizes.append(len(part))
        clock.now += 0.05 * len(part)
    assert sizes[0] == 8 and max(sizes) > 30 and 150 < sum(sizes) <= 200
    assert clock.now == pytest.approx(10.0, abs=0.2)


def test_what_is_measured_is_whole_or_left_out_with_a_note() -> None:
    allowance = Allowance(max_evaluations=5)
    assert allowance.measured("figures", [1, 2, 3], lambda part: [2 * one for one in part]) == [2, 4, 6]
    assert allowance.measured("others", [1, 2, 3], lambda part: [1 / 0]) is None
    assert allowance.left_out == ["others: 0 of 3"] and allowance.evaluations == 3


def test_a_keyboard_interrupt_ends_what_is_measured_and_nothing_else(clock: Clock) -> None:
    allowance = Allowance()

    def interrupted(part: object) -> list[float]:
        raise KeyboardInterrupt

    assert allowance.measured("figures", [1], interrupted) is None
    assert allowance.stopped == "interrupted" and allowance.is_over and allowance.left_out == ["figures: 0 of 1"]


def test_what_a_result_cannot_be_without_is_done_again_after_an_interrupt() -> None:
    allowance, calls = Allowance(), []

    def work() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return 7

    assert allowance.insist(work, passes=1) == 7 and allowance.stopped == "interrupted"
    assert allowance.evaluations == 1


def test_a_part_that_is_stopped_stops_the_whole_after_a_while(clock: Clock) -> None:
    whole = Allowance()
    whole.share(2).stop("cancelled")
    assert whole.stopped == "cancelled" and whole.seconds_left == GRACE and not whole.is_over
    clock.now = GRACE
    assert whole.is_over


def test_the_caller_is_asked_now_and_then(clock: Clock) -> None:
    allowance, answers = Allowance(), [False, True]
    asked = []

    def look() -> bool:
        asked.append(clock.now)
        return answers[len(asked) - 1]

    allowance.watch(look)
    for _ in range(10):
        clock.now += 0.2
        if allowance.is_over:
            break
    assert asked == pytest.approx([0.6, 1.2]) and allowance.stopped == "cancelled"


def test_passes_of_a_cheaper_kind_come_on_top() -> None:
    whole = Allowance(max_evaluations=10)
    part = whole.share(1)
    part.grant(100)
    part.spend(100)
    assert whole.remaining == part.remaining == 10
