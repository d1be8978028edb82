"""`pipe.invert_prompt` and `pipe.distill_prompt`, and that they leave the pipeline as it was."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

import diffusers_families as families  # noqa: E402

from hardprompts import BackendError  # noqa: E402
from hardprompts.methods import PEZ, Refine  # noqa: E402
from hardprompts_diffusers import dual_encoders, enable_prompt_inversion, noise_predictor  # noqa: E402
from hardprompts_diffusers.components import preserved  # noqa: E402
from hardprompts_diffusers.dual_encoders import dual_encoder_names  # noqa: E402
from hardprompts_emoji import path  # noqa: E402

# diffusers warns of its own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of each tiny pipeline, as `save_pretrained` writes it."""
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = families.saved(family, root)
        return made[family]

    return get


# --- the mixin ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd(folders: Callable[[str], Path]) -> Any:
    return enable_prompt_inversion(families.loaded(folders("sd")))


def test_the_generator_makes_the_result_reproducible(sd: Any) -> None:
    one, two, three = (
        families.invert(sd, generator=torch.Generator().manual_seed(seed)).hard_prompts[0] for seed in (1, 1, 2)
    )
    assert one.candidates == two.candidates and one.seed == two.seed != three.seed


def test_each_image_of_a_list_or_a_batch_gets_a_prompt_and_a_list_within_it_one(sd: Any) -> None:
    batch = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    assert len(families.invert(sd, [families.IMAGE, families.OTHER]).prompts) == 2
    assert (
        len(families.invert(sd, batch).prompts) == len(families.invert(sd, batch.movedim(1, -1).numpy()).prompts) == 2
    )
    assert len(families.invert(sd, [[families.IMAGE, families.OTHER]]).prompts) == 1


def test_tuples_templates_and_words_to_avoid(sd: Any) -> None:
    prompts, scores, hard = families.invert(
        sd, template="a photo of {}", return_dict=False, banned=["house"], unlike=families.IMAGE
    )
    assert prompts[0] == f"a photo of {hard[0].text}" and "house" not in hard[0].text and scores == [hard[0].score]


def test_the_callback_sees_each_step_and_interrupts(sd: Any) -> None:
    seen: list[tuple[int, dict[str, Any]]] = []

    def on_step(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, kwargs))
        assert pipe is sd and timestep is None
        pipe._interrupt = step == 1
        return kwargs

    prompt = families.invert(sd, callback_on_step_end=on_step, max_steps=9).hard_prompts[0]
    assert [step for step, _ in seen] == [0, 1] and prompt.stop_reason == "cancelled"
    assert set(seen[0][1]) == {"prompts", "scores"} and "_interrupt" not in vars(sd)


