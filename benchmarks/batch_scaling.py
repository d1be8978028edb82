"""How much faster workers of Ray are than one process, each with one thread, and whether the prompts are the same.

    python benchmarks/batch_scaling.py --images 96 --workers 2

Inverts held-out scenes with the embedded model, first in this process and then with the workers, in the same run on
the same machine; repetitions take turns. The rate is images over the time from the beginning of the first chunk to the
end of the last, over all workers: a worker that begins late, and the time in which the last chunk is waited for, count
against it; opening the model and starting Ray do not, and are told apart. Give the machine a free core for each worker.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import held_out_scenes, pictures, save

from hardprompts.batch import invert_many
from hardprompts.evaluation import markdown_table


def main() -> None:
    """Measures, prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--max-steps", type=int, help="of each search (default: the method's own end)")
    parser.add_argument("--restarts", type=int, default=16)
    parser.add_argument("--name", default="batch_scaling", help="of the file of results")
    arguments = parser.parse_args()
    options = {"restarts": arguments.restarts, "max_steps": arguments.max_steps, "batch_size": arguments.batch_size}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        folder.mkdir()
        for index, image in enumerate(pictures(held_out_scenes(arguments.images, 2))):
            image.save(folder / f"{index:05d}.png")
        for repetition in range(arguments.repetitions):
            files = {}
            for workers in (None, arguments.workers):
                output = Path(place) / f"{repetition}-{workers}.jsonl"
                rows.append({"repetition": repetition, **measured(folder, output, workers, options)})
                files[workers] = output.read_bytes()
            same = files[None] == files[arguments.workers]
            rows[-1]["same_prompts"] = same
            if not same:
                print("the prompts of the workers DIFFER from those of one process")
    rates = {
        w: statistics.median(r["images_per_hour"] for r in rows if r["workers"] == w) for w in (0, arguments.workers)
    }
    ratio = rates[arguments.workers] / rates[0]
    columns = ("workers", "images", "images per hour", "busy seconds of all", "seconds with start-up", "same prompts")
    print(markdown_table([columns, *([cell(row[c.replace(" ", "_")]) for c in columns] for row in rows)]))
    print(f"{arguments.workers} workers are {ratio:.2f} times as fast as one process")
    facts = {
        "what": "images per hour of one process and of Ray workers, one thread each, embedded model, held-out scenes",
        "options": options,
        "ratio": round(ratio, 3),
        "rows": rows,
    }
    print(save(arguments.name, facts))


def measured(folder: Path, output: Path, workers: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """One run of all images."""
    start = time.perf_counter()
    report = invert_many(folder, output, threads=1, workers=workers, progress=False, device="cpu", **options)
    seconds = time.perf_counter() - start
    if report.failed:
        raise SystemExit(f"{report.failed} images failed; the rate means nothing")
    return {
        "workers": workers or 0,
        "images": report.done,
        "images_per_hour": round(report.images_per_hour, 1),
        "busy_seconds_of_all": round(report.busy_seconds, 2),
        "seconds_with_start-up": round(seconds, 2),
        "same_prompts": None,
    }


def cell(value: Any) -> str:
    """A value in the table."""
    if value is None:
        return ""
    return ("yes" if value else "NO") if isinstance(value, bool) else f"{value:,}"


if __name__ == "__main__":
    main()
