"""Weighted words mean in ComfyUI what they were fitted to mean: its own parser and its own rule, run beside ours."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from server import comfyui_path, in_comfyui

from hardprompts import HardPrompt
from hardprompts.applications.weights import weighted_states
from hardprompts.prompts import WordWeights

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(comfyui_path() is None, reason="needs a ComfyUI checkout in COMFYUI_PATH"),
]

PROGRAM = """
import torch
states = torch.tensor(asked["states"])

class Encoder(sd1_clip.ClipTokenWeightEncoder):
    special_tokens = {}
    def gen_empty_tokens(self, special, length): return "empty"
    def encode(self, tokens): return states[: len(tokens)], None

(weighted, _) = Encoder().encode_token_weights([[(i, weight) for i, weight in enumerate(asked["weights"])]])[:2]
segments = [pieces(text) for text in asked["texts"]]
print(json.dumps({"weighted": weighted.tolist(), "segments": segments}))
"""


def test_comfyui_reads_and_weights_words_as_the_fit_does() -> None:
    cases = [
        ("fox (neon) light", (1.2, 0.9, 1.0)), ("a:b 3:4 \\ end\\", (0.5, 1.0, 1.33, 1.5)), ("(: :) ((", (1.1, 0.55, 1.2)),
    ]  # fmt: skip
    prompts = [
        HardPrompt(text, (), 0.0, "see {} now (really)", weights=WordWeights(weights, "comfyui", "", 0, 0, (0, 0)))
        for text, weights in cases
    ]
    states, weights = torch.randn(2, 4, 3), [1.0, 1.3, 0.5, 1.0]
    asked = {"states": states.tolist(), "weights": weights, "texts": [prompt.weighted() for prompt in prompts]}
    found = in_comfyui(PROGRAM, asked)

    ours = weighted_states(states[:1], states[1:], torch.tensor(weights), "comfyui")
    torch.testing.assert_close(ours, torch.tensor(found["weighted"]), rtol=1e-6, atol=1e-6)
    for prompt, segments in zip(prompts, found["segments"], strict=True):
        assert "".join(text for text, _ in segments) == prompt.filled
        words = [(word, weight) for text, weight in segments for word in text.split()]
        own = zip(prompt.text.split(), prompt.weights.values, strict=True)  # type: ignore[union-attr]
        assert words == [("see", 1.0), *own, ("now", 1.0), ("(really)", 1.0)]
