"""Soft prompts of a real encoder, which nobody of this project trained: where they live, and what text keeps of them.

    HARDPROMPTS_PROMPTS=prompts.csv python benchmarks/soft_prompts_real.py            # 30 soft prompts of MiniLM
    HARDPROMPTS_PROMPTS=prompts.csv python benchmarks/soft_prompts_real.py --quick    # 4, and no picture

Each soft prompt is two tokens, learned by gradient so that they stand for a prompt that a person wrote, in several
templates: its features are to be those of the same template with the prompt in it. The prompts are of the file that
real_text.py measures with, and others than those. Text is found for the soft tokens by their nearest words, and by
what they do; held out are other templates. Lengths and angles, shrinking and turning are those of Bailey et al. 2023,
as in soft_prompt_findings.py. A run that is stopped goes on where it stopped. It writes
benchmarks/results/soft_prompts_real.json, docs/soft_prompts.md and its picture.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import DOCS, Cells, save, write_section
from comparison import Measurement
from faithfulness import TEMPLATES
from generation import command
from real_text import PROMPTS, TEST_PROMPTS, minilm, shuffled_prompts
from soft_prompt_findings import BY_BEHAVIOR, CONE_DEGREES, decodings, drawn, geometry, paths

from hardprompts import Backend, DistilledPrompt, PromptDistiller, SoftPrompt, load_backend
from hardprompts.distillation import FeatureMatch, MeanMatch, descend, soft_prompt_of
from hardprompts.encoders import normalize
from hardprompts.evaluation import markdown_table
from hardprompts.prompts import PromptTemplate
from hardprompts.search import random_starts

#: Soft prompts of one cell, which is finished or measured again as a whole.
PART = 5


def learned(
    prompts: Sequence[str], backend: Backend, num_tokens: int, templates: Sequence[str], steps: int, seed: int = 0
) -> list[SoftPrompt]:
    """Soft tokens that stand for each prompt, learned in one batch from random tokens.

    Source: as `hardprompts.distillation.learn_soft_prompts`, with texts where that has images.
    """
    vocabulary = backend.vocabulary
    parts = []
    for template in map(PromptTemplate, templates):
        targets = backend.encode_texts([template.fill(prompt) for prompt in prompts]).unsqueeze(1)
        parts.append(FeatureMatch(backend.text_encoder, targets, torch.ones(len(prompts), 1), template))
    start = vocabulary.embed(random_starts(vocabulary, len(prompts), num_tokens, seed)).float()
    found, losses = descend(MeanMatch(tuple(parts)), start, vocabulary, max_steps=steps)
    return [
        soft_prompt_of(embeddings, vocabulary, prompt[:200], {"model": backend.name, "loss": loss, "seed": seed})
        for embeddings, prompt, loss in zip(found, prompts, losses, strict=True)
    ]


def measured(prompts: Sequence[str], backend: Backend, arguments: argparse.Namespace) -> dict[str, Any]:
    """Soft prompts of some prompts, how similar they are to these, and what each way of decoding makes of them."""
    soft = learned(prompts, backend, arguments.soft_tokens, TEMPLATES, arguments.steps)
    found = decodings(soft, backend, arguments.evaluations, TEMPLATES)
    return {
        "soft": [embeddings_of(one).tolist() for one in soft],
        "similar": originals(soft, prompts, backend),
        "found": {way: [kept_by(prompt) for prompt in decoded] for way, decoded in found.items()},
    }


def kept_by(prompt: DistilledPrompt) -> dict[str, Any]:
    """A text, and what it keeps of the soft prompt's effect where it was matched and held out."""
    faithfulness = prompt.faithfulness
    assert faithfulness is not None and faithfulness.held_out is not None
    shares = {"matched": faithfulness.matched.value, "held_out": faithfulness.held_out.value}
    return {"text": prompt.text, "tokens": len(prompt.token_ids), "passes": prompt.evaluations, **shares}


def embeddings_of(prompt: SoftPrompt) -> torch.Tensor:
    """The soft tokens, (tokens, dim)."""
    return torch.cat(list(prompt.embeddings.values()), dim=1)


def originals(prompts: Sequence[SoftPrompt], names: Sequence[str], backend: Backend) -> list[float]:
    """How similar each soft prompt is to the prompt that it stands for, alone."""
    features = [normalize(backend.text_encoder.encode(embeddings_of(prompt)[None]))[0] for prompt in prompts]
    return [float(own @ target) for own, target in zip(features, backend.encode_texts(list(names)), strict=True)]


