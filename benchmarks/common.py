"""What the benchmarks share: scenes with known truth, intervals, and results as files and tables."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hardprompts import Backend, HardPrompt
from hardprompts.evaluation import t_interval
from hardprompts.prompts import write_text_atomically
from hardprompts_emoji import scenes
from hardprompts_emoji.scenes import HELD_OUT_SEED, Scene

RESULTS = Path(__file__).parent / "results"


def held_out_scenes(count: int, num_objects: int, first_seed: int = HELD_OUT_SEED) -> list[Scene]:
    """Scenes from seeds that training never saw.

    Scenes of one seed share their first object, so each number of objects has seeds of its own.
    """
    first_seed += 10_000_000 * (num_objects - 1)
    return [scenes.sample_scene(first_seed + i, num_objects) for i in range(count)]


def pictures(of: Sequence[Scene]) -> list[Image.Image]:
    """The scenes' pictures, as RGB images."""
    return [scenes.render(scene, seed=i) for i, scene in enumerate(of)]


def truth_rows(
    prompts: Sequence[HardPrompt], of: Sequence[Scene], images: Sequence[Image.Image], judge: Backend
) -> list[dict[str, Any]]:
    """For each prompt: what it names of its scene, and the judge's similarity of it and of the true caption."""
    captions = [scenes.caption(scene) for scene in of]
    target = judge.encode_images(images)
    found = (judge.encode_texts([prompt.filled for prompt in prompts]) * target).sum(dim=1).tolist()
    true = (judge.encode_texts(captions) * target).sum(dim=1).tolist()
    rows = []
    for prompt, scene, caption, by_judge, caption_by_judge in zip(prompts, of, captions, found, true, strict=True):
        truth = scenes.names(prompt.filled, scene)
        rows.append(
            {
                "prompt": prompt.filled,
                "caption": caption,
                "objects": all(truth.objects),
                "some_object": any(truth.objects),
                "background": truth.background,
                "style": truth.style,
                "similarity": prompt.score,
                "judge": by_judge,
                "judge_of_caption": caption_by_judge,
                "judge_at_least_caption": by_judge >= caption_by_judge,
                "tokens": len(prompt.token_ids),
                "evaluations": prompt.evaluations,
            }
        )
    return rows


def interval(values: Iterable[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval."""
    found = t_interval([float(value) for value in values])
    return found.mean, found.half_width


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean and half interval of every number in the rows."""
    names = [name for name, value in rows[0].items() if isinstance(value, bool | int | float)]
    return {name: interval(row[name] for row in rows) for name in names}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def save(name: str, values: Mapping[str, Any]) -> Path:
    """Writes the results of one benchmark."""
    RESULTS.mkdir(exist_ok=True)
    return save_results(RESULTS / f"{name}.json", values)


def save_results(path: Path, values: Mapping[str, Any]) -> Path:
    """Writes results as JSON, with the machine that they were measured on."""
    text = json.dumps({"machine": machine(), **values}, indent=1, ensure_ascii=False) + "\n"
    return write_text_atomically(path, text)


def percent(value: tuple[float, float]) -> str:
    """A share with its interval."""
    return f"{100 * value[0]:.1f} ± {100 * value[1]:.1f} %"


def number(value: tuple[float, float]) -> str:
    """A number with its interval."""
    return f"{value[0]:.3f} ± {value[1]:.3f}"
