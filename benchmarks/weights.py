"""What weights add to words: prompts of scenes with and without them, by the denoiser, by pictures and by the truth.

    python benchmarks/weights.py --targets 24

Prompts are found with emoji-clip, and weights are fitted to the target picture with emoji-sd. Measured are, each paired
with the same prompt without weights: the denoising error that is removed on noises that no fit saw; the cosine of the
conditioning (the mean over its places, less the empty prompt's) with that of the true caption; and the similarity of
pictures, drawn from the same noise, with the target by the judge, emoji-clip-reference, which nothing followed.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from common import Cells, interval, number, pictures, save, scenes_in_turn

from hardprompts import Backend, HardPrompt, PromptInverter, load_backend
from hardprompts.applications import fit_weights, weighted_conditioning
from hardprompts.noise import Conditioning
from hardprompts.prompts import WordWeights
from hardprompts_emoji import path, scenes

FIRST_SEED = scenes.HELD_OUT_SEED + 5_000_000
SYNTAXES = ("comfyui", "a1111")
DRAWN = 4


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=6)
    arguments = parser.parse_args()
    cells = Cells("weights")
    inverter, judge = PromptInverter("emoji"), load_backend("emoji:emoji-clip-reference")
    generator = load_backend(f"diffusers:{path('emoji-sd')}")
    rows: dict[str, list[dict[str, float]]] = {syntax: [] for syntax in SYNTAXES}
    for number_of, scene in enumerate(scenes_in_turn(arguments.targets, FIRST_SEED)):
        picture = pictures([scene])[0]
        for syntax in SYNTAXES:
            cell = {"target": number_of, "tokens": arguments.tokens, "syntax": syntax}

            def measured(scene: Any = scene, picture: Any = picture, syntax: str = syntax) -> dict[str, float]:
                prompt = inverter.invert(picture, num_tokens=arguments.tokens, seed=0, progress=False)
                return compared(prompt, picture, scenes.caption(scene), syntax, generator, judge)

            rows[syntax].append(cells.get(cell, measured))
    save("weights", {"rows": rows})
    print("| syntax | figure | without weights | with | gain |")
    print("|---|---|---|---|---|")
    for syntax, found in rows.items():
        for figure in ("denoising", "conditioning", "judge"):
            plain, weighted = ([row[f"{figure}_{which}"] for row in found] for which in ("plain", "weighted"))
            gain = interval(b - a for a, b in zip(plain, weighted, strict=True))
            print(
                f"| {syntax} | {figure} | {number(interval(plain))} | {number(interval(weighted))} | {number(gain)} |"
            )


def compared(
    prompt: HardPrompt, picture: Any, caption: str, syntax: str, generator: Backend, judge: Backend
) -> dict[str, float]:
    """The figures of one prompt without and with weights."""
    found = fit_weights(prompt, generator, images=picture, syntax=syntax, seed=0)
    assert found.weights is not None
    ones = WordWeights((1.0,) * len(found.weights.values), syntax, "", 0.0, 0.0, (0.0, 0.0))
    plain = weighted_conditioning(dataclasses.replace(prompt, weights=ones), generator)
    weighted = weighted_conditioning(found, generator)
    predictor = generator.noise_predictor
    assert predictor is not None
    true = predictor.condition_text(caption)
    table = predictor.vocabulary.table
    with torch.no_grad():
        empty = predictor.condition(table.new_zeros(1, 0, table.shape[1]))
    target = judge.encode_images([picture])
    figures = {"denoising_plain": found.weights.held_out[0], "denoising_weighted": found.weights.held_out[1]}
    for which, conditioning in (("plain", plain), ("weighted", weighted)):
        figures[f"conditioning_{which}"] = alike(conditioning, true, empty)
        drawn = judge.encode_images(draw(generator, conditioning))
        figures[f"judge_{which}"] = float((drawn @ target.T).mean())
    return figures


def alike(one: Conditioning, other: Conditioning, empty: Conditioning) -> float:
    """The cosine of what two conditionings change of the empty prompt's, as means over their places."""
    a, b = ((each.tensors[0] - empty.tensors[0]).mean(dim=1) for each in (one, other))
    return float(torch.cosine_similarity(a, b))


def draw(generator: Backend, conditioning: Conditioning) -> Sequence[Any]:
    """Pictures of a conditioning, always from the same noises."""
    pipe: Any = generator.noise_predictor.pipe  # type: ignore[union-attr]
    pipe.set_progress_bar_config(disable=True)
    noises = [torch.Generator().manual_seed(seed) for seed in range(DRAWN)]
    embeds = conditioning.tensors[0].repeat(DRAWN, 1, 1)
    images: Sequence[Any] = pipe(
        prompt_embeds=embeds, generator=noises, num_inference_steps=20, guidance_scale=3.0
    ).images
    return images


if __name__ == "__main__":
    main()
