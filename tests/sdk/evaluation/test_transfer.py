"""The transfer matrix against counting by hand, and nats per word against a likelihood that is known."""

import math

import pytest
import torch

from hardprompts.evaluation import nats_per_word, prompt_image_similarities, transfer_matrix

SCORES = {"a": {"x": 1.0, "y": 5.0}, "b": {"x": 2.0, "y": 4.0}, "c": {"x": 3.0, "y": 4.5}, "d": {"x": 3.5, "y": 1.0}}


def judge(name: str):
    return lambda texts: [SCORES[text][name] for text in texts]


def test_the_matrix_holds_each_judges_scores_and_means() -> None:
    found = transfer_matrix({"one": ["a", "b"], "two": ["c", "d"]}, {"x": judge("x"), "y": judge("y")})
    assert found.methods == ("one", "two") and found.judges == ("x", "y")
    assert found.scores["two"]["y"] == (4.5, 1.0)
    pytest.importorskip("scipy")
    assert found.interval("one", "x").mean == pytest.approx(1.5)
    head, first, _ = found.rows()
    assert head == ["", "x", "y"] and first[0] == "one" and first[1].startswith("1.5")


def test_agreement_is_within_targets_not_between_them() -> None:
    # For both targets x prefers `two` and y prefers `one`; over all prompts together they would half agree.
    easy = {"a": 10.0, "b": 1.0, "c": 11.0, "d": 2.0}
    other = {"a": 11.0, "b": 2.0, "c": 10.0, "d": 1.0}
    found = transfer_matrix(
        {"one": ["a", "b"], "two": ["c", "d"]},
        {"x": lambda texts: [easy[t] for t in texts], "y": lambda texts: [other[t] for t in texts]},
    )
    assert found.agreement() == {("x", "y"): pytest.approx(-1)}
    assert found.agreement_on_methods() == {("x", "y"): pytest.approx(-1)}


def test_a_target_without_preference_does_not_count() -> None:
    same = transfer_matrix({"one": ["a", "a"], "two": ["a", "b"]}, {"x": judge("x"), "y": judge("y")})
    assert same.agreement() == {("x", "y"): pytest.approx(-1)}
    none = transfer_matrix({"one": ["a"], "two": ["a"]}, {"x": judge("x"), "y": judge("y")})
    assert math.isnan(none.agreement()["x", "y"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="same targets"):
        transfer_matrix({"one": ["a"], "two": ["a", "b"]}, {"x": judge("x")})
    for prompts, judges in (({}, {"x": judge("x")}), ({"one": ["a"]}, {}), ({"one": []}, {"x": judge("x")})):
        with pytest.raises(ValueError, match="needs judges"):
            transfer_matrix(prompts, judges)
    with pytest.raises(ValueError, match="'x' gave 1 scores for the 2 prompts of 'one'"):
        transfer_matrix({"one": ["a", "b"]}, {"x": lambda texts: [1.0]})


def test_pictures_judge_prompts_of_several_models() -> None:
    from hardprompts import load_backend
    from hardprompts_emoji import scenes

    of = [scenes.sample_scene(scenes.HELD_OUT_SEED + i, 1) for i in range(3)]
    images = [scenes.render(scene) for scene in of]
    models = {name: load_backend(f"emoji:{name}") for name in ("emoji-clip", "emoji-clip-reference")}
    found = transfer_matrix(
        {"captions": [scenes.caption(scene) for scene in of], "nothing": ["question", "question", "question"]},
        {name: lambda texts, m=model: prompt_image_similarities(texts, images, m) for name, model in models.items()},
    )
    for name in models:
        assert all(true > false for true, false in zip(*(found.scores[m][name] for m in found.methods), strict=True))
    assert found.agreement() == {tuple(models): pytest.approx(1)}


def test_nats_per_word_is_the_mean_over_words() -> None:
    found = nats_per_word(
        ["a red fox", "fox", ""], lambda texts: torch.tensor([-2.0 * len(t.split()) - 1 for t in texts])
    )
    assert found == (pytest.approx(7 / 3), 3.0, 1.0)
    assert nats_per_word([], lambda texts: torch.zeros(0)) == ()
    for wrong in (torch.tensor([0.0]), torch.tensor([0.0, float("nan")])):
        with pytest.raises(ValueError, match="one finite number"):
            nats_per_word(["a", "b"], lambda texts, wrong=wrong: wrong)


def test_true_captions_surprise_a_language_model_less_than_their_words_shuffled() -> None:
    from hardprompts.inversion import open_likelihood

    prior = open_likelihood("emoji:emoji-lm")
    written, shuffled = nats_per_word(
        ["a small animal that lives in water", "water in a lives small that animal"], prior
    )
    assert written < shuffled
