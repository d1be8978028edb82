"""emoji-sd: its recipe keeps what it promises, and the embedded pipeline draws what it is asked for."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hardprompts_emoji
from hardprompts_emoji.scenes import COMMON_OBJECTS, HELD_OUT_SEED, render_batch, sample_scene

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from hardprompts_emoji.recipe import sd_codec, sd_data, sd_models, train_sd_decoder, train_sd_unet  # noqa: E402
from hardprompts_emoji.recipe.optimizer import orthogonalize  # noqa: E402

FOLDER = hardprompts_emoji.path("emoji-sd")
PROMPTS = {
    "fox": "a plain fox on a lavender background",
    "guitar": "a plain guitar on a black background",
    "strawberry": "strawberry white plain",
    "rocket": "a flat picture of a rocket on a yellow background",
    "octopus": "octopus blue flat",
    "hamburger": "a simple hamburger on a teal background",
}


# The recipe -------------------------------------------------------------------------------------


def test_the_encoder_computes_the_principal_components_of_patches() -> None:
    pictures = (render_batch([sample_scene(i) for i in range(64)]) * 255).round().to(torch.uint8)
    codec = sd_codec.Codec.fit(pictures)
    latents = codec.encode(pictures)
    assert latents.shape == (64, 32, 8, 8)
    assert float(latents.square().mean()) == pytest.approx(1, abs=0.01)
    flat = latents.permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(torch.corrcoef(flat), torch.eye(32), atol=0.01, rtol=0)
    # The components span what is written down: no other 32 directions lose less of the patches.
    patches = torch.nn.functional.pixel_unshuffle(sd_codec.to_pixels(pictures), 8).permute(0, 2, 3, 1).reshape(-1, 192)
    centered = patches - patches.mean(0)
    kept = centered @ codec.weight.T @ torch.linalg.pinv(codec.weight.T)
    lost = torch.linalg.svdvals(centered)[32:].square().sum()
    assert float((centered - kept).square().sum()) == pytest.approx(float(lost), rel=1e-2)
    vae = sd_models.build_vae().eval()
    codec.set_encoder(vae)
    with torch.no_grad():
        found = vae.encode(sd_codec.to_pixels(pictures)).latent_dist
    # The normalization before the last layer is a division by nearly the same number for all.
    assert float((found.mode() - latents).square().mean().sqrt()) < 0.01
    assert float((found.mode() - latents).abs().max()) < 0.1
    assert float(found.std.max()) < 0.01


def test_orthogonalize_makes_singular_values_alike() -> None:
    matrices = torch.randn(2, 24, 60, generator=torch.Generator().manual_seed(0))
    for given in (matrices, matrices.mT):
        found = orthogonalize(given)
        values = torch.linalg.svdvals(found)
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3
        left, _, right = torch.linalg.svd(given, full_matrices=False)
        between = left.mT @ found @ right.mT
        torch.testing.assert_close(between, torch.diag_embed(between.diagonal(dim1=1, dim2=2)), atol=1e-4, rtol=0)


def test_training_ids_are_those_of_the_pipeline() -> None:
    tokenizer = sd_models.load_tokenizer()
    prompts = sd_data.PromptTexts(sd_data.Meanings(tokenizer), random.Random(3))
    texts = [text for seed in range(12) for text in prompts.several(sample_scene(seed))]
    texts += [tuple(texts[0] * 9)[:60], ()]
    ids = sd_data.to_model_input(texts, tokenizer.bos_token_id, tokenizer.eos_token_id)
    written = tokenizer.batch_decode(texts)
    padded = tokenizer(written, padding="max_length", max_length=32, truncation=True, return_tensors="np").input_ids
    # Some texts hold tokens that no text gives; those that survive must be equal, and they are most of them.
    alive = [
        list(text) == tokenizer(w, add_special_tokens=False).input_ids for text, w in zip(texts, written, strict=True)
    ]
    assert sum(alive) > 0.9 * len(texts)
    np.testing.assert_array_equal(ids[alive], padded[alive])
    assert ids[-1].tolist() == sd_models.empty_ids(tokenizer).tolist()


def test_partial_texts_leave_something_out() -> None:
    prompts = sd_data.PromptTexts(sd_data.Meanings(sd_models.load_tokenizer()), random.Random(5))
    from hardprompts_emoji.scenes import names

    truths = []
    for seed in range(60):
        scene = sample_scene(seed)
        text = prompts.meanings.tokenizer.decode(prompts.partial(scene))
        truths.append(names(text, scene).everything)
    assert sum(truths) < 6  # a keyword may name two objects at once


@pytest.fixture(scope="module")
def trained_a_little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A work folder with twelve scenes and a decoder that has made one step."""
    folder = tmp_path_factory.mktemp("sd")
    scenes = [sample_scene(i) for i in range(12)]
    pictures = (render_batch(scenes) * 255).round().to(torch.uint8)
    np.save(folder / "pictures.npy", pictures.numpy())
    tokenizer = sd_models.load_tokenizer()
    prompts = sd_data.PromptTexts(sd_data.Meanings(tokenizer), random.Random(0))
    texts = [text for scene in scenes for text in prompts.several(scene)]
    ids = sd_data.to_model_input(texts, tokenizer.bos_token_id, tokenizer.eos_token_id)
    np.save(folder / "ids.npy", ids.reshape(12, 4, 32))
    (folder / "data.json").write_text(json.dumps({"scenes": 12, "objects": 656, "seed": 1}))
    trainer = train_sd_decoder.DecoderTrainer(
        folder, torch.device("cpu"), minutes=1e-9, batch_size=4, learning_rate=1e-3
    )
    trainer.run()
    assert trainer.steps == 1
    return folder, pictures


