"""`hardprompts inspect --report`: the page is written whole or not at all, and real files take no time."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from audits import Page
from typer.testing import CliRunner

from hardprompts import SoftPrompt
from hardprompts.cli import app
from hardprompts.distillation.audits import audits_of
from hardprompts.softprompts.audit import FileFacts
from hardprompts.softprompts.report import render_report
from hardprompts.testing import toy_backend

SHARED_DATA = "HARDPROMPTS_SHARED_DATA"


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def soft(values: torch.Tensor | None = None, **fields: Any) -> SoftPrompt:
    return SoftPrompt({"text_encoder": drawn(3, 32) if values is None else values}, **{"name": "<x>", **fields})


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    soft(drawn(2, 32)).save(path, format="diffusers")
    return path


@pytest.mark.usefixtures("toy_plugin")
def test_inspect_writes_the_page(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "ban.txt").write_text("x\n")
    found = run(
        "inspect", saved, "-m", "toy", "--report", tmp_path / "new" / "audit.html", "--ban-list", tmp_path / "ban.txt"
    )
    assert found.exit_code == 0 and "'x' is on the ban list" in found.stdout and "wrote" in found.stderr
    page = Page((tmp_path / "new" / "audit.html").read_text(encoding="utf-8"))
    assert "Robustness" in page.text and "'x' is on the ban list" in page.text
    assert os.listdir(tmp_path / "new") == ["audit.html"]


def test_a_refused_file_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'touch x'\ntR.")
    found = run("inspect", tmp_path / "bad.pt", "--report", tmp_path / "audit.html")
    assert found.exit_code == 2 and found.stderr.startswith("error: ")
    page = Page((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert "refused" in page.text and "plain pickle" in page.text and str(tmp_path) not in page.text


def test_misuse_of_inspect(saved: Path, tmp_path: Path) -> None:
    before = saved.read_bytes()
    for words, why in (
        (("--report", saved), "a file of its own"),
        (("--report", tmp_path), "a file of its own"),
        (("--ban-list", tmp_path / "none"), "none"),
        (("--decode",), "--decode needs --model"),
    ):
        found = run("inspect", saved, *words)
        assert found.exit_code == 2 and why in found.stderr and found.stderr.count("\n") == 1
    assert saved.read_bytes() == before


@pytest.mark.usefixtures("toy_plugin")
def test_a_failed_page_keeps_the_old_one(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit.html").write_text("old")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    assert run("inspect", saved, "--report", tmp_path / "audit.html").exit_code == 2
    assert sorted(os.listdir(tmp_path)) == ["audit.html", "x.safetensors"]
    assert (tmp_path / "audit.html").read_text() == "old"


@pytest.mark.skipif(SHARED_DATA not in os.environ, reason=f"{SHARED_DATA} names no folder with real files")
def test_real_files_in_time(tmp_path: Path) -> None:
    files = sorted(path for path in (Path(os.environ[SHARED_DATA]) / "embeddings").iterdir() if path.suffix != ".md")
    assert len(files) > 10
    for file in files:
        begin = time.process_time()
        audits = audits_of(file)
        page = Page(render_report(FileFacts.of(file), audits))
        assert time.process_time() - begin < 10
        assert audits[0].verdict.text in page.text and audits[0].dtypes


@pytest.mark.usefixtures("toy_plugin")
def test_inspect_decodes_by_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardprompts.distillation.audits.DECODING_SECONDS", 2.0)
    vocabulary = toy_backend().vocabulary
    path = tmp_path / "x.safetensors"
    soft(1.1 * vocabulary.embed(torch.tensor(vocabulary.encode("red house")))).save(path, format="diffusers")
    found = run("inspect", path, "-m", "toy", "--decode", "--json", "--report", tmp_path / "audit.html")
    assert found.exit_code == 0, found.stderr
    (values,) = json.loads(found.stdout)
    assert values["decoded"] is not None, values["findings"]
    page = Page((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert "What it does, in words" in page.text and values["decoded"]["text"] in page.text
    assert f"{values['decoded']['faithfulness']:.0%}" in page.text
