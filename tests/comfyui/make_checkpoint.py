# ruff: noqa: E402
"""Writes a small random checkpoint that ComfyUI takes for Stable Diffusion 1.x, a LoRA and an embedding for it.

Run by ComfyUI's own Python: make_checkpoint.py COMFYUI_PATH MODELS_FOLDER.
"""

import json
import sys
from pathlib import Path

comfyui, models = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(comfyui))
sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.ops
import torch
from comfy.clip_model import CLIPTextModel
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [1, 1],
    "channel_mult": [1, 1], "num_heads": 8, "use_spatial_transformer": True, "transformer_depth": [1, 0],
    "transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 0, 0], "context_dim": 768, "legacy": False,
}  # fmt: skip


def drawn(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights that keep the size of what goes through; norms do nothing."""
    values = {}
    for name, tensor in module.state_dict().items():
        if tensor.ndim < 2:
            values[name] = torch.full_like(tensor, float(name.endswith("weight")))
        else:
            values[name] = torch.randn(tensor.shape) / tensor[0].numel() ** 0.5
    return values


def with_prefix(prefix: str, values: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor.to(dtype).contiguous() for name, tensor in values.items()}


torch.manual_seed(0)
build = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": "cpu"}
unet = drawn(UNetModel(**UNET, **build))
config = json.loads((comfyui / "comfy" / "sd1_clip_config.json").read_text())
clip = drawn(CLIPTextModel(config, torch.float32, "cpu", comfy.ops.disable_weight_init))
vae = TAESD(latent_channels=4)
vae_values = {name: tensor for name, tensor in drawn(vae).items() if tensor.ndim}

(models / "checkpoints").mkdir(parents=True, exist_ok=True)
(models / "loras").mkdir(parents=True, exist_ok=True)
(models / "embeddings").mkdir(parents=True, exist_ok=True)
save_file(
    {
        **with_prefix("model.diffusion_model.", unet, torch.float16),
        **with_prefix("cond_stage_model.transformer.", clip, torch.float16),
        **with_prefix("first_stage_model.", vae_values, torch.float32),
        "first_stage_model.vae_scale": torch.tensor(1.0),
        "first_stage_model.vae_shift": torch.tensor(0.0),
    },
    models / "checkpoints" / "tiny.safetensors",
)
lora = {}
for name in ("input_blocks_1_1_transformer_blocks_0_attn2_to_k", "middle_block_1_transformer_blocks_0_attn2_to_v"):
    lora[f"lora_unet_{name}.lora_up.weight"] = torch.randn(320, 4)
    lora[f"lora_unet_{name}.lora_down.weight"] = torch.randn(4, 768) / 10
    lora[f"lora_unet_{name}.alpha"] = torch.tensor(4.0)
for name in ("q_proj", "v_proj"):
    lora[f"lora_te_text_model_encoder_layers_0_self_attn_{name}.lora_up.weight"] = torch.randn(768, 4)
    lora[f"lora_te_text_model_encoder_layers_0_self_attn_{name}.lora_down.weight"] = torch.randn(4, 768) / 10
    lora[f"lora_te_text_model_encoder_layers_0_self_attn_{name}.alpha"] = torch.tensor(4.0)
save_file(lora, models / "loras" / "tiny.safetensors")
table = clip["text_model.embeddings.token_embedding.weight"]
save_file({"emb_params": (table[[2368, 320]] * 1.2).contiguous()}, models / "embeddings" / "tiny.safetensors")