def test_decoder_stage_resumes_where_it_stopped(trained_a_little: tuple[Path, torch.Tensor]) -> None:
    folder, _ = trained_a_little
    again = train_sd_decoder.DecoderTrainer(folder, torch.device("cpu"), minutes=1e-9, batch_size=4, learning_rate=1e-3)
    assert again.steps == 1
    saved = sd_models.read_checkpoint(folder / train_sd_decoder.CHECKPOINT)
    for parameter, value in zip(again.model.parameters(), saved["model"].values(), strict=True):
        assert torch.equal(parameter, value)


def test_unet_batch_is_what_the_scheduler_says(trained_a_little: tuple[Path, torch.Tensor]) -> None:
    folder, pictures = trained_a_little
    trainer = train_sd_unet.UnetTrainer(folder, torch.device("cpu"), minutes=1e-9, batch_size=8, learning_rate=1e-3)
    trainer.draw_batch()
    scheduler, batch = sd_models.build_scheduler(), trainer.batch
    assert scheduler.alphas_cumprod[-1] == 0  # the last step is pure noise
    signal = scheduler.alphas_cumprod[batch.timesteps].sqrt()[:, None, None, None]
    level = (1 - scheduler.alphas_cumprod[batch.timesteps]).sqrt()[:, None, None, None]
    latents, noise = signal * batch.noisy - level * batch.target, level * batch.noisy + signal * batch.target
    torch.testing.assert_close(scheduler.add_noise(latents, noise, batch.timesteps), batch.noisy)
    torch.testing.assert_close(scheduler.get_velocity(latents, noise, batch.timesteps), batch.target)
    encoded = trainer.codec.encode(pictures)
    distances = (latents[:, None] - encoded[None]).abs().amax((2, 3, 4))
    assert float(distances.min(1).values.max()) < 0.02  # latents are kept in fp16
    assert float(distances.max()) > 0.5
    # One time in each of eight parts, which are the shorter the more noise.
    parts = (batch.timesteps / 1000) ** (1 / train_sd_unet.NOISE_BIAS) * 8
    assert [round(part) for part in (parts - 0.5).tolist()] == list(range(8))


def test_unet_stage_learns_its_batch(trained_a_little: tuple[Path, torch.Tensor]) -> None:
    trainer = train_sd_unet.UnetTrainer(
        trained_a_little[0], torch.device("cpu"), minutes=60, batch_size=4, learning_rate=0.02
    )
    trainer.draw_batch()
    before = float(trainer.loss().detach())
    trainer.optimizers.set_rates(step=1000, progress=0.0)
    for _ in range(4):
        trainer.learn()
    assert float(trainer.loss().detach()) < 0.9 * before


# The embedded pipeline --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe() -> Any:
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(hardprompts_emoji.path("emoji-sd"))
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_files_are_small_and_safe() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md", ".png", ".txt"}
    assert (FOLDER / "README.md").exists()


def test_pipeline_loads_in_one_type(pipe: Any) -> None:
    assert type(pipe) is diffusers.StableDiffusionPipeline
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    assert pipe.safety_checker is None
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.scheduler.alphas_cumprod[-1] == 0


def test_text_side_is_that_of_emoji_clip(pipe: Any) -> None:
    clip = transformers.CLIPModel.from_pretrained(hardprompts_emoji.path("emoji-clip")).float()
    tower = {name.removeprefix("text_model."): value for name, value in pipe.text_encoder.state_dict().items()}
    expected = {name.removeprefix("text_model."): v for name, v in clip.text_model.state_dict().items()}
    assert tower.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in tower.items())
    for file in ("tokenizer.json", "tokenizer_config.json"):
        here, there = FOLDER / "tokenizer" / file, hardprompts_emoji.path("emoji-clip") / file
        assert here.read_bytes() == there.read_bytes()


def test_draws_the_same_picture_with_the_same_generator(pipe: Any) -> None:
    def drawn(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return pipe("a plain fox on a lavender background", num_inference_steps=4, generator=generator).images[0]

    first, second, other = np.asarray(drawn(0)), np.asarray(drawn(0)), np.asarray(drawn(1))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_judge_recognizes_what_was_asked_for(pipe: Any) -> None:
    from hardprompts_emoji.recipe.evaluate_sd import PictureJudge
    from hardprompts_emoji.recipe.export_sd import draw

    judge = PictureJudge(hardprompts_emoji.path("emoji-clip-reference"))
    names = list(COMMON_OBJECTS)
    features = judge.pictures(draw(pipe, list(PROMPTS.values()), steps=12, guidance_scale=5.0, seed=0))
    nearest = [names[i] for i in (features @ judge.texts(names).T).argmax(1).tolist()]
    hits = sum(found == asked for found, asked in zip(nearest, PROMPTS, strict=True))
    assert hits >= 4, f"asked for {list(PROMPTS)}, recognized {nearest}"


def test_prompts_and_evaluation_stay_apart_from_training() -> None:
    from hardprompts_emoji.recipe.evaluate_sd import FIRST_SEED

    assert FIRST_SEED >= HELD_OUT_SEED
    assert set(PROMPTS) <= set(COMMON_OBJECTS)
