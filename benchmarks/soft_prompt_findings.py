"""Where soft prompts live, what shrinking and turning does to them, and what their nearest words keep.

    python benchmarks/soft_prompt_findings.py            # 50 soft prompts of the embedded dual encoder
    python benchmarks/soft_prompt_findings.py --quick    # 8

The three findings of Bailey et al. 2023, "Soft prompting might be a bug, not a feature", drawn as they draw them, with
the share of a prompt's effect on the text features where they have the accuracy of a language model on a task. And what
the decoded texts are worth to another model, which has neither the tokens nor the embeddings of the first.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import pictures, save, save_figure, subplots
from comparison import Measurement
from faithfulness import learned, scenes_of

from hardprompts import DistilledPrompt, PromptDistiller, SoftPrompt, load_backend
from hardprompts.distillation import portability_report
from hardprompts.evaluation import markdown_table
from hardprompts.prompts import SLOT
from hardprompts.softprompts import angles, measure_robustness, natural_ids

PICTURE = Path(__file__).parent.parent / "docs" / "soft_prompts.png"
#: Beyond this angle from their nearest word, soft prompts were found to lose what they do.
CONE_DEGREES = 30.0
BY_BEHAVIOR = "by behavior"


def geometry(prompts: Sequence[SoftPrompt], backend: Any) -> dict[str, list[float]]:
    """Lengths, and degrees to the nearest (other) token, of soft tokens and of natural ones."""
    vocabulary = backend.vocabulary
    soft = torch.cat([torch.cat(list(prompt.embeddings.values()), dim=1) for prompt in prompts])
    ids = natural_ids(vocabulary, 1000)
    natural = vocabulary.embed(ids).float()
    return {
        "soft lengths": soft.norm(dim=1).tolist(),
        "natural lengths": vocabulary.allowed_table.norm(dim=1).tolist(),
        "soft degrees": angles(soft, vocabulary.embed(vocabulary.nearest(soft)).float()).tolist(),
        "natural degrees": angles(natural, vocabulary.embed(vocabulary.neighbors(ids, 1)[:, 0]).float()).tolist(),
    }


def paths(prompts: Sequence[SoftPrompt], backend: Any) -> dict[str, Any]:
    """What is left of each prompt's effect where it is shrunk, and where it is turned towards its nearest words."""
    reports = [
        measure_robustness(
            torch.cat(list(prompt.embeddings.values()), dim=1), backend.vocabulary, backend.text_encoder.encode,
            backend.text_encoder.max_tokens,
        )
        for prompt in prompts
    ]  # fmt: skip
    found: dict[str, Any] = {"nearest words keep": [report.nearest_kept for report in reports]}
    for name in ("shrunk", "rotated"):
        curves = [getattr(report, name) for report in reports]
        found[name] = {
            "positions": curves[0].positions,
            "soft": [curve.soft for curve in curves],
            "natural": [curve.natural_median for curve in curves],
        }
    return found


def decodings(
    prompts: Sequence[SoftPrompt], backend: Any, evaluations: int, templates: Sequence[str] = (SLOT,)
) -> dict[str, list[DistilledPrompt]]:
    """The prompts decoded to the nearest words, and by what they do in some templates."""
    distillers = {
        "nearest, cosine": PromptDistiller(backend, "nearest"),
        "nearest, L2": PromptDistiller(backend, "nearest-l2"),
        BY_BEHAVIOR: PromptDistiller(backend),
    }
    return {
        name: distiller.distill_each(
            prompts, num_tokens=8, templates=templates, seed=0, progress=False,
            max_evaluations=evaluations * len(prompts),
        )
        for name, distiller in distillers.items()
    }  # fmt: skip


def carried_over(
    found: Sequence[DistilledPrompt], prompts: Sequence[SoftPrompt], backend: Any, other: Any
) -> dict[str, list[float]]:
    """How strongly the decoded texts, and the nearest words above the cut-off, mean the picture to either model."""
    reports = [
        portability_report(text, soft, backend, [other], picture)
        for text, soft, picture in zip(found, prompts, pictures(scenes_of(len(prompts))), strict=True)
    ]
    strengths: dict[str, list[float]] = {"soft, here": [report.rows[0].soft for report in reports]}
    for place, where in enumerate(("here", "there")):
        strengths[f"decoded, {where}"] = [report.rows[place].hard for report in reports]
        strengths[f"nearest, {where}"] = [report.rows[place].nearest for report in reports]
    return strengths


