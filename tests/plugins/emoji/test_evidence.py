"""Evidence through emoji-clip: what is true of a scene has a higher probability than what is not."""

import dataclasses

import pytest

from hardprompts import PromptInverter, load_backend
from hardprompts.inversion.evidence.calibration import calibrations_of
from hardprompts_emoji.scenes import HELD_OUT_SEED, Scene, SceneObject, render, sample_scene

INVERTER = PromptInverter("emoji")
SCENE = Scene((SceneObject("fox", "large", "center"),), "purple", "neon")


def test_calibrations_come_with_emoji_clip_alone() -> None:
    known = {(len(one.models), one.searched) for one in calibrations_of(INVERTER.backend)}
    assert known == {(1, True), (1, False), (2, True), (2, False)}
    assert calibrations_of(load_backend("emoji:emoji-clip-reference")) == ()


def test_a_judge_bears_witness_too() -> None:
    picture, text = render(SCENE), "a neon fox and a teapot on a purple background"
    alone = INVERTER.evidence(text, picture)
    judged = PromptInverter("emoji", judge="emoji:emoji-clip-reference").evidence(text, picture)
    likely = {one.phrase: one.probability or 0.0 for one in judged.evidence}
    assert min(likely["fox"], likely["purple"]) > 0.8 > likely["teapot"]
    assert judged.provenance["evidence"]["witnesses"] == ["emoji:emoji-clip", "emoji:emoji-clip-reference"]
    assert [one.probability for one in judged.evidence] != [one.probability for one in alone.evidence]


def test_true_words_are_likelier_than_false_ones() -> None:
    told = INVERTER.evidence("a neon fox and a teapot on a purple background, sepia", render(SCENE))
    likely = {one.phrase: one.probability or 0.0 for one in told.evidence}
    assert min(likely["fox"], likely["purple"]) > 0.8 > max(likely["teapot"], likely["sepia"])
    assert not any("nothing is calibrated" in one for one in told.left_out)


def test_a_thing_holds_where_it_stands() -> None:
    scene = Scene((SceneObject("fox", "small", "left"), SceneObject("teapot", "small", "right")), "white", "flat")
    told = INVERTER.evidence("fox teapot", render(scene))
    fox, teapot = (one.regions for one in told.evidence)
    assert fox and teapot
    assert max(left for left, *_ in fox) < min(right for _, _, right, _ in teapot)
    assert all(left < 0.5 for left, *_ in fox) and all(right > 0.5 for *_, right, _ in teapot)


@pytest.mark.parametrize("place", range(3))
def test_a_bound_keeps_what_is_likely_within_the_passes_of_the_search(place: int) -> None:
    picture = render(sample_scene(HELD_OUT_SEED + 77 + place))
    plain = INVERTER.invert(picture, seed=0, progress=False)
    found = INVERTER.invert(picture, seed=0, progress=False, min_evidence=0.8)
    assert all((one.probability or 0) >= 0.8 for one in found.evidence)
    assert found.provenance["evidence"]["passes"] <= plain.evaluations
    assert found.evaluations == plain.evaluations + found.provenance["evidence"]["passes"]
    assert INVERTER.backend.vocabulary.encode(found.filled) == list(found.token_ids)
    again = INVERTER.invert(picture, seed=0, progress=False, min_evidence=0.8)
    assert dataclasses.replace(again, history=(), provenance={}) == dataclasses.replace(
        found, history=(), provenance={}
    )


def test_a_black_picture_has_no_likely_words() -> None:
    found = INVERTER.invert(render(dataclasses.replace(SCENE, objects=(), background="black")), seed=0, progress=False,
        min_evidence=0.9)  # fmt: skip
    assert {one.category for one in found.evidence} <= {"color", "style"}


def test_within_a_limit_of_passes_the_search_leaves_room_for_evidence() -> None:
    found = INVERTER.invert(render(SCENE), seed=0, progress=False, evidence=True, max_evaluations=400)
    assert found.evidence and found.evaluations <= 400 and all(one.probability is not None for one in found.evidence)
