"""Offloaded weights, half precision, and how much memory it takes."""

import math

import pytest
import simulated_device
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

import diffusers_families as families  # noqa: E402

from hardprompts import BackendError, NonFiniteError  # noqa: E402
from hardprompts.diffusion import NoiseBank, NoisePrediction  # noqa: E402
from hardprompts.noise import NoiseWindow  # noqa: E402
from hardprompts.search.graphs import gradient_of  # noqa: E402
from hardprompts.towers.memory import RESERVED  # noqa: E402
from hardprompts_diffusers import (  # noqa: E402
    enable_prompt_inversion,
    estimate_memory,
    noise_predictor,
    plan_memory,
)
from hardprompts_diffusers.components import modules_of, preserved  # noqa: E402

# diffusers warns of its own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


# --- offload, precision, memory -------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_model_offload_gives_the_same_result(family: str) -> None:
    seed, options = torch.Generator, {"pipeline_kwargs": families.OPTIONS.get(family)}
    given = {"height": families.SIZE, "width": families.SIZE, **options}
    plain = enable_prompt_inversion(families.build(family))
    expected = families.invert(plain, generator=seed().manual_seed(0), **given).hard_prompts[0]
    offloaded = enable_prompt_inversion(families.build(family))
    offloaded.enable_model_cpu_offload(device="cpu")
    families.invert(offloaded, max_steps=1, **given)  # a network's first call leaves hooks of its library
    before = families.state_of(offloaded)
    found = families.invert(offloaded, generator=seed().manual_seed(0), **given).hard_prompts[0]
    assert found.candidates == expected.candidates
    assert families.state_of(offloaded) == before


def test_of_an_offloaded_pipeline_one_stage_is_on_the_device_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = families.build("sdxl")
    pipe.enable_model_cpu_offload(device="cpu")
    places: dict[str, str] = {}
    for name, module in modules_of(pipe).items():
        monkeypatch.setattr(
            module,
            "to",
            lambda place, *args, name=name, **kwargs: places.__setitem__(name, "away" if place == "cpu" else "here"),
        )
    monkeypatch.setattr(type(pipe), "_execution_device", property(lambda self: torch.device("cpu", 0)))
    seen: dict[str, list[dict[str, str]]] = {"text_encoder_2": [], "unet": []}
    for name, found in seen.items():
        getattr(pipe, name).register_forward_pre_hook(lambda *args, found=found: found.append(dict(places)))
    with preserved(pipe):
        predictor = families.predictor_of(pipe, "sdxl")
        families.value_and_grad(families.judged_by(predictor), families.some_ids(predictor))
    assert all(now["unet"] == "away" and now["text_encoder"] == "here" for now in seen["text_encoder_2"])
    assert all(now["unet"] == "here" and now["text_encoder"] == now["vae"] == "away" for now in seen["unet"])
    assert set(places.values()) == {"away"}


def test_sequential_and_group_offload_are_refused_with_what_to_do() -> None:
    pipe = enable_prompt_inversion(families.build("sd"))
    accelerate = pytest.importorskip("accelerate")
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"), offload_buffers=True)
    with pytest.raises(BackendError, match="unet is offloaded sequentially.*enable_model_cpu_offload"):
        families.invert(pipe)
    pipe = enable_prompt_inversion(families.build("sd"))
    pipe.unet.enable_group_offload(torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level")
    assert families.invert(pipe).prompts  # nothing moves
    for part in pipe.unet.modules():
        for hook in getattr(getattr(part, "_diffusers_hook", None), "hooks", {}).values():
            if config := getattr(hook, "config", getattr(hook, "group", None)):
                config.onload_device = torch.device("cuda")
    with pytest.raises(BackendError, match="offloaded in groups"):
        families.invert(pipe)


@pytest.mark.parametrize("family", ["sd", "flux", "pixart", "lumina2"])
def test_bfloat16_weights_follow_the_float32_gradient(family: str) -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        predictor = families.predictor_of(families.built(family, dtype), family)
        assert predictor.vocabulary.table.dtype == torch.float32
        judged = families.judged_by(predictor)
        assert judged.bank.noisy.dtype == torch.float32
        found.append(families.value_and_grad(judged, families.some_ids(predictor)))
    assert found[1][0].dtype == found[1][1].dtype == torch.float32
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0.02, atol=0.02)
    assert torch.nn.functional.cosine_similarity(*(grad.flatten() for _, grad in found), dim=0) > 0.9


def test_overflow_names_its_remedy() -> None:
    pipe = families.built("sd")
    with torch.no_grad():
        pipe.unet.conv_out.weight.fill_(float("inf"))
    predictor = families.predictor_of(pipe, "sd")
    judged = families.judged_by(predictor)
    with pytest.raises(NonFiniteError, match="bfloat16"):
        judged.score(families.some_ids(predictor), torch.zeros(2, dtype=torch.long))


