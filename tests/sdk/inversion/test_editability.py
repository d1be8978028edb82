"""Prompts whose words can be exchanged: what their score takes off, and that nothing changes without it."""

import pytest
import torch

from hardprompts import PromptInverter
from hardprompts.inversion.editability import EDITABLE_WEIGHT, EditableScore
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate
from hardprompts.testing import ToyEncoder, toy_backend

BACKEND = toy_backend()
VOCABULARY = BACKEND.vocabulary
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)
QUICK = {"views": 1, "restarts": 8, "progress": False, "seed": 0, "max_steps": 60}


def task(text: str, template: str = "{}") -> FeatureSimilarity:
    target = BACKEND.encode_texts([text])[:, None]
    return FeatureSimilarity(BACKEND.text_encoder, target, torch.ones(1, 1), PromptTemplate(template))


def cosine_with_words(text: str) -> float:
    words = BACKEND.encode_texts(text.split()).sum(dim=0)
    return float(BACKEND.encode_texts([text])[0] @ words / words.norm())


@pytest.mark.parametrize("template", ["{}", "the {} in snow"])
def test_the_score_takes_off_what_a_prompt_means_beyond_its_words(template: str) -> None:
    similarity = task("red house", template)
    score = EditableScore(similarity, similarity, VOCABULARY, 0.5)
    ids = torch.tensor([VOCABULARY.encode("red house"), VOCABULARY.encode("old river")])
    groups = torch.zeros(2, dtype=torch.long)
    plain = similarity.score(ids, groups)
    filled = [template.format(text) for text in ("red house", "old river")]
    cosines = torch.tensor([cosine_with_words(text) for text in filled])
    assert torch.allclose(score.score(ids, groups), plain - 0.5 * (1 - cosines), atol=2e-3)
    other = EditableScore(task("river"), similarity, VOCABULARY, 0.5)
    difference = other.score(ids, groups) - score.score(ids, groups)
    assert torch.allclose(difference, task("river").score(ids, groups) - plain, atol=1e-5)


def test_a_prompt_of_one_word_loses_nothing() -> None:
    similarity = task("red")
    ids = torch.tensor([VOCABULARY.encode("red")])
    found = EditableScore(similarity, similarity, VOCABULARY, 1.0).score(ids, torch.zeros(1, dtype=torch.long))
    assert float(found) == pytest.approx(1.0, abs=2e-3)


def test_editable_prompts_are_closer_to_their_words_and_others_are_as_before(monkeypatch) -> None:
    inverter, picture = PromptInverter(BACKEND), TOWER.picture("red house river")
    plain = inverter.invert(picture, 4, **QUICK)
    assert inverter.invert(picture, 4, editable=False, **QUICK).candidates == plain.candidates
    monkeypatch.setattr("hardprompts.inversion.experts.EDITABLE_WEIGHT", 20 * EDITABLE_WEIGHT)
    found = inverter.invert(picture, 4, editable=True, **QUICK)
    assert cosine_with_words(found.text) > cosine_with_words(plain.text)
    assert found.score_unit == plain.score_unit


def test_passes_stay_within_what_is_allowed() -> None:
    found = PromptInverter(BACKEND).invert(TOWER.picture("red"), 4, editable=True, max_evaluations=60, **QUICK)
    assert found.evaluations <= 60


@pytest.mark.parametrize("method", ["pez", "gcg", "beam", "build+refine", "evolution"])
def test_methods_of_every_kind_take_it(method: str) -> None:
    options = {**QUICK, "max_steps": 3}
    found = PromptInverter(BACKEND, method, judge=BACKEND).invert(TOWER.picture("red"), 3, editable=True, **options)
    assert found.text
