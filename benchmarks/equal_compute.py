"""Which search is better when all spend the same? Judged by a model that none of them sees.

    python benchmarks/equal_compute.py

Every method gets the same number of forward and backward passes for each of the same unseen
scenes. The similarity that a method optimised stands beside, to show that it decides nothing:
what counts is the neutral judge (emoji-clip-reference) and whether the scene is named.
Differences are paired, with 95 % intervals.
"""

import argparse
import time
from typing import Any

from common import held_out_scenes, interval, number, percent, pictures, save, summary, truth_rows

from hardprompts import PromptInverter, load_backend
from hardprompts.evaluation import markdown_table
from hardprompts.methods import PEZ, PEZRefine, Refine
from hardprompts_emoji.scenes import HELD_OUT_SEED

#: name -> (method, options of `invert`)
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pez (paper)": (PEZ(), {}),
    "pez+refine (default)": (PEZRefine(), {}),
    "default, 8 views": (PEZRefine(), {"views": 8}),
    "default, tokens cost nothing": (PEZRefine(), {"token_cost": 0.0}),
    "default, tokens cost twice as much": (PEZRefine(), {"token_cost": 0.3}),
    "default, 1 token dropped in pez": (PEZRefine(explore=PEZ(token_dropout=1)), {}),
    "default, L2 projection": (PEZRefine(explore=PEZ(metric="l2")), {}),
    "refine alone": (Refine(), {}),
    "pez, 8 views": (PEZ(), {"views": 8}),
    "pez, 1 token dropped": (PEZ(token_dropout=1), {}),
}
BASELINE = "pez (paper)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--evaluations", type=int, default=20_000, help="passes for each image")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    arguments = parser.parse_args()

    backend, judge = load_backend("emoji"), load_backend("emoji:emoji-clip-reference")
    half = arguments.scenes // 2
    # Other scenes than those of truth_recovery.py, so that nothing is tuned on what is reported there.
    scenes = [s for n in (1, 2) for s in held_out_scenes(half, n, HELD_OUT_SEED + 500_000)]
    images = pictures(scenes)
    head = ["method", "own similarity", "judge", "judge over pez", "objects", "background", "style", "s per image"]
    rows, results, judged = [head], {}, {}
    for name in dict.fromkeys([BASELINE, *arguments.variants]):
        method, options = VARIANTS[name]
        inverter = PromptInverter(backend, method=method)
        start = time.perf_counter()
        batch = 10
        prompts = inverter.invert_each(
            images, batch_size=batch, seed=0, max_evaluations=batch * arguments.evaluations, progress=False, **options
        )
        seconds = (time.perf_counter() - start) / len(images)
        found = truth_rows(prompts, scenes, images, judge)
        result = summary(found)
        judged[name] = [row["judge"] for row in found]
        gain = interval(a - b for a, b in zip(judged[name], judged[BASELINE], strict=True))
        results[name] = {**result, "gain_over_pez": gain, "seconds_per_image": round(seconds, 3)}
        rows.append(
            [
                name,
                number(result["similarity"]),
                number(result["judge"]),
                number(gain),
                *(percent(result[key]) for key in ("objects", "background", "style")),
                f"{seconds:.2f}",
            ]
        )
        print(markdown_table([rows[0], rows[-1]]), flush=True)
    print(markdown_table(rows))
    print(save("equal_compute", {"evaluations_per_image": arguments.evaluations, "variants": results}))


if __name__ == "__main__":
    main()
