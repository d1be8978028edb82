"""What a graphics card shows that no other machine can: one command, one JSON file that anybody can send.

    python benchmarks/device.py

Measured are, on the device that torch finds (or `--device`): milliseconds and kernel launches of a step of PEZ, as
written and compiled, in float32, bfloat16 and float16; the most memory that torch handed out in a gradient through
emoji-sd and through a pipeline of Stable Diffusion 1.5's shape, beside what `estimate_memory` said in advance; and the
prompts that the three dtypes find for the same pictures. Weights of the large shapes are random; nothing is downloaded.
A part that fails, for want of memory say, is told with its error, and the others go on. It writes
benchmarks/results/device_NAME.json with nothing of the machine in it but the card, its memory, and versions.
"""

import argparse
import platform
import re
from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from common import held_out_scenes, pictures, save
from compiled import measured
from limit import Tower
from PIL import Image

from hardprompts import PromptInverter, load_backend
from hardprompts.devices import default_device
from hardprompts.diffusion import NoiseBank, NoisePrediction
from hardprompts.noise import NoiseWindow
from hardprompts.search.graphs import gradient_of
from hardprompts_diffusers import estimate_memory, noise_predictor
from hardprompts_emoji import path

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def main() -> None:
    """Runs all parts and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=None, help="such as cuda:1; default: what torch finds")
    parser.add_argument("--models", nargs="+", default=["emoji-clip", "ViT-B-32", "ViT-L-14"])
    parser.add_argument("--targets", type=int, default=12, help="pictures that each dtype finds a prompt for")
    parser.add_argument("--small", action="store_true", help="without the shapes that need a card")
    arguments = parser.parse_args()
    device = torch.device(arguments.device) if arguments.device else default_device()
    found: dict[str, Any] = {"device": facts(device)}
    for model in arguments.models:
        for prompts in (1, 32):
            tell(found, f"steps of {model}, {prompts} prompts", lambda m=model, p=prompts: steps(m, p, device))
    tell(found, "memory of emoji-sd", lambda: memory(emoji_sd(), device))
    if not arguments.small:
        tell(found, "memory of the shape of Stable Diffusion 1.5", lambda: memory(sd15(), device))
    for dtype in DTYPES:
        tell(found, f"prompts in {_name(dtype)}", lambda d=dtype: prompts_in(d, device, arguments.targets))
    print(save("device_" + re.sub(r"\W+", "_", found["device"]["name"]).strip("_").lower(), found))


def tell(found: dict[str, Any], part: str, measure: Callable[[], dict[str, Any]]) -> None:
    """One part into the results, and onto the screen."""
    try:
        found[part] = measure()
    except Exception as error:  # noqa: BLE001  # whatever fails on a card that nobody here has seen is a result
        found[part] = {"error": f"{type(error).__name__}: {error}"[:500]}
    print(f"{part}: {found[part]}", flush=True)


def facts(device: torch.device) -> dict[str, Any]:
    """What the device is."""
    cuda = device.type == "cuda"
    return {
        "name": torch.cuda.get_device_name(device) if cuda else f"{device.type} {platform.machine()}",
        "memory": torch.cuda.get_device_properties(device).total_memory if cuda else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "diffusers": diffusers.__version__,
        "system": platform.system(),
    }


def steps(model: str, prompts: int, device: torch.device) -> dict[str, Any]:
    """Seconds and launches of a step, as written and compiled."""
    tower = Tower(model, device)
    found = measured(tower, prompts, repetitions=3)
    return {**found, "launches": launches(tower, prompts, device)}


def launches(tower: Tower, prompts: int, device: torch.device) -> int | None:
    """Kernels that a step launches, counted by torch's profiler; None where there are no kernels."""
    if device.type != "cuda":
        return None
    tower.step(prompts, 2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        tower.step(prompts, 4)
    kernels = sum(event.count for event in profile.key_averages() if event.device_type.name == "CUDA")
    return round(kernels / 5)


def memory(pipe: Any, device: torch.device) -> dict[str, Any]:
    """Bytes that were estimated and handed out, for one and for four latents at a time, also with checkpointing."""
    from hardprompts_diffusers.components import preserved

    found: dict[str, Any] = {}
    estimates = {
        (rows, leaner): estimate_memory(pipe, batch_size=rows, gradient_checkpointing=leaner)
        for rows in (1, 4)
        for leaner in (False, True)
    }
    pipe.to(device)
    for (rows, leaner), estimate in estimates.items():
        with preserved(pipe, gradient_checkpointing=leaner):
            predictor = noise_predictor(pipe)
            bank = NoiseBank.draw(
                predictor, [[(Image.new("RGB", (64, 64), "red"), 1.0)]], items=rows, window=NoiseWindow(), seed=0
            )
            objective = NoisePrediction(predictor, bank, batch_size=rows)
            vocabulary = predictor.vocabulary
            words = vocabulary.embed(vocabulary.sample((1, 8), torch.Generator().manual_seed(0)))
            before = peak(device)
            gradient_of(objective, words, torch.zeros(1, dtype=torch.long, device=words.device))
            key = f"{rows} at a time{', checkpointed' if leaner else ''}"
            found[key] = {
                "estimated": estimate.total,
                "estimated_activations": estimate.activations,
                "allocated": None if before is None else torch.cuda.max_memory_allocated(device),
                "allocated_before": before,
            }
    return found


def peak(device: torch.device) -> int | None:
    """Bytes that are allocated, from where the most is counted anew; None where torch does not count."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def emoji_sd() -> Any:
    """The embedded pipeline."""
    return diffusers.StableDiffusionPipeline.from_pretrained(path("emoji-sd"), safety_checker=None)


def sd15() -> Any:
    """A pipeline of Stable Diffusion 1.5's shape but for its vocabulary, in bfloat16, with random weights."""
    small = emoji_sd()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4,
        )  # fmt: skip
        own = small.text_encoder.config
        config = transformers.CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            vocab_size=own.vocab_size, bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id,
        )  # fmt: skip
        text_encoder = transformers.CLIPTextModel(config)
    finally:
        torch.set_default_dtype(before)
    return diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=small.tokenizer, unet=unet, scheduler=small.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def prompts_in(dtype: torch.dtype, device: torch.device, targets: int) -> dict[str, Any]:
    """The prompts of pictures by emoji-clip, and their similarities by another model on the CPU in float32."""
    images = pictures(held_out_scenes(targets, 2))
    inverter = PromptInverter("emoji", device=device, dtype=dtype)
    texts = [inverter.invert(image, seed=0, max_evaluations=800, progress=False).text for image in images]
    judge = load_backend("emoji:emoji-clip-reference", device="cpu")
    similar = (judge.encode_texts(texts) * judge.encode_images(images)).sum(dim=1).tolist()
    return {"prompts": texts, "judge": similar, "mean": sum(similar) / len(similar)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
