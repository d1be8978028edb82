"""Decoders on the Hub: pushed in one commit, pulled, and opened by their repository; and what a damaged one says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants
from loopback_hub import LoopbackHub, reached
from typer.testing import CliRunner

from hardprompts import FileFormatError, HubError, PromptInverter
from hardprompts.inversion import load_proposer
from hardprompts.testing import toy_backend
from hardprompts_decoder.command import decoder
from hardprompts_decoder.files import CARD, SETTINGS, WEIGHTS, Decoder
from hardprompts_decoder.training import TrainingOptions, train

BACKEND = toy_backend()
TEXTS = ["red house", "green boat", "blue car in snow", "black cat in rain"]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = TrainingOptions(steps=6, batch_size=8, width=16, layers=1, heads=2, prefix=2)
    return train(BACKEND, TEXTS, tmp_path_factory.mktemp("decoder") / "learned", options).save(
        tmp_path_factory.mktemp("saved") / "learned"
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """A hub on this machine, and alice's token as the one that is logged in."""
    with LoopbackHub().running() as running, reached(running, tmp_path / "cache"):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        yield running


def run(*words: object) -> Any:
    return CliRunner().invoke(decoder, [str(word) for word in words])


def test_a_decoder_goes_there_in_one_commit_and_comes_back_as_it_was(
    learned: Path, hub: LoopbackHub, tmp_path: Path
) -> None:
    done = run("push", learned, "alice/writer", "--message", "my decoder", "--license", "cc0-1.0")
    assert done.exit_code == 0, done.output
    files = hub.repos["alice/writer"].files
    assert set(files) == {".gitattributes", CARD, WEIGHTS, SETTINGS}
    assert hub.repos["alice/writer"].messages == ["initial commit", "my decoder"]
    assert len(hub.requests("^POST .*/commit/")) == 1
    card = files[CARD].decode()
    assert "license: cc0-1.0" in card and 'proposers=["decoder:alice/writer"]' in card and "- decoder" in card
    done = run("pull", "alice/writer", tmp_path / "pulled")
    assert done.exit_code == 0, done.output
    for name in (WEIGHTS, SETTINGS):
        assert (tmp_path / "pulled" / name).read_bytes() == (learned / name).read_bytes()
    again = run("push", tmp_path / "pulled", "alice/writer", "--license", "cc0-1.0")
    assert "nothing was committed" in again.stderr and len(hub.repos["alice/writer"].messages) == 2


def test_a_search_opens_a_decoder_by_its_repository(learned: Path, hub: LoopbackHub) -> None:
    Decoder.load(learned).push_to_hub("alice/writer")
    hub.repos["alice/writer"].files["decoder.pkl"] = b"code"
    features = BACKEND.encode_texts(TEXTS)
    here, there = (load_proposer(f"decoder:{name}", BACKEND) for name in (learned, "alice/writer"))
    assert here.propose(features, 4, 4, torch.Generator().manual_seed(0)) == there.propose(
        features, 4, 4, torch.Generator().manual_seed(0)
    )
    assert not hub.requests("decoder.pkl")
    prompt = PromptInverter(BACKEND, proposers="decoder:alice/writer").invert(
        features[:1], 3, fast=True, seed=0, progress=False
    )
    assert prompt.provenance["proposers"] == ["decoder"]


def test_nothing_of_this_machine_is_written_or_pushed(learned: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    found = Decoder.load(learned)
    secret = tmp_path / "secret" / "my-model"
    of_folder = Decoder(
        found.network, found.tokens, found.lengths, found.shift, found.mark, f"transformers:{secret}", found.facts
    )
    of_folder.save(tmp_path / "saved")
    with pytest.warns(UserWarning, match="folders and names of this machine are not shared"):
        of_folder.push_to_hub("alice/writer")
    for files in (
        {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}, hub.repos["alice/writer"].files
    ):  # fmt: skip
        assert all(b"secret" not in content for content in files.values())
        assert json.loads(files[SETTINGS])["model"] == "transformers:…/my-model"


def test_a_repository_without_a_decoder_is_named(hub: LoopbackHub) -> None:
    with pytest.raises(HubError, match="nobody/nothing"):
        load_proposer("decoder:nobody/nothing", BACKEND)
    hub.create("bob/empty")
    done = run("pull", "bob/empty", "anywhere")
    assert done.exit_code == 2 and "holds no decoder" in done.stderr and not Path("anywhere").exists()
    assert run("pull", "no repository", "anywhere").exit_code == 2


@pytest.mark.parametrize("field, value", [("width", 2**40), ("features", 2**33), ("layers", 7), ("max_tokens", 3)])
def test_settings_that_do_not_fit_the_weights_are_refused(
    field: str, value: int, learned: Path, tmp_path: Path
) -> None:
    settings = json.loads((learned / SETTINGS).read_text())
    settings["shape"][field] = value
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    (tmp_path / WEIGHTS).write_bytes((learned / WEIGHTS).read_bytes())
    with pytest.raises(FileFormatError, match="is damaged"):
        Decoder.load(tmp_path)


def test_tokens_that_do_not_fit_are_refused(learned: Path, tmp_path: Path) -> None:
    weights = safetensors.torch.load_file(learned / WEIGHTS)
    weights["tokens"] = weights["tokens"][:-1].clone()
    safetensors.torch.save_file(weights, tmp_path / WEIGHTS)
    (tmp_path / SETTINGS).write_bytes((learned / SETTINGS).read_bytes())
    with pytest.raises(FileFormatError, match="tokens has the shape"):
        Decoder.load(tmp_path)
