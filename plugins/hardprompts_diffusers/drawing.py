"""Pipelines of diffusers as generators: pictures of prompts, each with a seed of its own."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from hardprompts.search import generator_of
from hardprompts_diffusers.predictors import load_pipeline


@dataclasses.dataclass(frozen=True, eq=False)
class PipelineGenerator:
    """Draws with a text-to-image pipeline.

    Attributes:
        pipe: any pipeline of diffusers that takes a list of prompts and a list of torch's generators.
        arguments: of its call; its own defaults apply for the others.
    """

    pipe: Any
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image | None]:
        """A picture for each prompt; None where the pipeline's safety checker found something."""
        drawn = self.pipe(list(prompts), generator=[generator_of(seed) for seed in seeds], **self.arguments)
        unsafe = getattr(drawn, "nsfw_content_detected", None) or [False] * len(drawn.images)
        return [None if refused else picture for picture, refused in zip(drawn.images, unsafe, strict=True)]


def open_generator(
    name: str, *, device: torch.device, dtype: torch.dtype, steps: int | None, guidance_scale: float | None
) -> PipelineGenerator:
    """The pipeline of a folder or hub id as a generator.

    Args:
        steps, guidance_scale: of the denoiser; None: the pipeline's own.

    Raises:
        BackendError: see `load_pipeline`.
    """
    pipe = load_pipeline(name, device, dtype)
    pipe.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    return PipelineGenerator(pipe, {key: value for key, value in given.items() if value is not None})
