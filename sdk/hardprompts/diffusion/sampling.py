"""A model's own pictures, as latents: the DDIM sampler for what a prompt draws."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.diffusion.noise_prediction import NoiseBank
from hardprompts.encoders import NoisePredictor
from hardprompts.errors import NonFiniteError
from hardprompts.images import load_images
from hardprompts.noise import NoiseWindow
from hardprompts.search.seeds import generator_of

#: Pictures that a denoiser makes of an original, if it is given none.
OWN_PICTURES = 4


def own_latents(
    predictor: NoisePredictor,
    original: Float[Tensor, "tokens dim"],
    shape: Sequence[int],
    generator: torch.Generator,
    num_steps: int = 10,
) -> Float[Tensor, "images ..."]:
    """Clean latents that the denoiser itself makes from noise under a prompt given as embeddings, without guidance.

    Args:
        shape: (images, *latent).

    Source: DDIM, arXiv 2010.02502, equation 12 with sigma = 0.
    """
    schedule = predictor.schedule
    with torch.no_grad():
        told = predictor.condition(original[None].to(predictor.vocabulary.table))
        rows = told.rows(torch.zeros(shape[0], dtype=torch.long))
        device = predictor.vocabulary.table.device
        x = torch.randn(tuple(shape), generator=generator).to(device)
        steps = torch.linspace(len(schedule.timesteps) - 1, 0, num_steps + 1).round().long()[:-1]
        clean = x
        for index, step in enumerate(steps.tolist()):
            signal, noise = float(schedule.signal[step]), float(schedule.noise[step])
            timesteps = schedule.timesteps[step].float().repeat(shape[0]).to(device)
            predicted = predictor.predict(x, timesteps, rows).to(x)
            if schedule.prediction == "epsilon":
                clean, epsilon = (x - noise * predicted) / max(signal, 1e-3), predicted
            else:
                clean = {
                    "sample": predicted,
                    "v_prediction": signal * x - noise * predicted,
                    "flow_prediction": x - noise * predicted,
                }[schedule.prediction]
                epsilon = (x - signal * clean) / noise
            if index + 1 < len(steps):
                after = int(steps[index + 1])
                x = float(schedule.signal[after]) * clean + float(schedule.noise[after]) * epsilon
    if not clean.isfinite().all():
        raise NonFiniteError(
            f"the pictures that {predictor.name} makes of the original are NaN or infinite; pass images, or load the "
            "model with dtype=torch.float32"
        )
    return clean


def own_bank(
    predictor: NoisePredictor, original: Float[Tensor, "tokens dim"], *, items: int, window: NoiseWindow, seed: int
) -> NoiseBank:
    """A bank of noised latents that the denoiser itself makes under a prompt given as embeddings.

    Args:
        items, window, seed: see `NoiseBank.draw`.
    """
    gray = Image.new("RGB", (64, 64), "gray")  # of the right shape; its latents are replaced
    bank = NoiseBank.draw(predictor, [[(load_images(gray)[0], 1.0)]], items=items, window=window, seed=seed)
    generator = generator_of(seed)
    made = min(items, OWN_PICTURES)
    latents = own_latents(predictor, original, (made, *bank.noisy.shape[2:]), generator)
    latents = latents.repeat(-(-len(bank) // made), *[1] * (latents.ndim - 1))[: len(bank)]
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    levels = predictor.schedule.timesteps.float()
    steps = torch.stack([(levels - t).abs().argmin() for t in bank.timesteps.cpu()])
    noisy, target = predictor.schedule.noised(latents, noise, steps)
    return dataclasses.replace(bank, noisy=noisy[None].to(bank.noisy), target=target[None].to(bank.target))
