"""Files that people share, where this machine has them."""

import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hardprompts.softprompts import SoftPrompt

SHARED_DATA = "HARDPROMPTS_SHARED_DATA"


def only(path: Path) -> SoftPrompt:
    return SoftPrompt.from_file(path)


#: Of each file that people have shared: its format, encoders, tokens, step.
REAL = {
    "a1111_EasyNegative.pt": ("kohya", "clip_l", 8, None),
    "a1111_bad_prompt_version2.pt": ("a1111", "clip_l", 8, 12000),
    "a1111_badapple-200000.pt": ("a1111", "clip_l", 16, 200000),
    "a1111_eyeliner2.pt": ("a1111", "clip_l", 3, 3727),
    "a1111_gasai-yuno-1000.pt": ("a1111", "clip_l", 8, 1000),
    "a1111_gasai-yuno-16800.pt": ("a1111", "clip_l", 8, 16800),
    "a1111_negative_hand-neg.pt": ("a1111", "clip_l", 8, 8000),
    "cogsdxl_emojii_embeddings.pti": ("pti", "clip_l clip_g", 2, None),
    "diffusers_fastai_learned_embeds.bin": ("diffusers", "clip_l", 1, None),
    "diffusers_soejrd_learned_embeds.bin": ("diffusers", "clip_l", 1, None),
    "diffusers_thumbsup_learned_embeds.bin": ("diffusers", "clip_l", 1, None),
    "diffusers_ttekcor_learned_embeds.safetensors": ("diffusers", "clip_l", 1, None),
    "ldm_anya.pt": ("a1111", "clip_l", 1, None),
    "nArn0_sd15_test-input.safetensors": ("kohya", "clip_l", 37, None),
    "ossroettger_T5_myMolecule.pt": ("tensor", "t5xxl", 1, None),
    "ossroettger_myPuppet768.pt": ("pti", "clip_l clip_g", 1, None),
    "sdxl_scenery_neg.safetensors": ("kohya", "clip_l clip_g", 38, None),
    "sdxl_zPDXL2.safetensors": ("kohya", "clip_l clip_g", 42, None),
}


def real_files() -> Path:
    folder = os.environ.get(SHARED_DATA)
    if not folder:
        pytest.skip(f"{SHARED_DATA} does not name the folder with files that people have shared")
    return Path(folder) / "embeddings"


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read(name: str) -> None:
    prompt = only(real_files() / name)
    assert (prompt.source_format, " ".join(prompt.encoders), prompt.num_tokens, prompt.step) == REAL[name]


def test_every_real_file_is_known() -> None:
    names = {path.name for path in real_files().iterdir() if path.suffix != ".md"}
    assert names == set(REAL)


@pytest.mark.parametrize("name", [name for name in REAL if name != "ldm_anya.pt"])
def test_real_values_are_those_of_torch(name: str) -> None:
    path = real_files() / name
    found = only(path)
    try:
        tree: Any = safetensors.torch.load_file(path)
    except safetensors.SafetensorError:
        tree = torch.load(path, weights_only=True, map_location="cpu")
    tensors = [tree] if isinstance(tree, torch.Tensor) else list(tree.get("string_to_param", tree).values())
    expected = {tensor.shape[-1]: tensor.detach().float().reshape(-1, tensor.shape[-1]) for tensor in tensors}
    assert {values.shape[1] for values in found.embeddings.values()} == set(expected)
    assert all(torch.equal(values, expected[values.shape[1]]) for values in found.embeddings.values())


def test_the_oldest_file_of_all() -> None:
    # Its storage was on a GPU, and torch refuses its ParameterDict: what it holds was looked at by hand.
    prompt = only(real_files() / "ldm_anya.pt")
    assert float(prompt.embeddings["clip_l"].norm()) == pytest.approx(15.3255, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in REAL if name.endswith(".safetensors")])
def test_real_safetensors_come_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    path = real_files() / name
    prompt = only(path)
    prompt.save(tmp_path / name, format=prompt.source_format)
    assert (tmp_path / name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", [name for name in REAL if name.startswith("a1111") and REAL[name][0] == "a1111"])
def test_real_files_of_the_web_ui_come_back_with_all_that_they_hold(name: str, tmp_path: Path) -> None:
    path = real_files() / name
    only(path).save(tmp_path / name, format="a1111")
    ours, theirs = (torch.load(file, weights_only=True, map_location="cpu") for file in (tmp_path / name, path))
    pair = [tree.pop("string_to_param")["*"] for tree in (ours, theirs)]
    assert torch.equal(*pair) and ours == theirs