def test_the_progress_bar_is_the_pipelines(folders: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    pipe = enable_prompt_inversion(diffusers.DiffusionPipeline.from_pretrained(folders("sd")))
    capfd.readouterr()
    families.invert(pipe)
    shown = capfd.readouterr().err
    assert "3/3" in shown and "1/1" not in shown
    pipe.set_progress_bar_config(disable=True)
    families.invert(pipe)
    assert "3/3" not in capfd.readouterr().err


def test_under_no_grad_and_inference_mode(sd: Any) -> None:
    expected = families.invert(sd, generator=torch.Generator().manual_seed(1)).prompts
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert families.invert(sd, generator=torch.Generator().manual_seed(1)).prompts == expected


def test_distilling_a_prompt_scores_its_share_of_the_effect(sd: Any) -> None:
    long = "a painting of two dogs and a cat in the snow"
    out = sd.distill_prompt(
        long, num_tokens=3, method=Refine(candidates_per_slot=6), max_steps=4, num_images=1, restarts=1,
        num_noises=3, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    (prompt,) = out.hard_prompts
    assert prompt.score_unit == "share of the text's effect" and 0 < prompt.score < 1
    itself = sd.distill_prompt(
        "a red house", image=families.OTHER, num_tokens=3, initial_prompt="a red house", method=PEZ(), max_steps=0,
        restarts=1, num_noises=3,
    )  # fmt: skip
    assert itself.prompts == ["a red house"] and itself.scores[0] == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="has to be a `str`"):
        sd.distill_prompt(["a red house"])


def test_clip_and_clip_with_diffusion(sd: Any) -> None:
    options = {"clip_backend": "emoji", "max_steps": 3, "generator": torch.Generator().manual_seed(0)}
    out = sd.invert_prompt(families.OTHER, "clip", num_tokens=3, method=PEZ(), restarts=4, **options)
    assert out.hard_prompts[0].model == "emoji:emoji-clip" and out.hard_prompts[0].score_unit == "cosine similarity"
    out = sd.invert_prompt(
        families.OTHER, "clip+diffusion", num_tokens=3, num_noises=2, noises_per_step=None, **options
    )
    (prompt,) = out.hard_prompts
    assert prompt.provenance["clip_model"] == "emoji:emoji-clip" and prompt.score_unit.startswith("share of")
    assert prompt.candidates[0].score == prompt.score
    assert [c.score for c in prompt.candidates] == sorted((c.score for c in prompt.candidates), reverse=True)


def test_the_denoiser_starts_from_what_a_clip_finds_where_one_is_given_or_known(
    sd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is known of a text encoder of this shape.
    assert noise_predictor(sd).dual_encoder() is None
    options = {"num_tokens": 3, "num_noises": 2, "noises_per_step": None, "max_steps": 3}
    seeds = [torch.Generator().manual_seed(0) for _ in range(3)]
    alone = sd.invert_prompt(families.OTHER, "diffusion", clip_starts=False, generator=seeds[0], **options)
    # The tiny model's tokens are others than the CLIP's.
    with pytest.warns(UserWarning, match="none of the texts that emoji:emoji-clip finds similar"):
        other = sd.invert_prompt(families.OTHER, "diffusion", clip_backend="emoji", generator=seeds[1], **options)
    monkeypatch.setitem(dual_encoders.KNOWN_WIDTHS, sd.text_encoder.config.hidden_size, "emoji")
    with pytest.warns(UserWarning, match="has the shape of this pipeline's text encoder but another tokenizer"):
        known = sd.invert_prompt(families.OTHER, "diffusion", generator=seeds[2], **options)
    assert alone.prompts == other.prompts == known.prompts and alone.hard_prompts[0].method == "ph2p+refine"
    pipe = diffusers.DiffusionPipeline.from_pretrained(path("emoji-sd"))
    clip = noise_predictor(pipe).dual_encoder()
    assert clip is not None and clip.name == "emoji:emoji-clip"
    for refused, match in (
        ({"clip_starts": False}, "clip"),
        ({"clip_backend": "emoji", "clip_starts": False}, "diffusion"),
    ):
        with pytest.raises(ValueError, match="of no use"):
            sd.invert_prompt(families.OTHER, match, **refused)


def test_the_dual_encoder_is_told_by_the_text_encoders() -> None:
    def names(*shapes: tuple[int, int]) -> list[str]:
        pipe = copy.copy(families.build("sdxl"))
        encoders = [pipe.text_encoder, pipe.text_encoder_2]
        for encoder, (width, layers) in zip(encoders, shapes, strict=False):
            encoder.config.hidden_size, encoder.config.num_hidden_layers = width, layers
        if len(shapes) == 1:
            pipe.text_encoder_2 = None
        return dual_encoder_names(pipe)

    assert names((768, 12)) == ["open_clip:ViT-L-14/openai"]
    assert names((1024, 23)) == ["open_clip:ViT-H-14/laion2b_s32b_b79k"]
    assert names((768, 12), (1280, 32)) == ["open_clip:ViT-L-14/openai", "open_clip:ViT-bigG-14/laion2b_s39b_b160k"]
    assert names((160, 4)) == ["emoji"]
    with pytest.raises(BackendError, match="width 77 with 5 layers"):
        names((77, 5))
    with pytest.raises(BackendError, match="T5EncoderModel"):
        dual_encoder_names(families.build("chroma"))


def test_another_tokenizer_than_the_dual_encoders_is_noticed(sd: Any) -> None:
    pipe = enable_prompt_inversion(families.build("sd"))
    pipe.text_encoder.config.hidden_size = 160
    with pytest.raises(BackendError, match="another tokenizer"):
        pipe.invert_prompt(families.OTHER)


# --- everything as it was -------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", ["sd", pytest.param("flux", marks=pytest.mark.slow), pytest.param("sana", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("ending", ["normal", "interrupt", "error", "keyboard"])
def test_the_pipeline_is_left_exactly_as_it_was(family: str, ending: str) -> None:
    pipe = enable_prompt_inversion(families.build(family))
    pipe.vae.requires_grad_(False)
    (getattr(pipe, "unet", None) or pipe.transformer).train()
    options = families.OPTIONS.get(family)
    given = {"height": families.SIZE, "width": families.SIZE, "pipeline_kwargs": options}
    families.invert(pipe, max_steps=1, **given)  # the tokenizer's padding side is set by the pipeline's first call
    before = families.state_of(pipe)

    def on_step(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> None:
        if step == 1 and ending == "error":
            raise ValueError("the caller's own")
        if step == 1 and ending == "keyboard":
            raise KeyboardInterrupt
        pipe._interrupt = ending == "interrupt"

    def run() -> Any:
        return families.invert(pipe, callback_on_step_end=on_step, gradient_checkpointing=True, **given)

    if ending == "error":
        with pytest.raises(ValueError, match="caller's own"):
            run()
    else:
        reason = {"normal": "max_steps", "interrupt": "cancelled", "keyboard": "interrupted"}[ending]
        assert run().hard_prompts[0].stop_reason == reason
    assert families.state_of(pipe) == before


def test_gradient_checkpointing_changes_no_number() -> None:
    pipe = families.built("sd")
    results = []
    for checkpointing in (False, True):
        with preserved(pipe, gradient_checkpointing=checkpointing):
            predictor = families.predictor_of(pipe, "sd")
            results.append(families.value_and_grad(families.judged_by(predictor), families.some_ids(predictor)))
            assert pipe.unet.is_gradient_checkpointing == checkpointing
    assert not pipe.unet.is_gradient_checkpointing
    torch.testing.assert_close(results[0], results[1])
