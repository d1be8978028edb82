"""Prompts that classify texts: every method at equal compute, fluency, few examples, and transfer to another model.

    python benchmarks/classification.py                                   # the embedded task and model, all parts
    python benchmarks/classification.py --quick                           # one seed of each, in a few minutes
    python benchmarks/classification.py --parts methods --seeds 5         # one part; finished cells are kept
    python benchmarks/classification.py --dataset agnews --model transformers:openai-community/gpt2-large

The shapes of the tables are those of PEZ (arXiv 2302.03668): accuracy by method (tables 2 and 5), by weight of the
fluency (figure 7), few-shot (table 3), transfer (tables 2 and 6), and the best score by passes (figure 10). Compute is
counted in forward and backward passes of one prompt over a mini-batch, by the engine, and is the same for every
method. The model is frozen throughout. What the embedded models have read is said on their cards: definitions of other
words with and without their classes, and none of the texts here.

A run that is killed keeps its finished cells in results/classification_<dataset>_<model>.jsonl; the same command goes
on from there, and `--parts report` gathers what is there: as JSON, and where docs/classification.md has a section for
it (sst2 and agnews) as tables and a picture there.
"""

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from classification_tasks import Task, open_task, spread, told, with_error
from common import DOCS, Cells, save, save_figure, subplots, write_section
from comparison import Measurement, comparison_table, ratio_interval
from generation import command

from hardprompts import Backend, ClassifierPromptTuner, load_backend
from hardprompts.classification import FewShotRun, LabelLikelihood, Measures, PromptedModel, batch_prior, few_shot
from hardprompts.distillation import tune_soft_prompt
from hardprompts.evaluation import markdown_table
from hardprompts.methods import FluentPrompt, RandomSearch
from hardprompts.search import Search

PARTS = ("methods", "fluency", "few-shot", "transfer", "report")
#: Those that search, with the share of the fluency in what they follow: as published, and as they come here.
METHODS: Mapping[str, float] = {
    "random": 0.0, "autoprompt-sgd": 0.0, "hotflip": 0.0, "autoprompt": 0.0, "fluentprompt": 0.003,
    "pez without fluency": 0.0, "pez": 0.003, "pez+refine": 0.003,
}  # fmt: skip
WEIGHTS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
FEW_SHOT = ("pez", "pez+refine")
SHOTS = (2, 4)
#: Of few-shot prompts, as in the paper.
FEW_SHOT_TOKENS, FEW_SHOT_FLUENCY = 3, 0.03