def report(
    where: Mapping[str, Sequence[float]], moved: Mapping[str, Any], found: Mapping[str, Sequence[Mapping[str, Any]]],
    prompts: Sequence[str], similar: Sequence[float],
) -> str:  # fmt: skip
    """The tables, as a section of a page."""
    count = len(prompts)
    table = [["text", "tokens", "matched", "held out", f"{BY_BEHAVIOR} has more, held out"]]
    best = share(found, BY_BEHAVIOR, "held_out")
    for way in found:
        matched, held_out = (share(found, way, which) for which in ("matched", "held_out"))
        length = sum(one["tokens"] for one in found[way]) / count
        more = best.minus(held_out)
        table.append(
            [
                way, f"{length:.1f}", str(matched.interval()), str(held_out.interval()),
                "" if way == BY_BEHAVIOR else f"{more.mean:+.3f} ± {more.half_width:.3f}",
            ]
        )  # fmt: skip
    facts = [["", "soft", "natural"]]
    facts.append(["median length", *(f"{median(where[f'{kind} lengths']):.2f}" for kind in ("soft", "natural"))])
    middle = [median(where[f"{kind} degrees"]) for kind in KINDS]
    facts.append(["median degrees to the nearest other token", *(f"{value:.0f}" for value in middle)])
    facts.append(
        [f"within {CONE_DEGREES:.0f} degrees of another token", *(within(where[f"{k} degrees"]) for k in KINDS)]
    )
    for name, place, words in (("shrunk", 3, "at a third of the length"), ("rotated", 3, "turned by 30 degrees")):
        left = [median([curve[place] for curve in moved[name][kind]]) for kind in KINDS]
        facts.append([f"effect left {words}", *(f"{value:.2f}" for value in left)])
    examples = [["soft prompt for", *found]]
    for place in range(min(8, count)):
        name = prompts[place] if len(prompts[place]) <= 90 else f"{prompts[place][:90].rsplit(' ', 1)[0]} ..."
        examples.append([name, *(decoded[place]["text"] for decoded in found.values())])
    similarity = Measurement("", tuple(similar)).interval()
    intro = f"{count} soft prompts; the mean similarity of one with the prompt that it stands for is {similarity}."
    return "\n\n".join([intro, *map(markdown_table, (table, facts, examples))])


def share(found: Mapping[str, Sequence[Mapping[str, Any]]], way: str, which: str) -> Measurement:
    """What a way of decoding keeps of each soft prompt."""
    return Measurement(way, tuple(one[which] for one in found[way]))


KINDS = ("soft", "natural")


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return float(torch.tensor(values).median())


def within(degrees: Sequence[float]) -> str:
    """The share of some angles that are in Bailey et al.'s cone."""
    return f"{100 * sum(angle <= CONE_DEGREES for angle in degrees) / len(degrees):.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, default=os.environ.get(PROMPTS), help="CSV with a column prompt")
    parser.add_argument("--model", help="a model of load_backend (default: MiniLM from PyPI)")
    parser.add_argument("--quick", action="store_true", help="4 soft prompts; no picture, and the page is left alone")
    parser.add_argument("--count", type=int, help="soft prompts (default 30)")
    parser.add_argument("--soft-tokens", type=int, default=2, help="tokens of a soft prompt")
    parser.add_argument("--steps", type=int, default=500, help="of learning one")
    parser.add_argument("--evaluations", type=int, default=4000, help="passes for each soft prompt decoded")
    parser.add_argument("--only-read", action="store_true", help="report what is there, compute nothing")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.prompts is None:
        parser.error(f"there are no prompts: give --prompts FILE, or set {PROMPTS}")
    torch.set_num_threads(arguments.threads)
    count = arguments.count or (4 if arguments.quick else 30)
    prompts = shuffled_prompts(arguments.prompts)[TEST_PROMPTS : TEST_PROMPTS + count]
    backend = load_backend(arguments.model or minilm(), device="cpu")
    cells = Cells("soft_prompts_real", arguments.only_read, describe)
    parts = []
    for first in range(0, count, PART):
        own = prompts[first : first + PART]
        cell = {
            "prompts": [prompt[:40] for prompt in own], "tokens": arguments.soft_tokens, "steps": arguments.steps,
            "evaluations": arguments.evaluations, "method": repr(PromptDistiller(backend).search),
        }  # fmt: skip
        parts.append(cells.get(cell, lambda own=own: measured(own, backend, arguments)))
    soft = [
        soft_prompt_of(torch.tensor(rows), backend.vocabulary, prompt[:200], {"model": backend.name})
        for rows, prompt in zip([rows for part in parts for rows in part["soft"]], prompts, strict=True)
    ]
    similar = [value for part in parts for value in part["similar"]]
    found = {way: [one for part in parts for one in part["found"][way]] for way in parts[0]["found"]}
    where, moved = geometry(soft, backend), paths(soft, backend)
    text = report(where, moved, found, prompts, similar)
    print(text)
    if arguments.quick:
        return
    held_out = {way: [one["held_out"] for one in decoded] for way, decoded in found.items()}
    drawn(where, moved, held_out, DOCS / "soft_prompts_real.png")
    settings = {name: value for name, value in vars(arguments).items() if name not in ("prompts", "model")}
    facts = {"prompts": prompts, "similarity": similar, "geometry": where, "paths": moved, "found": found}
    print(save("soft_prompts_real", {"settings": {**settings, "count": count}, **facts}))
    picture = "![Lengths and angles, what shrinking and turning leaves, what decoding keeps](soft_prompts_real.png)"
    write_section(DOCS / "soft_prompts.md", "soft_prompts_real", f"```console\n{command()}\n```\n\n{text}\n\n{picture}")


def describe(figures: Mapping[str, Any]) -> str:
    """A cell in a line."""
    own = figures["found"][BY_BEHAVIOR]
    return f"keeps {sum(one['held_out'] for one in own) / len(own):.3f}, {own[0]['text']!r}"


if __name__ == "__main__":
    main()
