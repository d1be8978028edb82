"""Evidence for the phrases of prompts: what is measured, what calibrations make of it, and what a bound leaves."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hardprompts import FileFormatError, HardPrompt, NonFiniteError, PromptInverter
from hardprompts.allowance import Allowance
from hardprompts.inversion import EvidenceCalibration
from hardprompts.inversion.evidence.calibration import (
    LabeledFigures,
    calibration_error,
    fitted,
    load_calibrations,
    save_calibrations,
)
from hardprompts.inversion.evidence.figures import TEMPERATURE
from hardprompts.inversion.evidence.fitting import calibrate, is_true, source_of
from hardprompts.inversion.evidence.looks import VIEWS
from hardprompts.inversion.evidence.source import EvidenceSource
from hardprompts.inversion.evidence.statements import statements, tidy, without
from hardprompts.inversion.views import ViewFeatures
from hardprompts.methods.word_table import WordTable
from hardprompts.search import Candidates
from hardprompts.testing import ToyEncoder, toy_backend
from hardprompts.wording import Categories

BACKEND = toy_backend()
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)
INVERTER = PromptInverter(BACKEND)


class FixedSearch:
    """Says "red boat" again and again, so that a search has cost something."""

    def steps(
        self, objective: Any, vocabulary: Any, initial_ids: torch.Tensor, generator: torch.Generator
    ) -> Iterator[Candidates]:
        for _ in range(20):
            yield Candidates(torch.tensor([vocabulary.encode("red boat")] * len(initial_ids)))


BOATS = PromptInverter(BACKEND, method=FixedSearch())
QUICK = {"views": 1, "restarts": 8, "progress": False, "seed": 0}
DEFAULT = Categories.default()


def features(*texts: str) -> torch.Tensor:
    return BACKEND.encode_texts(texts)


# --- statements -----------------------------------------------------------------------------


def test_statements_are_phrases_that_say_something_each_once() -> None:
    found = statements("A neon picture of a fox, a hot dog and the Fox", DEFAULT)
    assert [(one.phrase, one.category) for one in found] == [
        ("neon", "style"), ("fox", "subject"), ("hot dog", "subject"),
    ]  # fmt: skip
    assert found[1].spans == ((20, 23), (43, 46))


@pytest.mark.parametrize(
    ("text", "left_out", "expected"),
    [
        ("red fox, neon", "red", "fox, neon"),
        ("red, fox, neon", "fox", "red, neon"),
        ("red fox", "fox", "red"),
        ("fox", "fox", ""),
        ("fox neon fox", "fox", "neon"),
        ("a picture of a fox on blue", "fox", "a picture on blue"),
        ("a fox and a cat", "fox", "a cat"),
        ("a fox and a cat", "cat", "a fox"),
        ("malaria watercolor turquoise", "malaria", "watercolor turquoise"),
    ],
)
def test_what_is_left_out_leaves_no_loose_ends(text: str, left_out: str, expected: str) -> None:
    found = [one for one in statements(text, DEFAULT) if one.phrase == left_out]
    assert without(text, found) == expected


def test_tidy_changes_nothing_that_is_tidy() -> None:
    for text in ("red, fox", "a fox; a cat", "1,000 foxes", ""):
        assert tidy(text) == text


# --- what is measured -----------------------------------------------------------------------


def test_a_phrase_contributes_what_is_lost_without_it() -> None:
    prompt = INVERTER.evidence("red house", features("red house"))
    assert [one.phrase for one in prompt.evidence] == ["red", "house"]
    for one, other in zip(prompt.evidence, ("house", "red"), strict=True):
        lost = float(
            features("red house")[0] @ features("red house")[0] - features("red house")[0] @ features(other)[0]
        )
        assert one.contribution == pytest.approx(lost, abs=1e-5)
        assert one.regions == ()  # features have no parts
    assert any("regions" in one for one in prompt.left_out)


def test_a_prompt_of_ones_own_keeps_all_that_is_known_of_it() -> None:
    given = INVERTER.invert(features("red house"), num_tokens=2, **QUICK)
    told = INVERTER.evidence(given, features("red house"))
    assert (
        dataclasses.replace(
            told, evidence=(), left_out=given.left_out, provenance=given.provenance, evaluations=given.evaluations
        )
        == given
    )
    assert told.evaluations == given.evaluations + told.provenance["evidence"]["passes"]


def test_evidence_leaves_the_prompt_as_it_is_and_costs_no_more_than_the_search() -> None:
    plain = INVERTER.invert(features("red house"), num_tokens=2, **QUICK)
    told = INVERTER.invert(features("red house"), num_tokens=2, evidence=True, **QUICK)
    assert (told.text, told.token_ids, told.candidates) == (plain.text, plain.token_ids, plain.candidates)
    assert told.evidence and not plain.evidence
    spent = told.provenance["evidence"]["passes"]
    assert 0 < spent <= plain.evaluations and told.evaluations == plain.evaluations + spent


def test_what_there_is_no_room_for_is_named() -> None:
    told = INVERTER.evidence("red house", features("red house"), max_evaluations=2)
    assert told.evidence == () and "evidence of phrases: 0 of 3" in told.left_out
    told = INVERTER.evidence("red house", features("red house"), max_evaluations=8)
    assert len(told.evidence) == 2 and any(one.startswith("exchanges of phrases") for one in told.left_out)
    assert all(one.exchange is None for one in told.evidence)


def test_a_deadline_that_is_over_leaves_the_prompt() -> None:
    told = INVERTER.evidence("red house", features("red house"), deadline=0.0)
    assert told.text == "red house" and told.evidence == () and told.left_out


def test_several_images_share_what_is_true_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    _calibrated(monkeypatch, {"alone": 1.0}, searched=False)
    both = INVERTER.evidence("red", features("red house", "old boat")).evidence[0]
    apart = [INVERTER.evidence("red", features(text)).evidence[0].probability for text in ("red house", "old boat")]
    assert both.probability == pytest.approx(min(p for p in apart if p is not None), abs=1e-6)
    assert apart[0] != apart[1]


def test_features_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(NonFiniteError):
        INVERTER.evidence("red", torch.full((1, BACKEND.feature_width), math.nan))


@pytest.mark.parametrize("text", ["", "a picture of the", "..."])
def test_a_text_that_says_nothing_has_no_evidence(text: str) -> None:
    assert INVERTER.evidence(text, features("red house")).evidence == ()


# --- calibrations ---------------------------------------------------------------------------


def _calibrated(
    monkeypatch: pytest.MonkeyPatch, weights: dict[str, float], bias: float = 0.0, searched: bool = True
) -> EvidenceCalibration:
    one = EvidenceCalibration(("toy",), weights, {"": bias}, searched, "a test")

    for inverter in (INVERTER, BOATS):
        monkeypatch.setattr(inverter, "_calibrations", (one,))
    return one


def test_nothing_calibrated_gives_no_probability_and_says_so() -> None:
    told = INVERTER.evidence("red house", features("red house"))
    assert all(one.probability is None for one in told.evidence)
    assert any("nothing is calibrated for toy" in one for one in told.left_out)
    assert told.provenance["evidence"]["calibration"] is None


def test_a_calibration_learns_which_figures_speak_for_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, generator=generator) * 2
    noise = torch.randn(4000, generator=generator)
    labels = torch.rand(4000, generator=generator) < torch.sigmoid(1.5 * logits - 1)
    examples = [
        LabeledFigures({"alone": float(a), "noise": float(n)}, "subject", bool(t))
        for a, n, t in zip(logits, noise, labels, strict=True)
    ]
    one = fitted(examples, ["toy"], ["alone", "noise"])
    for alone in (-1.0, 0.0, 2 / 3, 2.0):
        expected = 1 / (1 + math.exp(1 - 1.5 * alone))
        for noise_of in (-1.0, 1.0):
            found = one.probability({"alone": alone, "noise": noise_of}, "subject")
            assert found == pytest.approx(expected, abs=0.06)


def test_a_calibration_learns_what_two_figures_say_together() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 4000, generator=generator)
    labels = torch.rand(4000, generator=generator) < torch.sigmoid(2 * one * other)
    examples = [
        LabeledFigures({"a": float(a), "b": float(b), "same": 1.0}, "subject", bool(t))
        for a, b, t in zip(one, other, labels, strict=True)
    ]
    found = fitted(examples, ["toy"], ["a", "b", "same"])
    assert "same" not in found.figures
    for a, b in ((1.5, 1.5), (-1.5, -1.5), (1.5, -1.5), (0.0, 0.0)):
        expected = 1 / (1 + math.exp(-2 * a * b))
        assert found.probability({"a": a, "b": b}, "subject") == pytest.approx(expected, abs=0.1)
    far = found.probability({"a": 100.0, "b": 100.0}, "subject")
    assert far == pytest.approx(
        found.probability({"a": 3.2, "b": 3.2}, "subject"), abs=0.02
    )  # no further than 3 spreads


@pytest.mark.parametrize("true", [True, False])
def test_examples_of_one_kind_calibrate_nothing(true: bool) -> None:
    with pytest.raises(ValueError, match="true and false"):
        fitted([LabeledFigures({"alone": 1.0}, "subject", true)] * 3, ["toy"], ["alone"])


def test_calibrations_are_kept_in_a_file(tmp_path: Path) -> None:
    one = EvidenceCalibration(
        (BACKEND.name, "b"),
        {"alone": 0.1, "alone * part": -0.2},
        {"": -1.0, "color": 0.5},
        False,
        "a test",
        {"color": ("umber",)},
        {"alone": (1.0, 0.5)},
    )
    assert load_calibrations(save_calibrations(tmp_path / "c.json", [one])) == (one,)
    assert one.extended(DEFAULT).category("umber") == "color"
    assert PromptInverter(BACKEND, calibrations=tmp_path / "c.json").calibrations == (one,)
    with pytest.raises(ValueError, match="the calibrations are for 'another' and not for"):
        PromptInverter(BACKEND, calibrations=[dataclasses.replace(one, models=("another",))])
    assert PromptInverter(BACKEND, calibrations=()).calibrations == ()


WHOLE = {"models": ["a"], "weights": {}, "biases": {}, "searched": True, "scales": {}}


@pytest.mark.parametrize(
    "content",
    [
        [], {}, {"format_version": 1, "calibrations": []}, {"format_version": 2},
        {"format_version": 2, "calibrations": [{"models": ["a"]}]},
        {"format_version": 2, "calibrations": [{**WHOLE, "weights": {"x": "y"}}]},
        {"format_version": 2, "calibrations": [{**WHOLE, "weights": {"x": math.inf}}]},
        {"format_version": 2, "calibrations": [{**WHOLE, "scales": {"x": [0.0, 0.0]}}]},
        {"format_version": 2, "calibrations": [{**WHOLE, "scales": {"x": 1.0}}]},
    ],
)  # fmt: skip
def test_damaged_calibrations_are_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=r"c\.json"):
        load_calibrations(tmp_path / "c.json")


def test_what_a_search_found_is_calibrated_apart_from_what_somebody_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    _calibrated(monkeypatch, {"alone": 1.0}, searched=True)
    found = INVERTER.invert(features("red house"), num_tokens=2, **QUICK)
    assert INVERTER.evidence(found, features("red house")).evidence[0].probability is not None
    assert INVERTER.evidence(found.text, features("red house")).evidence[0].probability is None
    foreign = dataclasses.replace(found, model="another")
    assert INVERTER.evidence(foreign, features("red house")).evidence[0].probability is None


def test_a_calibration_of_another_model_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    one = dataclasses.replace(_calibrated(monkeypatch, {"alone": 1.0}, searched=False), models=("another",))
    monkeypatch.setattr(INVERTER, "_calibrations", (one,))
    assert INVERTER.evidence("red", features("red house")).evidence[0].probability is None


# --- the bound ------------------------------------------------------------------------------


NO_START = {**QUICK, "initial_prompt": "red boat", "num_tokens": 2}


def test_what_is_not_likely_enough_goes_and_what_is_missing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    _calibrated(monkeypatch, {"alone": 4.0}, -2.0)
    found = BOATS.invert(features("red house"), min_evidence=0.8, **NO_START)
    assert found.evidence and all((one.probability or 0) >= 0.8 for one in found.evidence)
    assert sorted(found.text.split()) == ["house", "red"]
    assert BACKEND.vocabulary.encode(found.filled) == list(found.token_ids)
    assert found.score == pytest.approx(INVERTER.score(found.text, features("red house")), abs=1e-5)
    assert found.candidates[0].text == found.text and len(found.attributions) == len(found.token_ids)


def test_required_words_stay_whatever_speaks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    _calibrated(monkeypatch, {"alone": 4.0}, -2.0)
    found = INVERTER.invert(features("red house"), num_tokens=3, min_evidence=0.8, required=["boat"], **QUICK)
    assert "boat" in found.text.split()


def test_where_nothing_is_true_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _calibrated(monkeypatch, {}, -20.0)
    found = INVERTER.invert(features("red house"), num_tokens=2, min_evidence=0.8, template="a {} b", **QUICK)
    assert found.text == "" and found.token_ids == () and found.evidence == () and found.filled == "a  b"
    assert HardPrompt.from_dict(found.to_dict()) == found


def test_banned_words_are_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _calibrated(monkeypatch, {"alone": 4.0}, -2.0)
    found = BOATS.invert(features("red house"), min_evidence=0.8, banned=["house"], **NO_START)
    assert "house" not in found.text


def test_without_a_calibration_nothing_is_dropped() -> None:
    plain = INVERTER.invert(features("red house"), num_tokens=2, **QUICK)
    found = INVERTER.invert(features("red house"), num_tokens=2, min_evidence=0.9, **QUICK)
    assert found.text == plain.text and any("nothing is calibrated" in one for one in found.left_out)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, math.nan])
def test_a_bound_is_a_probability(value: float) -> None:
    with pytest.raises(ValueError, match="min_evidence"):
        INVERTER.invert(features("red house"), min_evidence=value)


def test_evidence_is_found_for_each_of_several_tasks() -> None:
    found = INVERTER.invert_each(features("red house", "old boat"), num_tokens=2, evidence=True, **QUICK)
    assert [{one.phrase for one in prompt.evidence} for prompt in found] == [{"red", "house"}, {"old", "boat"}]


def test_a_prompt_that_is_given_may_be_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    _calibrated(monkeypatch, {"alone": 4.0}, -2.0, searched=False)
    kept = INVERTER.evidence("red boat", features("red house"), min_evidence=0.8)
    assert kept.text == "red" and kept.method == "by hand"  # nothing is added to what somebody wrote
    _calibrated(monkeypatch, {"alone": 4.0}, -2.0)
    found = BOATS.invert(features("red house"), **NO_START)
    bounded = INVERTER.evidence(found, features("red house"), min_evidence=0.8)
    assert sorted(bounded.text.split()) == ["house", "red"]


# --- fitting --------------------------------------------------------------------------------


def test_the_error_of_a_calibration_is_how_far_bins_are_off() -> None:
    assert calibration_error([0.0, 1.0], [False, True]) == 0
    assert calibration_error([0.8] * 10, [True] * 8 + [False] * 2, bins=1) == pytest.approx(0)
    assert calibration_error([0.1, 0.9], [True, True], bins=2) == pytest.approx(0.5)
    assert calibration_error([0.5] * 8, [True, False] * 4, bins=4) == pytest.approx(0)  # equal ones are not parted
    with pytest.raises(ValueError, match="one for each"):
        calibration_error([], [])


@pytest.mark.parametrize(
    ("phrase", "true"),
    [
        ("fox", True),
        ("Foxes", True),
        ("teddy bear", True),
        ("teddy cat", False),
        ("berries", True),
        ("wallpaper", False),
    ],
)
def test_a_phrase_is_true_if_all_its_words_are(phrase: str, true: bool) -> None:
    assert is_true(phrase, {"fox", "teddy bear", "berry"}) == true


def test_labeled_pictures_calibrate_a_model_of_ones_own() -> None:
    pairs = [("red house", {"red", "house"}), ("old boat", {"old", "boat"}), ("red boat", {"red", "boat"})]
    found = calibrate(
        BOATS, [features(text) for text, _ in pairs], [true for _, true in pairs], source="a test",
        ways=({"restarts": 4, "num_tokens": 2, "views": 1, "initial_prompt": "red boat"},), progress=False,
    )  # fmt: skip
    assert {one.searched for one in found} == {True, False} and all(one.models == ("toy",) for one in found)
    assert all("a test" in one.source for one in found)
    with pytest.raises(ValueError, match="2 images and 1 lists"):
        calibrate(INVERTER, [features("red"), features("old")], [{"red"}])


def test_pictures_that_were_left_aside_say_how_far_to_trust_many_figures() -> None:
    """Where figures say nothing, many of them are believed less than one that says much."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 12, generator=generator)
    labels = torch.rand(300, generator=generator) < 0.5
    examples = [
        LabeledFigures({f"n{i}": float(value) for i, value in enumerate(row)}, "subject", bool(true), True, place // 10)
        for place, (row, true) in enumerate(zip(noise, labels, strict=True))
    ]
    names = [f"n{i}" for i in range(12)]
    parted = fitted(examples, ["toy"], names)
    believed = fitted([dataclasses.replace(one, picture=0) for one in examples], ["toy"], names)

    def sureness(one: EvidenceCalibration) -> float:
        return sum(abs(one.probability(x.figures, "subject") - 0.5) for x in examples) / len(examples)

    assert sureness(parted) < 0.5 * sureness(believed)


# --- figures --------------------------------------------------------------------------------


def _witness(*texts: str) -> Any:
    source = source_of(INVERTER)
    looks = source.looks(features(*texts), 0, Allowance())
    return source.witness(looks, "{}", lambda said: (features(*said) @ features(*texts).mean(dim=0)).tolist())


def test_figures_say_how_a_phrase_stands_among_all_known_words() -> None:
    witness = _witness("red house")
    (one,) = witness.measures("red", statements("red", DEFAULT), Allowance())
    words = witness.words.texts
    similar = (features(*words) @ features("red house")[0]).double()
    own = float(features("red")[0] @ features("red house")[0])
    assert one.of_pictures[0]["alone"] == pytest.approx((own - float(similar.mean())) / float(similar.std()), abs=1e-3)
    heat = TEMPERATURE * float(similar.std())
    share = math.exp(own / heat) / float((similar / heat).exp().sum())
    assert one.of_pictures[0]["said"] == pytest.approx(math.log(share), abs=1e-3)
    assert one.of_pictures[0]["similarity"] == pytest.approx(own, abs=1e-5)
    assert one.of_pictures[0]["in text"] == 1.0


def test_words_that_a_prompt_lacks_are_measured_as_its_own_are() -> None:
    witness, said = _witness("red house"), statements("red", DEFAULT)
    lacking = witness.lacking("red", said, " ", Allowance(), 4)
    assert len(lacking) == 4 and "house" in {one.statement.phrase for one in lacking}
    assert "red" not in {one.statement.phrase for one in lacking}
    (house,) = (one for one in lacking if one.statement.phrase == "house")
    gained = witness.scores(["red house"])[0] - witness.scores(["red"])[0]
    assert house.contribution == pytest.approx(gained, abs=1e-5) and house.of_pictures[0]["in text"] == 0.0
    (own,) = witness.measures("house", statements("house", DEFAULT), Allowance())
    for name in ("alone", "least alone", "said", "common", "similarity"):
        assert house.of_pictures[0][name] == pytest.approx(own.of_pictures[0][name], abs=1e-3)
    assert max(lacking, key=lambda one: one.contribution) is house


def test_each_picture_is_measured_by_itself() -> None:
    both, said = _witness("red house", "old boat"), statements("red boat", DEFAULT)
    of_both = both.measures("red boat", said, Allowance())
    for place, text in enumerate(("red house", "old boat")):
        alone = _witness(text).measures("red boat", said, Allowance())
        for one, other in zip(of_both, alone, strict=True):
            assert one.of_pictures[place]["alone"] == pytest.approx(other.of_pictures[0]["alone"], abs=1e-4)


def test_where_nothing_is_calibrated_some_words_of_each_category_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    table = WordTable.features

    def features_of(self: Any, words: Any, **options: Any) -> Any:
        read.append(len(words))
        return table(self, words, **options)

    monkeypatch.setattr(WordTable, "features", features_of)
    assert INVERTER.evidence("red", features("red house")).evidence and not read
    assert source_of(INVERTER).thorough and not EvidenceSource.of([BACKEND], (), None).thorough


def test_words_that_are_looked_for_take_half_of_the_passes_at_most_and_may_be_none() -> None:
    allowance = Allowance(max_evaluations=6)
    assert len(_witness("red house").lacking("red", [], " ", allowance)) == 3 and allowance.evaluations == 4
    assert _witness("red house").lacking("red", [], " ", Allowance(max_evaluations=1)) == []


def test_without_time_to_look_nothing_is_lacking() -> None:
    allowance = Allowance(deadline=0.0)
    assert _witness("red house").lacking("red", [], " ", allowance) is None
    assert any("pictures that bear witness" in one for one in allowance.left_out)


def test_what_the_search_saw_of_pictures_is_not_looked_at_again() -> None:
    source = EvidenceSource.of([BACKEND], (), None)
    seen = ViewFeatures((torch.stack([features("red house")[0]] * VIEWS)[None],))
    picture = Image.new("RGB", (8, 8), "red")
    looks = source.looks(picture, 0, Allowance(), seen)
    assert looks.whole == seen.of_models and looks.parts is not None
    few = ViewFeatures((seen.of_models[0][:, :1],))
    assert source.looks(picture, 0, Allowance(), few).whole[0].shape[1] == VIEWS
