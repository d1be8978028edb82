"""Soft prompts that are learned."""

from typing import Any

import pytest
import torch

from hardprompts import PromptDistiller, TemplateError, VocabularyError
from hardprompts.distillation.features import match_features
from hardprompts.distillation.learning import descend, learn_soft_prompt, learn_soft_prompts
from hardprompts.testing import ToyEncoder, toy_backend

BACKEND = toy_backend()


TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)


VOCABULARY = BACKEND.vocabulary


DISTILLER = PromptDistiller(BACKEND)


QUICK: dict[str, Any] = {"restarts": 6, "progress": False, "seed": 0}


def embedded(text: str) -> torch.Tensor:
    return VOCABULARY.embed(torch.tensor(VOCABULARY.encode(text), dtype=torch.long))


def test_a_learned_soft_prompt_does_at_least_what_the_right_words_do() -> None:
    pictures = [TOWER.picture("red house"), TOWER.picture("old boat on river")]
    found = learn_soft_prompts(BACKEND, pictures, num_tokens=2, max_steps=120, names=["a", "b"], seed=3)
    for picture, soft in zip(pictures, found, strict=True):
        target = BACKEND.encode_images([picture])[0]
        match = match_features(BACKEND, [[soft.embeddings["text_encoder"]]])
        assert float(match.mean_targets[0] @ target) == pytest.approx(1 - float(soft.metadata["loss"]), abs=1e-4)
        assert float(match.mean_targets[0] @ target) > 0.95
    assert [soft.name for soft in found] == ["a", "b"] and found[0].metadata["learned_by"] == "feature similarity"
    again = learn_soft_prompt(BACKEND, pictures[0], 2, max_steps=20, seed=3)
    assert torch.equal(
        again.embeddings["text_encoder"],
        learn_soft_prompt(BACKEND, pictures[0], 2, max_steps=20, seed=3).embeddings["text_encoder"],
    )
    decoded = DISTILLER.distill(found[0], num_tokens=4, **QUICK)
    assert decoded.faithfulness is not None and decoded.faithfulness.matched.value > 0.8


def test_training_starts_from_words_stops_when_told_and_keeps_the_best_step() -> None:
    picture = TOWER.picture("red house")
    start = learn_soft_prompt(BACKEND, picture, 2, initial_prompt="red house", max_steps=0)
    assert torch.equal(start.embeddings["text_encoder"], embedded("red house"))
    seen = []
    learn_soft_prompt(
        BACKEND, picture, 2, max_steps=50, callback=lambda step, losses: bool(seen.append(losses)) or step == 4
    )
    assert len(seen) == 5

    def rising(embeddings: torch.Tensor, groups: torch.Tensor) -> Any:
        from hardprompts.objectives import Evaluation

        return Evaluation(-(embeddings - embedded("red")).square().sum(dim=(1, 2)))

    calls = []
    best, losses = descend(
        rising, embedded("red")[None], VOCABULARY, max_steps=10, judge_every=5,
        judge=lambda soft, groups: calls.append(0) or (soft - embedded("red")).square().sum(dim=(1, 2)),
    )  # fmt: skip
    assert torch.equal(best[0], embedded("red")) and losses == [0.0] and len(calls) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_tokens": 0}, ValueError, "num_tokens"),
        ({"num_tokens": 17}, TemplateError, "room for 16"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"initial_prompt": "red house near"}, VocabularyError, "3 tokens"),
        ({"templates": "nothing"}, TemplateError, "slots"),
    ],
)
def test_bad_training_arguments_are_refused(options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        learn_soft_prompt(BACKEND, TOWER.picture("red"), **{"num_tokens": 2, **options})


def test_a_misspelt_option_names_the_right_one() -> None:
    with pytest.raises(TypeError, match="learn_soft_prompt has no option 'learning_rat'; did you mean 'learning_rate'"):
        learn_soft_prompt(BACKEND, TOWER.picture("red"), learning_rat=0.1)
