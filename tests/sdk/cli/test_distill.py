"""`hardprompts distill` on the toy model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from hardprompts import DistilledPrompt
from hardprompts.cli import app
from hardprompts.testing import toy_backend

BACKEND = toy_backend()


VOCABULARY = BACKEND.vocabulary


LONG = "the old red house near a small river in winter night"


def embedded(text: str) -> torch.Tensor:
    return VOCABULARY.embed(torch.tensor(VOCABULARY.encode(text), dtype=torch.long))


def command(*words: str | Path) -> Any:
    result = CliRunner().invoke(app, ["distill", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_distills_prompts_and_files(toy_plugin: str, tmp_path: Path) -> None:
    quick = ("--model", "toy", "--steps", "3", "--restarts", "4", "--seed", "1")
    text = command(LONG, *quick, "--tokens", "3", "--save", tmp_path / "out")
    assert text.exit_code == 0 and text.stdout.count("\n") == 1 and "faithfulness" in text.stderr
    stored = DistilledPrompt.from_pretrained(tmp_path / "out")
    assert stored.filled == text.stdout.strip() and len(stored.token_ids) <= 3
    save_file({"<red-boat>": embedded("red boat")}, tmp_path / "red.safetensors")
    found = command(tmp_path / "red.safetensors", *quick, "--inside", "the {}", "--json")
    assert json.loads(found.stdout)["text"] == "red boat"
    assert command(tmp_path / "red.safetensors", *quick, "--method", "nearest").stdout == "red boat\n"
    assert command(LONG, *quick, "--ratio", "0.2").exit_code == 0


def test_the_command_tells_what_it_read_of_a_uis_prompt(toy_plugin: str) -> None:
    pasted = "a (red:1.3) <lora:boat:0.8> boat"
    quick = ("--model", "toy", "--steps", "2", "--seed", "1", "--tokens", "3")
    found = command(pasted, *quick)
    assert "red 1.3" in found.stderr and "to be pasted behind: <lora:boat:0.8>" in found.stderr
    assert "lora" not in found.stdout
    literal = json.loads(command(pasted, *quick, "--markup", "none", "--json").stdout)
    assert "markup" not in literal["provenance"] and literal["provenance"]["original"] == pasted
    assert "no words beside its markup" in command("<lora:boat:0.8>", *quick).stderr


def test_the_command_renames_keys_and_tells_readings(toy_plugin: str, tmp_path: Path) -> None:
    save_file({"clip_l": torch.ones(1, 512)}, tmp_path / "wrong.safetensors")
    quick = ("--model", "toy", "--method", "nearest")
    refused = command(tmp_path / "wrong.safetensors", *quick)
    assert refused.exit_code == 2 and "width 768, and these have 512" in refused.stderr
    save_file({"clip_l": embedded("red boat")}, tmp_path / "red.safetensors")
    assert command(tmp_path / "red.safetensors", *quick, "--rename", "clip_l=<red>").stdout == "red boat\n"
    save_file({"<red>": torch.ones(1, 768)}, tmp_path / "half.safetensors")
    refused = command(tmp_path / "half.safetensors", *quick)
    assert "does not name its text encoder" in refused.stderr and "--rename '<red>=t5base'" in refused.stderr
    assert "are for files" in command("a red boat", *quick, "--rename", "a=b").stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing.safetensors",), "no file"),
        ((LONG, "--name", "x"), "--name"),
        ((LONG, "--tokens", "0"), "--tokens"),
        ((LONG, "--tokens", "2", "--ratio", "0.5"), "not both"),
        ((LONG, "--inside", "nothing"), "slots"),
        ((LONG, "--method", "magic"), "magic"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(toy_plugin: str, words: tuple[str, ...], message: str) -> None:
    result = command(*words, "--model", "toy")
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and message in result.stderr
