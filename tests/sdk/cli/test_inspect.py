"""`hardprompts inspect`: what a file is, in lines and as JSON."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import Run

from hardprompts import SoftPrompt
from hardprompts.testing import toy_backend

pytestmark = pytest.mark.usefixtures("toy_plugin")


@pytest.fixture
def soft_prompt(tmp_path: Path) -> Path:
    """The embedding of "red", turned a little, and one that is far too long."""
    vocabulary = toy_backend().vocabulary
    red = vocabulary.embed(torch.tensor(vocabulary.encode("red")))
    noise = torch.randn(red.shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "red.safetensors"
    tokens = torch.cat([red + 0.05 * red.norm() * noise / noise.norm(), 50 * noise])
    SoftPrompt({"text_encoder": tokens}, name="<red>").save(path, format="diffusers")
    return path


def test_inspect_tells_what_a_file_is(soft_prompt: Path) -> None:
    run = Run("inspect", soft_prompt)
    assert run.code == 0 and run.err == ""
    assert "<red>: 2 tokens" in run.out and "format diffusers" in run.out


def test_inspect_compares_with_a_model(soft_prompt: Path) -> None:
    run = Run("inspect", soft_prompt, "--model", "toy")
    assert run.code == 0
    assert "token 1" in run.out and "'red' 1.00" in run.out
    assert "warning: Out-of-distribution length" in run.out and "1 of 2 longer than 99.9%" in run.out


def test_inspect_as_json(soft_prompt: Path) -> None:
    (found,) = json.loads(Run("inspect", soft_prompt, "--model", "toy", "--json").out)
    assert found["name"] == "<red>" and found["num_tokens"] == 2 and found["compared"] == "text_encoder"
    assert found["geometry"]["tokens"][0]["by_cosine"][0]["text"] == "red"
    assert found["nearest_words"].startswith("red")


def test_inspect_tells_readings_and_renames_keys(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    safetensors.torch.save_file({"emb_params": torch.ones(1, 768)}, path)
    run = Run("inspect", path)
    assert "note: The file does not name its text encoder. 768 values" in run.out and "read as clip_l" in run.out
    assert "--rename emb_params=t5base" in run.out
    run = Run("inspect", path, "--rename", "emb_params=t5base", "--json")
    (found,) = json.loads(run.out)
    assert found["encoders"] == {"t5base": 768} and found["notes"] == []
    safetensors.torch.save_file({"emb_params": torch.ones(1, 768), "step": torch.tensor([7])}, path)
    run = Run("inspect", path)
    assert "training step 7" in run.out and "int64" not in run.out
    safetensors.torch.save_file({"clip_g": torch.ones(1, 768)}, path)
    Run("inspect", path).fails("--rename clip_g=clip_l")
    assert "clip_l (768 wide)" in Run("inspect", path, "--rename", "clip_g=clip_l").out
    Run("inspect", path, "--rename", "clip_g").fails("--rename must be KEY=NAME")


def test_inspect_refuses_what_is_no_soft_prompt(pictures: Path, soft_prompt: Path, tmp_path: Path) -> None:
    Run("inspect", pictures / "notes.md").fails("notes.md", "no soft prompt")
    Run("inspect", tmp_path / "missing.pt").fails("missing.pt")
    other = tmp_path / "other.safetensors"
    SoftPrompt({"clip_l": torch.ones(1, 768)}).save(other, format="kohya")
    Run("inspect", other, "--model", "toy").fails("768", "SD 1.x")
