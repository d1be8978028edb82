"""Judges of other names are known by their weights; agreement against counting by hand."""

import dataclasses
import itertools
import math

import pytest
import torch
from PIL import Image

from hardprompts import load_backend
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError
from hardprompts.evaluation import check_independent, rank_agreement, shared_weights
from hardprompts.testing import toy_backend


@pytest.fixture(scope="module")
def emoji() -> Backend:
    return load_backend("emoji")


def test_a_model_shares_everything_with_itself_under_another_name_and_in_half_precision(emoji: Backend) -> None:
    other = dataclasses.replace(load_backend("emoji", dtype=torch.bfloat16), name="open_clip:something-else")
    assert shared_weights(emoji, other) == ("token embeddings", "the text tower", "the image tower")
    with pytest.raises(BackendError, match="something-else cannot judge prompts that were found with emoji:emoji-clip"):
        check_independent(other, emoji)


def test_a_judge_with_one_tower_of_the_searched_model_is_refused(emoji: Backend) -> None:
    reference = load_backend("emoji:emoji-clip-reference")

    class Padded:
        """The searched image tower, whose features have the judge's width."""

        def encode_images(self, images: list[Image.Image]) -> torch.Tensor:
            return emoji.encode_images(images)

    mixed = dataclasses.replace(emoji, text_encoder=reference.text_encoder, image_encoder=Padded(), name="mixed")
    assert "the image tower" in shared_weights(mixed, emoji)
    with pytest.raises(BackendError, match="the image tower"):
        check_independent(mixed, emoji)


def test_other_weights_are_no_reason_to_refuse(emoji: Backend) -> None:
    assert shared_weights(load_backend("emoji:emoji-clip-reference"), emoji) == ()
    check_independent(load_backend("emoji:emoji-clip-reference"), emoji)
    check_independent(toy_backend(), emoji)


def tau_by_hand(one: list[float], other: list[float]) -> float:
    pairs = list(itertools.combinations(range(len(one)), 2))
    signs = [(math.copysign(1, a) if (a := one[i] - one[j]) else 0, math.copysign(1, b) if (b := other[i] - other[j]) else 0)
             for i, j in pairs]  # fmt: skip
    together = sum(a * b for a, b in signs)
    return together / math.sqrt(sum(a * a for a, _ in signs) * sum(b * b for _, b in signs))


def test_agreement_is_kendalls_tau_with_ties() -> None:
    scores = {"a": [1.0, 2.0, 2.0, 5.0, 3.0], "b": [0.1, 0.4, 0.3, 0.3, 0.9], "c": [5.0, 4.0, 4.0, 1.0, 2.0]}
    found = rank_agreement(scores)
    for one, other in itertools.combinations(scores, 2):
        assert found[one, other] == pytest.approx(tau_by_hand(scores[one], scores[other]))
    scipy = pytest.importorskip("scipy.stats")
    assert found["a", "b"] == pytest.approx(scipy.kendalltau(scores["a"], scores["b"]).statistic)
    assert rank_agreement({"a": [1, 2, 3], "b": [2, 4, 9]})["a", "b"] == pytest.approx(1)
    assert math.isnan(rank_agreement({"a": [1, 1], "b": [1, 2]})["a", "b"])


@pytest.mark.parametrize("scores", [{"a": [1.0, 2.0]}, {"a": [1.0], "b": [2.0]}, {"a": [1.0, 2.0], "b": [1.0]}])
def test_agreement_needs_two_judges_of_the_same_prompts(scores: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="two judges or more"):
        rank_agreement(scores)
