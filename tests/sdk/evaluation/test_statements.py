"""Precision and recall by counting."""

import pytest

from hardprompts.evaluation import Match, mean_match, statement_match


def test_what_is_right_and_what_is_missing() -> None:
    found = statement_match(["fox", "blue", "hat", "fox"], {"fox", "blue", "tree", "night"})
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), 0.5)
    assert found.f1 == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [([], ["a"], (0, 0, 0)), (["a"], [], (0, 1, 0)), ([], [], (1, 1, 1)), (["a"], ["b"], (0, 0, 0))],
)
def test_nothing_said_and_nothing_to_say(found: list[str], true: list[str], expected: tuple[float, ...]) -> None:
    match = statement_match(found, true)
    assert (match.precision, match.recall, match.f1) == expected


def test_the_mean_of_several() -> None:
    assert mean_match([Match(1, 0), Match(0.5, 0.5)]) == Match(0.75, 0.25)
    with pytest.raises(ValueError, match="at least one"):
        mean_match([])
