"""Proposals: what writes whole texts is asked, what it says is checked and scored, and searches go on from it."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardprompts import BackendError, HardPrompt, PluginError, PromptInverter, UnknownName, hookimpl
from hardprompts.inversion import Proposer, load_proposer, proposers
from hardprompts.inversion.proposals import proposed_texts, usable_ids, weighed_by_proposals
from hardprompts.methods import PEZ, PhraseBank
from hardprompts.plugins import register, unregister
from hardprompts.prompts import PromptTemplate
from hardprompts.testing import ToyEncoder, check_proposer, toy_backend

BACKEND = toy_backend()
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)
QUICK: dict[str, Any] = {"views": 1, "restarts": 8, "progress": False, "seed": 0}
TEXTS = ("red house near river", "old boat on the ocean", "black cat in snow")
PICTURES = [TOWER.picture(text) for text in TEXTS]


class Listed:
    """Proposes the same texts for every target."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = texts, 0

    def propose(self, features: Any, count: int, max_tokens: int, generator: torch.Generator) -> list[list[str]]:
        self.asked += 1
        return [list(self.texts) for _ in features]


class Oracle:
    """Knows which of its texts fits each target best."""

    def propose(self, features: Any, count: int, max_tokens: int, generator: torch.Generator) -> list[list[str]]:
        best = (features @ BACKEND.encode_texts(TEXTS).T).argmax(dim=1).tolist()
        return [[TEXTS[place]] for place in best]


def inverted(proposer: Any, *, method: Any = "build+refine", **options: Any) -> list[HardPrompt]:
    inverter = PromptInverter(BACKEND, method, proposers=proposer)
    return inverter.invert_each(PICTURES, num_tokens=5, **{**QUICK, **options})


def test_fast_returns_what_was_proposed_for_each_of_many_targets_scored_and_nothing_else() -> None:
    prompts = inverted(Oracle(), fast=True)
    assert [prompt.text for prompt in prompts] == list(TEXTS)
    for prompt, picture in zip(prompts, PICTURES, strict=True):
        assert prompt.score == pytest.approx(PromptInverter(BACKEND).score(prompt.text, picture), abs=1e-5)
        assert prompt.method == "proposals" and prompt.attributions == () and prompt.provenance["steps"] == 0
        assert BACKEND.vocabulary.encode(prompt.filled) == list(prompt.token_ids)
        assert prompt.provenance["proposers"] == ["Oracle"]


def test_the_best_of_what_is_proposed_is_returned() -> None:
    listed = Listed("green tree", TEXTS[0], "small town")
    fast = inverted(listed, fast=True)[0]
    assert fast.text == TEXTS[0] and [candidate.text for candidate in fast.candidates] == [TEXTS[0]]
    searched = inverted(listed, max_evaluations=900)[0]
    assert searched.score >= fast.score


def test_fast_sees_each_picture_as_it_would_alone() -> None:
    together = inverted(Oracle(), fast=True)
    for prompt, picture in zip(together, PICTURES, strict=True):
        alone = PromptInverter(BACKEND, proposers=Oracle()).invert([picture], num_tokens=5, **QUICK, fast=True)
        assert prompt.text == alone.text and prompt.score == pytest.approx(alone.score, abs=1e-6)
    batches = PromptInverter(BACKEND, proposers=Oracle()).invert_each(
        BACKEND.encode_texts(TEXTS), num_tokens=5, **QUICK, fast=True
    )
    assert [prompt.text for prompt in batches] == [prompt.text for prompt in together]


@pytest.mark.parametrize("method", ["build+refine", "pez"])
def test_a_search_is_never_worse_than_what_was_proposed(method: str) -> None:
    few = {"max_evaluations": 300}
    for prompt, fast in zip(inverted(Oracle(), method=method, **few), inverted(Oracle(), fast=True), strict=True):
        assert prompt.score >= fast.score - 1e-6
        assert prompt.evaluations <= 300


def test_the_default_method_goes_on_from_the_best_proposal() -> None:
    alone = PromptInverter(BACKEND).invert(PICTURES[0], num_tokens=5, **QUICK, max_evaluations=60, token_cost=0)
    begun = PromptInverter(BACKEND, proposers=Listed("red house near")).invert(
        PICTURES[0], num_tokens=5, **QUICK, max_evaluations=60, token_cost=0
    )
    assert {"red", "house", "near"} <= {*begun.text.split()} and begun.score > alone.score


def test_without_proposers_nothing_changes() -> None:
    assert inverted(None)[0].text == PromptInverter(BACKEND).invert_each(PICTURES, num_tokens=5, **QUICK)[0].text
    assert "proposers" not in inverted(None)[0].provenance


def test_texts_of_another_tokenizer_are_read_by_the_models_own_and_what_cannot_be_used_is_left_out() -> None:
    words, slot = BACKEND.vocabulary.without(["cat"]), PromptTemplate()
    given = ["red house", " red  house ", "a dinosaur", "black cat", "red house near river under the moon", ""]
    found = usable_ids([given, ["Red, house!"], []], words, slot, 4)
    red_house = tuple(words.encode("red house"))
    assert found[0][0] == red_house and found[0].count(red_house) == 1
    assert all(len(ids) <= 4 and not words.spells_banned(ids, slot) for own in found for ids in own)
    assert found[1] == [red_house] and found[2] == []


@pytest.mark.parametrize("texts", [(), ("",), ("   ", ""), ("black cat",)])
def test_nothing_usable_is_said_and_the_search_goes_on_without(texts: tuple[str, ...]) -> None:
    with pytest.warns(UserWarning, match="no proposal can be used for 3 of 3 targets"):
        prompts = inverted(Listed(*texts), banned=["cat"], max_evaluations=600)
    assert all(prompt.text for prompt in prompts)


