"""A denoiser of the toy model, which knows the right prompt."""

import dataclasses

import torch

from hardprompts.noise import Conditioning, NoiseSchedule
from hardprompts.testing import ToyEncoder

TOY = ToyEncoder()


def stable_diffusion(prediction: str = "epsilon") -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseSchedule.variance_preserving(torch.cumprod(1 - betas, 0), prediction)


class ToyDenoiser:
    """Takes what the prompt says for the clean latent, and so predicts without an error only what it names.

    A latent is the toy's features of a picture of words; the right prompt is the one that names them.
    """

    name = "toy denoiser"
    max_tokens = TOY.max_tokens

    def __init__(self, schedule: NoiseSchedule, dtype: torch.dtype = torch.float32) -> None:
        self.schedule, self.dtype = schedule, dtype
        self.vocabulary = dataclasses.replace(TOY.vocabulary, table=TOY.vocabulary.table.to(dtype))
        self.rows: list[int] = []
        self.conditioned = 0

    def encode_images(self, images):
        return TOY.encode_images(images).to(self.dtype).reshape(len(images), 3, 4, 4)

    def condition(self, embeddings):
        self.conditioned += 1
        features = TOY.encode(embeddings.to(self.dtype))
        # A mask, as many pipelines have: a row for each prompt, without gradients.
        return Conditioning((features, torch.ones(len(embeddings), 3, dtype=torch.long)), fixed="same")

    def condition_text(self, text):
        ids = torch.tensor([self.vocabulary.encode(text)], dtype=torch.long)
        return self.condition(self.vocabulary.embed(ids))

    def predict(self, noisy, timesteps, conditioning):
        self.rows.append(len(noisy))
        assert conditioning.fixed == "same" and len(conditioning) == len(noisy)
        step = torch.searchsorted(self.schedule.timesteps, timesteps.double().cpu())
        a, s = (f[step].to(noisy).reshape(-1, 1, 1, 1) for f in (self.schedule.signal, self.schedule.noise))
        clean = conditioning.tensors[0].reshape(noisy.shape)
        noise = (noisy - a * clean) / s
        return {
            "epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean, "flow_prediction": noise - clean
        }[self.schedule.prediction]  # fmt: skip


def predictor(prediction: str = "epsilon", dtype: torch.dtype = torch.float32) -> ToyDenoiser:
    schedule = NoiseSchedule.flow() if prediction == "flow_prediction" else stable_diffusion(prediction)
    return ToyDenoiser(schedule, dtype)
