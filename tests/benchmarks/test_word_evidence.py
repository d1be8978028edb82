"""The benchmark of evidence reads texts and counts as it says."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
DEFAULT = "the default"

RUN = {
    DEFAULT: {"text": "a fox wallpaper", "phrases": [["fox", 0.9], ["wallpaper", 0.2]], "passes": 100, "evidence passes": 20,
              "left out": []},
    "at least 0.8": {"text": "fox cat", "phrases": [["fox", 0.9], ["cat", 0.9]], "passes": 100, "evidence passes": 90,
                     "left out": []},
}  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import word_evidence

    assert word_evidence.DEFAULT == DEFAULT
    return word_evidence


def measured(bench: Any) -> Any:
    return bench.Measured(RUN, lambda word: word in ("fox", "cat"), ["fox", "cat"], lambda text: text.split())


def test_words_that_say_nothing_are_not_counted(bench: Any) -> None:
    assert measured(bench).words(DEFAULT) == [True, False]
    assert measured(bench).recall(DEFAULT) == 0.5 and measured(bench).recall("at least 0.8") == 1.0


def test_the_calibration_error_is_of_the_defaults_words(bench: Any) -> None:
    error, low, high = bench.error_interval([measured(bench)] * 3)
    assert error == pytest.approx(0.15) and low == pytest.approx(error) == pytest.approx(high)


def test_a_world_is_summed_up_row_by_row(bench: Any) -> None:
    facts, lines = bench.summarized([measured(bench)] * 3)
    assert facts["pictures"] == 3 and facts[DEFAULT]["true words"][0] == 0.5
    assert facts["at least 0.8"]["more recall"][0] == 0.5
    assert lines[0][0] == "the default, 3" and lines[1][-1] == "90%"


def test_few_words_are_off_by_chance_even_where_probabilities_are_right(bench: Any) -> None:
    def of(*probabilities: float) -> Any:
        phrases = [["fox", probability] for probability in probabilities]
        return bench.Measured({DEFAULT: {**RUN[DEFAULT], "phrases": phrases}}, lambda word: True, ["fox"], str.split)

    assert bench.perfect_error([of(0.0, 1.0)]) == 0.0
    few, many = bench.perfect_error([of(*[0.5] * 10)]), bench.perfect_error([of(*[0.5] * 1000)])
    assert few == pytest.approx(0.5) and 0 < many < 0.06