def test_too_few_the_same_and_too_many_texts_are_fine() -> None:
    assert proposed_texts(Listed("a", "a ", "", "b"), torch.ones(2, 3), 5, 8, torch.Generator()) == [["a", "b"]] * 2
    assert proposed_texts(Listed("a", "b", "c"), torch.ones(1, 3), 2, 8, torch.Generator()) == [["a", "b"]]


def test_words_that_few_proposals_have_cost_more() -> None:
    class Flat:
        unit = "points"

        def score(self, ids: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(ids))

    proposals = [[(1, 2), (1, 3), (1, 2, 4), (1,)], []]
    weighed = weighed_by_proposals(Flat(), proposals, 6, 0.1)
    ids, first, second = torch.tensor([[1], [2], [3], [5]]), torch.zeros(4).long(), torch.ones(4).long()
    always, often, seldom, never = weighed.score(ids, first).tolist()
    assert always > often > seldom > never and always == pytest.approx(0.1 * math.log(5)) and never < 0
    assert weighed.score(ids, second).tolist() == [0, 0, 0, 0]
    assert weighed.score(torch.tensor([[1, 5]]), first[:1]).item() == pytest.approx(always + never)
    assert weighed_by_proposals(Flat(), proposals, 6, 0.0).unit == "points"
    assert weighed_by_proposals(Flat(), [[], []], 6, 0.1).unit == "points"


def test_answers_of_another_kind_are_refused() -> None:
    class Wrong:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def propose(self, features: Any, count: int, max_tokens: int, generator: torch.Generator) -> Any:
            return self.answer

    with pytest.raises(ValueError, match="proposed for 1 targets of 3"):
        inverted(Wrong([["red"]]))
    with pytest.raises(ValueError, match="must propose a list of texts for each target, and gave 'red', a str"):
        inverted(Wrong(["red", "red", "red"]))
    with pytest.raises(TypeError, match="propose"):
        PromptInverter(BACKEND, proposers=3)  # type: ignore[arg-type]


def test_fast_needs_something_to_ask() -> None:
    for method, proposer, more in (
        ("pez", None, {}),
        ("pez", Oracle(), {"initial_prompt": "red"}),
        (PhraseBank(mode="negative"), Oracle(), {}),
    ):
        with pytest.raises(ValueError, match="fast=True returns what proposers write"):
            inverted(proposer, method=method, fast=True, **more)
    with pytest.raises(ValueError, match="fast searches nothing"):
        inverted(Oracle(), fast=True, pareto=True)


def test_a_given_beginning_stands_in_the_place_of_proposals() -> None:
    proposer = Listed("red house")
    PromptInverter(BACKEND, PEZ(), proposers=proposer).invert(
        PICTURES[0], num_tokens=4, **QUICK, max_steps=2, initial_prompt="green"
    )
    assert proposer.asked == 0


def test_all_methods_take_captions_and_proposals_together() -> None:
    for method in ("build+refine", "pez", "gcg", "phrase-bank"):
        prompt = PromptInverter(BACKEND, method, proposers=[Oracle(), Listed("small town")]).invert(
            PICTURES[1], num_tokens=5, **QUICK, max_evaluations=400, caption="old boat"
        )
        assert prompt.text


def test_proposers_by_name() -> None:
    def opened(name: str, *, backend: Any) -> Proposer | None:
        if name == "broken":
            raise BackendError("broken")
        return Oracle() if name == "texts" or backend is BACKEND else None

    register(SimpleNamespace(proposers=hookimpl(lambda: {"oracle": opened})), "oracle")
    try:
        assert proposers()["oracle"] is opened
        assert isinstance(load_proposer("oracle:texts", BACKEND), Oracle)
        auto = PromptInverter(BACKEND, proposers="auto")
        assert [type(one) for one in auto.proposers] == [Oracle]
        assert auto.invert(PICTURES[0], num_tokens=5, **QUICK, fast=True).text == TEXTS[0]
        other = toy_backend()
        assert PromptInverter(other, proposers="auto").proposers == ()
        with pytest.raises(UnknownName, match="unknown proposer 'oracle:'"):
            load_proposer("oracle:", other)
        with pytest.raises(UnknownName, match="unknown proposer scheme 'orakel'.*oracle"):
            load_proposer("orakel:texts", BACKEND)
        with pytest.raises(PluginError, match="both add 'oracle'"):
            register(SimpleNamespace(proposers=hookimpl(lambda: {"oracle": opened})), "second")
    finally:
        unregister("oracle")


def test_the_same_seed_gives_the_same_proposals() -> None:
    class Drawing:
        def propose(
            self, features: Any, count: int, max_tokens: int, generator: torch.Generator
        ) -> Sequence[Sequence[str]]:
            return [[TEXTS[int(torch.randint(3, (1,), generator=generator))]] for _ in features]

    first, second = (inverted(Drawing(), fast=True)[0].text for _ in range(2))
    assert first == second


def test_the_conformance_check_catches_what_is_wrong() -> None:
    check_proposer(Oracle(), BACKEND)
    with pytest.raises(AssertionError, match="proposed nothing"):
        check_proposer(Listed(), BACKEND)

    class Global:
        def propose(self, features: Any, count: int, max_tokens: int, generator: torch.Generator) -> list[list[str]]:
            return [[str(float(torch.rand(())))] for _ in features]

    with pytest.raises(AssertionError, match="same generator"):
        check_proposer(Global(), BACKEND)

    class Changing(Oracle):
        def propose(self, features: Any, count: int, max_tokens: int, generator: torch.Generator) -> list[list[str]]:
            features += 1
            return super().propose(features, count, max_tokens, generator)

    with pytest.raises(AssertionError, match="changed the features"):
        check_proposer(Changing(), BACKEND)
