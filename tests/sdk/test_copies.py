"""Copies and pickles of what the SDK gives: small values, doors that open their model again, no weights in either."""

import copy
import pickle
from typing import Any

import pytest
import torch
from PIL import Image

import hardprompts_emoji
from hardprompts import (
    DenoisingInverter,
    PromptDistiller,
    PromptInverter,
    SoftPrompt,
    join_backends,
    load_backend,
    search_methods,
)
from hardprompts.encoders import backends
from hardprompts.testing import toy_backend

QUICK: dict[str, Any] = {"num_tokens": 2, "max_steps": 1, "restarts": 2, "seed": 0, "progress": False}
REFERENCE, LANGUAGE = "emoji:emoji-clip-reference", "emoji:emoji-lm"


def again(value: Any) -> tuple[Any, int]:
    data = pickle.dumps(value)
    return pickle.loads(data), len(data)


def test_a_soft_prompt_is_copied_and_pickled() -> None:
    prompt = SoftPrompt(
        {"clip_l": torch.randn(2, 768)}, "<fox>", 7, ("some model",), metadata={"seed": 3, "note": None}
    )
    for other in (again(prompt)[0], copy.copy(prompt), copy.deepcopy(prompt)):
        assert (other.name, other.step, other.base_models, dict(other.metadata)) == (
            "<fox>",
            7,
            ("some model",),
            {"seed": 3, "note": None},
        )
        assert torch.equal(other.embeddings["clip_l"], prompt.embeddings["clip_l"])
        with pytest.raises(TypeError):
            other.metadata["seed"] = 4


def test_a_vocabulary_leaves_out_what_it_found_out() -> None:
    vocabulary = toy_backend().vocabulary
    before = len(pickle.dumps(vocabulary))
    vocabulary.nearest(vocabulary.table[:3])
    vocabulary.nearest(vocabulary.table[:3], "l2")
    other, size = again(vocabulary)
    assert size == before
    assert torch.equal(other.nearest(vocabulary.table[:3]), vocabulary.nearest(vocabulary.table[:3]))


@pytest.mark.parametrize("name", sorted(search_methods()))
def test_methods_are_small(name: str) -> None:
    method = search_methods()[name]()
    other, size = again(method)
    assert size < 2000 and type(other) is type(method)


def test_prompts_are_small_and_doors_pickle_how_they_open() -> None:
    picture = Image.new("RGB", (64, 64), "red")
    inverter = PromptInverter("emoji", device="cpu", judge=REFERENCE, prior=LANGUAGE)
    found = inverter.invert(picture, views=1, prior_weight=0.1, **QUICK)
    assert again(found)[0] == found and again(found)[1] < 5000
    other, size = again(inverter)
    assert size < 5_000, "no weights, and no calibrations of those that come with the model"
    assert other.invert(picture, views=1, prior_weight=0.1, **QUICK).text == found.text
    assert copy.deepcopy(inverter).backend is inverter.backend

    distiller = PromptDistiller("emoji", device="cpu")
    short = distiller.distill("a big red house in the snow", **QUICK)
    assert again(short)[0] == short and again(short)[1] < 5000
    other, size = again(distiller)
    assert size < 5000
    assert other.distill("a big red house in the snow", **QUICK).text == short.text


def test_a_denoiser_is_opened_again() -> None:
    name = f"diffusers:{hardprompts_emoji.path('emoji-sd')}"
    inverter = DenoisingInverter(name)
    other, size = again(inverter)
    assert size < 5000 and other.predictor.name == inverter.predictor.name
    assert copy.deepcopy(inverter).predictor is inverter.predictor


def test_joined_models_are_joined_again_with_their_weights() -> None:
    both = join_backends([load_backend("emoji", device="cpu"), load_backend(REFERENCE, device="cpu")], [1.0, 3.0])
    other, size = again(both)
    assert size < 5000
    assert torch.allclose(other.encode_texts(["a red fox"]), both.encode_texts(["a red fox"]))


def test_every_scheme_says_how_it_is_opened_again() -> None:
    assert {"emoji", "photo", "transformers", "open_clip", "diffusers"} <= backends().keys()
    for name in ("emoji", LANGUAGE):
        opened = load_backend(name, device="cpu", dtype=torch.float16)
        other, size = again(opened)
        assert size < 500
        assert (other.name, other.device, other.dtype) == (opened.name, opened.device, torch.float16)
