"""Against the peers: the PEZ reference and tropt on the same checkpoint, for the same targets, in the same run.

    HARDPROMPTS_PEZ_REFERENCE=~/hard-prompts-made-easy HARDPROMPTS_TROPT_PYTHON=~/tropt/bin/python \\
        python benchmarks/peers.py

The first variable holds the path of a checkout of https://github.com/YuxinWenRick/hard-prompts-made-easy, which needs
sentence-transformers beside this project's packages; the second the Python of an environment with tropt 0.1.1 from
PyPI (it pins another transformers, so it has its own, and on Python 3.11 one of its dataclasses has a default that only
3.12 accepts). What is not set is left out.

All search the embedded emoji-clip for a prompt that resembles the features of each target. The reference runs its own
`optimize_prompt_loop`, with the paper's settings and its 3,000 steps, through a wrapper that gives this model the
interface that it expects. tropt runs with the hyperparameters of its recipes for the passes of as many steps, one
forward and one backward each (the reference's have another forward, of the same prompt); those of its optimizers that
try a single prompt in a step, which takes the most time for a pass, have fewer. Ours then has a tenth of the
reference's seconds for the same target and a third of those of tropt's best optimizer, whichever is less, as its
deadline: seconds of the clock, or, with one thread, of the processor, which depend little on what else runs on the
machine. What comes before and behind the search counts for ours; of tropt, imports, loading and most of its garbage
collection do not (see peers_tropt.py).

Every text found is encoded again by the model's own tokenizer and scored: that is what a person gets who pastes it.
The similarity that the peer claims stands beside, with the share of texts that are read back as the ids that were
scored. A run that is stopped goes on where it stopped. It writes benchmarks/results/peers.json and the table of
docs/methods.md.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import DOCS, Cells, in_other_environment, pictures, save, scenes_in_turn, write_section
from comparison import Measurement
from generation import command
from safetensors.torch import save_file
from step_speed import import_reference

from hardprompts import Backend, PromptInverter, load_backend
from hardprompts.evaluation import markdown_table
from hardprompts.methods import PEZ
from hardprompts.search import DEFAULT_METHOD
from hardprompts.search import loop as search
from hardprompts_emoji import path as model_path
from hardprompts_emoji.scenes import HELD_OUT_SEED

#: Scenes that no other benchmark measures.
FIRST_SEED = HELD_OUT_SEED + 900_000

TROPT = (
    "pez",
    "gcg",
    "gcg, 64 candidates",
    "mac",
    "mac, 64 candidates",
    "arca",
    "autoprompt",
    "hotflip",
    "gbda",
    "beam",
)

#: Those that try a single prompt in a step.
ONE_BY_ONE = ("pez", "hotflip")

REFERENCE = "PEZ reference"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=6)
    parser.add_argument("--num-tokens", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3000, help="of the reference")
    parser.add_argument("--passes", type=int, default=6000, help="forward and backward, of each of tropt's optimizers")
    parser.add_argument("--few-passes", type=int, default=1200, help=f"likewise, of {' and '.join(ONE_BY_ONE)}")
    parser.add_argument("--optimizers", nargs="*", default=list(TROPT), choices=TROPT, metavar="OPTIMIZER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--name", help="of the files in benchmarks/results, and then the page is left alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = options.name or "peers"
    bench = Peers(options, Cells(name, describe=describe))
    found: dict[str, list[dict[str, Any]]] = {}
    versions: dict[str, str] = {}
    if os.environ.get("HARDPROMPTS_PEZ_REFERENCE"):
        found[REFERENCE] = bench.reference()
        versions["sentence-transformers"] = importlib.metadata.version("sentence-transformers")
    if os.environ.get("HARDPROMPTS_TROPT_PYTHON"):
        for optimizer in options.optimizers:
            try:
                cell = bench.tropt(optimizer)
            except subprocess.CalledProcessError as error:
                print(f"tropt {optimizer} is left out, since it failed:\n{error.stderr[-2000:]}")
                continue
            versions |= {f"tropt's {key}": value for key, value in cell["versions"].items()}
            found[f"tropt {optimizer}"] = cell["runs"]
    if not found:
        sys.exit("no peer: set HARDPROMPTS_PEZ_REFERENCE, HARDPROMPTS_TROPT_PYTHON or both; see --help")
    limits = bench.limits(found)
    found |= bench.ours(limits)
    facts, text = report({peer: bench.scored(runs) for peer, runs in found.items()}, options)
    print(text)
    print(save(name, {"versions": versions, "limits": limits, **facts}))
    if options.name is None:
        write_section(DOCS / "methods.md", "peers", f"```console\n{command()}\n```\n\n{text}")


class Peers:
    """The targets, and what each peer makes of them."""

    def __init__(self, options: argparse.Namespace, cells: Cells) -> None:
        self.options, self.cells = options, cells
        self.backend, self.judge = load_backend("emoji", device="cpu"), load_backend("emoji:emoji-clip-reference")
        self.images = pictures(scenes_in_turn(options.targets, FIRST_SEED))
        self.targets = self.backend.encode_images(self.images)
        self.judged = self.judge.encode_images(self.images)

    def reference(self) -> list[dict[str, Any]]:
        """The reference's prompt of each target."""
        optim_utils, _ = import_reference()
        adapter = ReferenceAdapter(self.backend)

        def run(place: int) -> dict[str, Any]:
            arguments = types.SimpleNamespace(
                iter=self.options.steps, lr=0.1, weight_decay=0.1, prompt_len=self.options.num_tokens, prompt_bs=1,
                loss_weight=1.0, print_step=None, print_new_best=True, batch_size=1,
            )  # fmt: skip
            torch.manual_seed(self.options.seed + place)
            target, printed = self.targets[place : place + 1], io.StringIO()
            with contextlib.redirect_stdout(printed):
                text, seconds = timed(
                    lambda: optim_utils.optimize_prompt_loop(
                        adapter, adapter.tokenizer, adapter.token_embedding, target, arguments, torch.device("cpu")
                    )
                )
            claimed = re.findall(r"new best cosine sim: (\S+)", printed.getvalue())[-1]
            ids = adapter.tokenizer.decoded[text]
            return {"text": text, "ids": ids, "claimed": float(claimed), "passes": 3 * self.options.steps, **seconds}

        return [
            self.cells.get(self.cell(REFERENCE, place, steps=self.options.steps), lambda place=place: run(place))
            for place in range(len(self.images))
        ]

    def tropt(self, optimizer: str) -> dict[str, Any]:
        """The prompts of one of tropt's optimizers, and its versions."""
        passes = self.options.few_passes if optimizer in ONE_BY_ONE else self.options.passes

        given = {
            "model": str(model_path("emoji-clip")), "language_model": str(model_path("emoji-lm")),
            "tokens": self.options.num_tokens, "passes": passes, "seed": self.options.seed,
            "threads": self.options.threads, "optimizers": [optimizer],
        }  # fmt: skip
        cell = self.cell(f"tropt {optimizer}", len(self.images), passes=passes)
        return self.cells.get(cell, lambda: tropt_runs(given, self.targets))

    def cell(self, peer: str, targets: int, **budget: int) -> dict[str, Any]:
        tokens, threads = self.options.num_tokens, self.options.threads
        return {
            "peer": peer,
            "targets": targets,
            "tokens": tokens,
            "seed": self.options.seed,
            "threads": threads,
            **budget,
        }

    def limits(self, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[float]:
        """Seconds that ours may take for each target."""
        parts = [(found[REFERENCE], 10)] if REFERENCE in found else []
        theirs = [peer for peer in found if peer != REFERENCE]
        if theirs:
            best = max(theirs, key=lambda peer: sum(run["similarity"] for run in self.scored(found[peer])))
            parts.append((found[best], 3))
        clock = clock_of(self.options)
        return [min(runs[place][clock] / share for runs, share in parts) for place in range(len(self.images))]

    def ours(self, limits: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
        """Our prompts: the default, then for similarity alone, as the peers search, and PEZ step for step.

        Searches stop by the clock that the peers are compared by, what comes before them counted in.
        """
        now = time.process_time if clock_of(self.options) == "processor" else time.perf_counter
        search.clock = now
        same: dict[str, Any] = {"views": 1, "token_cost": 0.0}
        rows: dict[str, tuple[Any, bool, dict[str, Any]]] = {
            "ours, the default": (DEFAULT_METHOD, False, {}),
            "ours, for similarity alone": (DEFAULT_METHOD, True, same),
            "ours, pez+refine, for similarity alone": ("pez+refine", True, same),
            "ours, PEZ, as many steps as the reference": (
                PEZ(), True, {**same, "restarts": 1, "max_steps": self.options.steps}
            ),
        }  # fmt: skip
        found: dict[str, list[dict[str, Any]]] = {}
        for name, (method, by_features, extra) in rows.items():
            inverter = PromptInverter(self.backend, method=method, proposers="none")
            inverter.invert(self.targets[0], self.options.num_tokens, max_steps=1, progress=False)  # warms up
            found[name] = []
            for place, limit in enumerate(limits):
                target: Any = self.targets[place] if by_features else self.images[place]
                # What comes behind the search, scores and what each token is worth, is a part of the time too.
                end = now() + (float("inf") if "max_steps" in extra else 0.95 * limit)
                budget: dict[str, Any] = {"callback": lambda _, end=end: now() >= end}
                if "max_steps" not in extra:
                    budget["deadline"] = 0.95 * limit
                prompt, seconds = timed(
                    lambda inverter=inverter, target=target, place=place, extra={**budget, **extra}: inverter.invert(
                        target, self.options.num_tokens, seed=self.options.seed + place, progress=False, **extra
                    )
                )
                found[name].append(
                    {
                        "text": prompt.text,
                        "ids": list(prompt.token_ids),
                        "claimed": prompt.score,
                        "passes": prompt.evaluations,
                        **seconds,
                    }
                )
        return found

    def scored(self, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The runs with what their texts are worth when they are pasted."""
        texts = [run["text"] for run in runs]
        own = (self.backend.encode_texts(texts) * self.targets).sum(dim=1).tolist()
        by_judge = (self.judge.encode_texts(texts) * self.judged).sum(dim=1).tolist()
        return [
            {**run, "similarity": s, "judge": j, "survives": self.backend.vocabulary.encode(run["text"]) == run["ids"]}
            for run, s, j in zip(runs, own, by_judge, strict=True)
        ]


def tropt_runs(given: Mapping[str, Any], targets: torch.Tensor) -> dict[str, Any]:
    """What peers_tropt.py finds for targets, by its specification, in the environment that has tropt.

    Raises:
        CalledProcessError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        features, specification, results = (Path(folder) / name for name in ("targets.safetensors", "in", "out"))
        save_file({"targets": targets.contiguous()}, features)
        specification.write_text(json.dumps({**given, "features": str(features)}), encoding="utf-8")
        worker = Path(__file__).with_name("peers_tropt.py")
        in_other_environment(os.environ["HARDPROMPTS_TROPT_PYTHON"], worker, specification, results)
        found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
        return found


# --- the reference's idea of a model ------------------------------------------------------

#: What the reference has built in: the special tokens of CLIP's tokenizer.
START, END = 49406, 49407


class ReferenceAdapter:
    """A CLIP of transformers with the attributes that the reference's loop uses, over the model's whole context.

    The loop has ids and context of CLIP's own tokenizer built in; positions behind this model's context are cut off.
    """

    def __init__(self, backend: Backend) -> None:
        model = transformers.CLIPModel.from_pretrained(model_path("emoji-clip"), attn_implementation="sdpa")
        self.model = model.float().eval().requires_grad_(False)
        self.tower = model.text_model
        self.context = self.tower.config.max_position_embeddings
        self.tokenizer = ReferenceTokenizer(backend)
        self.token_embedding = ReferenceEmbedding(self.tower.embeddings.token_embedding, self.tower.config)

    def forward_text_embedding(
        self, embeddings: torch.Tensor, ids: torch.Tensor, image_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines of images and prompts, and their transpose, as the reference's fork of open_clip gives them."""
        states = self.tower.embeddings(inputs_embeds=embeddings[:, : self.context])
        mask = torch.full((self.context, self.context), -torch.inf).triu_(1)
        for layer in self.tower.encoder.layers:
            output = layer(states, attention_mask=mask.expand(len(states), 1, -1, -1))
            states = output if isinstance(output, torch.Tensor) else output[0]
        states = self.tower.final_layer_norm(states)
        pooled = states[torch.arange(len(states)), ids.argmax(dim=-1)]
        text = torch.nn.functional.normalize(self.model.text_projection(pooled), dim=1)
        cosines = torch.nn.functional.normalize(image_features, dim=1) @ text.T
        return cosines, cosines.T


class ReferenceTokenizer:
    """The tokenizer's part in the loop: how many tokens there are, a placeholder's ids, and the text of some ids."""

    def __init__(self, backend: Backend) -> None:
        self.vocabulary = backend.vocabulary
        self.encoder = range(len(backend.vocabulary))
        self.decoded: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        return [START] * text.count("<start_of_text>")

    def decode(self, ids: "np.ndarray[Any, Any]") -> str:
        # Other ids of the same text come up too rarely to be told apart: the loop returns the text alone.
        text = self.vocabulary.decode(ids.tolist())
        self.decoded.setdefault(text, ids.tolist())
        return text


class ReferenceEmbedding(torch.nn.Module):
    """The token table, which knows CLIP's special ids as this model's."""

    def __init__(self, embedding: torch.nn.Embedding, config: Any) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.special = {START: config.bos_token_id, END: config.eos_token_id}

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        for given, own in self.special.items():
            ids = torch.where(ids == given, own, ids)
        return torch.nn.functional.embedding(ids, self.weight)


# --- reporting ----------------------------------------------------------------------------


def clock_of(options: argparse.Namespace) -> str:
    """What methods are compared by: of one thread its own time, whatever else runs on the machine."""
    return "processor" if options.threads == 1 else "seconds"


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a function returns, with its seconds and those of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    found = run()
    return found, {"seconds": time.perf_counter() - wall, "processor": time.process_time() - processor}


def describe(figures: Mapping[str, Any]) -> str:
    """A cell in a line."""
    runs = figures.get("runs", [figures])
    return ", ".join(f"{run['claimed']:.3f} {run['seconds']:.1f} s {run['text']!r}" for run in runs[:3])


def report(found: Mapping[str, Sequence[Mapping[str, Any]]], options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """All figures, and the table, the most similar text first."""
    table = [["method", "similarity of the text", "claimed", "judge", "round trip", "passes", "seconds", "processor s"]]
    facts = {}

    def mean(name: str, key: str) -> float:
        return sum(float(run[key]) for run in found[name]) / len(found[name])

    for name in sorted(found, key=lambda name: -mean(name, "similarity")):
        own, judge = (
            Measurement(name, tuple(float(run[key]) for run in found[name])).interval()
            for key in ("similarity", "judge")
        )
        table.append(
            [
                name, str(own), f"{mean(name, 'claimed'):.3f}", str(judge), f"{100 * mean(name, 'survives'):.0f} %",
                f"{mean(name, 'passes'):.0f}", f"{mean(name, 'seconds'):.2f}", f"{mean(name, 'processor'):.2f}",
            ]
        )  # fmt: skip
        facts[name] = {"runs": [dict(run) for run in found[name]]}
    peers = [name for name in found if not name.startswith("ours")]
    best = max(peers, key=lambda name: mean(name, "similarity"))
    alone = "ours, for similarity alone"
    clock = clock_of(options)
    tropt = [name for name in peers if name != REFERENCE]
    compared = []
    for peer in dict.fromkeys([best, *(name for name in peers if name == REFERENCE)]):
        ahead = Measurement(alone, tuple(run["similarity"] for run in found[alone])).minus(
            Measurement(peer, tuple(run["similarity"] for run in found[peer]))
        )
        share = mean(alone, clock) / mean(peer, clock)
        unit = "processor seconds" if clock == "processor" else "seconds"
        compared.append(f"{ahead} in {share:.3f} of the {unit}, against {peer}")
    count = len(next(iter(found.values())))
    sentence = (
        f"{count} targets, prompts of {options.num_tokens} tokens, {options.threads} "
        f"thread{'s' * (options.threads > 1)}. The best peer is {best}. What ours, for similarity alone, has more than "
        f"a peer, paired: {'; '.join(compared)}."
    )
    few = [name for name in tropt if name.removeprefix("tropt ") in ONE_BY_ONE]
    if few and options.few_passes < options.passes:
        sentence += f" {' and '.join(few)} had {options.few_passes:,} passes, the others of tropt {options.passes:,}."
    return {"peers": facts, "best_peer": best}, f"{sentence}\n\n{markdown_table(table)}"


if __name__ == "__main__":
    main()
