"""The embedded decoder: what it was trained on, and what it writes for scenes that nobody has seen."""

import random

import pytest
import torch

import hardprompts_emoji
from hardprompts import BackendError, PromptInverter, UnknownName, load_backend
from hardprompts.inversion import LikelihoodProposer, load_proposer
from hardprompts.testing import check_proposer, toy_backend
from hardprompts_emoji import scenes
from hardprompts_emoji.recipe import decoder_texts
from hardprompts_emoji.scenes import HELD_OUT_SEED


def test_texts_name_every_object_of_their_scene_and_have_no_signs() -> None:
    wordings = set()
    for seed in range(300):
        scene = scenes.sample_scene(seed)
        text = decoder_texts.text(scene, random.Random(seed))
        assert scenes.names(text, scene).all_objects, (text, scene)
        assert "," not in text
        wordings.add(" ".join(word for word in text.split() if word in ("a", "on", "picture", "art", "with", "image")))
    assert len(wordings) > 10


def test_texts_are_about_training_scenes_alone() -> None:
    assert list(decoder_texts.texts(3)) == list(decoder_texts.texts(3))
    with pytest.raises(ValueError, match="held out"):
        list(decoder_texts.texts(2, HELD_OUT_SEED - 1))


def test_the_decoder_is_small_conforms_and_comes_with_its_model() -> None:
    folder = hardprompts_emoji.path("emoji-clip-decoder")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
    backend = load_backend("emoji", device="cpu")
    check_proposer(load_proposer("emoji:", backend), backend, ("a fox on purple", "two owls"))
    assert len(PromptInverter(backend, proposers="auto").proposers) == 1
    assert PromptInverter(toy_backend(), proposers="auto").proposers == ()
    with pytest.raises(UnknownName, match="no emoji comes with"):
        load_proposer("emoji:", load_backend("emoji:emoji-clip-reference", device="cpu"))
    with pytest.raises(BackendError, match="was trained for emoji:emoji-clip"):
        load_proposer("emoji:emoji-clip-decoder", load_backend("emoji:emoji-clip-reference", device="cpu"))
    with pytest.raises(UnknownName, match="embedded decoder"):
        load_proposer("emoji:emoji-clip", backend)


def test_it_finds_texts_about_the_picture_likelier_than_others_and_none_impossible() -> None:
    backend = load_backend("emoji", device="cpu")
    proposer = load_proposer("emoji:", backend)
    assert isinstance(proposer, LikelihoodProposer)
    texts = ["a flat picture of a fox on a purple background", "a flat picture of an owl on a purple background"]
    features = backend.encode_texts(texts)
    told = proposer.likelihoods(features.repeat_interleave(2, dim=0), texts * 2).reshape(2, 2)
    assert told[0, 0] > told[0, 1] + 2 and told[1, 1] > told[1, 0] + 2
    odd = proposer.likelihoods(features[:1].expand(3, -1), ["", "$ % &", " ".join(["fox"] * 60)])
    assert odd.isfinite().all() and (odd < -5).all()
    assert proposer.likelihoods(features[:0], []).shape == (0,)


def test_it_names_what_is_in_scenes_that_nobody_has_seen() -> None:
    drawn = [scenes.sample_scene(HELD_OUT_SEED + 77_000 + i, 1) for i in range(24)]
    pictures = [scenes.render(scene, seed=i) for i, scene in enumerate(drawn)]
    inverter = PromptInverter("emoji", proposers="auto", device="cpu")
    found = inverter.invert_each(pictures, batch_size=24, fast=True, seed=0, progress=False)
    named = [scenes.names(prompt.text, scene) for prompt, scene in zip(found, drawn, strict=True)]
    assert sum(one.all_objects for one in named) >= 20 and sum(one.background for one in named) >= 22
    few = inverter.invert_each(pictures[:4], fast=True, seed=0, progress=False)
    assert torch.tensor([prompt.score for prompt in few]).mean() > 0.8
