"""Intervals against tables and against their own promise by simulation; pictures and texts by hand."""

import math
import sys

import pytest
import torch
from PIL import Image

from hardprompts import HardPrompt
from hardprompts.errors import MissingExtra
from hardprompts.evaluation import (
    Interval,
    Match,
    TextStatistics,
    bootstrap_interval,
    diversities,
    image_similarities,
    markdown_table,
    t_interval,
    t_quantile,
    text_similarities,
    text_statistics,
    word_matches,
)
from hardprompts.testing import ToyEncoder, toy_backend

BACKEND = toy_backend()
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)


# --- intervals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "confidence", "expected"),
    # The printed table of Student's t (two-sided), and for 1 and 2 degrees the closed forms tan(pi p / 2), p sqrt(2 / (1 - p^2)).
    [
        (1, 0.95, math.tan(math.pi * 0.95 / 2)),
        (2, 0.95, 0.95 * math.sqrt(2 / (1 - 0.95**2))),
        (3, 0.95, 3.1824463),
        (4, 0.95, 2.7764451),
        (5, 0.90, 2.0150484),
        (9, 0.95, 2.2621572),
        (10, 0.99, 3.1692727),
        (29, 0.95, 2.0452296),
        (99, 0.95, 1.9842170),
        (120, 0.999, 3.3734537),
    ],
)
def test_t_quantiles_are_those_of_the_tables(degrees, confidence, expected) -> None:
    assert t_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-7)


def test_an_interval_without_scipy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtra, match=r"hardprompts\[sklearn\]"):
        t_interval([1.0, 2.0])
    assert t_interval([1.0]).count == 1


def test_the_t_interval_of_a_textbook_sample() -> None:
    # Mean 3, standard deviation sqrt(2.5), 5 values: 3 ± 2.7764451 sqrt(2.5 / 5).
    found = t_interval([1, 2, 3, 4, 5])
    assert found.mean == 3 and found.count == 5
    assert found.half_width == pytest.approx(2.7764451 * math.sqrt(0.5), rel=1e-7)
    assert found.low == pytest.approx(3 - found.half_width)
    assert t_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)


#: Where the share of 4,000 intervals that hold the truth lies, at 0.95: 4 standard errors of a binomial share.
RUNS, SLACK = 4000, 4 * math.sqrt(0.95 * 0.05 / 4000)


def held(intervals: list[Interval], truth: float) -> float:
    return sum(interval.low <= truth <= interval.high for interval in intervals) / len(intervals)


@pytest.mark.parametrize("count", [3, 8])
def test_t_intervals_hold_the_mean_of_normal_values_as_often_as_they_say(count) -> None:
    rows = (2 + 3 * torch.randn(RUNS, count, generator=torch.Generator().manual_seed(count))).tolist()
    assert held([t_interval(row) for row in rows], 2) == pytest.approx(0.95, abs=SLACK)
    shorter = [t_interval(row, 0.8) for row in rows]
    assert held(shorter, 2) == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / RUNS))


def test_the_bootstrap_by_trying_every_resample() -> None:
    # Of 3 values there are 27 resamples with equal chances, whose quantiles are known without drawing.
    values = [0.0, 1.0, 5.0]
    means = sorted((a + b + c) / 3 for a in values for b in values for c in values)
    found = bootstrap_interval(values, torch.Generator().manual_seed(0), confidence=0.7, resamples=40_000)
    assert found.mean == 2 and found.low == pytest.approx(means[int(0.15 * 27)]) and found.high == pytest.approx(means[int(0.85 * 27)])  # fmt: skip
    again = bootstrap_interval(values, torch.Generator().manual_seed(0), confidence=0.7, resamples=40_000)
    assert found == again


def test_the_bootstrap_is_students_interval_for_many_normal_values() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).tolist()
    ours, students = bootstrap_interval(values, torch.Generator().manual_seed(2), resamples=20_000), t_interval(values)
    assert ours.low == pytest.approx(students.low, abs=0.05 * students.half_width)
    assert ours.high == pytest.approx(students.high, abs=0.05 * students.half_width)


