"""Prompts found by the denoising error, by the front door."""

from typing import Any

import pytest
from toy_denoiser import TOY, predictor

from hardprompts import BackendError, SearchError, TemplateError, allowance
from hardprompts.diffusion import expectation
from hardprompts.diffusion.inverter import DenoisingInverter
from hardprompts.encoders import Backend
from hardprompts.methods import PEZRefine, Refine
from hardprompts.noise import NoiseWindow
from hardprompts.search import bound, loop
from hardprompts.search import options as options_module
from hardprompts.search.progress import about
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


# --- the default: from what a CLIP finds --------------------------------------------------


class FromToyClip(type(predictor())):  # type: ignore[misc]
    """The toy denoiser, which says that its text encoder is the toy backend's."""

    asked = 0

    def dual_encoder(self) -> Backend | None:
        self.asked += 1
        return toy_backend()


def from_toy_clip() -> FromToyClip:
    return FromToyClip(predictor().schedule)


def test_the_default_starts_from_what_a_clip_finds() -> None:
    denoiser = from_toy_clip()
    inverter = DenoisingInverter(denoiser)
    seen: list[Any] = []
    options = {"num_tokens": 2, **QUICK}
    prompt = inverter.invert(TOY.picture("red house"), callback=seen.append, **options)
    assert set(prompt.text.split()) == {"red", "house"} and prompt.method == "ph2p+refine" and denoiser.asked == 1
    inverter.invert(TOY.picture("red house"), **options)
    assert denoiser.asked == 2  # it takes no memory while the denoiser works
    # The denoiser looked at few prompts, and the CLIP's passes count.
    alone = DenoisingInverter(from_toy_clip(), clip=None).invert(TOY.picture("red house"), **options)
    assert prompt.evaluations > 32 and alone.method == "ph2p+refine"
    # Where starts are given, nothing else is asked for them, and other methods start as they say.
    for method, more in (("ph2p+refine", {"initial_prompt": "snow"}), ("ph2p", {"max_steps": 2})):
        other = from_toy_clip()
        DenoisingInverter(other, method).invert(TOY.picture("red house"), **{**options, **more})
        assert other.asked == 0


def test_each_task_starts_from_its_own_texts_whatever_clip_is_given() -> None:
    inverter = DenoisingInverter(predictor(), clip=toy_backend())
    pictures = [TOY.picture("red house"), TOY.picture("old boat")]
    found = inverter.invert_each(pictures, num_tokens=3, unlike=TOY.picture("snow"), **QUICK)
    assert [
        set(one.text.split()) >= words for one, words in zip(found, ({"red", "house"}, {"old", "boat"}), strict=True)
    ]
    banned = inverter.invert(pictures[0], num_tokens=2, banned=["red"], template="a {} here", **QUICK)
    assert "house" in banned.text and "red" not in banned.text


def test_a_clip_that_cannot_be_opened_costs_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any) -> Backend:
        raise BackendError("no network")

    monkeypatch.setattr(FromToyClip, "dual_encoder", refused)
    with pytest.warns(UserWarning, match="explores by the denoising error alone.*no network"):
        prompt = DenoisingInverter(from_toy_clip()).invert(TOY.picture("red house"), num_tokens=2, **QUICK)
    assert prompt.score > 0


def test_the_budget_covers_what_a_clip_spends() -> None:
    denoiser = from_toy_clip()
    prompt = DenoisingInverter(denoiser).invert(TOY.picture("red house"), num_tokens=3, max_evaluations=60, **QUICK)
    assert prompt.evaluations <= 62 and prompt.text
    assert sum(denoiser.rows) < 60 * 4  # of four noises each


def test_ph2p_ends_where_it_stands_still_and_goes_on_where_a_limit_is_given() -> None:
    inverter, picture = DenoisingInverter(predictor(), "ph2p"), TOY.picture("red house")
    options = {"num_tokens": 2, "restarts": 1, **QUICK}
    found = inverter.invert(picture, **options)
    assert found.stop_reason == "patience" and found.history[-1].step <= 160
    whole = inverter.invert(picture, max_steps=found.history[-1].step + 60, **options)
    assert whole.stop_reason == "max_steps" and whole.history[: len(found.history)][-1].step == found.history[-1].step


def test_the_seconds_are_told_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, told = [0.0], []
    denoiser = predictor()
    predict = type(denoiser).predict

    def slowly(self: Any, noisy: Any, *arguments: Any) -> Any:
        seconds[0] += 0.5 * len(noisy)
        return predict(self, noisy, *arguments)

    monkeypatch.setattr(type(denoiser), "predict", slowly)
    for module in (allowance, bound, loop, expectation):
        monkeypatch.setattr(module, "clock", lambda: seconds[0])
    inverter = DenoisingInverter(denoiser, "ph2p")
    options = {"num_tokens": 2, "restarts": 2, "callback": told.append, **QUICK}
    inverter.invert(TOY.picture("red house"), max_steps=10, **options)
    # Ten steps of two restarts: a gradient of two noises, which counts two and a half times, and a score of four.
    assert told[0].step == 0 and told[0].expected_seconds == pytest.approx(10 * 2 * (2.5 * 2 + 4) * 0.5)
    assert told[-1].step == 10 and told[-1].expected_seconds == told[0].expected_seconds
    spent = seconds[0]
    assert 0.7 * spent < told[0].expected_seconds < 1.3 * spent
    told.clear()
    inverter.invert(TOY.picture("red house"), deadline=100.0, **options)
    assert 90 < told[0].expected_seconds <= 100


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "about 1 s"), (7.4, "about 7 s"), (42, "about 40 s"), (700, "about 12 min")]
)
def test_seconds_in_words(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_of_few_steps_some_are_left_to_judge_what_the_exploration_met() -> None:
    inverter = DenoisingInverter(predictor(), clip=None)
    found = inverter.invert(TOY.picture("red house"), num_tokens=2, max_steps=8, **QUICK)
    assert found.history[-1].step > 4 and found.score > found.history[0].score
