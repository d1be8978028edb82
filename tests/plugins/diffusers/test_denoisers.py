"""The denoisers of pipelines built tiny from config, as objectives: gradients, schedulers, tokens, refusals."""

import gc
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

import diffusers_families as families  # noqa: E402

from hardprompts import BackendError, backends, load_backend  # noqa: E402
from hardprompts.testing import check_backend  # noqa: E402
from hardprompts_diffusers import (  # noqa: E402
    enable_prompt_inversion,
    noise_predictor,
    open_backend,
)
from hardprompts_diffusers.direct import UNetPredictor  # noqa: E402
from hardprompts_diffusers.generic import PipelinePredictor  # noqa: E402
from hardprompts_diffusers.schedules import schedule_of  # noqa: E402

# diffusers warns of its own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


# --- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "prediction"),
    [("sd", "epsilon"), ("sd2", "v_prediction"), ("sdxl", "epsilon"), ("sd3", "flow_prediction")],
)
@pytest.mark.usefixtures("float64_clip")
def test_gradient_against_finite_differences(family: str, prediction: str) -> None:
    predictor = families.predictor_of(families.built(family, torch.float64), family)
    assert predictor.schedule.prediction == prediction
    judged = families.judged_by(predictor, items=3)
    embeddings = predictor.vocabulary.embed(families.some_ids(predictor))
    assert embeddings.dtype == torch.float64
    _, gradient = families.value_and_grad(judged, families.some_ids(predictor))
    assert gradient.abs().amax(dim=2).gt(0).all()
    for seed in range(2):
        way = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ahead, behind = (judged.losses(embeddings + h * way, torch.zeros(2, dtype=torch.long)) for h in (1e-5, -1e-5))
        slope = float((ahead - behind).sum() / 2e-5)
        assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("family", ["sd", "sd2", "sdxl"])
def test_the_generic_adapter_equals_the_direct_one(family: str) -> None:
    pipe = families.built(family)
    direct, generic = families.predictor_of(pipe, family), families.predictor_of(pipe, family, generic=True)
    assert isinstance(direct, UNetPredictor) and isinstance(generic, PipelinePredictor)
    assert direct.max_tokens == generic.max_tokens
    ids = families.some_ids(direct)
    found = [families.value_and_grad(families.judged_by(one), ids) for one in (direct, generic)]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    assert float((found[0][1] - found[1][1]).norm() / found[0][1].norm()) < 1e-5


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_two_stages_equal_backpropagation_through_the_whole_pipeline(family: str) -> None:
    predictor = families.predictor_of(families.built(family), family)
    judged, ids = families.judged_by(predictor), families.some_ids(predictor)
    loss, gradient = families.value_and_grad(judged, ids)
    leaf = predictor.vocabulary.embed(ids).clone().requires_grad_()
    told, bank = predictor.condition(leaf), judged.bank
    rows = torch.tensor([0, 1]).repeat_interleave(4)
    predicted = predictor.predict(bank.noisy[0].repeat(2, 1, 1, 1), bank.timesteps.repeat(2), told.rows(rows))
    own = (predicted - bank.target[0].repeat(2, 1, 1, 1)).square().flatten(1).mean(dim=1).reshape(2, 4).mean(dim=1)
    torch.testing.assert_close(loss, own.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(own.sum(), leaf)[0], rtol=1e-3, atol=1e-8)


# --- refusals -------------------------------------------------------------------------------


def test_a_pipeline_without_a_text_encoder() -> None:
    pipe = enable_prompt_inversion(families.build("sd"))
    pipe.text_encoder = None
    with pytest.raises(BackendError, match="no text encoder"):
        families.invert(pipe)
    pipe = enable_prompt_inversion(diffusers.DDPMPipeline(families.build("sd").unet, diffusers.DDPMScheduler()))
    with pytest.raises(BackendError, match="DDPMPipeline"):
        families.invert(pipe)


@pytest.mark.parametrize(
    ("scheduler", "match"),
    [
        (diffusers.EDMEulerScheduler, "EDMEulerScheduler.*EDM"),
        (diffusers.EDMDPMSolverMultistepScheduler, "EDMDPMSolverMultistepScheduler"),
        (lambda: diffusers.VQDiffusionScheduler(num_vec_classes=4), "VQDiffusionScheduler"),
        (diffusers.IPNDMScheduler, "IPNDMScheduler"),
    ],
)
def test_schedulers_that_are_not_covered_are_refused_by_name(scheduler: Callable[[], Any], match: str) -> None:
    pipe = enable_prompt_inversion(families.build("sd"))
    pipe.scheduler = scheduler()
    with pytest.raises(BackendError, match=match):
        families.invert(pipe)


