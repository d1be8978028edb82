"""Draw the training scenes of ``emoji-sd`` and write prompts for each, with all cores.

Run ``python -m hardprompts_emoji.recipe.sd_data --scenes 500000 --workers 14``. Both training stages
read what it leaves in the work folder: pictures, four texts per scene as token ids, and how many.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardprompts_emoji.recipe.build_tokenizer import CONTEXT_LENGTH, build
from hardprompts_emoji.recipe.texts import Meanings, Texts
from hardprompts_emoji.scenes import (
    COMMON_OBJECTS,
    HELD_OUT_SEED,
    IMAGE_SIZE,
    Scene,
    caption,
    render_batch,
    sample_drawable_scene,
)

TEXTS_PER_SCENE = 4
CHUNK = 1000
FOLDER = "emoji-sd"
"""Folder inside the work folder that holds the data and the checkpoints."""


class PromptTexts(Texts):
    """Texts as people and searches write prompts; every method returns token ids without start and end."""

    def several(self, scene: Scene) -> list[tuple[int, ...]]:
        """Return a caption, a word list, either, and a text with something missing or meaningless."""
        written = self.meanings.encode(caption(scene, self.random))
        last = self.partial(scene) if self.random.random() < 0.5 else tuple(self.padded_list(scene)[0])
        return [written, self.word_list(scene), self.complete(scene), last]

    def partial(self, scene: Scene) -> tuple[int, ...]:
        """Return words that name some but not all of what is in the scene."""
        parts = self._parts(scene)
        return self._joined(self.random.sample(parts, self.random.randint(1, len(parts) - 1)))


@cache
def _prompts() -> PromptTexts:
    return PromptTexts(Meanings(build()), random.Random(0))


def to_model_input(texts: Sequence[Sequence[int]], start: int, end: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Return (n, CONTEXT_LENGTH) ids with start, end and padding, cut where the pipeline would cut."""
    ids = np.full((len(texts), CONTEXT_LENGTH), end, dtype=np.int16)
    ids[:, 0] = start
    for row, text in zip(ids, texts, strict=True):
        kept = text[: CONTEXT_LENGTH - 2]
        row[1 : 1 + len(kept)] = kept
    return ids


def _start_worker() -> None:
    torch.set_num_threads(1)


def _draw_chunk(job: tuple[Path, int, int, int]) -> int:
    """Fill rows of the two files; returns how many."""
    folder, number, count, seed = job
    prompts = _prompts()
    prompts.random = random.Random(seed * 1_000_003 + number)
    tokenizer = prompts.meanings.tokenizer
    rows = slice(number * CHUNK, number * CHUNK + count)
    scenes = [sample_drawable_scene(prompts.random.randrange(HELD_OUT_SEED)) for _ in range(count)]
    pictures = np.load(folder / "pictures.npy", mmap_mode="r+")
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    for first in range(0, count, 250):
        drawn = render_batch(scenes[first : first + 250], generator)
        start = rows.start + first
        pictures[start : start + len(drawn)] = (drawn * 255).round().to(torch.uint8).numpy()
    texts = [text for scene in scenes for text in prompts.several(scene)]
    ids = np.load(folder / "ids.npy", mmap_mode="r+")
    start_id, end_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids[rows] = to_model_input(texts, start_id, end_id).reshape(count, TEXTS_PER_SCENE, CONTEXT_LENGTH)
    return count


def draw(folder: Path, count: int, workers: int, minutes: float, seed: int = 1) -> int:
    """Draw up to ``count`` scenes into a folder within ``minutes``; returns how many it holds then."""
    finished = folder / "data.json"
    if finished.exists():
        there: int = json.loads(finished.read_text(encoding="utf-8"))["scenes"]
        print(f"{there} scenes are there already, in {folder}")
        return there
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"pictures": (count, 3, IMAGE_SIZE, IMAGE_SIZE), "ids": (count, TEXTS_PER_SCENE, CONTEXT_LENGTH)}
    for name, dtype in (("pictures", np.uint8), ("ids", np.int16)):
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shapes[name])
    jobs = [(folder, i, min(CHUNK, count - i * CHUNK), seed) for i in range((count + CHUNK - 1) // CHUNK)]
    begun = reported = time.monotonic()
    done = 0
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_start_worker) as pool:
        # In order, so that what is there when the time is up is one piece.
        for drawn in pool.imap(_draw_chunk, jobs):
            done += drawn
            now = time.monotonic()
            if now - reported > 20:
                reported = now
                print(f"{now - begun:6.0f} s {done} scenes, {done / (now - begun):.0f} a second", flush=True)
            if now - begun > minutes * 60:
                break
    temporary = finished.with_suffix(".tmp")
    temporary.write_text(json.dumps({"scenes": done, "seed": seed, "objects": len(COMMON_OBJECTS)}), encoding="utf-8")
    temporary.replace(finished)
    print(f"{time.monotonic() - begun:6.0f} s {done} scenes in {folder}", flush=True)
    return done


def about_data(folder: Path) -> dict[str, int]:
    """Return how many "scenes" a folder holds, of how many "objects", and from which "seed".

    Raises:
        FileNotFoundError: ``sd_data`` has not run.
    """
    finished = folder / "data.json"
    if not finished.exists():
        raise FileNotFoundError(f"no data in {folder}; run hardprompts_emoji.recipe.sd_data first")
    about: dict[str, int] = json.loads(finished.read_text(encoding="utf-8"))
    return about


def load_data(folder: Path, device: torch.device, what: str) -> Tensor:
    """Return all "pictures", (n, 3, 64, 64) uint8, or all "ids", (n, 4, 32) int16, on a device.

    Raises:
        FileNotFoundError: ``sd_data`` has not run.
    """
    count = about_data(folder)["scenes"]
    stored = np.load(folder / f"{what}.npy", mmap_mode="c")[:count]
    loaded = torch.empty(stored.shape, dtype=torch.from_numpy(stored[:1]).dtype, device=device)
    for first in range(0, count, 50_000):
        loaded[first : first + 50_000] = torch.from_numpy(stored[first : first + 50_000]).to(device)
    return loaded


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500_000)
    parser.add_argument("--minutes", type=float, default=2, help="stop then with what is there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    arguments = parser.parse_args()
    draw(arguments.work_dir / FOLDER, arguments.scenes, arguments.workers, arguments.minutes)


if __name__ == "__main__":
    main()
