"""The embedded masked language model: what it was trained on, what it fills in, and that its recipe runs."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version

import hardprompts_emoji
from hardprompts import load_backend
from hardprompts.inversion import load_proposer
from hardprompts.testing import check_proposer
from hardprompts_emoji import scenes
from hardprompts_emoji.recipe import train_mlm
from hardprompts_emoji.recipe.decoder_texts import texts
from hardprompts_emoji.scenes import HELD_OUT_SEED

MODEL = "emoji:emoji-mlm"


def test_it_is_small_and_fills_in_what_may_stand_there() -> None:
    folder = hardprompts_emoji.path("emoji-mlm")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3_200_000
    model = load_backend(MODEL, device="cpu").language_model
    assert model is not None and model.kind == "masked" and model.mask_id is not None
    vocabulary, (before, behind) = model.vocabulary, model.frame

    def likeliest(text: str, count: int) -> list[str]:
        ids = [model.mask_id if word == "_" else vocabulary.encode(word)[0] for word in text.split()]
        row = torch.tensor([[*before, *ids, *behind]])
        with torch.no_grad():
            states = model.states(vocabulary.embed(row), torch.ones_like(row, dtype=torch.bool))
        told = model.logits(states[0, row[0] == model.mask_id])[0]
        return [vocabulary.decode([i]) for i in told.topk(count).indices.tolist()]

    looks = {word for words in scenes.STYLES.values() for phrase in words for word in phrase.split()}
    colors = {word for words in scenes.BACKGROUNDS.values() for word in words} | set(scenes.BACKGROUNDS)
    assert len({*likeliest("a _ picture of a fox on a purple background", 5)} & (looks | set(scenes.STYLES))) >= 3
    assert len({*likeliest("a pixel art picture of a fox on a _ background", 5)} & colors) >= 3


def test_it_proposes_for_emoji_clip_what_is_in_scenes_that_nobody_has_seen() -> None:
    backend = load_backend("emoji", device="cpu")
    proposer = load_proposer(f"mlm:{MODEL}", backend)
    check_proposer(proposer, backend, ("a fox on purple", "two owls"))
    drawn = [scenes.sample_scene(HELD_OUT_SEED + 77_000 + i, 1) for i in range(6)]
    features = backend.encode_images([scenes.render(scene, seed=i) for i, scene in enumerate(drawn)])
    found = proposer.propose(features, 16, 8, torch.Generator().manual_seed(0))
    named = [
        any(scenes.names(text, scene).all_objects for text in own) for own, scene in zip(found, drawn, strict=True)
    ]
    assert sum(named) >= 4


def test_its_vocabulary_is_words_and_the_same_each_time() -> None:
    captions, definitions = list(texts(50)), ["a small tree", "a small red-brown fruit", "to eat a fruit"]
    found = train_mlm.vocabulary(captions, definitions, 400)
    assert found == train_mlm.vocabulary(captions, definitions, 400) and found[:5] == list(train_mlm.SPECIAL)
    spoken = {word for text in captions for word in train_mlm.words(text)}
    assert spoken <= set(found) and {"small", "fruit"} <= set(found)
    few = train_mlm.vocabulary(captions, definitions, len(spoken | set(train_mlm.SPECIAL)) + 1)
    assert "small" in few or "fruit" in few or "a" in spoken
    assert len(few) <= len(spoken) + 6
    held = train_mlm.Texts([*captions, "qqq zzz", "word " * 40], found)
    assert all(int(part.max()) < len(found) and part.shape[1] in range(4, 23) for part in held.parts)


def test_of_each_text_the_share_is_hidden_and_never_what_frames_it() -> None:
    ids = torch.arange(60).reshape(6, 10)
    for share, count in ((0.0, 1), (0.5, 4), (1.0, 8)):
        chosen = train_mlm.hidden(ids, share, torch.Generator().manual_seed(0))
        assert chosen.sum(dim=1).tolist() == [count] * 6 and not chosen[:, [0, -1]].any()


@pytest.mark.skipif(
    Version(transformers.__version__).major < 5, reason="the recipe makes its tokenizer as transformers 5 does"
)
def test_its_recipe_writes_a_folder_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_mlm, "glosses", lambda part: ["a small tree", "a red fruit", "a tree with red fruit"])
    folder = str(tmp_path / "emoji-mlm")
    monkeypatch.setattr(sys, "argv", ["train_mlm", "--steps", "3", "--texts", "300", "--output", folder])
    monkeypatch.setattr(train_mlm, "Sizes", _Small)
    monkeypatch.setattr(train_mlm, "texts", lambda count, first=0: texts(min(count, 300)))
    train_mlm.main()
    opened = load_backend(f"transformers:{folder}", device="cpu")
    assert opened.language_model is not None and opened.language_model.kind == "masked"


@dataclasses.dataclass(frozen=True)
class _Small(train_mlm.Sizes):
    vocabulary: int = 900
    width: int = 16
    layers: int = 1
    heads: int = 2
