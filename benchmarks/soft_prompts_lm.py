"""Soft prompts of a language model, learned to classify, as text: what share of what they do is left.

    python benchmarks/soft_prompts_lm.py            # the embedded task and model, 5 soft prompts
    python benchmarks/soft_prompts_lm.py --quick    # one

Each soft prompt is learned by prompt tuning and decoded in several ways: to its nearest tokens, by cosine and by L2,
and to the hard prompt under which the model gives the label words the likelihoods that it gives them under the soft
prompt. Reported are the share of the gain in accuracy, and of the effect on those likelihoods on the texts that were
matched and on others; and, as Bailey et al. 2023 draw it, the accuracy of soft prompts that are shrunk, and turned
towards words, with errors of category apart.

Finished cells are kept in results/soft_prompts_<dataset>_<model>.jsonl, and the same command goes on from there.
"""

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from classification import short, show
from classification_tasks import open_task, told, with_error
from common import Cells, save, save_figure, subplots
from comparison import ratio_interval

from hardprompts import load_backend
from hardprompts.distillation import classifier_robustness, decode_classifier, tune_soft_prompt
from hardprompts.softprompts import analyze

PICTURE = Path(__file__).parent.parent / "docs" / "soft_prompts_lm.png"
METHODS = ("nearest", "nearest-l2", "pez", "pez+refine")


def learned(bench: "Bench", seed: int) -> torch.Tensor:
    """The soft prompt of a seed; learned once for all the ways to decode it."""
    texts, labels = bench.task.draw(bench.options.per_class, seed)
    chosen = bench.options
    prompt = tune_soft_prompt(
        bench.prompted, texts, bench.task.targets(labels), num_tokens=chosen.soft_tokens, seed=seed,
        max_steps=chosen.steps, learning_rate=chosen.learning_rate,
    )  # fmt: skip
    (embeddings,) = prompt.embeddings.values()
    return embeddings


