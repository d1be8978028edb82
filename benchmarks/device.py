"""What a graphics card shows that no other machine can: one command, one JSON file that anybody can send.

    python benchmarks/device.py

Measured are, on the device that torch finds (or `--device`): milliseconds and kernel launches of a step of PEZ, as
written and compiled; the most memory that torch handed out in a gradient through emoji-sd and through pipelines of the
shapes of Stable Diffusion 1.5 and XL, beside what `estimate_memory` said in advance; and how alike the prompts are that
float32, bfloat16 and float16 find for the same pictures (`half_precision.py`). Weights of the large shapes are random;
nothing is downloaded.
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
from common import save
from compiled import measured
from denoiser_memory import emoji_sd, gradient, sd15, sdxl
from limit import Tower

from hardprompts.devices import default_device


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
        tell(found, "memory of the shape of Stable Diffusion XL", lambda: memory(sdxl(), device))
    tell(found, "prompts by dtype", lambda: {"rows": prompts("emoji", targets=arguments.targets, device=str(device))})
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
    """What a gradient takes, for one and for four latents at a time, also with checkpointing."""
    found: dict[str, Any] = {}
    for rows in (1, 4):
        for leaner in (False, True):
            key = f"{rows} at a time{', checkpointed' if leaner else ''}"
            found[key] = gradient(pipe.to("cpu"), device, None, rows, leaner)
    return found


if __name__ == "__main__":
    main()
