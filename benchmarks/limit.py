"""How far is a step of PEZ from what the machine allows?

    python benchmarks/limit.py

The least that a step can cost is that of its parts, each the larger of two times: its bytes over the memory's
bandwidth, and its operations over the processor's peak. The parts: the text tower's weights are read once on the way
forward and once on the way back, with two operations for each weight and position either time, and the vocabulary's
table is read once, with two operations for each of its elements and searched token. Bandwidth (the sum of an array
as large as what a step reads, which for a small tower comes from the cache) and peak (the best of a large matrix
product and of the tower's own shapes, by torch and with the matrix laid out for oneDNN, which on some processors is
twice as fast) are measured in the same run, in the same type, with the same threads, between the repetitions of the
step. Nothing else is counted: no attention, no norms, no optimizer, nothing of what is kept in between. A step is what
passes from one callback of `run_search` to the next.

The towers have real shapes and random weights. What `--profile` prints is where a step's time goes. It writes
benchmarks/results/limit.json and the table of docs/methods.md.
"""

import argparse
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import open_clip
import torch
from common import DOCS, save, write_section
from generation import command
from step_speed import VISION

from hardprompts import load_backend, run_search
from hardprompts.devices import default_device
from hardprompts.encoders import normalize
from hardprompts.evaluation import markdown_table
from hardprompts.methods import PEZ
from hardprompts.objectives import FeatureSimilarity
from hardprompts.towers import FrozenTable
from hardprompts_openclip.backend import from_model

NUM_TOKENS = 8

#: Elements that are read to measure the bandwidth, in one array or in turns: more than any cache holds.
LARGE = 2**27

#: Seconds over which short steps are averaged: about what it takes to read the array for the bandwidth, so that
#: what else runs on the machine leaves either the same chance of a quiet moment.
SPAN = 0.015

