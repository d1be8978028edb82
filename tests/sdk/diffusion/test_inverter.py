"""Prompts found by the denoising error, by the front door."""

from typing import Any

import pytest
from toy_denoiser import TOY, predictor

from hardprompts import BackendError, SearchError, TemplateError, allowance
from hardprompts.diffusion.inverter import DenoisingInverter
from hardprompts.methods import PEZRefine, Refine
from hardprompts.noise import NoiseWindow
from hardprompts.search import bound, loop
from hardprompts.search import options as options_module
from hardprompts.testing import toy_backend

QUICK = {"num_noises": 4, "noises_per_step": 2, "window": NoiseWindow(0.3, 0.9), "seed": 0}


REFINE = PEZRefine(explore_steps=5, refine=Refine(candidates_per_slot=80), refined=2)


def test_inversion_finds_the_planted_prompt_and_says_what_it_did() -> None:
    inverter = DenoisingInverter(predictor("v_prediction"), REFINE)
    prompt = inverter.invert(TOY.picture("red house"), num_tokens=2, **QUICK)
    assert set(prompt.text.split()) == {"red", "house"}
    assert prompt.score == pytest.approx(inverter.score(prompt.text, TOY.picture("red house"), **QUICK), abs=1e-5)
    assert prompt.score_unit.startswith("share of") and prompt.model == "toy denoiser" and prompt.seed == 0
    assert len(prompt.attributions) == 2 and min(prompt.attributions) > 0
    assert prompt.provenance["noise_window"] == [0.3, 0.9] and prompt.history[-1].score == prompt.score
    again = inverter.invert(TOY.picture("red house"), num_tokens=2, **QUICK)
    assert again.candidates == prompt.candidates


def test_each_image_gets_its_own_prompt_and_a_list_one_between_them() -> None:
    inverter = DenoisingInverter(predictor(), REFINE)
    found = inverter.invert_each([TOY.picture("red house"), TOY.picture("old boat")], num_tokens=2, **QUICK)
    assert [set(one.text.split()) for one in found] == [{"red", "house"}, {"old", "boat"}]
    pictures = [TOY.picture("red house"), TOY.picture("red boat")]
    shared = inverter.invert_each([pictures], num_tokens=2, **QUICK)
    assert len(shared) == 1 and shared[0].score < 1


def test_imitation_finds_the_words_that_were_meant() -> None:
    inverter = DenoisingInverter(predictor(), REFINE)
    prompt = inverter.imitate("red house", TOY.picture("snow"), num_tokens=2, **QUICK)
    assert set(prompt.text.split()) == {"red", "house"} and prompt.score_unit == "share of the text's effect"


def test_rescoring_orders_prompts_of_any_origin() -> None:
    inverter = DenoisingInverter(predictor())
    found = inverter.rescore(["snow cat", "red house", "unknownword", "red boat"], TOY.picture("red house"), **QUICK)
    assert found[0].text == "red house" and len(found) == 3
    with pytest.raises(SearchError, match="none of 1"):
        inverter.rescore(["unknownword"], TOY.picture("red house"), **QUICK)


def test_a_search_starts_where_it_is_told_to() -> None:
    inverter = DenoisingInverter(predictor(), Refine(candidates_per_slot=1))
    for options in ({"initial_prompt": "red house", "restarts": 1}, {"initial_prompts": ["snow cat", "red house"]}):
        prompt = inverter.invert(TOY.picture("red house"), num_tokens=2, max_steps=1, **options, **QUICK)
        assert prompt.text == "red house"


