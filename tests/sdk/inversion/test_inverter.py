from typing import Any

import pytest
import torch

from hardprompts import (
    Backend,
    BackendError,
    HardPrompt,
    ImageError,
    NonFiniteError,
    PromptInverter,
    TemplateError,
    UnknownName,
    VocabularyError,
    join_backends,
)
from hardprompts.hub.mixin import repository_files
from hardprompts.inversion import answers
from hardprompts.methods import PEZ, PhraseBank, read_bank
from hardprompts.search.registry import DEFAULT_METHOD
from hardprompts.testing import ToyEncoder, toy_backend

BACKEND = toy_backend()
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)
INVERTER = PromptInverter(BACKEND)
#: The toy's pictures hold words as pixels: a crop of one is another picture, so one view it is.
QUICK = {"views": 1, "restarts": 8, "progress": False, "seed": 0}


def features(*texts: str) -> torch.Tensor:
    return BACKEND.encode_texts(texts)


def test_the_planted_prompt_of_a_picture_is_found() -> None:
    prompt = INVERTER.invert(TOWER.picture("red house"), num_tokens=2, **QUICK)
    assert isinstance(prompt, HardPrompt)
    assert prompt.text == "red house" and prompt.score == pytest.approx(1, abs=1e-4)
    assert BACKEND.vocabulary.encode(prompt.filled) == list(prompt.token_ids)
    assert prompt.tokens == ("red", "house") and prompt.model == "toy" and prompt.method == DEFAULT_METHOD
    assert prompt.candidates[0].text == prompt.text and prompt.history and prompt.seed == 0
    assert prompt.provenance["steps"] > 0


def test_the_score_is_that_of_the_text_with_the_picture_itself() -> None:
    picture = TOWER.picture("old boat on river")
    prompt = INVERTER.invert(picture, num_tokens=3, **QUICK)
    assert prompt.score == pytest.approx(INVERTER.score(prompt.text, picture), abs=1e-5)
    for candidate in prompt.candidates:
        assert candidate.score == pytest.approx(INVERTER.score(candidate.text, picture), abs=1e-5)


def test_attributions_are_the_similarity_lost_without_each_token() -> None:
    picture = TOWER.picture("old boat on river")
    prompt = INVERTER.invert(picture, num_tokens=4, **QUICK)
    words = prompt.text.split()
    for index, value in enumerate(prompt.attributions):
        without = " ".join(words[:index] + words[index + 1 :])
        assert value == pytest.approx(prompt.score - INVERTER.score(without, picture), abs=1e-5)