#: Rows and columns of the large matrix product.
SQUARE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["emoji-clip", "ViT-L-14", "ViT-H-14"])
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--profile", action="store_true", help="also print the operations of a step by their time")
    parser.add_argument("--name", help="of the file in benchmarks/results, and then the page is left alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = default_device()
    rows = []
    for name in options.models:
        tower = Tower(name, device)
        for prompts in options.prompts:
            rows.append(tower.measure(prompts, options.repetitions))
            print(markdown_table(cells(rows[-1:])), flush=True)
            if options.profile:
                print(tower.profile(prompts))
        del tower
        gc.collect()
    text = (
        f"Prompts of {NUM_TOKENS} tokens, float32, {options.threads} thread{'s' * (options.threads > 1)}; the best of "
        f"{options.repetitions} repetitions of each measurement.\n\n{markdown_table(cells(rows))}"
    )
    print(text)
    print(save(options.name or "limit", {"tokens": NUM_TOKENS, "repetitions": options.repetitions, "rows": rows}))
    if options.name is None:
        write_section(DOCS / "methods.md", "limit", f"```console\n{command()}\n```\n\n{text}")


class Tower:
    """A text tower, what a step through it costs at least, and what it does cost."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        if name == "emoji-clip":
            self.backend = load_backend("emoji", device=device)
            model: Any = self.backend.text_encoder.model  # type: ignore[attr-defined]
            blocks, end = model.text_model.encoder.layers, model.text_projection.weight
        else:
            config = open_clip.get_model_config(name)
            keys = ("context_length", "vocab_size", "width", "heads", "layers")
            torch.manual_seed(0)
            model = open_clip.CLIP(config["embed_dim"], VISION, {key: config["text_cfg"][key] for key in keys})
            self.backend = from_model(model.to(device), open_clip.get_tokenizer(name))
            blocks, end = model.transformer.resblocks, model.text_projection
        self.shapes = sorted({tuple(weight.shape) for weight in blocks.parameters() if weight.ndim == 2})
        self.block = sum(weight.numel() for weight in blocks[0].parameters() if weight.ndim == 2)
        self.blocks, self.end, self.width = len(blocks), end.numel(), self.backend.vocabulary.table.shape[1]
        self.table = self.backend.vocabulary.allowed_table
        self.weights = self.blocks * self.block + self.end
        self.elements = self.weights + self.table.numel()
        target = normalize(torch.randn(1, end.numel() // self.width, generator=torch.Generator().manual_seed(0)))
        self.objective = FeatureSimilarity(
            self.backend.text_encoder, target.to(device).unsqueeze(0), torch.ones(1, 1, device=device)
        )
        # A causal tower reads a start, which no step changes, the tokens and an end; nothing behind it matters.
        self.positions = NUM_TOKENS + 1

    def _starts(self, prompts: int) -> torch.Tensor:
        return self.backend.vocabulary.sample((prompts, NUM_TOKENS), torch.Generator().manual_seed(0))

    def step(self, prompts: int, steps: int) -> list[float]:
        """The seconds of so many steps, without what a search does before the first of them is through."""
        times: list[float] = []
        run_search(
            PEZ(),
            self.objective,
            self.objective,
            self.backend.vocabulary,
            self._starts(prompts),
            max_steps=steps + 1,
            report_every=1,
            seed=0,
            callback=lambda _: times.append(self.now()),
        )
        return [after - before for before, after in itertools.pairwise(times)]

    def measure(self, prompts: int, repetitions: int) -> dict[str, Any]:
        """What a step costs, and what it would at least."""
        positions = prompts * self.positions
        self.step(prompts, 1)  # warms up
        about = statistics.median(self.step(prompts, 3))
        steps, span = max(3, round(0.5 / about)), max(1, round(SPAN / about))
        measured: dict[str, list[float]] = {"step": [], "bandwidth": [], "peak": []}
        read = torch.ones(min(LARGE, self.elements), device=self.device)
        square = torch.randn(SQUARE, SQUARE, device=self.device)
        for _ in range(repetitions):
            turns = max(1, LARGE // len(read))
            measured["bandwidth"].append(4 * len(read) * turns / self.seconds(read.sum, turns))
            peaks = []
            for rows, columns, states in [
                (SQUARE, SQUARE, square),
                *((*shape, torch.randn(positions, shape[1], device=self.device)) for shape in self.shapes),
            ]:
                weight = torch.randn(rows, columns, device=self.device)
                operations, packed = 2 * len(states) * weight.numel(), FrozenTable(weight)
                # Often enough that the weights stay in the cache: the peak knows no memory.
                turns = max(1, round(1e9 / operations))
                packed.products(states)  # lays it out
                for product in (lambda w=weight, s=states: s @ w.T, lambda w=packed, s=states: w.products(s)):
                    peaks.append(turns * operations / self.seconds(product, turns))
            measured["peak"].append(max(peaks))
            times = self.step(prompts, steps)
            spans = [times[start : start + span] for start in range(0, len(times) - span + 1, span)]
            measured["step"] += [statistics.mean(one) for one in spans]
        # The machine at its best on either side of the ratio: what else runs on it comes and goes.
        bandwidth, peak, step = max(measured["bandwidth"]), max(measured["peak"]), min(measured["step"])
        floor = self.floor(prompts, bandwidth, peak)
        return {
            "model": self.name,
            "prompts": prompts,
            "weights": self.weights,
            "table": self.table.numel(),
            "positions": positions,
            "bandwidth_gb_per_s": bandwidth / 1e9,
            "peak_gflops": peak / 1e9,
            "floor_seconds": floor,
            "step_seconds": step,
            "median_step_seconds": statistics.median(measured["step"]),
            "ratio": step / floor["all"],
        }

    def floor(self, prompts: int, bandwidth: float, peak: float) -> dict[str, float]:
        """The least seconds of each part of a step."""

        def least(elements: int, columns: int) -> float:
            return max(4 * elements / bandwidth, 2 * elements * columns / peak)

        positions = prompts * self.positions
        # Of the last block only keys and values are needed anywhere but at the end.
        everywhere = 2 * self.width**2
        one_way = (
            least((self.blocks - 1) * self.block + everywhere, positions)
            + least(self.block - everywhere, prompts)
            + least(self.end, prompts)
        )
        parts = {"forward": one_way, "backward": one_way, "table": least(self.table.numel(), prompts * NUM_TOKENS)}
        return {**parts, "all": sum(parts.values())}

    def seconds(self, run: Callable[[], Any], turns: int = 1) -> float:
        """How long something takes, so many times in turn."""
        start = self.now()
        for _ in range(turns):
            run()
        return self.now() - start

    def now(self) -> float:
        """Seconds on a clock: of one thread its own time, whatever else runs on the machine."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time() if alone else time.perf_counter()

    def profile(self, prompts: int) -> str:
        """The operations of a step by their time."""
        from torch.profiler import profile

        with profile() as found:
            self.step(prompts, 5)
        return str(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


def cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table."""
    found = [["tower", "prompts", "GB/s", "GFLOPS", "floor, ms", "of it the table, ms", "step, ms", "step / floor"]]
    for row in rows:
        floor = row["floor_seconds"]
        found.append(
            [
                row["model"], str(row["prompts"]), f"{row['bandwidth_gb_per_s']:.1f}", f"{row['peak_gflops']:.0f}",
                f"{1e3 * floor['all']:.2f}", f"{1e3 * floor['table']:.2f}", f"{1e3 * row['step_seconds']:.2f}",
                f"{row['ratio']:.2f}",
            ]
        )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