def test_the_default_method_is_registered_or_frugal() -> None:
    inverter = DenoisingInverter(predictor())
    prompt = inverter.invert(TOY.picture("red house"), num_tokens=2, max_steps=3, **QUICK)
    assert prompt.score > -1 and inverter.method


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_tokens": 0}, ValueError, "num_tokens"),
        ({"num_tokens": 17}, TemplateError, "room for 16"),
        ({"num_noises": 0}, ValueError, "num_noises"),
        ({"noises_per_step": 0}, ValueError, "noises_per_step"),
        ({"unlike_weight": -1.0}, ValueError, "unlike_weight"),
        ({"weights": [1.0, 2.0]}, ValueError, "1 positive"),
        ({"initial_prompts": ["snow"], "restarts": 2}, ValueError, "initial_prompts.*restarts"),
        ({"initial_prompts": ["snow"], "initial_prompt": "snow"}, ValueError, "initial_prompts.*initial_prompt"),
        ({"unlike_weight": 0.3}, ValueError, "without unlike"),
        ({"num_noise": 3}, TypeError, r"DenoisingInverter.invert has no option 'num_noise'; did you mean 'num_noises'"),
        ({"initial_prompt": "red house old boat"}, ValueError, "initial_prompt"),
        ({"template": "no slot"}, TemplateError, "slot"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        DenoisingInverter(predictor(), REFINE).invert(
            TOY.picture("red house"), **{"num_tokens": 2, "max_steps": 1, **QUICK, **options}
        )


def test_a_backend_without_a_denoiser_is_refused() -> None:
    with pytest.raises(BackendError, match="no denoiser"):
        DenoisingInverter(toy_backend())


def test_a_token_costs_a_share_of_the_spread() -> None:
    picture, options = TOY.picture("red house"), {"num_tokens": 4, "max_steps": 6, **QUICK}
    whole, free, dear = (
        DenoisingInverter(predictor(), REFINE).invert(picture, token_cost=cost, **options) for cost in (0.0, 1e-6, 50.0)
    )
    assert len(dear.token_ids) < len(whole.token_ids) and free.text == whole.text


def test_a_bar_shows_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bool | None] = []
    plain = options_module.tqdm

    def noted(*args: Any, **options: Any) -> Any:
        shown.append(options["disable"])
        return plain(*args, **options)

    monkeypatch.setattr(options_module, "tqdm", noted)
    for progress in (True, False):
        DenoisingInverter(predictor(), REFINE).invert(TOY.picture("snow"), 1, max_steps=1, progress=progress, **QUICK)
    assert shown == [None, True]


def test_limits_and_interrupts_hold_for_all_that_an_inversion_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, calls = [0.0], [0]
    denoiser = predictor()
    predict, encode = type(denoiser).predict, type(denoiser).encode_images
    interrupt_at = [0]

    def slowly(self: Any, noisy: Any, *arguments: Any) -> Any:
        seconds[0] += 0.01 * len(noisy)
        calls[0] += 1
        if calls[0] == interrupt_at[0]:
            raise KeyboardInterrupt
        return predict(self, noisy, *arguments)

    def looked(self: Any, images: Any) -> Any:
        seconds[0] += 0.1 * len(images)
        return encode(self, images)

    monkeypatch.setattr(type(denoiser), "predict", slowly)
    monkeypatch.setattr(type(denoiser), "encode_images", looked)
    for module in (allowance, bound, loop):
        monkeypatch.setattr(module, "clock", lambda: seconds[0])
    inverter, pictures = DenoisingInverter(denoiser, REFINE), [TOY.picture("red house")] * 100
    prompt = inverter.invert(pictures, num_tokens=3, deadline=9.0, **QUICK)
    # The images that there is no time for are left out; what is counted in seconds is the bank of the others.
    assert prompt.text and seconds[0] < 9.0 * 1.4
    assert any(one.startswith("images: ") for one in prompt.left_out)
    counted = inverter.invert(pictures[:1], num_tokens=3, max_evaluations=30, **QUICK)
    assert counted.evaluations <= 32 and counted.text
    calls[0] = 0
    whole = inverter.invert(pictures[:1], num_tokens=3, max_steps=2, **QUICK)
    assert whole.left_out == ()
    last = calls[0]
    calls[0], interrupt_at[0] = 0, last
    kept = inverter.invert(pictures[:1], num_tokens=3, max_steps=2, **QUICK)
    assert kept.text == whole.text and kept.attributions == () and kept.stop_reason == "interrupted"
    assert kept.left_out == ("contributions of tokens: 2 of 3",)
