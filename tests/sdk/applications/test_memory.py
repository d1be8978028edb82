"""Estimates of memory beside what a simulated device hands out while a real search runs."""

from typing import Any

import pytest
import simulated_device
import torch
from simulated_device import counting

from hardprompts import Backend, BackendError, ClassifierPromptTuner, PromptInverter, load_backend
from hardprompts.applications import estimate_memory
from hardprompts.testing import toy_backend

pytestmark = pytest.mark.skipif(not simulated_device.available, reason="needs torch's Python backend")

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])

#: Width, heads and features of the text towers of open_clip's models.
SHAPES = {"ViT-B-32": (512, 8, 512), "ViT-L-14": (768, 12, 768)}


def opened(name: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """A model; of a shape of open_clip's with random weights, and next to no image tower."""
    if name not in SHAPES:
        return load_backend(name, device=device, dtype=dtype)
    open_clip = pytest.importorskip("open_clip")
    from hardprompts_openclip.backend import from_model

    width, heads, features = SHAPES[name]
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": heads, "layers": 12}
    vision = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 32, "image_size": 32}
    model = open_clip.CLIP(features, vision, text).to(device, dtype)
    backend: Backend = from_model(model, open_clip.get_tokenizer("ViT-B-32"))
    return backend


@DTYPES
@pytest.mark.parametrize("restarts", [1, 16])
@pytest.mark.parametrize(
    "name", ["emoji", *(pytest.param(name, marks=pytest.mark.slow) for name in (*SHAPES, "photo"))]
)
def test_the_estimate_is_what_a_device_hands_out(name: str, restarts: int, dtype: torch.dtype) -> None:
    if name == "photo":
        pytest.importorskip("timm")
    with simulated_device.simulated() as device, counting() as counts:
        backend = opened(name, device, dtype)
        target = torch.ones(1, backend.feature_width).to(device)
        # Without the cost of tokens, for which 32 random prompts are scored first.
        options = {"token_cost": 0.0, "max_steps": 2, "seed": 0, "progress": False}
        PromptInverter(backend, method="pez").invert(target, restarts=restarts, **options)
        counted = counts.peak
        estimate = estimate_memory(backend, restarts=restarts, candidates=restarts, pictures=1, method="pez")
    assert estimate.total == pytest.approx(counted, rel=0.15)


@DTYPES
def test_the_default_reads_words_too(dtype: torch.dtype) -> None:
    with simulated_device.simulated() as device, counting() as counts:
        backend = opened("emoji", device, dtype)
        target = torch.ones(1, backend.feature_width).to(device)
        PromptInverter(backend).invert(target, max_evaluations=200, seed=0, progress=False)
        counted = counts.peak
        estimate = estimate_memory(backend, candidates=32, pictures=1)
    assert estimate.total == pytest.approx(counted, rel=0.15)


@DTYPES
@pytest.mark.parametrize("batch_tokens", [256, pytest.param(2048, marks=pytest.mark.slow)])
def test_the_estimate_of_a_classifier_is_what_a_device_hands_out(dtype: torch.dtype, batch_tokens: int) -> None:
    texts = [f"a {color} {thing} in the {place}" for color in ("red", "blue") for thing in ("bird", "dog", "car", "train")
             for place in ("garden", "city")] * 4  # fmt: skip
    labels = ["yes" if "bird" in text or "dog" in text else "no" for text in texts]  # as the estimate assumes
    options: dict[str, Any] = {"num_tokens": 2, "max_steps": 3, "restarts": 4, "random_state": 0, "progress": False}
    with simulated_device.simulated() as device, counting() as counts:
        backend = opened("emoji:emoji-lm", device, dtype)
        ClassifierPromptTuner(backend, max_batch_tokens=batch_tokens, **options).fit(texts, labels)
        counted = counts.peak
        estimate = estimate_memory(
            backend, num_tokens=2, restarts=4, texts=texts, batch_tokens=batch_tokens, method="pez"
        )
    assert estimate.total == pytest.approx(counted, rel=0.15)


def test_more_of_anything_takes_more() -> None:
    backend = toy_backend()
    less, more = (estimate_memory(backend, restarts=count, candidates=count, method="pez") for count in (4, 64))
    assert less.weights == more.weights and less.table == more.table
    assert more.gradient > 8 * less.gradient and more.scoring > 8 * less.scoring


def test_a_pipeline_is_asked_in_another_way() -> None:
    pytest.importorskip("diffusers")
    folder = pytest.importorskip("hardprompts_emoji").path("emoji-sd")
    with pytest.raises(BackendError, match=r"hardprompts_diffusers.estimate_memory\(pipe\)"):
        estimate_memory(f"diffusers:{folder}", device="cpu")
