"""What a gradient through a denoiser of a real shape takes: seconds, and memory beside what was estimated in advance.

    OMP_NUM_THREADS=1 python benchmarks/denoiser_memory.py sdxl --size 512

The shapes are those of Stable Diffusion 1.5 and XL but for the vocabulary, in bfloat16, with random weights; nothing is
downloaded. One prompt of 8 tokens, one noised latent, the objective of PH2P. Counted are
processor seconds and the bytes of all tensors that were alive at once; beside them stands by how much the process grew
at the most, on a card what torch handed out.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from common import save
from PIL import Image

from hardprompts.devices import wait_for
from hardprompts.diffusion import NoiseBank, NoisePrediction
from hardprompts.noise import NoiseWindow
from hardprompts.search.graphs import gradient_of
from hardprompts.towers.memory import peak_of
from hardprompts_diffusers import estimate_memory, noise_predictor
from hardprompts_diffusers.components import preserved
from hardprompts_emoji import path


def main() -> None:
    """Measures one shape, prints and saves what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--size", type=int, default=512, help="of the picture, in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpointed", action="store_true", help="keep little, and compute the rest again")
    arguments = parser.parse_args()
    found = gradient(
        SHAPES[arguments.shape](), torch.device(arguments.device), arguments.size, 1, arguments.checkpointed
    )
    print(found)
    kept = "_checkpointed" if arguments.checkpointed else ""
    print(save(f"denoiser_memory_{arguments.shape}_{arguments.size}{kept}", {**vars(arguments), **found}))


def gradient(pipe: Any, device: torch.device, size: int | None, rows: int, leaner: bool) -> dict[str, Any]:
    """Bytes that were estimated and taken by a gradient, and its seconds.

    Args:
        size: of the picture, in pixels; None: the pipeline's own.
        rows: latents at a time.
        leaner: with gradient checkpointing.
    """
    options = {"height": size, "width": size}
    estimate = estimate_memory(pipe, batch_size=rows, gradient_checkpointing=leaner, **options)
    pipe.to(device)
    with preserved(pipe, gradient_checkpointing=leaner):
        predictor = noise_predictor(pipe, **options)
        picture = [[(Image.new("RGB", (64, 64), "red"), 1.0)]]
        bank = NoiseBank.draw(predictor, picture, items=rows, window=NoiseWindow(), seed=0)
        objective = NoisePrediction(predictor, bank, batch_size=rows)
        vocabulary = predictor.vocabulary
        words = vocabulary.embed(vocabulary.sample((1, 8), torch.Generator().manual_seed(0)))
        groups = torch.zeros(1, dtype=torch.long, device=words.device)
        before, began = Memory(device), time.process_time()
        counted = peak_of(lambda: gradient_of(objective, words, groups), device)
        wait_for(device)
        return {
            "estimated": estimate.total,
            "estimated_activations": estimate.activations,
            "counted": counted,
            "grown": before.grown(),
            "before": before.bytes,
            "processor_seconds": time.process_time() - began,
        }


class Memory:
    """What a device has handed out, of a CPU what the process holds, from where the most is counted anew."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        if self._cuda is not None:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the most held, from here on
        self.bytes = self._most()

    def _most(self) -> int:
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda)
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        (most,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
        return int(most) * 1024

    def grown(self) -> int:
        """By how many bytes at the most."""
        return self._most() - self.bytes


# --- shapes -------------------------------------------------------------------------------


def emoji_sd() -> Any:
    """The embedded pipeline."""
    return diffusers.StableDiffusionPipeline.from_pretrained(path("emoji-sd"), safety_checker=None)


def sd15() -> Any:
    """A pipeline of Stable Diffusion 1.5's shape but for its vocabulary, in bfloat16, with random weights."""
    small = emoji_sd()
    with _Bfloat16():
        unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        text_encoder = transformers.CLIPTextModel(_text_config(small, 768, 12))
        vae = _vae()
    return diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=small.tokenizer, unet=unet, scheduler=small.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl() -> Any:
    """A pipeline of Stable Diffusion XL's shape but for its vocabulary, in bfloat16, with random weights."""
    small = emoji_sd()
    with _Bfloat16():
        unet = diffusers.UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=2,
            transformer_layers_per_block=(1, 2, 10), cross_attention_dim=2048, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
        first = transformers.CLIPTextModel(_text_config(small, 768, 12))
        second = transformers.CLIPTextModelWithProjection(_text_config(small, 1280, 20, hidden_act="gelu"))
        vae = _vae()
    return diffusers.StableDiffusionXLPipeline(
        vae=vae, text_encoder=first, text_encoder_2=second, tokenizer=small.tokenizer, tokenizer_2=small.tokenizer,
        unet=unet, scheduler=small.scheduler, feature_extractor=None, add_watermarker=False,
    )  # fmt: skip


def _text_config(small: Any, width: int, heads: int, **others: Any) -> transformers.CLIPTextConfig:
    own = small.text_encoder.config
    return transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12 if width == 768 else 32,
        num_attention_heads=heads, projection_dim=width, vocab_size=own.vocab_size, bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id, **others,
    )  # fmt: skip


def _vae() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4,
    )  # fmt: skip


class _Bfloat16:
    """Meanwhile weights are made in bfloat16."""

    def __enter__(self) -> None:
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)

    def __exit__(self, *_: Any) -> None:
        torch.set_default_dtype(self._before)


SHAPES = {"sd15": sd15, "sdxl": sdxl}


if __name__ == "__main__":
    main()
