"""Pictures of training scenes, drawn by worker processes ahead of the step that needs them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hardprompts_emoji.recipe.clock import Clock
from hardprompts_emoji.recipe.curriculum import augment, curriculum_scene, normalize
from hardprompts_emoji.scenes import Scene, render_batch


class PictureStream(IterableDataset[tuple[list[Scene], Tensor]]):
    """Endless batches of (scenes, normalized pictures); every worker draws its own.

    Args:
        seed: Of the scenes and of all that is random in their pictures.
        clock: The curriculum goes by its progress.
        batch_size: Scenes in a batch.
        start, slope: The curriculum's place is ``start + slope * progress``.
        varied: Whether the pictures are cropped and shifted in color.
    """

    def __init__(
        self, seed: int, clock: Clock, batch_size: int, start: float = 0.0, slope: float = 1.0, varied: bool = True
    ) -> None:
        self.seed = seed
        self.clock = clock
        self.batch_size = batch_size
        self.start = start
        self.slope = slope
        self.varied = varied

    def __iter__(self) -> Iterator[tuple[list[Scene], Tensor]]:
        worker = get_worker_info()
        seed = self.seed * 1009 + (0 if worker is None else 1 + worker.id)
        sampler, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        while True:
            place = self.start + self.slope * self.clock.progress
            scenes = [curriculum_scene(place, sampler) for _ in range(self.batch_size)]
            pictures = render_batch(scenes, generator)
            yield scenes, augment(pictures, generator) if self.varied else normalize(pictures)

    def batches(self, workers: int, device: torch.device) -> Iterator[tuple[list[Scene], Tensor]]:
        """Yield batches drawn by so many processes (0: by this one), the pictures on ``device``."""
        loader: DataLoader[tuple[list[Scene], Tensor]] = DataLoader(
            self,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # a batch is one item here
            prefetch_factor=4 if workers else None,
            pin_memory=device.type == "cuda",
        )
        for scenes, pictures in loader:
            yield scenes, pictures.to(device, non_blocking=True)


def _as_it_is(batch: tuple[list[Scene], Tensor]) -> tuple[list[Scene], Tensor]:
    return batch
