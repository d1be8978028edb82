"""What the frozen text tower saves: the features of prompts and their gradient, against the same tower's own modules.

    OMP_NUM_THREADS=1 python benchmarks/frozen_tower.py

Both run the same weights, which are random, at the same short context: 8 tokens between a start and an end. They take
turns, since a machine's speed drifts; the figures are medians, in milliseconds.
"""

import argparse
import statistics
import time

import open_clip
import torch
from common import processor

from hardprompts.evaluation import markdown_table
from hardprompts_openclip.backend import from_model

#: (width, heads, layers) of text towers: emoji-clip's, those of ViT-B and ViT-L of CLIP.
SIZES = ((160, 5, 3), (512, 8, 12), (768, 12, 12))
VISION = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 32, "image_size": 32}
NUM_TOKENS = 8


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows = [["tower", "prompts", "frozen, ms", "modules, ms", "ratio"]]
    for width, heads, layers in SIZES:
        for prompts in (1, 16):
            frozen, modules = measure(width, heads, layers, prompts, arguments.repetitions)
            times = [f"{1000 * frozen:.2f}", f"{1000 * modules:.2f}", f"{modules / frozen:.2f}"]
            rows.append([f"{width} x {layers}", str(prompts), *times])
    print(markdown_table(rows))


def measure(width: int, heads: int, layers: int, prompts: int, repetitions: int) -> tuple[float, float]:
    """Seconds of features and gradient, by the frozen tower and by the modules."""
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": heads, "layers": layers}
    model = open_clip.CLIP(width, VISION, text)
    encoders = [from_model(model, open_clip.get_tokenizer("ViT-B-32")).text_encoder for _ in range(2)]
    encoders[1]._tower._is_plain = False  # so that its blocks are run as they are
    vocabulary = encoders[0].vocabulary
    embeddings = vocabulary.embed(vocabulary.sample((prompts, NUM_TOKENS), torch.Generator().manual_seed(0)))
    seconds: list[list[float]] = [[], []]
    found = []
    for repetition in range(repetitions + 2):  # two warm up: the first packs the weights
        for encoder, times in zip(encoders, seconds, strict=True):
            leaf = embeddings.clone().requires_grad_()
            begin = time.perf_counter()
            (gradient,) = torch.autograd.grad(encoder.encode(leaf).square().sum(), leaf)
            if repetition > 1:
                times.append(time.perf_counter() - begin)
            found.append(gradient)
    torch.testing.assert_close(found[-2], found[-1], atol=1e-4 * float(found[-1].abs().max()), rtol=1e-3)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    main()
