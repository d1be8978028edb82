"""What tests push to the Hub."""

from typing import Any

import torch

from hardprompts import Candidate, ClassifierPromptTuner, HardPrompt, SoftPrompt
from hardprompts.testing import toy_language_model

PROMPT = HardPrompt(
    text="red tiger, 虎 (big) [x]",
    token_ids=(3, 1, 4, 1, 5),
    score=0.25,
    template="a photo of {}",
    model="transformers:openai/clip-vit-large-patch14",
    method="pez+refine",
    candidates=(Candidate("red tiger", (3, 1), 0.25), Candidate("red", (3,), 0.2)),
    seed=7,
    provenance={"steps": 9},
)


def soft(**values: Any) -> SoftPrompt:
    generator = torch.Generator().manual_seed(0)
    embeddings = values.pop("embeddings", {"clip_l": torch.randn(2, 768, generator=generator)})
    return SoftPrompt(
        embeddings,
        **{
            "name": "<my style>",
            "step": 500,
            "base_models": ("runwayml/stable-diffusion-v1-5", "hash"),
            "metadata": {"a": 1.5, "b": None, "c": "虎"},
            **values,
        },
    )


def same(first: SoftPrompt, second: SoftPrompt) -> bool:
    fields = ("name", "step", "base_models", "metadata", "encoders")
    return all(getattr(first, field) == getattr(second, field) for field in fields) and all(
        torch.equal(first.embeddings[name], second.embeddings[name]) for name in first.encoders
    )


def fitted_tuner(**options: Any) -> ClassifierPromptTuner:
    texts = ["red fire", "old night", "green fire", "dark night"] * 4
    chosen: dict[str, Any] = {"num_tokens": 2, "restarts": 1, "max_steps": 2, "random_state": 0, "progress": False}
    tuner = ClassifierPromptTuner(toy_language_model(), template="{prompt} {text} the {label}", **{**chosen, **options})
    return tuner.fit(texts, ["sun", "moon"] * 8)
