"""Proposers that know how likely texts are have a say in which prompt is chosen."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hardprompts import NonFiniteError, PromptInverter
from hardprompts.inversion import LikelihoodProposer
from hardprompts.inversion.likelihoods import LikelyScore, able, likelihoods, weighed_by_likelihood
from hardprompts.testing import check_proposer, toy_backend

BACKEND = toy_backend()
TEXTS = ("red house near river", "old boat on the ocean")
TARGETS = BACKEND.encode_texts(TEXTS)
QUICK: dict[str, Any] = {"views": 1, "restarts": 4, "progress": False, "seed": 0, "max_evaluations": 500}


class Flat:
    unit = "points"

    def score(self, ids: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(ids))


class Fond:
    """Proposes some texts, and finds texts the likelier the more often they have a word; for each target another."""

    def __init__(self, *texts: str, words: Sequence[str] = ("green", "black"), nats: float = 5.0) -> None:
        self.texts, self.words, self.nats = texts, words, nats
        self.asked: list[str] = []

    def propose(self, features: Any, count: int, max_tokens: int, generator: torch.Generator) -> list[list[str]]:
        return [list(self.texts) for _ in features]

    def likelihoods(self, features: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        self.asked += texts
        targets = (features @ TARGETS.T).argmax(dim=1).tolist()
        return torch.tensor([
            -self.nats * sum(word != self.words[task] for word in text.split())
            for task, text in zip(targets, texts, strict=True)
        ])  # fmt: skip


def ids_of(*texts: str) -> torch.Tensor:
    return torch.tensor([BACKEND.vocabulary.encode(text) for text in texts])


def test_a_score_gains_by_what_is_likely_for_each_word_and_asks_for_each_text_once() -> None:
    fond = Fond("red")
    score = weighed_by_likelihood(Flat(), BACKEND.vocabulary, [fond], TARGETS, 0.1)
    assert isinstance(score, LikelyScore) and "proposers" in score.unit
    ids, groups = ids_of("green red", "green red", "green green"), torch.tensor([0, 1, 0])
    assert score.score(ids, groups).tolist() == pytest.approx([-0.25, -0.5, 0.0])
    assert score.score(ids, groups).tolist() == pytest.approx([-0.25, -0.5, 0.0])
    assert len(fond.asked) == 3


def test_several_proposers_are_averaged_and_those_without_the_ability_have_no_say() -> None:
    class Mute:
        def propose(self, features: Any, count: int, max_tokens: int, generator: torch.Generator) -> Any:
            return [["red"] for _ in features]

    first, second = Fond(nats=2.0), Fond(nats=4.0)
    assert isinstance(first, LikelihoodProposer) and not isinstance(Mute(), LikelihoodProposer)
    assert able([Mute(), first, second]) == [first, second]
    assert likelihoods([first, second], TARGETS, ["red red", "black"]).tolist() == pytest.approx([-6.0, 0.0])
    assert weighed_by_likelihood(Flat(), BACKEND.vocabulary, [Mute()], TARGETS, 0.1).unit == "points"
    assert weighed_by_likelihood(Flat(), BACKEND.vocabulary, [first], TARGETS, 0.0).unit == "points"


def test_the_weight_moves_the_choice_and_the_search() -> None:
    fond = Fond("red house near", "green green")
    inverter = PromptInverter(BACKEND, proposers=fond)
    assert inverter.invert(TARGETS[0], num_tokens=4, fast=True, proposal_weight=0, **QUICK).text == "red house near"
    assert not fond.asked, "without a weight nobody asks"
    liked = inverter.invert(
        TARGETS[0], num_tokens=4, fast=True, proposal_weight=0, likelihood_weight=10.0, token_cost=0, **QUICK
    )
    assert liked.text == "green green"
    searched = inverter.invert(TARGETS[0], num_tokens=4, proposal_weight=0, likelihood_weight=10.0, **QUICK)
    assert "green" in searched.text


@pytest.mark.parametrize(
    "answer, error, said",
    [
        (torch.zeros(3), ValueError, "gave likelihoods of the shape \\(3,\\) for 2 texts"),
        (torch.tensor([0.0, torch.nan]), NonFiniteError, "gives 'black' a log-likelihood that is NaN or infinite"),
    ],
)
def test_answers_of_another_kind_are_refused(answer: torch.Tensor, error: type[Exception], said: str) -> None:
    class Wrong(Fond):
        def likelihoods(self, features: Any, texts: Any) -> torch.Tensor:
            return answer

    with pytest.raises(error, match=said):
        likelihoods([Wrong()], TARGETS, ["red", "black"])


def test_the_conformance_check_finds_likelihoods_that_depend_on_the_company() -> None:
    class Company(Fond):
        def likelihoods(self, features: Any, texts: Any) -> torch.Tensor:
            return torch.full((len(texts),), -float(len(texts)))

    check_proposer(Fond("red house"), BACKEND, TEXTS)
    with pytest.raises(AssertionError, match="among others"):
        check_proposer(Company("red house"), BACKEND, TEXTS)
