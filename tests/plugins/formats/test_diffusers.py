"""diffusers loads what is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_files import rows
from tiny_tokenizers import tokenizer_of

from hardprompts.softprompts import SoftPrompt


@pytest.fixture(scope="module")
def sd_pipeline() -> Any:
    """A Stable Diffusion pipeline with CLIP-L's width and one layer; the U-Net and the VAE are as small as can be."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    letters = [chr(c) for c in range(97, 123)]
    vocab = {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters)])}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=768, intermediate_size=64, num_hidden_layers=1, num_attention_heads=12,
        bos_token_id=52, eos_token_id=53,
    )  # fmt: skip
    return lambda: diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1),
        text_encoder=transformers.CLIPTextModel(config),
        tokenizer=tokenizer_of("CLIPTokenizer", vocab=vocab, merges=[]),
        unet=diffusers.UNet2DConditionModel(
            block_out_channels=(4,), layers_per_block=1, cross_attention_dim=768, norm_num_groups=1,
            down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), attention_head_dim=1,
        ),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "format, name, token",
    [
        ("diffusers", "learned_embeds.safetensors", "<panda>"),
        ("diffusers", "learned_embeds.bin", "<panda>"),
        ("a1111", "panda.pt", "<panda>"),
        ("kohya", "panda.safetensors", "emb_params"),
        ("comfyui", "panda.safetensors", "clip_l"),
    ],
)
def test_diffusers_loads_what_is_written(format: str, name: str, token: str, sd_pipeline: Any, tmp_path: Path) -> None:
    prompt = SoftPrompt({"clip_l": rows(3, 768)}, name="<panda>")
    prompt.save(tmp_path / name, format=format)
    pipeline = sd_pipeline()
    pipeline.load_textual_inversion(str(tmp_path / name))
    ids = pipeline.tokenizer.convert_tokens_to_ids([token, f"{token}_1", f"{token}_2"])
    held = pipeline.text_encoder.get_input_embeddings().weight.detach()[ids]
    assert torch.equal(held, prompt.embeddings["clip_l"])
    assert pipeline.maybe_convert_prompt(f"a {token}", pipeline.tokenizer) == f"a {token} {token}_1 {token}_2"


def test_diffusers_loads_a_folder_and_the_two_files_of_sdxl(sd_pipeline: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    prompt = SoftPrompt({"clip_l": rows(1, 768), "clip_g": rows(1, 1280)}, name="<panda>")
    files = prompt.save(tmp_path / "learned_embeds.safetensors", format="diffusers")
    pipeline = sd_pipeline()
    pipeline.load_textual_inversion(str(tmp_path))  # as from the Hub
    token = pipeline.tokenizer.convert_tokens_to_ids("<panda>")
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[token], prompt.embeddings["clip_l"][0])
    config = transformers.CLIPTextConfig(
        vocab_size=60, hidden_size=1280, intermediate_size=8, num_hidden_layers=1, num_attention_heads=20
    )
    second, other = transformers.CLIPTextModel(config), sd_pipeline()
    other.load_textual_inversion(str(files[1]), text_encoder=second, tokenizer=other.tokenizer)
    assert torch.equal(second.get_input_embeddings().weight[token], prompt.embeddings["clip_g"][0])
