"""Every format by the public hook: what is written is read again, and nothing is written that would be read as something else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prompt_files import A1111, adapter, rows

from hardprompts import FileFormatError
from hardprompts.plugins import plugins
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts.prompt import soft_prompt_formats
from hardprompts.testing import check_format

ROOT = Path(__file__).parents[3]


def only(path: Path) -> SoftPrompt:
    return SoftPrompt.from_file(path)


@pytest.mark.parametrize("name", ["a1111", "kohya", "diffusers", "comfyui", "peft"])
def test_what_is_written_is_read_again_to_the_last_bit(name: str) -> None:
    check_format(soft_prompt_formats()[name])


def test_the_formats_come_by_the_public_hook() -> None:
    names = {"a1111", "a1111-card", "kohya", "kohya-xti", "diffusers", "pti", "comfyui", "comfyui-bundle"}
    assert set(plugins()["formats"]) == names | {"peft", "list", "tensor"}


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, hardprompts_formats; print('torch' in sys.modules or 'PIL' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize(
    "format, encoders, message",
    [
        ("a1111", {"clip_l": 768, "clip_g": 1280}, "room for one text encoder"),
        ("a1111", {"lm": 64}, "does not name the text encoder: lm 64 would be read as text_encoder"),
        ("kohya", {"clip_l": 768, "t5xxl": 4096}, "use kohya .SDXL. or comfyui"),
        ("kohya", {"umt5base": 768}, "would be read as clip_l"),
        ("diffusers", {"clip_l": 768, "t5xxl": 4096}, "room for one"),
        ("diffusers", {"text_encoder": 32, "text_encoder_2": 32}, "would be mistaken"),
        ("comfyui", {"lm": 64}, "knows no text encoder lm"),
        ("peft", {"clip_l": 768}, "for language models"),
    ],
)
def test_nothing_is_written_that_would_be_read_as_something_else(
    format: str, encoders: dict[str, int], message: str, tmp_path: Path
) -> None:
    prompt = SoftPrompt({name: rows(1, width) for name, width in encoders.items()}, name="<a>")
    suffix = soft_prompt_formats()[format].suffixes[0]
    with pytest.raises(FileFormatError, match=message):
        prompt.save(tmp_path / f"a{suffix}", format=format)
    assert os.listdir(tmp_path) == []


def test_diffusers_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="give it a name"):
        SoftPrompt({"clip_l": rows(1, 768)}).save(tmp_path / "a.bin", format="diffusers")


def test_names_steps_and_hints_survive_where_the_format_has_room(tmp_path: Path) -> None:
    torch.save(A1111, tmp_path / "a.pt")
    prompt = only(tmp_path / "a.pt")
    prompt.save(tmp_path / "b.pt", format="a1111")
    again = only(tmp_path / "b.pt")
    assert (again.name, again.step, again.base_models) == (prompt.name, prompt.step, prompt.base_models)
    stored = torch.load(tmp_path / "b.pt", weights_only=True)
    assert list(stored) == list(A1111) and stored["string_to_token"] == {"*": 265}
    folder = adapter(tmp_path / "lm", {"prompt_embeddings": rows(4, 16)}, num_layers=3, task_type="SEQ_CLS")
    prompt = only(folder)
    prompt.save(tmp_path / "copy", format="peft")
    config = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())
    assert config["num_layers"] == 3 and config["task_type"] == "SEQ_CLS"
    assert config["base_model_name_or_path"] == "org/model"