def test_an_interrupt_after_the_search_loses_only_the_attributions(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, calls = answers.scores_of_texts, 0

    def interrupted(*arguments: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first call scores the candidates
            raise KeyboardInterrupt
        return scores(*arguments)

    monkeypatch.setattr(answers, "scores_of_texts", interrupted)
    prompt = INVERTER.invert(TOWER.picture("red house"), num_tokens=2, **QUICK)
    assert prompt.text == "red house" and prompt.attributions == () and prompt.stop_reason == "interrupted"


def test_several_images_give_one_prompt_between_them() -> None:
    both = INVERTER.invert(features("red house", "red boat"), num_tokens=2, **QUICK)
    alone = INVERTER.invert(features("red house"), num_tokens=2, **QUICK)
    mean = features("red house", "red boat").mean(0)
    assert features(both.text)[0] @ mean >= features(alone.text)[0] @ mean


def test_weights_lean_towards_one_image() -> None:
    prompt = INVERTER.invert(features("red house", "old boat"), num_tokens=2, weights=[100, 1], **QUICK)
    assert prompt.text == "red house"


def test_invert_each_gives_one_prompt_for_each_image() -> None:
    texts = ["red house", "old boat", "night rain"]
    pictures = [TOWER.picture(text) for text in texts]
    prompts = INVERTER.invert_each(pictures, num_tokens=2, batch_size=2, **QUICK)
    assert [prompt.text for prompt in prompts] == texts


def test_what_is_unlike_is_avoided() -> None:
    target, away = features("red house", "red boat"), features("red snow")
    plain = INVERTER.invert(target, num_tokens=2, **QUICK)
    pushed = INVERTER.invert(target, num_tokens=2, unlike=away, unlike_weight=1.0, **QUICK)
    assert float(features(pushed.text) @ away.T) < float(features(plain.text) @ away.T)
    expected = float((features(pushed.text) @ target.T).mean() - features(pushed.text) @ away.T)
    assert pushed.score == pytest.approx(expected, abs=1e-5)


def test_an_image_and_a_text_are_joint_targets() -> None:
    prompt = INVERTER.invert(features("red house"), num_tokens=2, text="old boat", text_weight=1.0, **QUICK)
    assert prompt.text == "old boat"
    half = INVERTER.invert(features("red house"), num_tokens=2, text="old boat", **QUICK)
    expected = float((features(half.text) @ features("red house", "old boat").T).mean())
    assert half.score == pytest.approx(expected, abs=1e-5)


def test_the_shortest_prompt_that_is_good_enough() -> None:
    target = features("red house near river")
    best = INVERTER.invert(target, num_tokens=4, **QUICK)
    short = INVERTER.invert(target, num_tokens=4, shortest=0.7, **QUICK)
    assert len(short.token_ids) < len(best.token_ids)
    assert short.score >= 0.7 * best.score
    lengths = [len(candidate.token_ids) for candidate in short.candidates]
    assert len(set(lengths)) == len(lengths) and len(lengths) > 1  # similarity against length


def test_the_template_is_part_of_what_is_scored() -> None:
    prompt = INVERTER.invert(features("the red house in snow"), num_tokens=2, template="the {} in snow", **QUICK)
    assert prompt.text == "red house" and prompt.filled == str(prompt) == "the red house in snow"


def test_banned_words_and_keyword_banks() -> None:
    target = features("red house")
    assert "red" not in INVERTER.invert(target, num_tokens=2, banned=["RED"], **QUICK).text.split()
    bank = INVERTER.invert(target, num_tokens=2, vocabulary=["green house", "boat"], **QUICK)
    assert set(bank.text.split()) <= {"green", "house", "boat"}


def test_it_starts_from_the_given_prompt() -> None:
    prompt = INVERTER.invert(features("red house"), initial_prompt="red house", max_steps=0, num_tokens=2, **QUICK)
    assert prompt.text == "red house" and prompt.stop_reason == "max_steps"


def test_the_same_seed_gives_the_same_prompt_and_another_seed_is_recorded() -> None:
    options = {**QUICK, "max_steps": 5, "num_tokens": 5}
    first, second = (INVERTER.invert(features("old boat on river"), **options) for _ in range(2))
    assert first.candidates == second.candidates
    drawn = INVERTER.invert(features("old boat on river"), **{**options, "seed": None})
    again = INVERTER.invert(features("old boat on river"), **{**options, "seed": drawn.seed})
    assert drawn.candidates == again.candidates


def test_two_models_agree_on_one_prompt() -> None:
    other = toy_backend()
    joint = join_backends([BACKEND, other], weights=[3, 1])
    assert joint.encode_texts(["red house"]).shape[1] == 2 * features("red").shape[1]
    assert joint.vocabulary.table.shape[1] == 2 * BACKEND.vocabulary.table.shape[1]
    text, image = joint.encode_texts(["red boat"]), joint.encode_images([TOWER.picture("red house")])
    assert float(text @ image.T) == pytest.approx(float(features("red boat") @ features("red house").T), abs=1e-5)
    prompt = PromptInverter([BACKEND, other]).invert(TOWER.picture("red house"), num_tokens=2, **QUICK)
    assert prompt.text == "red house"


def test_a_judge_picks_the_winner() -> None:
    picture = TOWER.picture("red house")
    judged = PromptInverter(BACKEND, judge=toy_backend()).invert(picture, num_tokens=2, **QUICK)
    assert judged.text == "red house"


def test_progress_is_reported_and_cancelling_keeps_the_best() -> None:
    steps = []

    def stop(progress):
        steps.append(progress.step)
        assert progress.best[0] is not None
        return progress.step == 3

    prompt = INVERTER.invert(features("red house"), callback=stop, **QUICK)
    assert steps == [1, 2, 3] and prompt.stop_reason == "cancelled" and prompt.text


def test_a_method_may_bring_its_own_hyperparameters() -> None:
    prompt = PromptInverter(BACKEND, method=PEZ(learning_rate=0.3)).invert(features("red house"), max_steps=9, **QUICK)
    assert prompt.method == "pez" and len(prompt.token_ids) == 8
    assert prompt.provenance["method_settings"]["learning_rate"] == 0.3


def test_the_folders_of_a_method_are_told_nobody(tmp_path) -> None:
    (tmp_path / "words.txt").write_text("red house\nold boat\n")
    bank = PhraseBank(tables=read_bank(tmp_path / "words.txt"), cache=tmp_path / "cache")
    prompt = PromptInverter(BACKEND, method=bank).invert(features("red house"), max_steps=3, **QUICK)
    told = {name: content.decode() for name, content in repository_files("user/name", [prompt]).items()}
    assert prompt.method == "phrase-bank" and prompt.provenance["method_settings"]["mode"] == "best"
    assert "PhraseTable('words', 2 phrases" in prompt.provenance["method_settings"]["tables"][0]
    for text in (*told.values(), prompt.to_json(), repr(prompt)):
        assert str(tmp_path) not in text and "PosixPath" not in text


def test_a_named_method_has_no_settings_to_tell() -> None:
    prompt = PromptInverter(BACKEND, method="pez").invert(features("red house"), max_steps=3, **QUICK)
    assert prompt.method == "pez" and "method_settings" not in prompt.provenance


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_tokens": 0}, ValueError, "num_tokens"),
        ({"num_tokens": 17}, TemplateError, "room for 16"),
        ({"template": "the red house near the river in snow {}", "num_tokens": 9}, TemplateError, "room for 8"),
        ({"template": "no slot"}, TemplateError, "0 slots"),
        ({"template": "{} and {}"}, TemplateError, "2 slots"),
        ({"banned": list("abcdefghijklmnopqrstuvwxyz")}, VocabularyError, "no token is left"),
        ({"vocabulary": ["zebra"]}, VocabularyError, "keyword bank"),
        ({"initial_prompt": "red " * 9}, VocabularyError, "9 tokens"),
        ({"initial_prompt": ""}, VocabularyError, "0 tokens"),
        ({"restarts": 0}, ValueError, "restarts"),
        ({"views": 0}, ValueError, "views"),
        ({"weights": [1, 2]}, ValueError, "weights"),
        ({"weights": [-1.0]}, ValueError, "weights"),
        ({"text": "boat", "text_weight": 2.0}, ValueError, "text_weight"),
        ({"shortest": 0.0}, ValueError, "shortest"),
        ({"max_steps": -1}, ValueError, "max_steps"),
    ],
)
def test_bad_arguments_are_refused_with_their_value(options, error, message) -> None:
    with pytest.raises(error, match=message):
        INVERTER.invert(features("red house"), **{**QUICK, **options})


