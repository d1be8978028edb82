"""Names and keys that trainers write, and that are valid although nobody would type them."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from hardprompts import FileFormatError, SoftPrompt

FORMATS = [("a1111", ".pt"), ("diffusers", ".safetensors"), ("diffusers", ".bin"), ("kohya", ".safetensors"),
           ("comfyui", ".safetensors"), ("comfyui", ".pt")]  # fmt: skip
JOINED = [
    "👩\u200d🎨",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "❤\ufe0f\u200d🔥",
]  # an artist; Persian "I want"


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize(("format", "suffix"), FORMATS)
def test_joined_names_come_back_from_every_format(tmp_path: Path, format: str, suffix: str, name: str) -> None:
    prompt = SoftPrompt({"clip_l": torch.randn(2, 768)}, name=name)
    (path,) = prompt.save(tmp_path / f"{name}{suffix}", format=format)
    found = SoftPrompt.from_file(path)
    assert found.name == name and "name_in_file" not in found.metadata
    assert torch.equal(found.embeddings["clip_l"], prompt.embeddings["clip_l"])


def test_joined_names_come_back_from_adapters_and_folders(tmp_path: Path) -> None:
    name = JOINED[1]
    adapter = SoftPrompt({"lm": torch.randn(2, 64)}, name=name)
    adapter.save(tmp_path / name, format="peft")
    assert SoftPrompt.from_file(tmp_path / name).name == name
    adapter.save_pretrained(tmp_path / "folder")
    assert SoftPrompt.from_pretrained(tmp_path / "folder").name == name


@pytest.mark.parametrize(
    ("stored", "read", "note"),
    [
        ("won\u00adder", "wonder", r"won\xadder"),
        ("a\u202egnp", "agnp", r"a\u202egnp"),
        ("bell\x07", "bell", r"bell\x07"),
        ("styles/red", "styles_red", "styles/red"),
        ("..", "_", ".."),
        ("\u00ad", "learned", r"\xad"),
        ("x" * 250, "x" * 200, "x" * 250),
    ],
)
def test_other_names_are_cleaned_on_reading_and_refused_on_writing(
    tmp_path: Path, stored: str, read: str, note: str
) -> None:
    rows = torch.randn(1, 768)
    safetensors.torch.save_file({stored: rows}, tmp_path / "learned.safetensors")
    found = SoftPrompt.from_file(tmp_path / "learned.safetensors")
    assert found.name == read and found.metadata["name_in_file"] == note
    assert SoftPrompt.from_file(tmp_path / "learned.safetensors", name=stored).name == read
    found.save(tmp_path / "again.safetensors", format="diffusers")
    assert SoftPrompt.from_file(tmp_path / "again.safetensors").name == read
    with pytest.raises(ValueError, match="its name"):
        SoftPrompt({"clip_l": rows}, name=stored)


def test_tokens_that_are_cleaned_to_one_name_are_chosen_as_they_stand_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "two.safetensors"
    safetensors.torch.save_file({"red": torch.zeros(1, 768), "r\u00aded": torch.ones(1, 768)}, path)
    for name, value in (("red", 0), ("r\u00aded", 1)):
        assert SoftPrompt.from_file(path, name=name).embeddings["clip_l"][0, 0] == value


def test_the_smaller_half_of_flux_called_clip_g_is_clip_l(tmp_path: Path) -> None:
    rows = torch.randn(1, 768)
    safetensors.torch.save_file({"clip_g": rows, "t5xxl": torch.randn(1, 4096)}, tmp_path / "flux.safetensors")
    found = SoftPrompt.from_file(tmp_path / "flux.safetensors")
    assert found.encoders == ("clip_l", "t5xxl") and found.families == ("FLUX.1",)
    assert torch.equal(found.embeddings["clip_l"], rows) and "clip_g" in found.metadata["read_as"]


def test_wrong_keys_are_renamed_by_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    safetensors.torch.save_file({"clip_g": torch.randn(1, 768)}, path)
    with pytest.raises(FileFormatError, match=r'rename=\{"clip_g": "clip_l"\}'):
        SoftPrompt.from_file(path)
    assert SoftPrompt.from_file(path, rename={"clip_g": "t5base"}).encoders == ("t5base",)
    with pytest.raises(FileFormatError, match="no key 'clip_h' to rename"):
        SoftPrompt.from_file(path, rename={"clip_h": "clip_l"})


def test_swapped_keys_are_renamed_both(tmp_path: Path) -> None:
    path = tmp_path / "swapped.safetensors"
    safetensors.torch.save_file({"clip_g": torch.randn(1, 768), "clip_l": torch.randn(1, 1280)}, path)
    with pytest.raises(FileFormatError, match="rename both"):
        SoftPrompt.from_file(path, rename={"clip_g": "clip_l"})
    found = SoftPrompt.from_file(path, rename={"clip_g": "clip_l", "clip_l": "clip_g"})
    assert found.widths == (768, 1280)
