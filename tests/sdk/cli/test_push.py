"""`hardprompts push` and `hardprompts pull`."""

from pathlib import Path
from typing import Any

import torch
from hub_samples import PROMPT, soft
from loopback_hub import LoopbackHub
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
