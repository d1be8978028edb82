"""Everything once on a simulated accelerator, in float32 and bfloat16: nothing mixes devices.

Heavier pipelines are marked `slow`: `python -m pytest -m slow tests/test_on_device.py`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import simulated_device
import torch
import toy_classification
from PIL import Image
from simulated_device import SimulatedTensor, counting

from hardprompts import ClassifierPromptTuner, PromptDistiller, PromptInverter, SoftPrompt, load_backend, search_methods
from hardprompts.methods import BuildRefine
from hardprompts.testing import check_backend, check_search, toy_backend, toy_language_model

pytestmark = [
    pytest.mark.skipif(not simulated_device.available, reason="needs torch's Python backend"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),  # diffusers' own
]

#: Where the second dtype takes the same way through the code, and seconds.
SLOW_IN_BFLOAT16 = pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=["float32", "bfloat16"]
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
PICTURE = Image.new("RGB", (64, 64), "red")
QUICK = {"num_tokens": 3, "max_steps": 4, "seed": 0, "progress": False}


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    with simulated_device.simulated() as device:
        yield device


@pytest.fixture
def emoji(device: torch.device, dtype: torch.dtype) -> Any:
    return load_backend("emoji", device=device, dtype=dtype)


# --- models -------------------------------------------------------------------------------


@DTYPES
def test_the_embedded_model_conforms(emoji: Any) -> None:
    assert isinstance(emoji.vocabulary.table, SimulatedTensor)
    check_backend(emoji)


@DTYPES
def test_evidence_is_measured_there(emoji: Any) -> None:
    inverter = PromptInverter(emoji)
    (red, fox) = inverter.evidence("red fox", PICTURE).evidence
    assert (red.probability or 0) > 0.5 > (fox.probability or 0)
    bounded = inverter.invert(PICTURE, seed=0, views=1, max_evaluations=300, min_evidence=0.5, progress=False)
    assert all((one.probability or 0) >= 0.5 for one in bounded.evidence)


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("name", ["photo", "emoji:emoji-clip-reference"])
@pytest.mark.filterwarnings("ignore:photo recognizes nothing")
def test_other_models_conform(name: str, dtype: torch.dtype, device: torch.device) -> None:
    pytest.importorskip("timm")
    check_backend(load_backend(name, device=device, dtype=dtype))


@SLOW_IN_BFLOAT16
def test_the_frozen_tower_of_open_clip_conforms(dtype: torch.dtype, device: torch.device) -> None:
    open_clip = pytest.importorskip("open_clip")
    from hardprompts_openclip.backend import from_model

    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    vision = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 32, "image_size": 32}
    model = open_clip.CLIP(32, vision, text).to(device, dtype)
    backend = from_model(model, open_clip.get_tokenizer("ViT-B-32"))
    assert backend.text_encoder._tower.is_frozen, "what runs on cards is not what is tried here"
    check_backend(backend)


# --- methods ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", search_methods())
def test_every_method_searches(name: str, device: torch.device) -> None:
    # As many as it takes to be better than chance.
    steps = (
        30 if name.startswith("pez") or name.endswith("+refine") else {"ph2p-lbfgs": 5, "ph2p-code": 12}.get(name, 10)
    )
    check_search(search_methods()[name](), max_steps=steps, device=device)


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("name", search_methods())
def test_every_method_inverts_with_the_embedded_model(name: str, emoji: Any) -> None:
    prompt = PromptInverter(emoji, method=name).invert(PICTURE, **QUICK)
    assert emoji.vocabulary.encode(prompt.text) == list(prompt.token_ids)


@SLOW_IN_BFLOAT16
def test_what_is_searched_in_stays_in_float32(emoji: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardprompts.methods import pez

    found: list[torch.dtype] = []
    plain = pez.adamw
    monkeypatch.setattr(pez, "adamw", lambda soft, *options: (found.append(soft.dtype), plain(soft, *options))[1])
    PromptInverter(emoji, method="pez").invert(PICTURE, **QUICK)
    assert found == [torch.float32]
    assert emoji.vocabulary.allowed_table.dtype == emoji.encode_texts(["fox"]).dtype == torch.float32


# --- front doors --------------------------------------------------------------------------


@DTYPES
def test_an_image_becomes_a_prompt(emoji: Any) -> None:
    prompt = PromptInverter(emoji, method=BuildRefine()).invert(PICTURE, **{**QUICK, "max_steps": 8})
    assert "red" in prompt.text


@DTYPES
def test_a_long_prompt_and_a_soft_prompt_become_short_ones(emoji: Any) -> None:
    distiller = PromptDistiller(emoji)
    assert distiller.distill("a plain fox on a lavender background in the night", **QUICK).text
    width = emoji.vocabulary.table.shape[1]
    soft = SoftPrompt({"text_encoder": 0.05 * torch.randn(2, width, generator=torch.Generator().manual_seed(0))})
    assert distiller.distill(soft, **QUICK).text


@pytest.mark.parametrize("kind", ["causal", "masked", "seq2seq"])
def test_a_classifier_is_tuned(kind: Any, device: torch.device) -> None:
    texts, labels = toy_classification.examples(24)
    tuner = ClassifierPromptTuner(
        toy_language_model(kind, device=device), num_tokens=2, max_steps=4, restarts=2, random_state=0, progress=False
    )
    tuner.fit(texts, labels)
    assert set(tuner.predict(texts[:4])) <= set(labels)


@pytest.mark.slow
@DTYPES
def test_a_classifier_is_tuned_with_a_language_model(dtype: torch.dtype, device: torch.device) -> None:
    texts, labels = (
        ["a red bird", "a small dog", "a blue car", "a big train"] * 3,
        ["animal", "animal", "car", "car"] * 3,
    )
    model = load_backend("emoji:emoji-lm", device=device, dtype=dtype)
    tuner = ClassifierPromptTuner(model, num_tokens=2, max_steps=3, restarts=2, random_state=0, progress=False)
    assert tuner.fit(texts, labels).score(texts, labels) >= 0.5


# --- pipelines ----------------------------------------------------------------------------


def inverted(pipe: Any, **options: Any) -> str:
    from hardprompts_diffusers import enable_prompt_inversion

    given = {"num_tokens": 2, "max_steps": 2, "restarts": 1, "generator": torch.Generator().manual_seed(0), **options}
    found: str = enable_prompt_inversion(pipe).invert_prompt(PICTURE, **given).prompts[0]
    return found


@pytest.mark.slow
@DTYPES
def test_the_embedded_pipeline_is_inverted_and_draws(dtype: torch.dtype, device: torch.device) -> None:
    diffusers = pytest.importorskip("diffusers")
    import hardprompts_emoji

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(hardprompts_emoji.path("emoji-sd"), torch_dtype=dtype)
    pipe.to(device).set_progress_bar_config(disable=True)
    prompts = [inverted(pipe, match=match) for match in ("diffusion", "clip")]
    assert all(prompts)
    draw = torch.Generator(device).manual_seed(0)
    picture = pipe(prompts[0], num_inference_steps=1, output_type="np", generator=draw).images
    assert picture.shape == (1, 64, 64, 3)


FAMILIES = (
    "sd", "sd2", "sdxl", "sd3", "flux", "chroma", "flux2_klein", "pixart", "sana", "lumina2", "qwenimage", "zimage"
)  # fmt: skip


@SLOW_IN_BFLOAT16
@pytest.mark.parametrize(
    "family", [name if name == "sd" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_every_family_of_pipelines_is_inverted(family: str, dtype: torch.dtype, device: torch.device) -> None:
    pytest.importorskip("diffusers")
    import diffusers_families as families

    pipe = families.built(family, dtype).to(device)
    options = {**families.SEARCH, "restarts": 1, "height": families.SIZE, "width": families.SIZE}
    text = inverted(pipe, match="diffusion", pipeline_kwargs=families.OPTIONS.get(family), **options)
    assert isinstance(text, str)


# --- ComfyUI ------------------------------------------------------------------------------


@SLOW_IN_BFLOAT16
def test_a_node_of_comfyui_works_under_inference_mode(dtype: torch.dtype, device: torch.device, tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent / "comfyui"))
    from fakes import comfyui

    with comfyui(tmp_path), torch.inference_mode():
        from comfyui_nodes import bridge
        from comfyui_nodes.models import PromptModel

        with PromptModel("emoji", dtype, device).opened() as backend:
            (image,) = bridge.to_images(torch.zeros(1, 64, 64, 3).to(device))
            assert PromptInverter(backend).invert(image, **QUICK).text
            layer = torch.nn.Linear(4, 4).to(device)
            leaf = torch.ones(2, 4, device=device, requires_grad=True)
            with bridge.kept_inputs(layer):
                torch.nn.functional.linear(layer(leaf), bridge.private(layer.weight)).sum().backward()
    assert leaf.grad is not None and leaf.grad.device.type == device.type


# --- what a fault looks like --------------------------------------------------------------


def test_a_planted_tensor_of_the_cpu_fails_the_suite(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the refinement, a slot that stays on the CPU."""
    from hardprompts.methods import refine

    plain = refine.to_device
    monkeypatch.setattr(refine, "to_device", lambda where, *parts: [*plain(where, *parts[:-1]), parts[-1]])
    backend = toy_backend(device=device)
    with counting() as counts, pytest.raises((RuntimeError, AssertionError)):
        check_search(search_methods()["refine"](), max_steps=5, device=backend.device)
        assert not [reason for reason in counts.waited if "CPU index" in reason], "a CPU index in refine"
