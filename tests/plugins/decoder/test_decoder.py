"""Decoders: trained on texts alone, written, read and refused; and what they propose."""

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from hardprompts import Backend, BackendError, FileFormatError, NonFiniteError, PromptInverter, VocabularyError
from hardprompts.inversion import load_proposer
from hardprompts.testing import ToyEncoder, check_proposer, toy_backend
from hardprompts_decoder import corpus, training
from hardprompts_decoder.command import decoder
from hardprompts_decoder.corpus import FEATURES, READING, Corpus
from hardprompts_decoder.files import CARD, SETTINGS, WEIGHTS, Decoder, TowerMark
from hardprompts_decoder.network import DecoderShape, FeatureDecoder
from hardprompts_decoder.training import CHECKPOINT, TrainingOptions, measured_gap, train

BACKEND = toy_backend()
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)
COLORS, THINGS, PLACES = ("red", "green", "blue", "black"), ("house", "boat", "car", "cat"), ("snow", "rain", "garden")
TEXTS = [f"{color} {thing} in {place}" for color in COLORS for thing in THINGS for place in PLACES]
TEXTS += [f"{color} {thing}" for color in COLORS for thing in THINGS]
SMALL = TrainingOptions(steps=12, batch_size=16, width=32, layers=1, heads=2, prefix=2, warmup=4)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that has learned the texts."""
    options = TrainingOptions(
        steps=400, batch_size=64, width=64, layers=2, heads=4, prefix=2, learning_rate=4e-3, noise=0.1
    )
    folder = tmp_path_factory.mktemp("decoder") / "learned"
    train(BACKEND, TEXTS, folder, options)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / WEIGHTS)


# --- the network ------------------------------------------------------------------------------


def network() -> FeatureDecoder:
    made = FeatureDecoder(DecoderShape(features=6, tokens=9, max_tokens=5, width=16, layers=2, heads=2, prefix=3))
    made.initialize(torch.Generator().manual_seed(0))
    for parameter in made.parameters():
        parameter.data *= 3  # so that the likeliest token is clear
    return made.eval()


def test_what_is_written_with_a_cache_is_what_the_whole_pass_finds_likeliest() -> None:
    made, features = network(), torch.nn.functional.normalize(torch.randn(4, 6, generator=generator()), dim=1)
    lengths = torch.tensor([[5, 2], [1, 5], [4, 4], [3, 5]])
    written = made.write(features, lengths, torch.zeros(4, 2), generator())
    for row, own in enumerate(written):
        for column, ids in enumerate(own):
            assert len(ids) <= 5
            whole = made(features[row : row + 1], lengths[row, column][None], torch.tensor([ids], dtype=torch.long))
            wanted = whole.argmax(dim=-1)[0].tolist()
            assert wanted[: len(ids)] == list(ids)
            assert len(ids) == 5 or wanted[len(ids)] == made.shape.end


def test_beams_are_the_likeliest_texts() -> None:
    made = FeatureDecoder(DecoderShape(features=4, tokens=3, max_tokens=2, width=16, layers=1, heads=2, prefix=1))
    made.initialize(torch.Generator().manual_seed(1))
    features = torch.eye(4)[:2]
    found = made.beam(features, 2, 20)
    for row, beams in enumerate(found):
        every = {}
        for ids in [(), *((a,) for a in range(3)), *((a, b) for a in range(3) for b in range(3))]:
            logits = made(features[row : row + 1], torch.tensor([2]), torch.tensor([ids], dtype=torch.long))[0]
            steps = [*ids, made.shape.end][:2]
            every[ids] = sum(float(logits[i].detach().log_softmax(0)[token]) for i, token in enumerate(steps))
        best = sorted(every.values(), reverse=True)[:3]
        assert [value for _, value in beams[:3]] == pytest.approx(best, abs=1e-4)
        assert every[beams[0][0]] == pytest.approx(beams[0][1], abs=1e-4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("wrong", [{"width": 30}, {"layers": 0}, {"tokens": 0}])
def test_shapes_that_no_network_has_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="of a decoder must be"):
        DecoderShape(**{"features": 4, "tokens": 3, "max_tokens": 2, "heads": 4, **wrong})


# --- training ---------------------------------------------------------------------------------


def test_a_decoder_learns_to_write_texts_with_given_features(learned: Path) -> None:
    proposer = load_proposer(f"decoder:{learned}", BACKEND)
    check_proposer(proposer, BACKEND)
    features = BACKEND.encode_texts(TEXTS)
    proposed = proposer.propose(features, 8, 4, generator())
    assert sum(text in own for text, own in zip(TEXTS, proposed, strict=True)) >= 0.8 * len(TEXTS)
    short = proposer.propose(features, 4, 2, generator())
    assert all(len(text.split()) <= 2 for own in short for text in own)


def test_an_inverter_is_given_a_decoder_by_its_folder(learned: Path) -> None:
    inverter = PromptInverter(BACKEND, proposers=[f"decoder:{learned}"])
    pictures = [TOWER.picture(text) for text in TEXTS[:6]]
    prompts = inverter.invert_each(pictures, num_tokens=4, fast=True, seed=0, progress=False)
    assert sum(prompt.text == text for prompt, text in zip(prompts, TEXTS[:6], strict=True)) >= 4
    assert prompts[0].provenance["proposers"] == ["decoder"] and str(learned) not in json.dumps(prompts[0].to_dict())


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    train(BACKEND, TEXTS, tmp_path / "whole", SMALL)

    def interrupt(what: str, done: int, total: int, loss: float) -> None:
        if what == "training" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(BACKEND, TEXTS, tmp_path / "parts", SMALL, progress=interrupt)
    assert (tmp_path / "parts" / CHECKPOINT).exists()
    steps: list[int] = []
    train(
        BACKEND,
        TEXTS,
        tmp_path / "parts",
        SMALL,
        progress=lambda what, done, *_: steps.append(done) if what == "training" else None,
    )
    assert steps[0] == 6 and steps[-1] == SMALL.steps
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {WEIGHTS, SETTINGS, CARD}


def test_a_crash_loses_no_more_than_what_came_behind_the_last_checkpoint(tmp_path: Path) -> None:
    def crash(what: str, done: int, total: int, loss: float) -> None:
        if what == "training" and done == 7:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        train(BACKEND, TEXTS, tmp_path, SMALL, progress=crash, save_seconds=0)
    steps: list[int] = []
    train(
        BACKEND,
        TEXTS,
        tmp_path,
        SMALL,
        progress=lambda what, done, *_: steps.append(done) if what == "training" else None,
    )
    assert steps[0] == 7


def test_an_interrupt_within_a_step_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: Any) -> None:
    class Interrupted(torch.optim.AdamW):
        def step(self, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
            found = super().step(*arguments, **options)
            if next(iter(self.state.values()))["step"] == 4:
                raise KeyboardInterrupt  # the weights have changed, their mean has not
            return found

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim, "AdamW", Interrupted)
        train(BACKEND, TEXTS, tmp_path / "parts", SMALL, save_seconds=0)
    train(BACKEND, TEXTS, tmp_path / "parts", SMALL)
    train(BACKEND, TEXTS, tmp_path / "whole", SMALL)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_of_another_training_is_not_taken(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int, loss: float) -> None:
        if what == "training":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(BACKEND, TEXTS, tmp_path, SMALL, progress=interrupt)
    with pytest.raises(BackendError, match="unfinished training with other texts"):
        train(BACKEND, TEXTS[:20], tmp_path, SMALL)
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(FileFormatError, match="is damaged"):
        train(BACKEND, TEXTS, tmp_path, SMALL)


@pytest.mark.parametrize("name, content", [(FEATURES, b"half a file"), (READING, b'{"parts": 3}'), (READING, b"[")])
def test_damaged_files_of_features_are_made_anew(name: str, content: bytes, tmp_path: Path) -> None:
    whole = Corpus.read(BACKEND, TEXTS, 77, tmp_path, lambda *_: None).features.clone()
    (tmp_path / name).write_bytes(content)
    assert torch.equal(Corpus.read(BACKEND, TEXTS, 77, tmp_path, lambda *_: None).features, whole)


def test_a_reading_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CHUNK", 10)
    whole = Corpus.read(BACKEND, TEXTS, 77, tmp_path / "whole", lambda *_: None)

    def interrupt(what: str, done: int, total: int, loss: float) -> None:
        assert (what, total) == ("reading texts", len(TEXTS))
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Corpus.read(BACKEND, TEXTS, 77, tmp_path / "parts", interrupt)
    with open(tmp_path / "parts" / FEATURES, "ab") as file:
        file.write(b"part of a part")
    read: list[int] = []
    counting = counted(BACKEND, read)
    found = Corpus.read(counting, TEXTS, 77, tmp_path / "parts", lambda *_: None)
    assert read[-4:] == [10, 10, 10, 4] and 10 not in read[:-4]
    for name in ("features", "tokens", "lengths", "known"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    assert found.hash == whole.hash
    other = Corpus.read(BACKEND, ["red", *TEXTS[1:]], 77, tmp_path / "parts", lambda *_: None)
    alone = Corpus.read(BACKEND, ["red", *TEXTS[1:]], 77, tmp_path / "alone", lambda *_: None)
    assert torch.equal(other.features, alone.features) and other.hash != whole.hash


def counted(backend: Backend, read: list[int]) -> Backend:
    """The model, which notes how many texts it is given."""

    class Counting(ToyEncoder):
        def encode_text(self, texts: Any) -> Any:
            read.append(len(texts))
            return super().encode_text(texts)

    encoder = copy.copy(backend.text_encoder)
    encoder.__class__ = Counting
    return dataclasses.replace(backend, text_encoder=encoder)


def test_texts_are_read_one_after_another_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CHUNK", 64)

    class Text(str):
        alive = 0

        def __new__(cls, text: str) -> "Text":
            cls.alive += 1
            return super().__new__(cls, text)

        def __del__(self) -> None:
            type(self).alive -= 1

    most = 0

    def many() -> Iterator[str]:
        nonlocal most
        words = [*COLORS, *THINGS, *PLACES]
        for row in itertools.islice(itertools.product(words, repeat=3), 1200):
            yield Text(" ".join(row))
            most = max(most, Text.alive)

    found = Corpus.read(BACKEND, many(), 77, tmp_path, lambda *_: None)
    assert len(found.lengths) == 1200 and most <= 2 * corpus.CHUNK
    chosen = torch.tensor([3, 700, 1199])
    rows = found.rows(chosen)
    ids = [[int(found.known[token]) for token in row if token < len(found.known)] for row in rows.tolist()]
    features = BACKEND.encode_texts([BACKEND.vocabulary.decode(row) for row in ids])
    assert torch.allclose(features, found.features[chosen].float(), atol=2e-3)


def test_texts_that_cannot_be_used_are_left_out_or_refused(tmp_path: Path) -> None:
    made = train(BACKEND, ["", "  ", *TEXTS, TEXTS[0], "dinosaur", "red " * 40], tmp_path / "some", SMALL)
    assert made.facts["texts"] == len(TEXTS) and made.facts["texts_left_out"] == 5
    one = train(BACKEND, ["red house"], tmp_path / "one", SMALL)
    assert one.write(BACKEND.encode_texts(["red house"]), 2, 8, generator())[0]
    for texts in ([], ["", "dinosaur"], ["red " * 40]):
        with pytest.raises(VocabularyError, match="none of the"):
            train(BACKEND, texts, tmp_path / "none", SMALL)


def test_pictures_tell_the_gap(tmp_path: Path) -> None:
    texts = BACKEND.encode_texts(TEXTS)
    offset = torch.zeros(texts.shape[1])
    offset[0] = 0.3
    shift, noise = measured_gap(torch.nn.functional.normalize(texts + offset, dim=1), texts)
    assert float(shift @ offset) > 0 and 0 < noise < 0.3
    shift, noise = measured_gap(texts, texts)
    assert noise == pytest.approx(0, abs=1e-3) and float(shift.norm()) == pytest.approx(0, abs=1e-4)
    with_pictures = train(BACKEND, TEXTS, tmp_path / "a", SMALL, pictures=texts)
    assert with_pictures.facts["noise"] < 0.01
    assert train(BACKEND, TEXTS, tmp_path / "b", SMALL).facts["noise"] == training.IMAGE_NOISE


def test_bfloat16_trains_too(tmp_path: Path) -> None:
    made = train(BACKEND, TEXTS, tmp_path, TrainingOptions(**{**vars(SMALL), "bf16": True}))
    assert math.isfinite(made.facts["last_loss"])


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0.0}, {"noise": -1.0}, {"noise": math.nan}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingOptions(**wrong)


# --- files ------------------------------------------------------------------------------------


def test_a_decoder_is_the_same_when_it_is_read_again(learned: Path) -> None:
    first, second = Decoder.load(learned), Decoder.load(learned)
    features = BACKEND.encode_texts(TEXTS[:3])
    assert first.write(features, 4, 5, generator()) == second.write(features, 4, 5, generator())
    assert "trained on texts" in (learned / CARD).read_text() and first.facts["texts"] == len(TEXTS)
    assert (learned / WEIGHTS).stat().st_size < 1_000_000


def test_a_decoder_of_another_model_is_refused(learned: Path) -> None:
    import hardprompts

    with pytest.raises(BackendError, match="was trained for toy, and emoji:emoji-clip has features of 192"):
        PromptInverter("emoji", proposers=f"decoder:{learned}", device="cpu")
    other = toy_backend()
    table = other.vocabulary.table
    table += 0.5 * torch.randn(table.shape, generator=generator())
    mark = TowerMark.of(BACKEND)
    if mark.difference(TowerMark.of(other)):
        with pytest.raises(BackendError, match="other features for the same texts"):
            load_proposer(f"decoder:{learned}", other)
    with pytest.raises(BackendError, match="is a language model"):
        load_proposer(f"decoder:{learned}", hardprompts.load_backend("emoji:emoji-lm", device="cpu"))


def test_files_that_are_missing_or_damaged_are_named(learned: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="holds no decoder: it has no decoder.json"):
        load_proposer(f"decoder:{tmp_path}", BACKEND)
    for name in (WEIGHTS, SETTINGS):
        (tmp_path / name).write_bytes((learned / name).read_bytes())
    (tmp_path / WEIGHTS).write_bytes((learned / WEIGHTS).read_bytes()[:500])
    with pytest.raises(FileFormatError, match="damaged"):
        load_proposer(f"decoder:{tmp_path}", BACKEND)
    (tmp_path / SETTINGS).write_text('{"format": "something"}')
    with pytest.raises(FileFormatError, match="does not describe a decoder"):
        load_proposer(f"decoder:{tmp_path}", BACKEND)


def test_features_that_are_nan_are_refused(learned: Path) -> None:
    proposer = load_proposer(f"decoder:{learned}", BACKEND)
    with pytest.raises(NonFiniteError, match="NaN"):
        proposer.propose(torch.full((1, BACKEND.feature_width), math.nan), 2, 4, generator())


# --- the command ------------------------------------------------------------------------------


def run(*words: object) -> Any:
    return CliRunner().invoke(decoder, [str(word) for word in words])


def test_the_command_trains(tmp_path: Path, toy_plugin: str) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    arguments = ("--texts", tmp_path / "texts.txt", "--save", tmp_path / "out", "--width", "32", "--layers", "1")
    arguments = ("train", "--model", "toy", *arguments, "--heads", "2", "--device", "cpu")
    done = run(*arguments, "--steps", "3", "--batch-size", "8")
    assert done.exit_code == 0, done.output
    assert Decoder.load(tmp_path / "out").model == "toy"
    failed = run(*arguments, "--steps", "0")
    assert failed.exit_code == 2 and "steps must be at least 1" in failed.stderr
