"""Does the prompt name what is in the picture? 300 unseen scenes, default settings, 8 tokens.

    python benchmarks/truth_recovery.py

Half of the scenes have one object and half have two. A prompt names an object by a word of its
name or of its CLDR keywords, a background or a style by any of its words. The neutral judge is
emoji-clip-reference, which no search ever sees.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from common import held_out_scenes, interval, number, percent, pictures, save, summary, truth_rows

from hardprompts import PromptInverter, load_backend
from hardprompts.evaluation import markdown_table
from hardprompts.search import DEFAULT_METHOD


def measure(num_objects: int, count: int, method: str, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary and the rows of `count` scenes with so many objects."""
    torch.set_num_threads(1)
    inverter = PromptInverter("emoji", method=method, proposers="none")
    judge = load_backend("emoji:emoji-clip-reference")
    scenes = held_out_scenes(count, num_objects)
    images = pictures(scenes)
    start = time.perf_counter()
    prompts = inverter.invert_each(images, seed=seed, progress=False)
    seconds = (time.perf_counter() - start) / count
    rows = truth_rows(prompts, scenes, images, judge)
    return {"count": count, "seconds_per_image": round(seconds, 3), **summary(rows)}, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--method", default=DEFAULT_METHOD)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="truth_recovery", help="of the file in benchmarks/results")
    arguments = parser.parse_args()

    kinds = (1, 2)
    with ProcessPoolExecutor(len(kinds), mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(measure, kind, arguments.scenes // 2, arguments.method, arguments.seed) for kind in kinds]
        results = [run.result() for run in runs]
    lines = [["scenes", "objects", "background", "style", "judge: at least the caption", "judge", "judge of caption"]]
    for kind, (result, _) in zip(kinds, results, strict=True):
        lines.append(
            [
                f"{result['count']} with {kind} object{'s' * (kind > 1)}",
                *(percent(result[key]) for key in ("objects", "background", "style", "judge_at_least_caption")),
                *(number(result[key]) for key in ("judge", "judge_of_caption")),
            ]
        )
        print(f"{kind}: {result['seconds_per_image']} s per image, one thread")
    print(markdown_table(lines))
    values = {
        "method": arguments.method,
        "scenes": {str(kind): result for kind, (result, _) in zip(kinds, results, strict=True)},
        "judge_at_least_caption": interval(row["judge_at_least_caption"] for _, rows in results for row in rows),
        "examples": [row for _, rows in results for row in rows[:20]],
    }
    print("judge: at least the caption, all scenes:", percent(values["judge_at_least_caption"]))
    print(save(arguments.name, values))


if __name__ == "__main__":
    main()