class Bench:
    """One task, one model, and the cells of their tables."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.options = arguments
        self.task: Task = open_task(arguments.dataset)
        if arguments.template:
            self.task = Task(self.task.name, arguments.template, self.task.words, self.task.train, self.task.test)
        self.backend: Backend = self.opened(arguments.model)
        self.test = self.task.tested(arguments.test)
        self.name = f"classification_{arguments.dataset}_{short(arguments.model)}"
        self.cells = Cells(self.name, only_read="report" in arguments.parts, describe=told)
        self.seeds = range(1 if arguments.quick else arguments.seeds)
        self.shown: list[str] = []

    def show(self, title: str, *blocks: Sequence[Sequence[str]] | str) -> None:
        """Prints tables, and keeps them for the page."""
        texts = [block if isinstance(block, str) else markdown_table(block) for block in blocks]
        self.shown.append("\n\n".join((f"**{title}**", *texts)))
        print(f"\n{self.shown[-1]}", flush=True)

    def opened(self, model: str) -> Backend:
        return load_backend(model, dtype=DTYPES[self.options.dtype])

    # --- cells ----------------------------------------------------------------------------

    def cell(self, part: str, **facts: Any) -> dict[str, Any]:
        """What a cell depends on."""
        chosen = self.options
        return {
            "part": part, "dataset": chosen.dataset, "model": chosen.model, "dtype": chosen.dtype,
            "template": self.task.template, "test": len(self.test[0]), **facts,
        }  # fmt: skip

    def searched(self, **facts: Any) -> dict[str, Any]:
        """Likewise of a search among many examples."""
        chosen = self.options
        return self.cell(
            "search", passes=chosen.passes, tokens=chosen.tokens, restarts=chosen.restarts, rows=chosen.rows,
            per_class=chosen.per_class, **facts,
        )  # fmt: skip

    def prompted(self, backend: Backend | None = None) -> PromptedModel:
        return self.task.prompted(backend or self.backend, self.options.tokens)

    def figures(self, prompt: Any, backend: Backend | None = None) -> dict[str, Any]:
        """How well a prompt does on the test texts, raw and calibrated by the batch."""
        prompted, (texts, labels) = self.prompted(backend), self.test
        targets = self.task.targets(labels)
        scores = prompted.class_scores(prompt, texts)
        raw = Measures.of(scores, targets)
        calibrated = Measures.of(scores - batch_prior(scores), targets)
        found = {"accuracy": raw.accuracy, "balanced": raw.balanced_accuracy, "loss": raw.loss}
        return {**found, "histogram": list(raw.histogram), "calibrated": calibrated.accuracy}

    def empty(self, backend: Backend | None = None) -> dict[str, Any]:
        name = self.options.model if backend is None else backend.name
        return self.cells.get(
            self.cell("empty", on=name), lambda: {"prompt": "", **self.figures("", backend), "evaluations": 0}
        )

    def hard(self, method: str, weight: float, seed: int) -> dict[str, Any]:
        """The prompt of one search, and how well it does."""

        def compute() -> dict[str, Any]:
            start = time.perf_counter()
            tuner = self.tuner(method, weight, seed).fit(*self.task.draw(self.options.per_class, seed))
            spent = time.perf_counter() - start
            prompt = tuner.hard_prompt_
            return {
                "prompt": prompt.text, **self.figures(prompt.text), "held_out": tuner.report_["prompt"]["accuracy"],
                "category_errors": tuner.report_["prompt"]["category_errors"], "fluency": self.fluency(prompt.text),
                "evaluations": prompt.evaluations, "seconds": spent, "stopped": prompt.stop_reason,
                "history": [[point.evaluations, point.score] for point in prompt.history],
            }  # fmt: skip

        return self.cells.get(self.searched(method=method, weight=weight, seed=seed), compute)

    def tuner(self, method: str, weight: float, seed: int) -> ClassifierPromptTuner:
        chosen = self.options
        return ClassifierPromptTuner(
            self.backend, template=self.task.template, verbalizer=dict(self.task.words), num_tokens=chosen.tokens,
            method=self.search(method), fluency_weight=weight, restarts=chosen.restarts, batch_size=chosen.rows,
            score_size=chosen.rows, max_evaluations=chosen.passes, random_state=seed, progress=False, words=False,
        )  # fmt: skip

    def search(self, method: str) -> str | Search:
        """A method by its name here; the noise of FluentPrompt dies away within the budget."""
        if method == "random":
            return RandomSearch()
        if method == "fluentprompt":
            # Two passes for the gradient, one for the score.
            return FluentPrompt(anneal_steps=max(1, self.options.passes // (3 * self.options.restarts)))
        return method.partition(" ")[0]

    def soft(self, seed: int) -> dict[str, Any]:
        """A soft prompt from as many passes."""

        def compute() -> dict[str, Any]:
            start, prompted = time.perf_counter(), self.prompted()
            texts, labels = self.task.draw(self.options.per_class, seed)
            prompt = tune_soft_prompt(
                prompted, texts, self.task.targets(labels), num_tokens=self.options.tokens, seed=seed,
                batch_size=self.options.rows, max_steps=self.options.passes // 2,
            )  # fmt: skip
            spent = time.perf_counter() - start
            (embeddings,) = prompt.embeddings.values()
            return {"prompt": "", **self.figures(embeddings), "evaluations": self.options.passes, "seconds": spent}

        return self.cells.get(self.searched(method="soft prompt", weight=0.0, seed=seed), compute)

    def fluency(self, prompt: str) -> float | None:
        """The mean cross entropy of the prompt's tokens but the first, in nats; None where a model knows none."""
        prompted, model = self.prompted(), self.prompted().encoder.model
        ids = model.vocabulary.encode(prompt)
        if model.kind != "causal" or len(ids) < 2:
            return None
        row = prompted.encoder.row(prompted.encoder.cut(self.test[0][0]))
        likelihood = LabelLikelihood(prompted.reader, [row], [0])
        table = model.vocabulary.embed(torch.tensor([ids], device=model.vocabulary.table.device))
        return float(likelihood.fluency_loss(table))

    def few(self, method: str, shots: int, seed: int) -> dict[str, Any]:
        """One draw of a few examples."""
        chosen = self.options
        template = chosen.few_shot_template or self.task.template

        def compute() -> dict[str, Any]:
            start, runs = time.perf_counter(), list[FewShotRun]()
            own = self.tuner(method, FEW_SHOT_FLUENCY, seed)
            own.set_params(
                template=template, num_tokens=FEW_SHOT_TOKENS, restarts=chosen.few_shot_restarts,
                max_evaluations=chosen.few_shot_passes, verbalizer=dict(self.task.words),
            )  # fmt: skip
            few_shot(own, *self.task.train, shots=shots, seeds=[seed], test=self.few_shot_test(), report=runs.append)
            (run,) = runs
            return {
                "prompt": run.prompt, "accuracy": run.accuracy, "balanced": run.balanced_accuracy, "empty": run.empty,
                "evaluations": run.evaluations, "seconds": time.perf_counter() - start,
            }  # fmt: skip

        facts = {
            "method": method, "shots": shots, "seed": seed, "template": template, "passes": chosen.few_shot_passes,
            "restarts": chosen.few_shot_restarts, "test": chosen.few_shot_test,
        }  # fmt: skip
        return self.cells.get(self.cell("few-shot", **facts), compute)

    def few_shot_test(self) -> tuple[list[str], list[str]]:
        return self.task.tested(self.options.few_shot_test)

    def transferred(self, method: str, seed: int, larger: Backend) -> dict[str, Any]:
        """A prompt that was found with this model, in another one."""
        prompt = self.hard(method, METHODS[method], seed)["prompt"]
        facts = {"method": method, "weight": METHODS[method], "seed": seed, "on": larger.name}
        return self.cells.get(
            self.cell("transfer", prompt=prompt, **facts), lambda: {"prompt": prompt, **self.figures(prompt, larger)}
        )

    # --- tables ---------------------------------------------------------------------------

    def methods(self) -> dict[str, Any]:
        """Accuracy by method: tables 2 and 5; the best score by passes: figure 10."""
        empty, soft = self.empty(), [self.soft(seed) for seed in self.seeds]
        rows = {method: [self.hard(method, weight, seed) for seed in self.seeds] for method, weight in METHODS.items()}
        floor = Measurement("empty template", tuple(empty["accuracy"] for _ in self.seeds))
        top = Measurement("soft prompt", tuple(one["accuracy"] for one in soft))
        table = [["method", "accuracy", "balanced", "calibrated", "fluency (nats)", "gap closed", "passes", "seconds"]]
        table.append(["empty template", *(f"{100 * empty[key]:.2f}" for key in KEYS), "", "0", "0", ""])
        found: dict[str, Any] = {}
        measured = [floor]
        for method, own in [*rows.items(), ("soft prompt", soft)]:
            one = Measurement(method, tuple(run["accuracy"] for run in own))
            measured.append(one)
            fluency = [run["fluency"] for run in own if run.get("fluency") is not None]
            gap = top.interval().mean - floor.interval().mean
            closed = (one.interval().mean - floor.interval().mean) / gap if gap > 0 else float("nan")
            table.append(
                [
                    method, *(with_error([run[key] for run in own]) for key in KEYS),
                    with_error(fluency, 1.0) if fluency else "", f"{closed:.0%}",
                    f"{sum(run['evaluations'] for run in own) / len(own):.0f}",
                    f"{sum(run['seconds'] for run in own) / len(own):.0f}",
                ]
            )  # fmt: skip
            found[method] = {"runs": own, "gap_closed": closed}
        title = f"Accuracy on {len(self.test[0])} test texts, {len(self.seeds)} seeds, standard errors"
        if len(self.seeds) > 1:
            pez = measured[list(METHODS).index("pez") + 1]
            self.show(
                title, table, "Against `pez`, paired over the seeds:", comparison_table(measured, pez, "accuracy")
            )
        else:
            self.show(title, table)
        return {"empty": empty, **found, "passes": self.by_passes(rows)}

    def by_passes(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
        """The best score so far after shares of the budget, the mean over the seeds."""
        marks = [round(self.options.passes * share / 10) for share in range(1, 11)]

        def after(history: Sequence[Sequence[float]], mark: int) -> float:
            return max((score for passes, score in history if passes <= mark), default=history[0][1])

        curves = {
            method: [sum(after(run["history"], mark) for run in own) / len(own) for mark in marks]
            for method, own in rows.items()
        }
        body = [[method, *(f"{value:.3f}" for value in curve)] for method, curve in curves.items()]
        self.show(
            "Best score (negative loss on the texts learned from) by passes", [["method", *map(str, marks)], *body]
        )
        return {"marks": marks, "curves": curves}

    def fluencies(self) -> dict[str, Any]:
        """Accuracy and fluency of PEZ's prompts by the weight of the fluency: figure 7."""
        method = self.options.fluency_method
        rows = {weight: [self.hard(method, weight, seed) for seed in self.seeds] for weight in WEIGHTS}
        table = [["weight", "accuracy", "fluency (nats a token)", "a prompt"]]
        for weight, own in rows.items():
            fluency = [run["fluency"] for run in own if run["fluency"] is not None]
            shown = with_error(fluency, 1.0) if fluency else ""
            table.append([f"{weight:g}", with_error([run["accuracy"] for run in own]), shown, own[0]["prompt"]])
        self.show(f"{method} by the weight of the fluency", table)
        return {str(weight): own for weight, own in rows.items()}

    def few_shots(self) -> dict[str, Any]:
        """Accuracy from a few examples of each class, over many draws: table 3."""
        seeds = range(3 if self.options.quick else self.options.few_shot_seeds)
        table = [["method", "shots", "draws", "empty template", "accuracy", "gain (95 %)", "seconds"]]
        found: dict[str, Any] = {}
        for method in self.options.few_shot_methods:
            for shots in SHOTS:
                own = [self.few(method, shots, seed) for seed in seeds]
                gain = spread([run["accuracy"] - run["empty"] for run in own])
                table.append(
                    [
                        method, str(shots), str(len(own)), f"{100 * own[0]['empty']:.2f}",
                        with_error([run["accuracy"] for run in own]), str(gain),
                        f"{sum(run['seconds'] for run in own) / len(own):.0f}",
                    ]
                )  # fmt: skip
                found[f"{method} {shots}"] = own
        self.show(f"Few-shot, {FEW_SHOT_TOKENS} tokens, on {len(self.few_shot_test()[0])} test texts", table)
        return found

    def transfers(self) -> dict[str, Any]:
        """What is left of the gain in another model: tables 2 and 6."""
        found: dict[str, Any] = {}
        table = [["method", "on", "empty template", "accuracy", "calibrated", "gain", "share of the gain kept (95 %)"]]
        own_empty = self.empty()["accuracy"]
        for name in self.options.larger:
            larger = self.opened(name)
            empty = self.empty(larger)
            for method in self.options.transfer_methods:
                own = [self.hard(method, METHODS[method], seed) for seed in self.seeds]
                there = [self.transferred(method, seed, larger) for seed in self.seeds]
                gains = [run["accuracy"] - empty["accuracy"] for run in there]
                first = [run["accuracy"] - own_empty for run in own]
                kept = str(ratio_interval(gains, first)) if len(gains) > 1 else f"{gains[0] / first[0]:.3f}"
                table.append(
                    [
                        method, name, f"{100 * empty['accuracy']:.2f}", with_error([run["accuracy"] for run in there]),
                        with_error([run["calibrated"] for run in there]), with_error(gains), kept,
                    ]
                )  # fmt: skip
                found[f"{method} on {name}"] = {"empty": empty, "runs": there, "kept": kept}
        self.show(f"Transfer of prompts from {self.options.model}", table)
        return found


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEYS = ("accuracy", "balanced", "calibrated")


def short(model: str) -> str:
    """A model's name as a part of a file's."""
    return re.sub(r"[^\w.-]+", "_", model.rstrip("/").rpartition("/")[2].rpartition(":")[2])


def plot(results: Mapping[str, Any], path: Path) -> None:
    """The best score by passes (figure 10 of the paper), and accuracy by the weight of the fluency (figure 7)."""
    panels = [part for part in ("methods", "fluency") if part in results]
    figure, axes = subplots(1, len(panels), figsize=(5.5 * len(panels), 3.8), squeeze=False)
    for axis, part in zip(axes[0], panels, strict=True):
        if part == "methods":
            passes = results[part]["passes"]
            for method, curve in passes["curves"].items():
                axis.plot(passes["marks"], curve, label=method, lw=3 if method == "pez+refine" else 1.3)
            axis.set(xlabel="passes over a mini-batch", ylabel="best score (negative loss)")
            axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        else:
            weights = [float(weight) for weight in results[part]]
            runs = [[100 * run["accuracy"] for run in own] for own in results[part].values()]
            places = range(len(weights))
            axis.plot(places, [sum(own) / len(own) for own in runs], lw=2)
            for place, own in zip(places, runs, strict=True):
                axis.plot([place] * len(own), own, ".", color="gray", zorder=1)
            axis.set(xlabel="weight of the fluency", ylabel="accuracy in %", xticks=places)
            axis.set_xticklabels([f"{weight:g}" for weight in weights])
    save_figure(figure, path)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, three few-shot draws, fewer passes and texts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS[:-1]))
    parser.add_argument("--dataset", default="emoji", help="emoji; with HARDPROMPTS_SHARED_DATA also sst2 and agnews")
    parser.add_argument("--model", default="emoji:emoji-lm", help="any language model by name")
    parser.add_argument("--larger", nargs="+", default=["emoji:emoji-lm-large"], help="models that prompts move to")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="of the models; see what your machine is fast at"
    )
    parser.add_argument("--template", help="instead of the data set's own")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=600, help="of one prompt over a mini-batch, alike for all")
    parser.add_argument("--rows", type=int, default=64, help="texts of a mini-batch, and of a score")
    parser.add_argument("--per-class", type=int, default=64, help="examples of each class, a fifth held out")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--test", type=int, help="test texts (default: all)")
    parser.add_argument("--fluency-method", default="pez")
    parser.add_argument("--transfer-methods", nargs="+", default=["random", "pez", "pez+refine"], choices=METHODS)
    parser.add_argument("--few-shot-methods", nargs="+", default=list(FEW_SHOT))
    parser.add_argument("--few-shot-seeds", type=int, default=100)
    parser.add_argument("--few-shot-passes", type=int, default=300)
    parser.add_argument("--few-shot-restarts", type=int, default=1)
    parser.add_argument("--few-shot-test", type=int, default=400, help="test texts of a draw")
    parser.add_argument(
        "--few-shot-template", help="the paper appends its three tokens: '{text} {prompt} It was {label}'"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.passes, arguments.test = min(arguments.passes, 120), arguments.test or 200
        arguments.few_shot_test, arguments.few_shot_passes = 100, min(arguments.few_shot_passes, 60)
    return arguments


def main() -> None:
    arguments = parsed()
    bench = Bench(arguments)
    run = {
        "methods": bench.methods,
        "fluency": bench.fluencies,
        "few-shot": bench.few_shots,
        "transfer": bench.transfers,
    }
    results = {}
    for part in PARTS[:-1] if "report" in arguments.parts else arguments.parts:
        try:
            results[part] = run[part]()
        except LookupError as missing:  # of a report alone
            print(f"\n{part} is left out: {missing}")
    print(f"\nsaved {save(bench.name, {'settings': vars(arguments), **results})}")
    page, section = DOCS / "classification.md", f"classification_{arguments.dataset}"
    wanted = "report" in arguments.parts and "methods" in results  # what the page and its picture begin with
    if wanted and f"<!-- {section} -->" in page.read_text(encoding="utf-8"):
        typed = command().replace("--parts report", f"--parts {' '.join(results)}")
        picture = page.with_name(f"{section}.png")
        plot(results, picture)
        fluency = "; accuracy by the weight of the fluency" if "fluency" in results else ""
        said = f"![The best score of each method so far, by passes{fluency}]({picture.name})"
        write_section(page, section, "\n\n".join((f"```console\n{typed}\n```", *bench.shown, said)))


if __name__ == "__main__":
    main()