class Bench:
    """A task, a model, and their cells."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.options = arguments
        self.task = open_task(arguments.dataset)
        self.backend = load_backend(arguments.model)
        self.prompted = self.task.prompted(self.backend, max(arguments.soft_tokens, arguments.tokens))
        texts, labels = self.task.tested(arguments.test)
        self.test = (texts, self.task.targets(labels))
        self.name = f"soft_prompts_{arguments.dataset}_{short(arguments.model)}"
        self.cells = Cells(self.name, describe=told)
        self.soft: dict[int, torch.Tensor] = {}

    def embeddings(self, seed: int) -> torch.Tensor:
        if seed not in self.soft:
            self.soft[seed] = learned(self, seed)
        return self.soft[seed]

    def cell(self, part: str, seed: int, **facts: Any) -> dict[str, Any]:
        names = ("dataset", "model", "soft_tokens", "steps", "learning_rate", "per_class")
        return {"part": part, "seed": seed, **{name: getattr(self.options, name) for name in names}, **facts,
                "test": len(self.test[0])}  # fmt: skip

    def decoded(self, method: str, seed: int) -> dict[str, Any]:
        """One soft prompt by one method."""
        chosen = self.options

        def compute() -> dict[str, Any]:
            soft = self.embeddings(seed)
            start = time.perf_counter()
            # Texts to learn from, without their labels; none that is measured on.
            texts, _ = self.task.draw(chosen.matched // len(self.task.words), seed + 1_000)
            limits = {} if method.startswith("nearest") else {"max_evaluations": chosen.passes}
            found = decode_classifier(
                self.prompted, soft, texts, self.test, method=method, num_tokens=chosen.tokens,
                restarts=chosen.restarts, seed=seed, progress=False, **limits,
            )  # fmt: skip
            faithfulness = found.prompt.faithfulness
            assert faithfulness is not None and faithfulness.held_out is not None
            return {
                "prompt": found.prompt.text, "accuracy": found.hard.accuracy, "soft": found.soft.accuracy,
                "empty": found.empty.accuracy, "share": found.accuracy.value, "matched": faithfulness.matched.value,
                "held_out": faithfulness.held_out.value, "category_errors": found.hard.category_errors,
                "evaluations": found.prompt.evaluations, "seconds": time.perf_counter() - start,
            }  # fmt: skip

        facts = {"tokens": chosen.tokens, "passes": chosen.passes, "restarts": chosen.restarts}
        return self.cells.get(self.cell("decoded", seed, method=method, matched=chosen.matched, **facts), compute)

    def robust(self, seed: int) -> dict[str, Any]:
        """How far a soft prompt lies from words, and what is left of it on the way there."""

        def compute() -> dict[str, Any]:
            start, soft = time.perf_counter(), self.embeddings(seed)
            few = tuple(part[: self.options.robust_test] for part in self.test)
            found = classifier_robustness(self.prompted, soft, *few)  # type: ignore[arg-type]
            geometry = analyze(soft, self.backend.vocabulary)
            return {
                **dataclasses.asdict(found), "norm_ratio": geometry.norm_ratio, "share_near": geometry.share_near,
                "accuracy": found.shrunk.accuracy[0], "seconds": time.perf_counter() - start,
            }  # fmt: skip

        return self.cells.get(self.cell("robustness", seed, robust_test=self.options.robust_test), compute)


def drawn(rows: Mapping[str, Sequence[Mapping[str, Any]]], robust: Sequence[Mapping[str, Any]]) -> None:
    """The picture: what decoded prompts keep, and what is left of a soft prompt that is shrunk or turned."""
    first = next(iter(rows.values()))
    soft, empty = (sum(run[name] for run in first) / len(first) for name in ("soft", "empty"))
    figure, axes = subplots(1, 3, figsize=(12, 3.3))
    bars = {"soft prompt": soft, **{name: sum(run["accuracy"] for run in own) / len(own) for name, own in rows.items()}}
    axes[0].bar(list(bars), list(bars.values()), color=["#c2410c"] + ["#a8a29e"] * 2 + ["#15803d"] * (len(bars) - 3))
    axes[0].tick_params(axis="x", labelrotation=20)
    axes[0].set_title("decoded to text", fontsize=10)
    for axis, path, label in ((axes[1], "shrunk", "lengths divided by"),
                              (axes[2], "rotated", "degrees towards the nearest words")):  # fmt: skip
        positions = robust[0][path]["positions"]
        for name, key, color in (("accuracy", "accuracy", "#c2410c"),
                                  ("answers that are no label", "category_errors", "#78716c")):  # fmt: skip
            for one in robust:
                axis.plot(positions, one[path][key], color=color, alpha=0.25, lw=1)
            means = [sum(one[path][key][place] for one in robust) / len(robust) for place in range(len(positions))]
            axis.plot(positions, means, color=color, marker=".", label=name)
        axis.set(xlabel=label)
    axes[2].axvline(30, color="gray", linestyle=":")
    for axis in axes:
        axis.axhline(empty, color="#1d4ed8", linestyle="--", lw=1, label="empty template")
        axis.set(ylim=(0, 1), ylabel="share of the test texts")
    axes[2].legend(frameon=False, fontsize=8)
    save_figure(figure, PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one soft prompt, fewer steps, passes and texts")
    parser.add_argument("--dataset", default="emoji", help="emoji; with HARDPROMPTS_SHARED_DATA also sst2 and agnews")
    parser.add_argument("--model", default="emoji:emoji-lm", help="any language model by name")
    parser.add_argument("--count", type=int, default=5, help="soft prompts")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--soft-tokens", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8, help="of a hard prompt")
    parser.add_argument("--steps", type=int, default=200, help="of learning a soft prompt")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of learning: more leads farther from words")
    parser.add_argument("--per-class", type=int, default=64, help="examples of each class that it is learned from")
    parser.add_argument("--matched", type=int, default=32, help="texts behind which answers are matched")
    parser.add_argument("--passes", type=int, default=800, help="of one prompt over those texts")
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--test", type=int, help="test texts (default: all)")
    parser.add_argument("--robust-test", type=int, default=200, help="test texts of the robustness curves")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.count, arguments.steps, arguments.passes = 1, min(arguments.steps, 60), min(arguments.passes, 200)
        arguments.test, arguments.robust_test = arguments.test or 128, 64
    bench = Bench(arguments)
    seeds = range(arguments.count)
    rows = {method: [bench.decoded(method, seed) for seed in seeds] for method in arguments.methods}
    table = [["method", "accuracy", "share of the gain kept (95 %)", "of the effect, matched", "held out", "a prompt"]]
    any_row = next(iter(rows.values()))
    table.append(["empty template", with_error([run["empty"] for run in any_row]), "0", "0", "0", ""])
    table.append(["soft prompt", with_error([run["soft"] for run in any_row]), "1", "1", "1", ""])
    for method, own in rows.items():
        gains = [run["accuracy"] - run["empty"] for run in own]
        whole = [run["soft"] - run["empty"] for run in own]
        kept = str(ratio_interval(gains, whole)) if len(own) > 1 else f"{gains[0] / whole[0]:.3f}"
        shares = [with_error([run[name] for run in own], 1.0) for name in ("matched", "held_out")]
        table.append([method, with_error([run["accuracy"] for run in own]), kept, *shares, own[0]["prompt"]])
    show(f"Soft prompts of {arguments.model} as text, {arguments.dataset}", table)
    robust = [bench.robust(seed) for seed in seeds]
    for path, unit in (("shrunk", "divided by"), ("rotated", "degrees towards the nearest words")):
        positions = robust[0][path]["positions"]
        body = [
            [name, *(with_error([one[path][key][i] for one in robust]) for i in range(len(positions)))]
            for name, key in (("accuracy", "accuracy"), ("errors of category", "category_errors"))
        ]
        show(f"Soft prompts {unit}", [["", *(f"{position:g}" for position in positions)], *body])
    if not arguments.quick and arguments.dataset == "emoji":
        drawn(rows, robust)
    print(f"\nsaved {save(bench.name, {'settings': vars(arguments), 'decoded': rows, 'robustness': robust})}")


if __name__ == "__main__":
    main()