def test_the_memory_estimate_counts_what_autograd_keeps() -> None:
    pipe = families.built("sd")
    estimate = estimate_memory(pipe, batch_size=2)
    predictor = families.predictor_of(pipe, "sd")
    told = predictor.condition(predictor.vocabulary.embed(families.some_ids(predictor)))
    leaf = told.tensors[0].detach().requires_grad_()
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in pipe.unet.parameters()}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if value.untyped_storage().data_ptr() not in own:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    latents = predictor.encode_images([families.IMAGE, families.OTHER])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        output = pipe.unet(latents.requires_grad_(), torch.tensor([900, 900]), encoder_hidden_states=leaf).sample
    del output
    assert estimate.activations == pytest.approx(sum(kept.values()), rel=0.25)
    weights = sum(p.numel() * 4 for module in modules_of(pipe).values() for p in module.parameters())
    assert estimate.weights == weights and estimate.total > weights and "KiB" in str(estimate)
    larger, leaner = (
        estimate_memory(pipe, batch_size=4),
        estimate_memory(pipe, batch_size=4, gradient_checkpointing=True),
    )
    assert larger.activations > 1.5 * estimate.activations and leaner.activations < larger.activations
    pipe.enable_model_cpu_offload(device="cpu")
    unet = sum(p.numel() * 4 for p in pipe.unet.parameters())
    assert estimate_memory(pipe, batch_size=2).weights == unet


def test_a_plan_takes_what_fits_and_says_what_is_needed() -> None:
    pipe = families.built("sd")

    def needed(batch_size: int, leaner: bool = False) -> int:
        return estimate_memory(pipe, batch_size=batch_size, gradient_checkpointing=leaner).total

    def planned(total: float) -> tuple[int, bool]:
        plan = plan_memory(pipe, math.ceil(total / (1 - RESERVED)) + 1)
        assert plan.estimate.total == pytest.approx(needed(plan.batch_size, plan.gradient_checkpointing), rel=0.01)
        return plan.batch_size, plan.gradient_checkpointing

    assert planned(1e12) == (8, False)
    assert planned(1.01 * needed(2)) == (2, False)
    assert planned(0.99 * needed(1))[1] and planned(1.01 * needed(1, leaner=True)) == (1, True)
    with pytest.raises(BackendError, match="needs about .* and of 10 KiB 9 KiB can be used; pipe.enable_model_cpu"):
        plan_memory(pipe, "10KB")
    assert plan_memory(pipe, "8GB") == plan_memory(pipe, 8 * 2**30)
    for size in ("eight", "", 0, True, "-1GB"):
        with pytest.raises(ValueError, match="vram must be a size"):
            plan_memory(pipe, size)


def test_an_inversion_within_a_memory_is_that_with_the_plan() -> None:
    pipe = enable_prompt_inversion(families.built("sd"))
    plan = plan_memory(pipe, "8GB")
    within, plain = (
        families.invert(pipe, generator=torch.Generator().manual_seed(0), **options)
        for options in ({"vram": "8GB"}, {"batch_size": plan.batch_size})
    )
    assert within.prompts == plain.prompts
    with pytest.raises(BackendError, match="needs about"):
        families.invert(pipe, vram="10KB")
    with pytest.raises(ValueError, match="leave it, or these, out"):
        families.invert(pipe, vram="8GB", gradient_checkpointing=True)


@pytest.mark.skipif(not simulated_device.available, reason="this torch has no device types of its Python backend")
@pytest.mark.parametrize("leaner", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_memory_estimate_is_what_a_device_hands_out(family: str, leaner: bool) -> None:
    pipe = families.build(family)
    estimate = estimate_memory(pipe, batch_size=4, gradient_checkpointing=leaner)
    with simulated_device.simulated() as device, preserved(pipe.to(device), gradient_checkpointing=leaner):
        predictor = noise_predictor(pipe)
        bank = NoiseBank.draw(predictor, [[(families.IMAGE, 1.0)]], items=4, window=NoiseWindow(), seed=0)
        objective = NoisePrediction(predictor, bank, batch_size=4)
        embeddings = predictor.vocabulary.embed(families.some_ids(predictor)[:1].to(device))
        groups = torch.zeros(1, dtype=torch.long, device=device)
        with simulated_device.counting() as counts:
            gradient_of(objective, embeddings, groups)
    assert estimate.activations == pytest.approx(counts.peak, rel=0.15)


@pytest.mark.parametrize("family", ["flux", pytest.param("sd3", marks=pytest.mark.slow)])
def test_the_memory_of_transformers_can_be_estimated(family: str) -> None:
    pipe = families.build(family)
    options = {"options": families.OPTIONS[family], "height": families.SIZE, "width": families.SIZE}
    assert estimate_memory(pipe, batch_size=2, **options).activations > 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_offload_saves_memory_and_changes_no_result(dtype: torch.dtype) -> None:
    found, peaks = [], []
    for offload in (False, True):
        pipe = enable_prompt_inversion(families.build("sdxl").to(dtype=dtype))
        if offload:
            pipe.enable_model_cpu_offload()
        else:
            pipe.to("cuda")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        found.append(families.invert(pipe, generator=torch.Generator().manual_seed(0)).hard_prompts[0])
        peaks.append(torch.cuda.max_memory_allocated())
        assert estimate_memory(pipe, batch_size=8).total == pytest.approx(peaks[-1], rel=1.0)
    assert found[0].text == found[1].text and found[0].score == pytest.approx(found[1].score, abs=1e-3)
    assert peaks[1] <= peaks[0]