@pytest.mark.parametrize(
    "scheduler",
    ["DDIM", "DDPM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "UniPCMultistep",
     "DPMSolverMultistep", "DPMSolverSinglestep", "KDPM2Discrete", "DEISMultistep", "LCM", "TCD"],
)  # fmt: skip
def test_the_solver_makes_no_difference(scheduler: str) -> None:
    pipe = families.built("sd2")
    expected = schedule_of(pipe.scheduler)
    kind = getattr(diffusers, f"{scheduler}Scheduler")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
    found = schedule_of(pipe.scheduler)
    assert found.prediction == "v_prediction"
    torch.testing.assert_close(found.levels, expected.levels, rtol=1e-4, atol=1e-5)
    judged = families.judged_by(families.predictor_of(pipe, "sd2", generic=True), items=2)
    other = families.judged_by(families.predictor_of(families.built("sd2"), "sd2"), items=2)
    ids = families.some_ids(other.predictor, rows=1)
    torch.testing.assert_close(
        judged.losses(judged.predictor.vocabulary.embed(ids), torch.zeros(1, dtype=torch.long)),
        other.losses(other.predictor.vocabulary.embed(ids), torch.zeros(1, dtype=torch.long)), rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize(("family", "size", "multiple"), [("sd", 33, 2), ("flux", 34, 4), ("sana", 33, 2)])
def test_sizes_that_the_vae_cannot_take(family: str, size: int, multiple: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of {multiple}"):
        noise_predictor(families.built(family), height=size, width=size, options=families.OPTIONS.get(family))


def test_images_of_any_size_are_scaled_and_cropped_in_the_middle() -> None:
    predictor = noise_predictor(families.built("sd"), height=16, width=48)
    assert predictor.encode_images([families.IMAGE, Image.new("RGB", (7, 300))]).shape == (2, 4, 8, 24)
    assert noise_predictor(families.built("sd")).encode_images([families.IMAGE]).shape == (1, 4, 16, 16)


def test_bad_arguments() -> None:
    pipe = enable_prompt_inversion(families.build("sd"))
    with pytest.raises(ValueError, match="clip, diffusion, clip\\+diffusion"):
        pipe.invert_prompt(families.OTHER, match="magic")
    with pytest.raises(ValueError, match="tokenizer_9"):
        noise_predictor(families.built("flux"), tokenizer="tokenizer_9")
    with pytest.raises(ValueError, match="no argument speed"):
        noise_predictor(families.built("flux"), options={"speed": 1})


def test_weights_without_gradients_are_refused() -> None:
    pipe = families.built("sd")
    pipe.text_encoder.forward = torch.no_grad()(pipe.text_encoder.forward)
    predictor = families.predictor_of(pipe, "sd")
    with pytest.raises(BackendError, match="no gradient reaches"):
        families.value_and_grad(families.judged_by(predictor), families.some_ids(predictor))


# --- tokens ---------------------------------------------------------------------------------


def test_cased_tokens_are_out_of_reach_of_families_that_lower_the_case() -> None:
    for family, lowers in (("pixart", True), ("sana", True), ("lumina2", False)):
        vocabulary = families.predictor_of(families.built(family), family).vocabulary
        texts = [vocabulary.decode([i]) for i in vocabulary.allowed_ids.tolist()]
        assert any(text != text.lower() for text in texts) != lowers, family


def test_the_context_of_a_prompt_decides_about_its_first_token() -> None:
    predictor = families.predictor_of(
        families.built("lumina2"), "lumina2"
    )  # " <Prompt Start> " stands before the prompt
    row = predictor.vocabulary.allowed_ids[:3].tolist()
    assert predictor.vocabulary.survives_round_trip(row)


def test_either_kind_of_tokens_can_be_searched() -> None:
    pipe = families.built("flux")
    t5 = families.predictor_of(pipe, "flux")
    clip = noise_predictor(pipe, height=32, width=32, tokenizer="tokenizer", options=families.OPTIONS["flux"])
    assert t5.driven == ("_2",) and clip.driven == ("",)
    for predictor in (t5, clip):
        _, gradient = families.value_and_grad(families.judged_by(predictor), families.some_ids(predictor))
        assert gradient.abs().amax(dim=2).gt(0).all()


def test_a_template_that_two_tokenizers_read_differently_is_an_error() -> None:
    pipe = enable_prompt_inversion(families.build("sdxl"))  # its second tokenizer pads with "!"
    with pytest.raises(BackendError, match="differently"):
        families.invert(pipe, template="wow! {}")


# --- the backend ----------------------------------------------------------------------------


def test_opens_as_a_backend(tmp_path: Path) -> None:
    backend = open_backend(str(families.saved("sd", tmp_path)), device=torch.device("cpu"), dtype=torch.float32)
    check_backend(backend)
    assert backend.image_encoder is None and backend.noise_predictor is not None
    assert not any(p.requires_grad for p in backend.noise_predictor.pipe.unet.parameters())


@pytest.mark.parametrize("name", ["", "/no/such/folder"])
def test_what_cannot_be_opened(name: str) -> None:
    with pytest.raises(BackendError):
        open_backend(name, device=torch.device("cpu"), dtype=torch.float32)


def test_the_scheme_is_registered(tmp_path: Path) -> None:
    if "diffusers" not in backends():
        pytest.skip("the entry point is not installed: install hardprompts again")
    assert load_backend(f"diffusers:{families.saved('sd', tmp_path)}", device="cpu").noise_predictor is not None


def test_nothing_is_kept_alive(tmp_path: Path) -> None:

    pipe = enable_prompt_inversion(families.loaded(families.saved("sd", tmp_path)))
    families.invert(pipe)
    unet = weakref.ref(pipe.unet)
    del pipe
    gc.collect()
    assert unet() is None
