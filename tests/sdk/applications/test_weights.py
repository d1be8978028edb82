"""Words with weights: the rules of the UIs, planted weights that are found, and how they are written and kept."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from commands import Run
from toy_denoiser import predictor as toy_predictor

import hardprompts_emoji
from hardprompts import HardPrompt, load_backend
from hardprompts.applications import fit_weights
from hardprompts.applications import weights as module
from hardprompts.diffusion import NoisePrediction
from hardprompts.errors import BackendError, FileFormatError, TemplateError, VocabularyError
from hardprompts.prompts import WordWeights

pytest.importorskip("diffusers")
EXAMPLES = Path(hardprompts_emoji.__file__).parent / "examples"
GUITAR = EXAMPLES / "guitar-black-neon.png"
QUICK = {"num_noises": 4, "max_steps": 3, "seed": 0}


@pytest.fixture(scope="module")
def backend():
    return load_backend(f"diffusers:{hardprompts_emoji.path('emoji-sd')}", device="cpu")


def prompt_of(backend, text: str, template: str = "{}") -> HardPrompt:
    return HardPrompt(text, tuple(backend.noise_predictor.vocabulary.encode(text)), 0.5, template)


# --- the rules --------------------------------------------------------------------------------


def test_comfyuis_rule_goes_from_the_empty_prompt_through_the_word() -> None:
    states, empty = torch.randn(1, 5, 6), torch.randn(1, 5, 6)
    weights = torch.tensor([1.0, 1.3, 1.0, 0.5, 0.0])
    found = module.weighted_states(states, empty, weights, "comfyui", widths=(2, 4))
    for place, weight in enumerate(weights):
        expected = (states[:, place] - empty[:, place]) * weight + empty[:, place]
        torch.testing.assert_close(found[:, place], expected)
    assert torch.equal(found[:, 0], states[:, 0]), "a weight of 1 changes nothing at all"


def test_a1111s_rule_keeps_the_mean_of_each_text_encoder() -> None:
    states, empty = torch.randn(1, 5, 6) + 0.5, torch.randn(1, 5, 6)
    weights = torch.tensor([1.0, 1.3, 1.0, 0.5, 1.0])
    found = module.weighted_states(states, empty, weights, "a1111", widths=(2, 4))
    for part, own in zip(found.split([2, 4], dim=2), states.split([2, 4], dim=2), strict=True):
        torch.testing.assert_close(part.mean(), own.mean())
        ratio = part / own
        torch.testing.assert_close(ratio[0, 1] / ratio[0, 0], torch.full_like(ratio[0, 1], 1.3))
        torch.testing.assert_close(ratio[0, 3] / ratio[0, 0], torch.full_like(ratio[0, 3], 0.5))


# --- the fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", ["comfyui", "a1111"])
def test_planted_weights_are_found(backend, syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = prompt_of(backend, "fox purple neon")
    planted = torch.tensor([0.7, 1.3, 1.0])

    def towards_the_planted(fit, images, text, options, seed, allowance):
        bank = module.NoiseBank.draw(
            fit.predictor, [[(image, 1.0) for image in module.load_images(images)]], items=6, seed=seed
        )
        return NoisePrediction(fit.predictor, bank).imitating(fit.weighted(planted))

    monkeypatch.setattr(module._Fit, "objective", towards_the_planted)
    found = fit_weights(prompt, backend, images=EXAMPLES / "fox-purple-flat.png", syntax=syntax, max_steps=40, seed=0)
    assert found.weights is not None
    assert found.weights.values == pytest.approx(planted.tolist(), abs=0.05)
    assert found.weights.weighted > 0.99 > found.weights.plain
    assert found.weights.gain > 0, "on noises that the fit did not see"


def test_pictures_and_texts_are_both_fitted_and_figures_are_true(backend) -> None:
    prompt = prompt_of(backend, "ebony guitar neon", "a picture of {}")
    by_image = fit_weights(prompt, backend, images=GUITAR, **QUICK).weights
    by_text = fit_weights(prompt, backend.noise_predictor, text="a black guitar in bright neon light", **QUICK).weights
    assert by_image is not None and by_text is not None
    for weights in (by_image, by_text):
        assert weights.weighted >= weights.plain and all(0.5 <= value <= 1.5 for value in weights.values)
    assert "denoising error" in by_image.unit and "effect" in by_text.unit
    fit = module._Fit.create(prompt, backend.noise_predictor, "comfyui")
    plain = fit.conditioning.tensors[0]
    own = backend.noise_predictor.condition_text(prompt.filled).tensors[0]
    torch.testing.assert_close(plain, own, msg="the template belongs to the conditioning")
    changed = fit.weighted(torch.tensor([1.0, 0.5, 1.0])).tensors[0] != plain
    (place,) = {int(place) for place in changed.any(dim=2).nonzero()[:, 1]}
    ids = backend.noise_predictor.vocabulary.encode(prompt.filled)
    assert backend.noise_predictor.vocabulary.decode([ids[place - 1]]).strip() == "guitar"


def test_the_fit_ends_with_the_best_so_far(backend) -> None:
    prompt, seen = prompt_of(backend, "ebony guitar neon"), []

    def stop(evaluation: int, score: float) -> bool:
        seen.append(evaluation)
        return evaluation == 2

    stopped = fit_weights(prompt, backend, images=GUITAR, num_noises=4, seed=0, callback=stop)
    assert seen == [1, 2] and stopped.provenance["weights"]["stop_reason"] == "cancelled"
    late = fit_weights(prompt, backend, images=GUITAR, num_noises=4, seed=0, deadline=0)
    assert late.weights is not None and set(late.weights.values) == {1.0}
    assert late.provenance["weights"]["stop_reason"] == "deadline"
    again = fit_weights(prompt, backend, images=GUITAR, **QUICK)
    assert again.weights == fit_weights(prompt, backend, images=GUITAR, **QUICK).weights, "the seed repeats a fit"


def test_what_cannot_be_weighted_is_refused(backend) -> None:
    prompt = prompt_of(backend, "fox")
    with pytest.raises(ValueError, match="images, a text, or both"):
        fit_weights(prompt, backend)
    with pytest.raises(ValueError, match="unknown syntax 'midjourney'; known: comfyui, a1111"):
        fit_weights(prompt, backend, images=GUITAR, syntax="midjourney")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="max_step"):
        fit_weights(prompt, backend, images=GUITAR, max_step=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="low < 1 < high"):
        fit_weights(prompt, backend, images=GUITAR, limits=(1.0, 1.5))
    with pytest.raises(BackendError, match="no denoiser"):
        fit_weights(prompt, load_backend("emoji", device="cpu"), images=GUITAR)
    with pytest.raises(VocabularyError, match="each encoded by itself"):
        fit_weights(dataclasses.replace(prompt, template="{}berry"), backend, images=GUITAR)
    with pytest.raises(TemplateError):
        fit_weights(prompt_of(backend, "fox " * 200), backend, images=GUITAR)
    with pytest.raises(BackendError, match="not one row of states|do not change"):
        fit_weights(HardPrompt("red house", (), 0.0), toy_predictor(), images=GUITAR)


# --- the value --------------------------------------------------------------------------------


def test_the_command_prints_weighted_words_and_saves_them(backend, tmp_path: Path) -> None:
    model = ("--model", f"diffusers:{hardprompts_emoji.path('emoji-sd')}", "--device", "cpu")
    quick = ("--noises", "4", "--steps", "3", "--seed", "0")
    run = Run("weight", "ebony guitar neon", GUITAR, *model, *quick, "--save", tmp_path)
    kept = HardPrompt.from_pretrained(tmp_path)
    assert run.out == f"{kept.weighted()}\n" and "without weights" in run.err
    direct = fit_weights(prompt_of(backend, "ebony guitar neon"), backend, images=GUITAR, **QUICK)
    assert kept.weights == direct.weights
    Run("weight", "fox", GUITAR).fails("--model is missing")
    Run("weight", "fox", *model).fails("name an image, or give a text with --like")
    again = Run("weight", tmp_path, "--like", "a black guitar", *model, *quick, "--syntax", "a1111", "--json")
    assert json.loads(again.out)["weights"]["syntax"] == "a1111"


def weighted(syntax: str, *values: float, text: str = "fox (neon) light", template: str = "{}") -> HardPrompt:
    return HardPrompt(text, (1, 2, 3), 0.5, template, weights=WordWeights(values, syntax, "u", 0.1, 0.2, (0.1, 0.15)))


def test_weights_are_written_in_the_syntax_of_the_ui() -> None:
    assert weighted("comfyui", 1.2, 0.9, 1.0).weighted() == r"(fox:1.2) (\(neon\):0.9) light"
    assert weighted("a1111", 1.0, 1.05, 0.5, text="a [b] c\\").weighted() == r"a (\[b\]:1.05) (c\\:0.5)"
    assert (
        weighted("comfyui", 1.2, 1.0, 1.0, template="a (very) {}!").weighted()
        == r"a \(very\) (fox:1.2) \(neon\) light!"
    )
    assert weighted("comfyui", 1.2, 1.0, 1.0).weights.gain == pytest.approx(0.05)
    with pytest.raises(ValueError, match="fit_weights"):
        HardPrompt("fox", (1,), 0.5).weighted()


def test_weights_are_kept_and_damaged_ones_refused(tmp_path: Path) -> None:
    prompt = weighted("a1111", 1.2, 0.9, 1.0)
    path = prompt.save_pretrained(tmp_path)
    assert HardPrompt.from_pretrained(tmp_path) == prompt
    values = json.loads(path.read_text())
    for damage in (
        {"values": [1.0]},
        {"values": ["a", "b", "c"]},
        {"values": [1.0, float("nan"), 1.0]},
        {"held_out": [1]},
    ):
        path.write_text(json.dumps({**values, "weights": {**values["weights"], **damage}}))
        with pytest.raises(FileFormatError, match=re.escape(str(path))):
            HardPrompt.from_pretrained(tmp_path)
