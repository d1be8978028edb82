"""The page about a prompt: it says what is known, and nothing in it acts or tells of this machine."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audits import Page
from PIL import Image

from hardprompts import HardPrompt, ImageError, PromptInverter
from hardprompts.applications import prompt_page
from hardprompts.applications.evidence import MEANING, evidence_table, kept_phrases, place_in_words, truth_note
from hardprompts.applications.interactions import DEPENDENCE
from hardprompts.applications.report import MAX_POINTS, Curve
from hardprompts.prompts import Candidate, HistoryPoint, TradeOff, WordWeights, notes_on
from hardprompts.testing import toy_backend
from hardprompts.wording import WordEvidence, WordInteractions

EVIDENCE = (
    WordEvidence("red fox", "subject", 0.25, 0.2, 0.97, ((0.0, 0.0, 0.5, 0.5),)),
    WordEvidence("neon", "style", -0.01, None, 0.12),
)
INTERACTIONS = WordInteractions(("red fox", "neon"), (0.25, -0.01), ((0.0, -0.031), (-0.031, 0.0)))
CALIBRATED = {"evidence": {"calibration": "2,000 scenes"}}


def whole(**fields: Any) -> HardPrompt:
    """A prompt of which all is known."""
    known: dict[str, Any] = {
        "text": "red fox neon",
        "token_ids": (1, 2, 3),
        "score": 0.123456,
        "template": "art of {} (best)",
        "model": "toy",
        "method": "gcg",
        "tokens": ("red", "fox", "neon"),
        "attributions": (0.2, 0.1, -0.05),
        "candidates": (Candidate("red fox neon", (1, 2, 3), 0.123), Candidate("blue owl", (4, 5), 0.111)),
        "history": tuple(HistoryPoint(step, step / 10, 100 * step, 0.1 * step) for step in range(4)),
        "seed": 7,
        "stop_reason": "converged",
        "evaluations": 1234,
        "provenance": {"seconds": 2.5, "views": 8, **CALIBRATED},
        "pareto": (TradeOff(Candidate("fox", (2,), 0.1), 0.1, 1, -6.0),),
        "weights": WordWeights((1.2, 1.0, 0.9), "comfyui", "loss", 0.1, 0.2, None),
        "left_out": ("contributions of tokens: 0 of 8",),
        "fluency": -6.54,
        "evidence": EVIDENCE,
        "interactions": INTERACTIONS,
    }
    return HardPrompt(**{**known, **fields})


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def said(text: str) -> str:
    """What a page says, in words with one space between them."""
    return " ".join(Page(text).text.split())


def test_the_page_says_all_that_is_known(tmp_path: Path) -> None:
    noise(300, 200).save(tmp_path / "cat.png")
    text = prompt_page(whole(), tmp_path / "cat.png")
    page = Page(text)
    for expected in (
        "art of ", " (best)", "0.123", "6.5", "nats a word", "1,234", "2.5 seconds", "cat.png", "gcg", "toy", "7",
        "the method had nothing left to try", "art of red fox neon \\(best\\)", "(red:1.2)", "+0.200", "-0.050",
        "blue owl", "0.111", "no room within the limits: contributions of tokens: 0 of 8", "views", "1,234 passes",
        "97%", "12%", "calibrated on 2,000 scenes", MEANING, "top left", "-0.010", "Trade-offs",
        "'red fox' and 'neon': each adds 0.031 less beside the other", DEPENDENCE, "word adds red fox neon",
    ):  # fmt: skip
        assert expected in said(text), expected
    pictures = [attributes for name, attributes in page.elements if name == "img"]
    assert [one["alt"] for one in pictures] == ["cat.png", "where red fox fits"]
    assert all((one["src"] or "").startswith("data:image/jpeg;base64,") for one in pictures)
    assert str(tmp_path) not in text and len([name for name, _ in page.elements if name == "polyline"]) == 2


def test_what_is_not_known_has_no_place_on_it() -> None:
    page = Page(prompt_page(HardPrompt("fox", (), 0.5)))
    assert "fox" in page.text and "0.500" in page.text
    for absent in (
        "What each token", "What speaks", "Candidates", "Trade-offs", "How it was found", "How much words depend", "Settings", "nats", "no room",
        "passes", "seed", "template",
    ):  # fmt: skip
        assert absent not in page.text, absent
    assert not [name for name, _ in page.elements if name in ("img", "polyline")]


HOSTILE = (
    "</style></title><script>alert(1)</script><img src=//x onerror=alert(1)> a|b' \" & {{ 7*7 }} \x1b[2J\u202egnp\x00"
)


def test_nothing_that_is_data_acts_on_the_page(tmp_path: Path) -> None:
    name = "<script>alert(1)<\u202e'\".png"
    noise(20, 20).save(tmp_path / name)
    hostile = whole(
        text=HOSTILE,
        template=f"{HOSTILE.replace('{{ 7*7 }}', '')} {{}}",
        tokens=tuple(HOSTILE.split()),
        attributions=(0.1,) * len(HOSTILE.split()),
        model=HOSTILE,
        method=HOSTILE,
        stop_reason=HOSTILE,
        score_unit=HOSTILE,
        candidates=(Candidate(HOSTILE, (1,), 0.1), Candidate(f"{HOSTILE}!", (1,), 0.2)),
        pareto=(TradeOff(Candidate(HOSTILE, (1,), 0.1), 0.1, 1),),
        left_out=(HOSTILE,),
        weights=None,
        provenance={HOSTILE: HOSTILE, "seconds": HOSTILE, "evidence": {"calibration": HOSTILE}},
        evidence=tuple(dataclasses.replace(one, phrase=HOSTILE, category=HOSTILE) for one in EVIDENCE),
        interactions=dataclasses.replace(INTERACTIONS, phrases=(HOSTILE, f"{HOSTILE}!")),
    )
    text = prompt_page(hostile, [tmp_path / name])
    expected, page = Page(prompt_page(whole(), [noise(20, 20)])), Page(text)
    assert page.names <= expected.names, page.names - expected.names
    for element, attributes in page.elements:
        assert not any(key.startswith("on") or key in ("href", "srcdoc", "style") for key in attributes), element
    assert not set(text) & {"\x1b", "\x00", "\u202e"} and "{{ 7*7 }}" in page.text
    (policy,) = [a["content"] for n, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'")


def test_words_that_depend_on_each_other_are_in_color() -> None:
    text = prompt_page(whole())
    page = Page(text)
    cells = [attributes.get("class") for name, attributes in page.elements if name == "td"]
    assert cells.count("number level-4") == 2 and "td.level-4{background:#4393c3" in text
    many = [f"word{number}" for number in range(24)]
    wide = WordInteractions(tuple(many), (0.1,) * 24, tuple((0.0,) * 24 for _ in many))
    assert "word23" in prompt_page(whole(interactions=wide)) and "beside the other" not in prompt_page(
        whole(interactions=WordInteractions(("fox",), (0.1,), ((0.0,),)))
    ).replace(DEPENDENCE, "")


def test_folders_of_this_machine_do_not_stand_on_it(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    prompt = whole(model=f"transformers:{folder}", provenance={"bank_file": f"{folder}/words.txt"})
    text = prompt_page(prompt)
    assert str(tmp_path) not in text and "my-model, a local folder or file" in text


def test_thirty_pictures_of_noise_and_a_long_prompt_stay_below_two_megabytes() -> None:
    words = [f"word{number}" for number in range(2000)]
    evidence = tuple(WordEvidence(word, "other", 0.1, regions=((0.0, 0.0, 0.5, 0.5),)) for word in words)
    candidates = tuple(Candidate(f"{' '.join(words)} {n}", (1,), 0.1) for n in range(500))
    long = whole(
        text=" ".join(words), tokens=tuple(words), attributions=(0.1,) * 2000, weights=None, evidence=evidence,
        candidates=candidates, history=tuple(HistoryPoint(n, n / 10, n, n / 5000) for n in range(5000)),
    )  # fmt: skip
    text = prompt_page(long, [noise(1500, 1000, seed) for seed in range(30)])
    assert len(text) < 2_000_000
    page = Page(text)
    assert "1920 more tokens are left out" in page.text and "420 more are left out" in page.text
    many = Page(prompt_page(whole(), [noise(4, 4, seed) for seed in range(50)]))
    assert "10 more pictures are left out" in many.text


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P", "I;16", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (300, 3), (3, 300), (64, 64)])
def test_pictures_of_all_kinds_are_shown(mode: str, size: tuple[int, int]) -> None:
    page = Page(prompt_page(whole(), Image.new(mode, size)))
    assert len([name for name, _ in page.elements if name == "img"]) == 2


def test_an_image_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(ImageError, match="broken"):
        prompt_page(whole(), [tmp_path / "broken.png"])


def test_figures_that_are_no_numbers_are_left_out() -> None:
    points = (HistoryPoint(0, 0.0, 0, -math.inf), HistoryPoint(1, 0.1, 10, 0.5), HistoryPoint(2, 0.2, 20, 0.6))
    text = prompt_page(whole(attributions=(math.nan, 0.1, 0.2), history=points))
    assert "What each token" not in text and "How it was found" in text and "nan" not in text.lower().split()
    assert Curve.of(whole(history=points[:2])) is None and Curve.of(whole(history=())) is None


def test_the_curve_stays_in_its_frame_and_ends_with_the_best() -> None:
    history = tuple(HistoryPoint(n, n / 10, 3 * n, math.sqrt(n)) for n in range(10_000))
    curve = Curve.of(whole(history=history, evaluations=40_000))
    assert curve is not None and len(curve.points) <= 2 * MAX_POINTS + 2
    assert all(curve.LEFT <= x <= curve.WIDTH - curve.RIGHT for x, _ in curve.points)
    assert all(curve.TOP - 1e-6 <= y <= curve.HEIGHT - curve.BOTTOM + 1e-6 for _, y in curve.points)
    assert curve.points[-1] == pytest.approx((curve.WIDTH - curve.RIGHT, curve.TOP))
    falling = (HistoryPoint(0, 0.0, 0, 0.1), HistoryPoint(1, 0.1, 5, 0.6), HistoryPoint(2, 0.2, 9, 0.4))
    heights = [y for _, y in Curve.of(whole(history=falling)).points]  # type: ignore[union-attr]
    assert heights == sorted(heights, reverse=True)
    flat = Curve.of(whole(history=(HistoryPoint(0, 0.0, 0, 0.5), HistoryPoint(1, 0.1, 9, 0.5)), evaluations=0))
    assert flat is not None and flat.low == flat.high == 0.5


def test_what_a_generator_drew_stands_beside_the_images_and_the_curve_counts_pictures() -> None:
    prompt = whole(evaluations=0, token_ids=(), tokens=(), attributions=(), provenance={"pictures": 40})
    page = Page(prompt_page(prompt, noise(8, 8), [(noise(8, 8, 1), "after 40 pictures: <b>fox")]))
    text = " ".join(page.text.split())
    assert "after 40 pictures: <b>fox" in text and "40 pictures" in text and "tokens of the model" not in text
    curve = Curve.of(prompt)
    assert curve is not None and (curve.spent, curve.unit) == (40, "pictures")
    assert curve.points[-1][0] == pytest.approx(curve.WIDTH - curve.RIGHT)


# --- evidence in words --------------------------------------------------------------------


def test_a_table_of_text_has_a_line_for_each_phrase_and_no_empty_column() -> None:
    table = evidence_table(whole()).splitlines()
    assert table[0].split() == ["word", "kind", "true", "without", "it", "wrong", "word", "where"]
    assert table[1].split() == ["red", "fox", "subject", "97%", "+0.250", "+0.200", "top", "left"]
    assert table[2].split() == ["neon", "style", "12%", "-0.010"] and MEANING in table
    bare = whole(evidence=tuple(WordEvidence(f"a|b\n[bold]{'x' * 90}", "other", 0.1) for _ in range(2)))
    head, line, *_ = evidence_table(bare).splitlines()
    assert "where" not in head and "true" not in head and len(line) < 80 and "a|b" in line


def test_uncalibrated_is_said() -> None:
    told = PromptInverter(toy_backend()).evidence("red house", toy_backend().image_encoder.picture("red house"))
    (note,) = notes_on([told])
    assert "nothing is calibrated for toy" in note and "no room" not in note  # it is another reason
    hurried = dataclasses.replace(told, text="", left_out=(*told.left_out, "a", "b", "a"))
    empty, limits, other = notes_on([told, hurried])
    assert "the prompt is empty" in empty and limits == "no room within the limits: a; b" and other == note
    assert "the prompt is empty" in said(prompt_page(hurried)) and notes_on([HardPrompt("", (), 0.0)]) == []
    plain = whole(evidence=tuple(dataclasses.replace(one, probability=None) for one in EVIDENCE), provenance={})
    assert "<th class=number>true of the picture" in prompt_page(
        whole()
    ) and "<th class=number>true" not in prompt_page(plain)
    assert "not calibrated for toy" in truth_note(plain) and "not calibrated" in prompt_page(plain)
    assert "calibrated on 2,000 scenes" in truth_note(whole())
    assert [one.phrase for one in kept_phrases(whole(), 0.8)] == ["red fox"]
    assert [one.phrase for one in kept_phrases(whole(), 0.1)] == ["red fox", "neon"]
    assert [one.phrase for one in kept_phrases(plain, 0.8)] == ["red fox"]  # "neon" adds nothing


@pytest.mark.parametrize(
    ("regions", "place"),
    [
        ((), ""),
        (((0.0, 0.0, 0.5, 0.5),), "top left"),
        (((0.5, 0.5, 1.0, 1.0),), "bottom right"),
        (((0.25, 0.0, 0.75, 0.5),), "top"),
        (((0.25, 0.25, 0.75, 0.75),), "middle"),
        (((0.0, 0.25, 0.5, 0.75), (0.0, 0.0, 0.5, 0.5), (0.0, 0.5, 0.5, 1.0)), "left"),
        (((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)), "all over"),
    ],
)
def test_places_are_said_in_words(regions: Any, place: str) -> None:
    assert place_in_words(regions) == place
