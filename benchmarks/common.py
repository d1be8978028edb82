"""What the benchmarks share: scenes with known truth, intervals, and results as files, tables and pictures."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hardprompts import Backend, HardPrompt
from hardprompts.atomic import write_text_atomically
from hardprompts.evaluation import t_interval
from hardprompts.inversion import fluency, open_likelihood
from hardprompts_emoji import scenes
from hardprompts_emoji.scenes import HELD_OUT_SEED, Scene

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"


def held_out_scenes(count: int, num_objects: int, first_seed: int = HELD_OUT_SEED) -> list[Scene]:
    """Scenes from seeds that training never saw.

    Scenes of one seed share their first object, so each number of objects has seeds of its own.
    """
    first_seed += 10_000_000 * (num_objects - 1)
    return [scenes.sample_scene(first_seed + i, num_objects) for i in range(count)]


def scenes_in_turn(count: int, first_seed: int) -> list[Scene]:
    """Likewise, with one and two objects in turn, so that every part of them has as many of either."""
    kinds = (held_out_scenes((count + 1) // 2, objects, first_seed) for objects in (1, 2))
    return [scene for pair in zip(*kinds, strict=True) for scene in pair][:count]


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
        **{name: importlib.metadata.version(name) for name in ("transformers", "hardprompts")},
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


def in_other_environment(python: str, program: Path, *arguments: Path | str) -> None:
    """Runs a program with the Python of another environment, whose packages this one need not have.

    Raises:
        CalledProcessError: it failed.
    """
    # Packages of this environment are not for that one.
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [python, str(program), *map(str, arguments)], check=True, capture_output=True, text=True, env=variables
    )


# --- cells --------------------------------------------------------------------------------


class Cells:
    """Finished cells of a benchmark, one JSON line each: a run that is killed loses the cell that it was at alone.

    Args:
        only_read: raises LookupError where a cell is not there, instead of computing it.
        describe: what is printed of the figures of a new cell.
    """

    def __init__(
        self, name: str, only_read: bool = False, describe: Callable[[Mapping[str, Any]], str] = lambda _: ""
    ) -> None:
        self.only_read, self.describe = only_read, describe
        RESULTS.mkdir(exist_ok=True)
        self.path = RESULTS / f"{name}.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        # The last line of a killed run may be half a line.
        whole = [line for line in lines if line.endswith("}}")]
        self.found: dict[str, dict[str, Any]] = {}
        for line in whole:
            row = json.loads(line)
            self.found[_key(row["cell"])] = row["figures"]
        if len(whole) < len(lines):
            write_text_atomically(self.path, "".join(f"{line}\n" for line in whole))

    def forget(self, which: Callable[[Mapping[str, Any]], bool]) -> None:
        """Drops cells, which are then computed anew."""
        kept = {key: figures for key, figures in self.found.items() if not which(json.loads(key))}
        if len(kept) < len(self.found):
            self.found = kept
            lines = (json.dumps({"cell": json.loads(key), "figures": figures}, ensure_ascii=False) + "\n"
                     for key, figures in kept.items())  # fmt: skip
            write_text_atomically(self.path, "".join(lines))

    def get(self, cell: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The figures of a cell, from an earlier run or computed now."""
        key = _key(cell)
        if key not in self.found:
            if self.only_read:
                raise LookupError(f"this cell is not there yet: {key}")
            figures = dict(compute())
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"cell": cell, "figures": figures}, ensure_ascii=False) + "\n")
            self.found[key] = figures
            print(f"  {' '.join(str(value) for value in cell.values())}: {self.describe(figures)}", flush=True)
        return self.found[key]


def _key(cell: Mapping[str, Any]) -> str:
    return json.dumps(cell, sort_keys=True)


# --- pages and pictures -------------------------------------------------------------------


def write_section(page: Path, name: str, text: str) -> Path:
    """Puts text between `<!-- name -->` and `<!-- end of name -->` of a page; what stands around them stays.

    Raises:
        ValueError: the page has no such section.
    """
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(first) + ".*?" + re.escape(last), re.DOTALL)
    found, count = pattern.subn(lambda _: f"{first}\n{text.strip()}\n{last}", page.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{page} has {count} sections between {first!r} and {last!r}; it needs one")
    return write_text_atomically(page, found)


def subplots(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display.

    Args:
        options: of `pyplot.subplots`.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, layout="constrained", **options)


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure of `subplots`, and closes it."""
    from matplotlib import pyplot

    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def nats_of(texts: Sequence[str], language_model: str = "emoji:emoji-lm") -> dict[str, float]:
    """How surprising each word of a text is, on average, to a language model that proposed nothing: less is better."""
    different = list(dict.fromkeys(texts))
    told = fluency(different, open_likelihood(language_model)).tolist() if different else []
    return {text: -value for text, value in zip(different, told, strict=True)}