def drawn(
    where: dict[str, list[float]], moved: dict[str, Any], kept: dict[str, list[float]], picture: Path = PICTURE
) -> None:
    """The picture of all of it."""
    soft, natural = "#c2410c", "#1d4ed8"
    figure, axes = subplots(1, 5, figsize=(17, 3.2))
    for axis, quantity, label in ((axes[0], "lengths", "length of a token's embedding"),
                                  (axes[1], "degrees", "degrees to the nearest other token")):  # fmt: skip
        for name, color in (("natural", natural), ("soft", soft)):
            values = where[f"{name} {quantity}"]
            share = [1 / len(values)] * len(values)
            axis.hist(values, bins=30, weights=share, color=color, alpha=0.6, label=f"{name} tokens")
        axis.set(xlabel=label, ylabel="share of the tokens")
    axes[1].axvline(CONE_DEGREES, color="gray", linestyle=":")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right")
    # A few tokens are much longer than all others.
    axes[0].set_xlim(
        right=1.1 * max(torch.tensor(where[f"{kind} lengths"]).quantile(0.995).item() for kind in ("soft", "natural"))
    )
    for axis, name, label in ((axes[2], "shrunk", "lengths divided by"),
                              (axes[3], "rotated", "degrees towards the nearest word")):  # fmt: skip
        positions = moved[name]["positions"]
        for kind, color in (("natural", natural), ("soft", soft)):
            values = torch.tensor(moved[name][kind])
            low, middle, high = (values.quantile(q, dim=0) for q in (0.1, 0.5, 0.9))
            axis.fill_between(positions, low.clamp(0, 1.1), high.clamp(0, 1.1), color=color, alpha=0.15, lw=0)
            axis.plot(positions, middle.clamp(0, 1.1), color=color, marker=".", label=f"{kind} prompts")
        axis.set(xlabel=label, ylabel="share of the effect left", ylim=(0, 1.1))
    axes[2].set_xscale("log")
    axes[2].set_xticks([1, 2, 3, 5, 10, 20], ["1", "2", "3", "5", "10", "20"])
    axes[3].axvline(CONE_DEGREES, color="gray", linestyle=":")
    intervals = [Measurement(name, tuple(values)).interval() for name, values in kept.items()]
    axes[4].bar(list(kept), [one.mean for one in intervals], yerr=[one.half_width for one in intervals],
                color=["#a8a29e", "#a8a29e", "#15803d"])  # fmt: skip
    axes[4].set(ylabel="share of the effect kept", ylim=(0, 1))
    axes[4].tick_params(axis="x", labelrotation=15)
    save_figure(figure, picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 soft prompts; no picture")
    parser.add_argument("--count", type=int, help="soft prompts (default 50)")
    parser.add_argument("--soft-tokens", type=int, default=2, help="tokens of a soft prompt")
    parser.add_argument("--evaluations", type=int, default=4000, help="passes for each soft prompt decoded")
    arguments = parser.parse_args()
    count = arguments.count or (8 if arguments.quick else 50)
    backend = load_backend("emoji")
    prompts = learned(count, arguments.soft_tokens, ["{}"], 500, 0.1)
    where, moved = geometry(prompts, backend), paths(prompts, backend)
    found = decodings(prompts, backend, arguments.evaluations)
    kept = {
        name: [prompt.faithfulness.matched.value for prompt in decoded if prompt.faithfulness is not None]
        for name, decoded in found.items()
    }
    carried = carried_over(found[BY_BEHAVIOR], prompts, backend, load_backend("emoji:emoji-clip-reference"))

    def within(name: str) -> str:
        degrees = where[f"{name} degrees"]
        return f"{100 * sum(angle <= CONE_DEGREES for angle in degrees) / len(degrees):.1f} %"

    def interval_of(values: Sequence[float]) -> str:
        return str(Measurement("", tuple(values)).interval())

    def median(values: Sequence[float]) -> float:
        return float(torch.tensor(values).median())

    rows = [["", "soft", "natural"]]
    rows.append(["median length", *(f"{median(where[f'{name} lengths']):.2f}" for name in ("soft", "natural"))])
    rows.append(["within 30 degrees of another token", within("soft"), within("natural")])
    for name, place, words in (("shrunk", 3, "a third of the length"), ("rotated", 3, "turned by 30 degrees")):
        kinds = [median([curve[place] for curve in moved[name][kind]]) for kind in ("soft", "natural")]
        rows.append([f"effect left, {words}", *(f"{value:.2f}" for value in kinds)])
    for way, values in kept.items():
        rows.append([f"effect kept, decoded: {way}", interval_of(values), ""])
    print(markdown_table(rows))
    rows = [["strength, in standard deviations of random prompts", "own model", "another model"]]
    rows.append(["soft prompt", interval_of(carried["soft, here"]), "it has no such tokens"])
    for name, words in (("decoded", "decoded by behavior"), ("nearest", "nearest words with a cosine over 0.707")):
        rows.append([words, interval_of(carried[f"{name}, here"]), interval_of(carried[f"{name}, there"])])
    print("\n" + markdown_table(rows))
    if not arguments.quick:
        drawn(where, moved, kept)
        texts = {name: [prompt.text for prompt in decoded] for name, decoded in found.items()}
        facts = {"geometry": where, "paths": moved, "kept": kept, "carried over": carried, "texts": texts}
        save("soft_prompt_findings", {"settings": {**vars(arguments), "count": count}, **facts})


if __name__ == "__main__":
    main()
