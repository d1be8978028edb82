"""Noise as denoisers know it: schedules, windows of noise levels, and the conditioning of denoisers by prompts."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: What a denoiser predicts, by the names that schedulers' `prediction_type` has for them.
Prediction = Literal["epsilon", "v_prediction", "flow_prediction", "sample"]

PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "flow_prediction", "sample")


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The steps of noise that a denoiser was trained on, and what it predicts at them.

    At step i a noised latent is `signal[i] * latent + noise[i] * epsilon`, with epsilon from a
    standard normal distribution.

    Attributes:
        timesteps: (steps,) what the denoiser is called with; the noise grows along it.
        signal: (steps,) the factor of the clean latent.
        noise: (steps,) the standard deviation of the noise.
        prediction: what the denoiser predicts of latent x and noise e, with signal a and noise s:
            "epsilon" e, "sample" x, "v_prediction" a e - s x, "flow_prediction" e - x.
    """

    timesteps: Float[Tensor, " steps"]
    signal: Float[Tensor, " steps"]
    noise: Float[Tensor, " steps"]
    prediction: Prediction

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {self.prediction!r}; known: {', '.join(PREDICTIONS)}")

    @classmethod
    def variance_preserving(
        cls, alphas_cumprod: Float[Tensor, " steps"], prediction: Prediction = "epsilon"
    ) -> "NoiseSchedule":
        """The schedule of a denoising diffusion model: signal^2 = alphas_cumprod, and signal^2 + noise^2 = 1.

        Source: DDPM, arXiv 2006.11239, equation 4; v: arXiv 2202.00512, appendix D.
        """
        kept = alphas_cumprod.detach().double().cpu()
        return cls(torch.arange(len(kept)).double(), kept.sqrt(), (1 - kept).sqrt(), prediction)

    @classmethod
    def flow(cls, steps: int = 1000) -> "NoiseSchedule":
        """The schedule of a rectified flow: signal = 1 - noise, with the noise 1/steps, 2/steps, ..., 1.

        A time shift of the sampler changes how densely it visits the levels, not what the model
        predicts at each of them, so there is none here.

        Source: Rectified flow, arXiv 2209.03003; Stable Diffusion 3, arXiv 2403.03206, section 2.
        """
        noise = torch.arange(1, steps + 1).double() / steps
        return cls(noise * steps, 1 - noise, noise, "flow_prediction")

    @functools.cached_property
    def levels(self) -> Float[Tensor, " steps"]:
        """(steps,) the noise level of each step: the noise's share of both factors, 0 clean, 1 pure noise.

        For a flow it is the model's own sigma. It means the same on every schedule, which a
        timestep does not: step 500 of 1000 is level 0.62 of Stable Diffusion's, and 0.50 of a flow.
        """
        return self.noise / (self.signal + self.noise)

    def noised(
        self,
        latents: Float[Tensor, "items ..."],
        noise: Float[Tensor, "items ..."],
        steps: Int[Tensor, " items"],
    ) -> tuple[Float[Tensor, "items ..."], Float[Tensor, "items ..."]]:
        """The noised latents at the given steps, and what the denoiser should predict of them."""
        shape = (-1,) + (1,) * (latents.ndim - 1)
        a, s = (factor[steps.cpu()].to(latents).reshape(shape) for factor in (self.signal, self.noise))
        target = {
            "epsilon": noise,
            "sample": latents,
            "v_prediction": a * noise - s * latents,
            "flow_prediction": noise - latents,
        }[self.prediction]
        return a * latents + s * noise, target


@dataclasses.dataclass(frozen=True)
class NoiseWindow:
    """A range of noise levels, 0 (clean) to 1 (pure noise); see `NoiseSchedule.levels`.

    High levels are where the denoiser settles what the picture shows, and so where the text matters most.

    Raises:
        ValueError: not 0 <= low < high <= 1.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"a noise window needs 0 <= low < high <= 1, got {self.low} and {self.high}")

    def steps(self, schedule: NoiseSchedule) -> Int[Tensor, " inside"]:
        """The schedule's steps whose level is inside.

        Raises:
            ValueError: there are none.
        """
        inside = ((schedule.levels >= self.low) & (schedule.levels <= self.high)).nonzero().squeeze(1)
        if not len(inside):
            first, last = float(schedule.levels[0]), float(schedule.levels[-1])
            raise ValueError(
                f"no step of this schedule has a noise level in [{self.low}, {self.high}]: its levels go from "
                f"{first:.3f} to {last:.3f}; widen the window"
            )
        return inside

    def draw(self, schedule: NoiseSchedule, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        """Steps drawn uniformly from those inside, one from each of `count` equal parts of them."""
        inside = self.steps(schedule)
        places = (torch.arange(count) + torch.rand(count, generator=generator, device=generator.device).cpu()) / count
        return inside[(places * len(inside)).long().clamp_max(len(inside) - 1)]


#: The later half of Stable Diffusion's timesteps, 500 to 999, which PH2P draws from (arXiv 2312.12416, section 4.2).
LATE = NoiseWindow(0.618, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Conditioning:
    """The text conditioning of a batch of prompts.

    Attributes:
        tensors: each (batch, ...); gradients flow through those of floating point to the prompts' embeddings.
        fixed: whatever else the denoiser takes, the same for every prompt of this many tokens.
    """

    tensors: tuple[Tensor, ...]
    fixed: Any = None

    def __len__(self) -> int:
        return len(self.tensors[0])

    def rows(self, index: Int[Tensor, " rows"]) -> "Conditioning":
        """Those of some prompts, in the given order; gradients flow back to the prompts."""
        tensors = tuple(tensor.index_select(0, index.to(tensor.device)) for tensor in self.tensors)
        return dataclasses.replace(self, tensors=tensors)

    @staticmethod
    def join(parts: "Sequence[Conditioning]") -> "Conditioning":
        """Several batches of prompts, which have the same number of tokens, as one."""
        if len(parts) == 1:
            return parts[0]
        tensors = tuple(torch.cat(same) for same in zip(*(part.tensors for part in parts), strict=True))
        return dataclasses.replace(parts[0], tensors=tensors)
