"""The conformance suite itself: it passes what is right, and catches what is wrong."""

import dataclasses

import pytest
import torch
from PIL import Image

from hardprompts import load_backend
from hardprompts.methods import PEZ
from hardprompts.search.protocol import Candidates
from hardprompts.testing import (
    ToyEncoder,
    check_backend,
    check_captioner,
    check_generator,
    check_inversions,
    check_search,
    toy_backend,
)
from hardprompts.vocabulary import Vocabulary


@pytest.mark.parametrize("name", ["toy", "emoji", "emoji:emoji-clip-reference"])
def test_registered_backends_conform(name: str, toy_plugin: str) -> None:
    backend = load_backend(name, device="cpu")
    check_backend(backend)
    check_inversions(backend)


def altered(**changes) -> object:
    """The toy model with one thing wrong."""
    backend = toy_backend()
    tower = ToyEncoder()
    for name, value in changes.items():
        setattr(tower, name, value.__get__(tower) if callable(value) else value)
    return dataclasses.replace(backend, text_encoder=tower)


def test_a_forward_pass_that_differs_from_the_models_own_is_caught() -> None:
    with pytest.raises(AssertionError, match="differs from encode_text"):
        check_backend(
            altered(
                encode=lambda self, x: ToyEncoder.encode(self, x.flip(1)),
                encode_text=lambda self, texts: ToyEncoder().encode_text(texts),
            )
        )


def test_gradients_that_do_not_reach_the_embeddings_are_caught() -> None:
    with pytest.raises((AssertionError, RuntimeError), match="grad"):
        check_backend(altered(encode=lambda self, x: ToyEncoder.encode(self, x.detach())))


def test_a_vocabulary_of_pieces_is_caught() -> None:
    tower = ToyEncoder()
    everything = Vocabulary(
        tower.vocabulary.table, tower.tokenizer, torch.ones(len(tower.vocabulary), dtype=torch.bool), (32,)
    )
    with pytest.raises(AssertionError, match="survive the round trip"):
        check_backend(altered(vocabulary=everything))


@dataclasses.dataclass(frozen=True)
class Idle:
    """Proposes what it was given, for ever."""

    def steps(self, objective, vocabulary, initial_ids, generator):
        while True:
            yield Candidates(initial_ids, objective.score(initial_ids))


@dataclasses.dataclass(frozen=True)
class Unseeded(PEZ):
    """Draws from torch's global generator."""

    def steps(self, objective, vocabulary, initial_ids, generator):
        while True:
            ids = vocabulary.allowed_ids[torch.randint(len(vocabulary.allowed_ids), initial_ids.shape)]
            yield Candidates(ids)


def test_a_method_that_does_not_search_is_caught() -> None:
    with pytest.raises(AssertionError, match="random prompts"):
        check_search(Idle())


def test_a_method_that_ignores_the_seed_is_caught() -> None:
    with pytest.raises(AssertionError, match="same seed"):
        check_search(Unseeded())


def test_generators_that_break_their_contract_are_caught() -> None:
    def colored(number: int) -> Image.Image:
        return Image.new("RGB", (4, 4), (number, 9, 9))

    check_generator(lambda prompts, seeds: [colored(seed) if seed else None for seed in seeds])
    with pytest.raises(AssertionError, match="1 pictures for 3 prompts"):
        check_generator(lambda prompts, seeds: [colored(1)])
    with pytest.raises(AssertionError, match="no picture came"):
        check_generator(lambda prompts, seeds: [None for _ in seeds])
    drawn = iter(range(99))
    with pytest.raises(AssertionError, match="other pictures the second time"):
        check_generator(lambda prompts, seeds: [colored(next(drawn)) for _ in seeds])
    with pytest.raises(AssertionError, match="and is a str"):
        check_generator(lambda prompts, seeds: ["picture" for _ in seeds])


def test_captioners_that_break_their_contract_are_caught() -> None:
    check_captioner(lambda images: [f"{image.width} wide" for image in images])
    with pytest.raises(AssertionError, match="1 captions for 3 images"):
        check_captioner(lambda images: ["red"])
    with pytest.raises(AssertionError, match="one text for each image, and gave"):
        check_captioner(lambda images: [["red"] for _ in images])
    said = iter(range(99))
    with pytest.raises(AssertionError, match="other captions the second time"):
        check_captioner(lambda images: [str(next(said)) for _ in images])
    with pytest.raises(AssertionError, match="among others, and '1 of us' alone"):
        check_captioner(lambda images: [f"{len(images)} of us" for _ in images])
