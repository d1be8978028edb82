"""What weights add to words: prompts of scenes with and without them, by the denoiser, by pictures and by the truth.

    python benchmarks/weights.py --targets 24 --of text

Of an image, prompts are found with emoji-clip, and weights are fitted with emoji-sd to the picture. Of a text, the
true caption of a scene of two objects, prompts of a third of its tokens are distilled from it, and weights are fitted
to what the denoiser does for the caption. Measured are, each paired with the same prompt without weights, on noises
that no fit saw: the denoising error that is removed, or the share of the caption's effect; the cosine of the
conditioning (the mean over its places, less the empty prompt's) with that of the true caption; and by the judge,
emoji-clip-reference, which nothing followed, the similarity of what is drawn with the picture, or with what the
caption draws from the same noises.
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from common import Cells, held_out_scenes, interval, number, pictures, save, scenes_in_turn

from hardprompts import Backend, HardPrompt, PromptDistiller, PromptInverter, load_backend
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
    parser.add_argument("--of", choices=("image", "text"), default="image", help="what weights are fitted to")
    parser.add_argument("--tokens", type=int, default=6, help="of a prompt of an image")
    arguments = parser.parse_args()
    name = "weights" if arguments.of == "image" else "weights_text"
    cells, bench = Cells(name), Bench(arguments.tokens)
    rows: dict[str, list[dict[str, float]]] = {syntax: [] for syntax in SYNTAXES}
    found = scenes_in_turn(arguments.targets, FIRST_SEED)
    chosen = found if arguments.of == "image" else held_out_scenes(arguments.targets, 2, FIRST_SEED)
    for number_of, scene in enumerate(chosen):
        for syntax in SYNTAXES:
            cell = {"target": number_of, "tokens": arguments.tokens, "syntax": syntax}
            measure = bench.of_image if arguments.of == "image" else bench.of_text
            rows[syntax].append(cells.get(cell, functools.partial(measure, scene, syntax)))
    save(name, {"rows": rows})
    print("| syntax | figure | without weights | with | gain |")
    print("|---|---|---|---|---|")
    for syntax, own in rows.items():
        for figure in ("denoising", "conditioning", "judge"):
            plain, weighted = ([row[f"{figure}_{which}"] for row in own] for which in ("plain", "weighted"))
            gain = interval(b - a for a, b in zip(plain, weighted, strict=True))
            print(
                f"| {syntax} | {figure} | {number(interval(plain))} | {number(interval(weighted))} | {number(gain)} |"
            )


class Bench:
    """The models, and what is measured with them."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.inverter, self.judge = PromptInverter("emoji"), load_backend("emoji:emoji-clip-reference")
        self.distiller = PromptDistiller(self.inverter.backend)
        self.generator = load_backend(f"diffusers:{path('emoji-sd')}")
        predictor = self.generator.noise_predictor
        assert predictor is not None
        self.predictor = predictor

    def of_image(self, scene: Any, syntax: str) -> dict[str, float]:
        """The figures of a prompt of a picture."""
        picture = pictures([scene])[0]
        prompt = self.inverter.invert(picture, num_tokens=self.tokens, seed=0, progress=False)
        fitted = fit_weights(prompt, self.generator, images=picture, syntax=syntax, seed=0)
        target = self.judge.encode_images([picture]).expand(DRAWN, -1)
        return self.compared(prompt, fitted, scenes.caption(scene), target)

    def of_text(self, scene: Any, syntax: str) -> dict[str, float]:
        """The figures of a prompt that was distilled from a caption."""
        caption = scenes.caption(scene)
        prompt = self.distiller.distill(caption, ratio=1 / 3, seed=0, progress=False)
        fitted = fit_weights(prompt, self.generator, text=caption, syntax=syntax, seed=0)
        target = self.judge.encode_images(draw(self.generator, self.predictor.condition_text(caption)))
        return self.compared(prompt, fitted, caption, target)

    def compared(self, prompt: HardPrompt, found: HardPrompt, caption: str, target: torch.Tensor) -> dict[str, float]:
        """The figures of one prompt without and with weights; `target` has the features for each noise."""
        assert found.weights is not None and found.weights.held_out is not None
        ones = WordWeights((1.0,) * len(found.weights.values), found.weights.syntax, "", 0.0, 0.0, (0.0, 0.0))
        plain = weighted_conditioning(dataclasses.replace(prompt, weights=ones), self.generator)
        weighted = weighted_conditioning(found, self.generator)
        true, table = self.predictor.condition_text(caption), self.predictor.vocabulary.table
        with torch.no_grad():
            empty = self.predictor.condition(table.new_zeros(1, 0, table.shape[1]))
        figures = {"denoising_plain": found.weights.held_out[0], "denoising_weighted": found.weights.held_out[1]}
        for which, conditioning in (("plain", plain), ("weighted", weighted)):
            figures[f"conditioning_{which}"] = alike(conditioning, true, empty)
            drawn = self.judge.encode_images(draw(self.generator, conditioning))
            figures[f"judge_{which}"] = float((drawn * target).sum(dim=1).mean())
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
