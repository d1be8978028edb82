"""Does the prompt name what is in the picture? 300 unseen scenes, default settings, 8 tokens.

    python benchmarks/truth_recovery.py

Half of the scenes have one object and half have two. A prompt names an object by a word of its
name or of its CLDR keywords, a background or a style by any of its words. The neutral judge is
emoji-clip-reference, which no search ever sees.
"""

import argparse
import time

from common import held_out_scenes, number, percent, pictures, save, summary, table, truth_rows

from hardprompts import PromptInverter, load_backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--method", default="pez+refine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="truth_recovery", help="of the file in benchmarks/results")
    arguments = parser.parse_args()

    inverter = PromptInverter("emoji", method=arguments.method)
    judge = load_backend("emoji:emoji-clip-reference")
    rows, per_kind = [["scenes", "objects", "background", "style", "judge ≥ caption", "judge", "judge of caption"]], {}
    examples = []
    for num_objects in (1, 2):
        scenes = held_out_scenes(arguments.scenes // 2, num_objects)
        images = pictures(scenes)
        start = time.perf_counter()
        prompts = inverter.invert_each(images, seed=arguments.seed)
        seconds = (time.perf_counter() - start) / len(scenes)
        found = truth_rows(prompts, scenes, images, judge)
        result = summary(found)
        per_kind[f"{num_objects} object"] = {"count": len(scenes), "seconds_per_image": round(seconds, 3), **result}
        examples += found[:20]
        rows.append(
            [
                f"{len(scenes)} with {num_objects}",
                *(percent(result[key]) for key in ("objects", "background", "style", "judge_at_least_caption")),
                *(number(result[key]) for key in ("judge", "judge_of_caption")),
            ]
        )
        print(f"{num_objects} object(s): {seconds:.2f} s per image", flush=True)
    print(table(rows))
    print(save(arguments.name, {"method": arguments.method, "scenes": per_kind, "examples": examples}))


if __name__ == "__main__":
    main()
