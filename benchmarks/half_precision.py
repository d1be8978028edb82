"""Whether half precision costs anything: the same targets searched in float32, bfloat16 and float16, paired.

    OMP_NUM_THREADS=1 python benchmarks/half_precision.py

Targets: pictures of scenes for emoji-clip, sentences for all-MiniLM-L6-v2 (`photo`). Everything runs in the dtype, the
target's features too. What is found is judged in float32: by the model itself, and for pictures by another one,
emoji-clip-reference. Runs on a card too: `--device cuda`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from common import held_out_scenes, interval, pictures, save

from hardprompts import PromptInverter, load_backend
from hardprompts.evaluation import markdown_table
from hardprompts_emoji import scenes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    """Searches, judges, prints a table, and saves the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=24)
    parser.add_argument("--models", nargs="+", default=["emoji", "photo"], choices=["emoji", "photo"])
    parser.add_argument("--method", default="build+refine")
    parser.add_argument("--max-evaluations", type=int, default=800)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        rows += measure(
            name,
            targets=arguments.targets,
            device=arguments.device,
            method=arguments.method,
            max_evaluations=arguments.max_evaluations,
        )
        print(table(rows), flush=True)
        save("half_precision", {"what": __doc__.splitlines()[0], **vars(arguments), "rows": rows})


def measure(
    name: str, *, targets: int, device: str, method: str = "build+refine", max_evaluations: int = 800
) -> list[dict[str, Any]]:
    """A row for each dtype, with the prompt and its similarities for each target."""
    told = held_out_scenes(targets, 2)
    aims: Sequence[Any] = pictures(told) if name == "emoji" else [scenes.caption(scene) for scene in told]
    judges = [
        load_backend(name, device="cpu"),
        *([load_backend("emoji:emoji-clip-reference", device="cpu")] * (name == "emoji")),
    ]
    truths = [judge.encode_images(aims) if name == "emoji" else judge.encode_texts(aims) for judge in judges]
    rows = []
    for dtype, value in DTYPES.items():
        backend = load_backend(name, device=device, dtype=value)
        inverter = PromptInverter(backend, method=method, proposers="none")
        given = aims if name == "emoji" else list(backend.encode_texts(aims)[:, None])
        options = {"num_tokens": 8, "max_evaluations": max_evaluations, "seed": 0, "progress": False}
        texts = [inverter.invert(target, **options).text for target in given]
        found = [
            (judge.encode_texts(texts) * truth).sum(dim=1).tolist() for judge, truth in zip(judges, truths, strict=True)
        ]
        rows.append({"model": name, "dtype": dtype, "prompts": texts, "own": found[0], "judge": found[-1]})
        print(name, dtype, *(sum(values) / len(values) for values in found), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The mean similarity of each dtype, and the mean difference from float32 with its 95 % interval."""
    lines = [["model", "dtype", "similarity", "difference", "judge", "difference by the judge"]]
    for row in rows:
        full = next(other for other in rows if other["model"] == row["model"] and other["dtype"] == "float32")
        line = [row["model"], row["dtype"]]
        for measure in ("own", "judge"):
            line.append(f"{sum(row[measure]) / len(row[measure]):.4f}")
            mean, half = interval(a - b for a, b in zip(row[measure], full[measure], strict=True))
            line.append("" if row is full else f"{mean:+.4f} ± {half:.4f}")
        lines.append(line)
    return markdown_table(lines)


if __name__ == "__main__":
    main()
