"""`hardprompts push` and `hardprompts pull`."""

from pathlib import Path
from typing import Any

import torch
from hub_samples import PROMPT, soft
from loopback_hub import LoopbackHub
from safetensors.torch import save_file
from typer.testing import CliRunner

from hardprompts import HardPrompt, SoftPrompt
from hardprompts.cli import app


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_push_and_pull(hub: LoopbackHub, tmp_path: Path) -> None:
    PROMPT.save_pretrained(tmp_path / "out")
    pushed = run("push", tmp_path / "out", "alice/tiger", "--private", "--message", "hello")
    assert (
        pushed.exit_code == 0
        and pushed.stdout == f"{hub.url}/alice/tiger/commit/{hub.repos['alice/tiger'].refs['main']}\n"
    )
    assert hub.repos["alice/tiger"].private and hub.repos["alice/tiger"].messages[-1] == "hello"
    assert "nothing was committed" in run("push", tmp_path / "out", "alice/tiger").stderr
    pulled = run("pull", "alice/tiger", "--save", tmp_path / "in")
    assert pulled.exit_code == 0 and pulled.stdout == f"{PROMPT.filled}\n"
    assert HardPrompt.from_pretrained(tmp_path / "in") == PROMPT
    assert run("pull", "alice/tiger", "--offline").stdout == f"{PROMPT.filled}\n"


def test_push_and_pull_of_a_soft_prompt(hub: LoopbackHub, tmp_path: Path) -> None:
    soft().save(tmp_path / "style.pt", format="a1111")
    assert run("push", tmp_path / "style.pt", "alice/style").exit_code == 0
    pulled = run("pull", "alice/style", "--save", tmp_path / "in")
    assert pulled.exit_code == 0 and "2 tokens, clip_l 768" in pulled.stdout
    assert torch.equal(SoftPrompt.from_pretrained(tmp_path / "in").embeddings["clip_l"], soft().embeddings["clip_l"])


def test_push_chooses_and_renames(hub: LoopbackHub, tmp_path: Path) -> None:
    path = tmp_path / "two.safetensors"
    save_file({"<a>": torch.zeros(1, 768), "<b>": torch.ones(1, 768)}, path)
    assert "choose one with --name" in run("push", path, "alice/style").stderr
    assert run("push", path, "alice/style", "--name", "<b>").exit_code == 0
    assert SoftPrompt.from_pretrained("alice/style").embeddings["clip_l"].mean() == 1
    save_file({"clip_g": torch.ones(1, 768)}, path)
    assert run("push", path, "alice/other", "--rename", "clip_g=clip_l").exit_code == 0
    assert SoftPrompt.from_pretrained("alice/other").encoders == ("clip_l",)
    assert "is a folder" in run("push", tmp_path, "alice/other", "--name", "x").stderr


def test_the_commands_fail_in_one_line(hub: LoopbackHub, tmp_path: Path) -> None:
    for words in (
        ("push", tmp_path, "alice/tiger"),
        ("push", tmp_path / "nowhere", "alice/tiger"),
        ("pull", "tiger"),
        ("pull", "alice/nowhere"),
    ):
        failed = run(*words)
        assert failed.exit_code == 2 and failed.stdout == ""
        assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1, failed.stderr