def test_bad_targets_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="NaN"):
        INVERTER.invert(torch.full((1, 48), float("nan")), **QUICK)
    with pytest.raises(ImageError):
        INVERTER.invert([], **QUICK)
    with pytest.raises(ImageError):
        INVERTER.invert_each([], **QUICK)
    with pytest.raises(ImageError):
        INVERTER.invert(torch.zeros(1, 1, 2, 2, 2), **QUICK)


def test_unknown_names_say_what_exists() -> None:
    with pytest.raises(UnknownName, match="emoji"):
        PromptInverter("emojji")
    with pytest.raises(UnknownName, match="pez"):
        PromptInverter(BACKEND, method="pezz")
    with pytest.raises(BackendError, match="no device"):
        PromptInverter("emoji", device="cuda:99")


def test_an_inverter_keeps_nothing_between_calls() -> None:
    before = dict(vars(INVERTER))
    INVERTER.invert(features("red house"), banned=["red"], num_tokens=2, **QUICK)
    assert vars(INVERTER) == before
    assert INVERTER.invert(features("red house"), num_tokens=2, **QUICK).text == "red house"


def test_a_model_without_tokens_of_its_own_sees_nothing_in_an_empty_text() -> None:
    class Strict(ToyEncoder):
        def encode_text(self, texts):
            if "" in texts:
                raise ValueError("no tokens")
            return super().encode_text(texts)

    encoder = Strict()
    backend = Backend("strict", encoder, encoder, torch.device("cpu"))
    prompt = PromptInverter(backend).invert(encoder.picture("boat"), num_tokens=1, seed=0, progress=False)
    assert prompt.text == "boat" and prompt.attributions == (prompt.score,)