def test_intervals_say_themselves() -> None:
    assert str(Interval(0.8123, 0.8023, 0.8223, 9)) == "0.812 ± 0.010"
    assert str(Interval(0.8, 0.75, 0.95, 9)) == "0.800 [0.750, 0.950]"
    assert str(t_interval([0.25])) == "0.250 (no interval)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: t_interval([]), "at least one value"),
        (lambda: t_interval([1.0, math.nan]), "1 of 2 values are NaN"),
        (lambda: t_interval([1.0, 2.0], 1.0), "confidence"),
        (lambda: t_interval([1.0], 0.0), "confidence"),
        (lambda: bootstrap_interval([1.0], torch.Generator(), resamples=0), "resamples"),
        (lambda: markdown_table([]), "rows of one length"),
        (lambda: markdown_table([["a"], ["a", "b"]]), "rows of one length"),
        (lambda: text_statistics([], BACKEND.vocabulary), "no prompts"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- pictures -----------------------------------------------------------------------------


def pictures(*texts: str) -> list[Image.Image]:
    return [TOWER.picture(text) for text in texts]


def test_image_similarity_is_the_mean_over_the_pictures_of_each_target() -> None:
    made = [pictures("red house", "old boat"), pictures("cat"), pictures("dog river", "dog", "night")]
    targets = pictures("red house", "night rain", "dog river")
    expected = []
    for own, target in zip(made, targets, strict=True):
        wanted = BACKEND.encode_images([target])[0]
        expected.append(sum(float(BACKEND.encode_images([picture])[0] @ wanted) for picture in own) / len(own))
    found = image_similarities(made, targets, BACKEND)
    assert found == pytest.approx(tuple(expected), abs=1e-6)
    assert image_similarities([pictures("cat")], pictures("cat"), BACKEND) == pytest.approx((1.0,), abs=1e-6)
    assert image_similarities([], [], BACKEND) == ()


def test_diversity_is_one_less_the_mean_over_the_pairs() -> None:
    texts = ("red house", "old boat", "night rain", "dog")
    found = diversities([pictures(*texts), pictures("cat", "cat")], BACKEND)
    rows = BACKEND.encode_images(pictures(*texts))
    pairs = [float(rows[i] @ rows[j]) for i in range(4) for j in range(i)]
    assert found[0] == pytest.approx(1 - sum(pairs) / 6, abs=1e-6)
    assert found[1] == pytest.approx(0, abs=1e-6)
    assert diversities([], BACKEND) == ()


def test_missing_pictures_are_named() -> None:
    with pytest.raises(ValueError, match="entry 1 has 0 pictures"):
        image_similarities([pictures("cat"), []], pictures("cat", "dog"), BACKEND)
    with pytest.raises(ValueError, match="entry 0 has 1 pictures and needs at least 2"):
        diversities([pictures("cat")], BACKEND)
    with pytest.raises(ValueError, match="1 lists and 2 targets"):
        image_similarities([pictures("cat")], pictures("cat", "dog"), BACKEND)


# --- text ---------------------------------------------------------------------------------


def test_text_statistics_by_hand() -> None:
    words = BACKEND.vocabulary
    good = HardPrompt("red house red", tuple(words.encode("red house red")), 0.5, template="the {} in snow")
    bad = HardPrompt("old boat", tuple(words.encode("red boat")), 0.5)
    found = text_statistics([good, bad, "Zebra, ca boat!"], words, words=["RED", "house", "old", "boat"])
    assert found.count == 3
    assert found.tokens == pytest.approx((3 + 2 + len(words.encode("Zebra, ca boat!"))) / 3)
    assert found.words == pytest.approx((3 + 2 + 3) / 3)
    assert found.dictionary_share == pytest.approx(6 / 8)
    assert found.round_trip_rate == pytest.approx(2 / 3)
    assert found.repeated_share == pytest.approx(1 / 8)


def test_text_statistics_without_words_or_word_list() -> None:
    found = text_statistics([""], BACKEND.vocabulary)
    assert found == TextStatistics(1, 0.0, 0.0, None, 1.0, 0.0)
    assert found.row() == ("1", "0.0", "0.0", "", "100.0 %", "0.0 %")
    assert len(TextStatistics.HEAD) == len(found.row()) and str(found).startswith("| 1 | 0.0 |")


def test_a_word_is_letters_with_hyphens_and_apostrophes_among_them() -> None:
    found = text_statistics(["the cat's well-known 3 été x2 -- -"], BACKEND.vocabulary)
    assert found.words == 5  # the, cat's, well-known, été, x


# --- against true prompts -----------------------------------------------------------------


def test_the_likeness_of_texts_is_that_of_their_features() -> None:
    texts, true = ["cat red", "dog"], ["red cat", "tree"]
    expected = (BACKEND.encode_texts(texts) * BACKEND.encode_texts(true)).sum(dim=1).tolist()
    assert text_similarities(texts, true, BACKEND) == pytest.approx(expected, abs=1e-6)
    assert text_similarities([], [], BACKEND) == ()
    with pytest.raises(ValueError, match="2 prompts and 1 true"):
        text_similarities(texts, true[:1], BACKEND)


def test_words_that_both_have_count_fully_whatever_their_order() -> None:
    (same,) = word_matches(["red cat"], ["Cat, red"], BACKEND)
    assert same.f1 == pytest.approx(1, abs=1e-6)
    (more,) = word_matches(["red cat tree dog"], ["cat"], BACKEND)
    assert more.recall == pytest.approx(1, abs=1e-6) and more.precision < 1
    features = BACKEND.encode_texts(["red", "cat", "tree", "dog"])
    assert more.precision == pytest.approx(float((features @ features[1]).clamp(min=0).mean()), abs=1e-6)
    assert word_matches(["", "cat"], ["cat", ""], BACKEND) == (Match(0, 0), Match(0, 1))
