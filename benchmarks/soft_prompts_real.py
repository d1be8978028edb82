"""Soft prompts of a real encoder, which nobody of this project trained: where they live, and what text keeps of them.

    HARDPROMPTS_PROMPTS=prompts.csv python benchmarks/soft_prompts_real.py            # 30 soft prompts of MiniLM
    HARDPROMPTS_PROMPTS=prompts.csv python benchmarks/soft_prompts_real.py --quick    # 4, and no picture

Each soft prompt is two tokens, learned by gradient so that they stand for a prompt that a person wrote, in several
templates: its features are to be those of the same template with the prompt in it. The prompts are of the file that
real_text.py measures with, and others than those. Text is found for the soft tokens by their nearest words, and by what
they do; held out are other templates. Lengths and angles, shrinking and turning are those of Bailey et al. 2023, as in
soft_prompt_findings.py. It writes benchmarks/results/soft_prompts_real.json, docs/soft_prompts.md and its picture.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import DOCS, save, write_section
from faithfulness import TEMPLATES
from generation import command
from real_text import PROMPTS, TEST_PROMPTS, minilm, shuffled_prompts
from soft_prompt_findings import BY_BEHAVIOUR, CONE_DEGREES, decodings, drawn, geometry, paths

from hardprompts import Backend, DistilledPrompt, SoftPrompt, load_backend
from hardprompts.encoders import normalize
from hardprompts.evaluation import Measurement, markdown_table
from hardprompts.learning import descend
from hardprompts.matching import FeatureMatch, MeanMatch
from hardprompts.originals import soft_prompt_of
from hardprompts.prompts import PromptTemplate
from hardprompts.search import random_starts


def learned(
    prompts: Sequence[str], backend: Backend, num_tokens: int, templates: Sequence[str], steps: int, seed: int = 0
) -> list[SoftPrompt]:
    """Soft tokens that stand for each prompt, learned in one batch from random tokens.

    Source: as `hardprompts.learning.learn_soft_prompts`, with texts where that has images.
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


def shares(found: Mapping[str, Sequence[DistilledPrompt]]) -> dict[str, dict[str, list[float]]]:
    """What each way keeps of each soft prompt's effect, where it was matched and held out."""
    kept: dict[str, dict[str, list[float]]] = {}
    for which in ("matched", "held_out"):
        kept[which] = {}
        for way, decoded in found.items():
            own = [getattr(prompt.faithfulness, which) for prompt in decoded]
            kept[which][way] = [share.value for share in own if share is not None]
    return kept


def originals(prompts: Sequence[SoftPrompt], names: Sequence[str], backend: Backend) -> list[float]:
    """How similar each soft prompt is to the prompt that it stands for, alone."""
    features = [
        normalize(backend.text_encoder.encode(torch.cat(list(prompt.embeddings.values()), dim=1)[None]))[0]
        for prompt in prompts
    ]
    return [float(own @ target) for own, target in zip(features, backend.encode_texts(list(names)), strict=True)]


def report(
    where: Mapping[str, Sequence[float]], moved: Mapping[str, Any], kept: Mapping[str, Mapping[str, list[float]]],
    found: Mapping[str, Sequence[DistilledPrompt]], prompts: Sequence[str], similar: Sequence[float],
) -> str:  # fmt: skip
    """The tables, as a section of a page."""
    count = len(prompts)
    table = [["text", "tokens", "matched", "held out", "by behaviour has more, held out"]]
    best = Measurement("", tuple(kept["held_out"][BY_BEHAVIOUR]))
    for way in found:
        own = {which: Measurement(way, tuple(kept[which][way])) for which in kept}
        length = sum(len(prompt.token_ids) for prompt in found[way]) / count
        more = "" if way == BY_BEHAVIOUR else f"{best.minus(own['held_out']).mean:+.3f} ± " + (
            f"{best.minus(own['held_out']).half_width:.3f}"
        )  # fmt: skip
        table.append([way, f"{length:.1f}", str(own["matched"].interval()), str(own["held_out"].interval()), more])
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
        examples.append([name, *(decoded[place].text for decoded in found.values())])
    similarity = Measurement("", tuple(similar)).interval()
    intro = f"{count} soft prompts; the mean similarity of one with the prompt that it stands for is {similarity}."
    return "\n\n".join([intro, *map(markdown_table, (table, facts, examples))])


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
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.prompts is None:
        parser.error(f"there are no prompts: give --prompts FILE, or set {PROMPTS}")
    torch.set_num_threads(arguments.threads)
    count = arguments.count or (4 if arguments.quick else 30)
    prompts = shuffled_prompts(arguments.prompts)[TEST_PROMPTS : TEST_PROMPTS + count]
    backend = load_backend(arguments.model or minilm(), device="cpu")
    soft = learned(prompts, backend, arguments.soft_tokens, TEMPLATES, arguments.steps)
    similar = originals(soft, prompts, backend)
    found = decodings(soft, backend, arguments.evaluations, TEMPLATES)
    where, moved, kept = geometry(soft, backend), paths(soft, backend), shares(found)
    text = report(where, moved, kept, found, prompts, similar)
    print(text)
    if arguments.quick:
        return
    drawn(where, moved, kept["held_out"], DOCS / "soft_prompts_real.png")
    settings = {name: value for name, value in vars(arguments).items() if name not in ("prompts", "model")}
    texts = {way: [prompt.text for prompt in decoded] for way, decoded in found.items()}
    facts = {"prompts": prompts, "similarity": similar, "geometry": where, "paths": moved, "kept": kept, "texts": texts}
    print(save("soft_prompts_real", {"settings": {**settings, "count": count}, **facts}))
    write_section(DOCS / "soft_prompts.md", "soft_prompts_real", f"```console\n{command()}\n```\n\n{text}")


if __name__ == "__main__":
    main()
