"""`hardprompts invert` with banks, required words, captions and a prior."""

import json

import pytest
from typer.testing import CliRunner

from hardprompts.cli import app
from hardprompts.testing import ToyEncoder, toy_language_model

pytestmark = pytest.mark.usefixtures("toy_plugin")

QUICK = ("--model", "toy", "--tokens", "4", "--steps", "5", "--restarts", "4", "--seed", "1", "--json")


@pytest.fixture
def invert(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Runs the command on a picture of "red house near river"; gives its exit code and what it printed."""
    monkeypatch.setenv("HARDPROMPTS_CACHE", str(tmp_path / "cache"))
    ToyEncoder().picture("red house near river").save(tmp_path / "picture.png")

    def run(*words):
        result = CliRunner().invoke(app, ["invert", str(tmp_path / "picture.png"), *QUICK, *map(str, words)])
        return result.exit_code, json.loads(result.stdout) if result.exit_code == 0 else result.stderr

    return run


def test_a_bank_of_the_users(tmp_path, invert) -> None:
    (tmp_path / "bank.txt").write_text("red house\nold boat\nnear river\n\n")
    code, prompt = invert("--bank", tmp_path / "bank.txt", "--steps", "50")
    assert code == 0 and prompt["method"] == "phrase-bank"
    assert "PhraseTable('bank', 3 phrases" in prompt["provenance"]["method_settings"]["tables"][0]
    assert "cache" not in prompt["provenance"]["method_settings"]
    assert list((tmp_path / "cache" / "phrases").iterdir())
    code, words = invert("--bank", tmp_path / "bank.txt", "--method", "pez+bank", "--steps", "60")
    assert code == 0 and words["method"] == "pez+bank"
    for words, message in (
        (("--bank", tmp_path / "bank.txt", "--method", "pez"), "--bank is for --method phrase-bank"),
        (("--bank", tmp_path / "none.txt"), "No such file"),
        (("--bank", tmp_path / "cache"), "no .txt files"),
        (("--prior-weight", "1"), "needs --prior"),
        (("--require", "zebra"), "'zebra'"),
    ):
        code, message_shown = invert(*words)
        assert code == 2 and message in message_shown and message_shown.count("\n") == 1


def test_required_words_a_caption_letters_alone_and_a_prior(invert, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardprompts.inversion import readability as readable

    opened = []

    def load(name, **options):
        opened.append(name)
        return toy_language_model()

    monkeypatch.setattr(readable, "load_backend", load)
    code, prompt = invert(
        "--require", "old", "--require", "boat", "--caption", "near river", "--words", "--prior", "toy-lm",
        "--prior-weight", "0.5",
    )  # fmt: skip
    assert code == 0 and prompt["text"].startswith("old boat ") and opened == ["toy-lm"]
