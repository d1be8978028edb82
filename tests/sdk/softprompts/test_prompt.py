"""Soft prompts as values: what they are made of, their names, their encoders."""

import sys
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hardprompts import FileFormatError
from hardprompts.softprompts import ENCODER_WIDTHS, SoftPrompt
from hardprompts.softprompts.containers import describe_model


def rows(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def test_a_soft_prompt_says_what_it_is() -> None:
    prompt = SoftPrompt(
        {"clip_l": rows(3, 768), "clip_g": rows(3, 1280)}, name="<cat>", step=500, source_format="kohya"
    )
    assert repr(prompt) == "SoftPrompt('<cat>': 3 tokens, clip_l 768, clip_g 1280, SDXL, step 500, from kohya)"
    assert prompt.encoders == ("clip_l", "clip_g") and prompt.widths == (768, 1280) and prompt.num_tokens == 3


@pytest.mark.parametrize(
    ("encoders", "families"),
    [
        ({"clip_l": 768}, ("SD 1.x",)),
        ({"clip_h": 1024}, ("SD 2.x",)),
        ({"clip_l": 768, "clip_g": 1280}, ("SDXL",)),
        ({"clip_g": 1280, "clip_l": 768}, ("SDXL",)),  # in either order
        ({"clip_g": 1280}, ("SDXL refiner", "Stable Cascade")),
        ({"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}, ("SD3",)),
        ({"clip_l": 768, "t5xxl": 4096}, ("FLUX.1",)),
        ({"t5xxl": 4096}, ("DeepFloyd IF", "PixArt", "Chroma")),
        ({"t5xxl": 1024}, ("Cosmos",)),
        ({"lm": 768}, ("language model of width 768",)),
        ({"lm_encoder": 512, "lm_decoder": 512}, ("encoder-decoder of width 512",)),
        ({"text_encoder": 32}, ("a model with text_encoder 32",)),
        ({"clip_h": 1024, "clip_g": 1280}, ("a model with clip_h 1024 + clip_g 1280",)),
    ],
)
def test_the_family_follows_from_all_encoders(encoders: dict[str, int], families: tuple[str, ...]) -> None:
    assert SoftPrompt({name: rows(1, width) for name, width in encoders.items()}).families == families


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ({}, "at least one text encoder"),
        ({"clip_l": rows(0, 768)}, "not empty"),
        ({"clip_l": rows(1, 768)[0]}, r"\(tokens, dim\)"),
        ({"clip_l": rows(1, 768)[None]}, r"\(tokens, dim\)"),
        ({"clip_l": rows(1, 1280)}, "clip_l has token embeddings of width 768, and these have 1280"),
        ({"t5xxl": rows(1, 512)}, "width 4096 or 1024"),
        ({"clip_l": rows(1, 768), "clip_g": rows(2, 1280)}, r"number of tokens \(clip_l 1, clip_g 2\)"),
        ({"lm": torch.full((2, 4), torch.nan)}, "NaN or infinity"),
        ({"lm": torch.tensor([[1e39]], dtype=torch.float64)}, "NaN or infinity"),  # in float32
        ({"lm": torch.full((2, 4), -torch.inf)}, "NaN or infinity"),
        ({"lm": rows(5000, 2)}, "at most 4096 tokens"),
        ({"lm": rows(1, 2**16 + 1)}, "width 65536"),
        ({"": rows(1, 4)}, "by their names"),
    ],
)
def test_what_is_no_soft_prompt_is_refused(embeddings: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftPrompt(embeddings)


def test_whole_numbers_are_refused() -> None:
    check = sys.modules["hardprompts.softprompts.prompt"]._checked
    with pytest.raises(ValueError, match=r"floating point, got torch\.int64"):
        check("lm", torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="floating point, got list"):
        check("lm", [[0.0]])


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "line\nbreak", "\u202etxt", "..", "../up", "c:\\x", "n" * 201, "\udc80"])
def test_names_that_could_steer_a_screen_or_a_path_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="its name"):
        SoftPrompt({"lm": rows(1, 4)}, name=name)


@pytest.mark.parametrize("name", ["", "<cat-toy>", "gasai yuno", "虎.v2", "a, b: {c}", "...", '"; rm -rf ~'])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert SoftPrompt({"lm": rows(1, 4)}, name=name).name == name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_soft_prompt_is_a_value(dtype: torch.dtype) -> None:
    given = rows(2, 4).to(dtype).requires_grad_()
    table = {"lm": given}
    prompt = SoftPrompt(table)
    held = prompt.embeddings["lm"].clone()
    assert held.dtype == torch.float32 and not prompt.embeddings["lm"].requires_grad
    with torch.no_grad():
        given.zero_()
    table["other"] = given
    assert torch.equal(prompt.embeddings["lm"], held) and prompt.encoders == ("lm",)
    with pytest.raises(TypeError):
        prompt.embeddings["lm"] = held  # type: ignore[index]


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["lora_unet_down_blocks_0_attentions_0.lora_down.weight", "lora_unet_down_blocks_0.alpha"], "LoRA"),
        (["transformer.single_blocks.0.lora_A.weight"], "LoRA"),
        (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "LoRA"),
        (["unet.down_blocks.0.lora.up.weight"], "LoRA"),
        (["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x"], "Stable Diffusion"),
        (["conditioner.embedders.0.transformer.x", "model.diffusion_model.x"], "SDXL"),
        (["first_stage_model.decoder.conv_in.weight"], "VAE"),
        (["down_blocks.0.resnets.0.conv1.weight"], "U-Net"),
        (["text_model.encoder.layers.0.mlp.fc1.bias"], "text encoder"),
        (["transformer.h.0.attn.c_attn.weight"], "language model"),
        (["double_blocks.0.img_attn.proj.weight"], "transformer of a diffusion model"),
        (["conv.weight"], "network"),
        (["<lora-style>"], ""),
        (["flora", "weightless", "<v1.5>", "my.token"], ""),
        (["clip_l", "clip_g", "emb_params"], ""),
        ([], ""),
    ],
)
def test_models_are_called_what_they_are(keys: list[str], what: str) -> None:
    found = describe_model(keys)
    assert what in found and bool(what) == bool(found)


def test_models_are_refused_with_what_they_are(tmp_path: Path) -> None:
    checkpoint = {"state_dict": {"model.diffusion_model.x": torch.zeros(2, 2)}, "global_step": 3}
    torch.save(checkpoint, tmp_path / "model.ckpt")
    torch.save({**checkpoint, "callback": warnings.catch_warnings}, tmp_path / "lightning.ckpt")
    safetensors.torch.save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 768)}, tmp_path / "l.safetensors")
    for name, what in [
        ("model.ckpt", "Stable Diffusion"),
        ("lightning.ckpt", "Stable Diffusion"),
        ("l.safetensors", "LoRA"),
    ]:
        with pytest.raises(FileFormatError, match=f"{what}.*not a soft prompt"):
            SoftPrompt.from_file(tmp_path / name)


def test_the_known_widths_are_told_apart() -> None:
    assert set(ENCODER_WIDTHS) >= {"clip_l", "clip_g", "clip_h", "t5xxl", "llama"}
    assert all(isinstance(width, int) for widths in ENCODER_WIDTHS.values() for width in widths)
