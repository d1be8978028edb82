"""Files of soft prompts as other tools write them."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch


def rows(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """In safetensors or by torch.save, as the name says."""
    if path.suffix == ".safetensors" or path.suffix == ".pti":
        safetensors.torch.save_file(tensors, path, metadata)
    else:
        torch.save(tensors, path)
    return path


A1111 = {
    "string_to_token": {"*": 265},
    "string_to_param": {"*": rows(2, 768)},
    "name": "my style",
    "step": 1500,
    "sd_checkpoint": "27a4ac756c",
    "sd_checkpoint_name": "model-v1",
}


def adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save(folder / "adapter_model.safetensors", tensors)
    values = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "token_dim": 16}
    values |= {"base_model_name_or_path": "org/model", **config}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder
