"""Every supported family of pipelines, built tiny from config, saved, reloaded and searched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

import diffusers_families as families  # noqa: E402

from hardprompts import HardPrompt  # noqa: E402
from hardprompts.methods import PEZ, Refine  # noqa: E402
from hardprompts_diffusers import (  # noqa: E402
    PromptInversionMixin,
    PromptInversionOutput,
    enable_prompt_inversion,
)
from hardprompts_diffusers.latents import to_tensor  # noqa: E402

# diffusers warns of its own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


#: Built, saved, reloaded and searched in a few seconds together; the others are marked slow.
QUICK = ("sd", "sdxl", "flux", "sana")
ALL = [pytest.param(family, marks=() if family in QUICK else pytest.mark.slow) for family in families.FAMILIES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of each tiny pipeline, as `save_pretrained` writes it."""
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = families.saved(family, root)
        return made[family]

    return get


# --- what is computed is what the pipeline computes -----------------------------------------


@pytest.mark.parametrize("family", ALL)
def test_tokens_condition_the_denoiser_as_their_text_does(family: str) -> None:
    pipe = families.built(family)
    predictor = families.predictor_of(pipe, family)
    vocabulary, survivors = predictor.vocabulary, 0
    for row in families.some_ids(predictor, rows=6, tokens=3).tolist():
        text = vocabulary.decode(row)
        ids = vocabulary.encode(text)
        tokens = predictor.condition(vocabulary.embed(torch.tensor([ids])))
        own = predictor.condition_text(text)
        for found, expected in zip(tokens.tensors, own.tensors, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        survivors += ids[-2:] == row[-2:]  # byte-level tokenizers write the first word in another way
    assert survivors >= 3
    empty = predictor.condition(vocabulary.table.new_zeros(1, 0, vocabulary.table.shape[1]))
    for found, expected in zip(empty.tensors, predictor.condition_text("").tensors, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ALL)
def test_latents_are_what_the_pipeline_decodes(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's own end, given our clean latents as the last step's result, decodes what the VAE decodes."""
    pipe = families.built(family)
    predictor = families.predictor_of(pipe, family)
    clean = predictor.encode_images([families.IMAGE, families.OTHER])
    packed: list[torch.Tensor] = []

    def step(self: Any, output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        own = clean if sample.shape == clean.shape else clean.flatten(2).transpose(1, 2)
        packed.append(own)
        return own.to(sample), own.to(sample)  # PixArt takes the second

    monkeypatch.setattr(type(pipe.scheduler), "step", step)
    options = dict(families.OPTIONS.get(family, {}))
    if family in ("pixart", "sana"):
        options |= {"use_resolution_binning": False}
    given = {"prompt": ["cat", "dog"], "height": families.SIZE, "width": families.SIZE, "num_inference_steps": 1}
    decoded = pipe(**given, output_type="pt", **options).images
    assert packed

    pixels, vae = to_tensor([families.IMAGE, families.OTHER], families.SIZE, families.SIZE), pipe.vae
    frames = family == "qwenimage"
    with torch.no_grad():
        encoded = vae.encode(pixels.unsqueeze(2) if frames else pixels)
        latents = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
        own = vae.decode(latents, return_dict=False)[0]
    own = own[:, :, 0] if frames else own
    torch.testing.assert_close(torch.as_tensor(decoded).float(), (own / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_denoising_call_is_the_pipelines_own(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the U-Net is given in a normal call, without guidance, is what the direct adapter gives it."""
    pipe = families.built(family)
    predictor = families.predictor_of(pipe, family)
    calls: list[tuple[Any, Any]] = []
    hook = pipe.unet.register_forward_pre_hook(lambda m, a, k: calls.append((a, k)), with_kwargs=True)
    latents = predictor.encode_images([families.IMAGE])
    pipe("red house", latents=latents, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    (noisy, timestep), kwargs = calls[0][0], calls[0][1]
    ids = torch.tensor([predictor.vocabulary.encode("red house")])
    told = predictor.condition(predictor.vocabulary.embed(ids))
    predictor.predict(noisy, timestep.reshape(1).double(), told)
    hook.remove()
    torch.testing.assert_close(calls[1][1]["encoder_hidden_states"], kwargs["encoder_hidden_states"])
    if family == "sdxl":
        for key in ("text_embeds", "time_ids"):
            own, expected = (call[1]["added_cond_kwargs"][key] for call in (calls[1], calls[0]))
            torch.testing.assert_close(own, expected)


# --- every family ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", ALL)
def test_every_family_inverts_saved_and_reloaded_and_lowers_its_loss(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    pipe = enable_prompt_inversion(families.loaded(folders(family)))
    before = type(pipe).__name__
    output = pipe.invert_prompt(
        families.OTHER, match="diffusion", method=Refine(candidates_per_slot=6), max_steps=4, height=families.SIZE,
        width=families.SIZE, generator=torch.Generator().manual_seed(0), pipeline_kwargs=families.OPTIONS.get(family),
        **families.SEARCH,
    )  # fmt: skip
    assert isinstance(output, PromptInversionOutput)
    (prompt,) = output.hard_prompts
    assert isinstance(prompt, HardPrompt) and output.prompts == [prompt.filled] and output.scores == [prompt.score]
    assert prompt.history[-1].score > prompt.history[0].score
    pipe.save_pretrained(tmp_path)
    again = families.loaded(tmp_path)
    assert type(again) is getattr(diffusers, before) and not isinstance(again, PromptInversionMixin)


def test_auto_pipelines_take_an_enabled_pipeline(folders: Callable[[str], Path]) -> None:
    pipe = enable_prompt_inversion(families.loaded(folders("sd")))
    other = diffusers.AutoPipelineForImage2Image.from_pipe(pipe)
    assert type(other) is diffusers.StableDiffusionImg2ImgPipeline and other.unet is pipe.unet
    found = enable_prompt_inversion(other).invert_prompt(
        families.OTHER, match="diffusion", method=PEZ(), max_steps=2, **families.SEARCH
    )
    assert len(found.prompts) == 1
    assert isinstance(pipe, diffusers.StableDiffusionPipeline)
    assert enable_prompt_inversion(pipe) is pipe and type(pipe) is type(
        enable_prompt_inversion(families.loaded(folders("sd")))
    )


def test_as_a_mixin_of_a_pipeline_class(folders: Callable[[str], Path]) -> None:
    class Mine(PromptInversionMixin, diffusers.StableDiffusionPipeline):
        pass

    pipe = Mine.from_pretrained(folders("sd"))
    pipe.set_progress_bar_config(disable=True)
    assert enable_prompt_inversion(pipe) is pipe and type(pipe) is Mine
    assert pipe.invert_prompt(families.OTHER, match="diffusion", method=PEZ(), max_steps=1, **families.SEARCH).prompts
