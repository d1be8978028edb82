"""Prompts matched by what a language model makes of them: brute force, finite differences, planted prompts."""

import dataclasses

import pytest
import torch
from language_outputs import outcome

from hardprompts import PromptDistiller, PromptTemplate, SoftPrompt, TemplateError
from hardprompts.distillation.matching import Match
from hardprompts.distillation.outputs import match_outputs
from hardprompts.testing import ToyLanguageModel, toy_language_model

KINDS = ("causal", "masked", "seq2seq")


TEMPLATES = tuple(map(PromptTemplate, ("{} red house the", "old {} river in the", "green {} dog")))


ANSWERS = ("sun", "moon", "star over snow")


def toy(kind: str = "causal") -> ToyLanguageModel:
    return ToyLanguageModel.create(kind)


def soft(model: ToyLanguageModel, tokens: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, model.vocabulary.table.shape[1], generator=torch.Generator().manual_seed(seed))


def divergence(
    model: ToyLanguageModel, original: torch.Tensor, prompt: torch.Tensor, answers: tuple[str, ...]
) -> float:
    """The mean KL over the templates."""
    found = []
    for template in TEMPLATES:
        ends = [model.vocabulary.embed(torch.tensor(model.vocabulary.encode(part), dtype=torch.long)) for part in (template.prefix, template.suffix)]  # fmt: skip
        own, other = (outcome(model, torch.cat([ends[0], part, ends[1]]), answers) for part in (original, prompt))
        found.append(float((own.exp() * (own - other)).sum()))
    return sum(found) / len(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answers", [(), ANSWERS])
def test_distances_and_scores_equal_brute_force(kind: str, answers: tuple[str, ...]) -> None:
    model = toy(kind)
    originals = [soft(model), soft(model, 3, seed=1)]
    match = match_outputs(model, [[one] for one in originals], TEMPLATES, answers, max_batch_tokens=20)
    assert isinstance(match, Match)
    table = model.vocabulary.table
    for task, original in enumerate(originals):
        empty = divergence(model, original, table[:0], answers)
        texts = ["snow on stone", "fire", ""]
        expected = []
        for text in texts:
            ids = torch.tensor(model.vocabulary.encode(text), dtype=torch.long)
            expected.append(divergence(model, original, model.vocabulary.embed(ids), answers) / empty)
        assert match.distances(texts, task) == pytest.approx(expected, rel=1e-3)
        assert expected[2] == pytest.approx(1.0)
        ids = torch.tensor([model.vocabulary.encode("snow on stone")])
        score = match.score(ids, torch.tensor([task]))
        assert float(score) == pytest.approx(1 - expected[0], rel=1e-3, abs=1e-4)
        loss = match(original[None], torch.tensor([task])).loss
        assert float(loss) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answers", [(), ANSWERS])
def test_gradient_equals_finite_differences(kind: str, answers: tuple[str, ...]) -> None:
    model = toy(kind)
    match = match_outputs(model, [[soft(model)], [soft(model, seed=5)]], TEMPLATES, answers, max_batch_tokens=30)
    groups = torch.tensor([1, 0, 1])
    point = torch.stack([soft(model, seed=7 + i) for i in range(3)]).requires_grad_()
    (grad,) = torch.autograd.grad(match(point, groups).loss.sum(), point)
    direction = torch.randn(point.shape, generator=torch.Generator().manual_seed(4))
    step = 1e-2
    with torch.no_grad():
        up, down = (match(point + sign * step * direction, groups).loss for sign in (1, -1))
    assert torch.allclose((grad * direction).sum(dim=(1, 2)), (up - down) / (2 * step), rtol=3e-2, atol=3e-3)


def test_drawn_templates_average_to_all_of_them() -> None:
    model = toy()
    whole = match_outputs(model, [[soft(model)]], TEMPLATES)
    drawn = dataclasses.replace(whole, sample_size=1, generator=torch.Generator().manual_seed(0))
    point, groups = soft(model, seed=3)[None], torch.zeros(1, dtype=torch.long)
    losses = {round(float(drawn(point, groups).loss), 5) for _ in range(40)}
    assert len(losses) == len(TEMPLATES)
    assert sum(losses) / len(losses) == pytest.approx(float(whole(point, groups).loss), rel=1e-3)
    held = drawn.held()
    assert len({float(held(point, groups).loss) for _ in range(5)}) == 1
    assert drawn(point, groups).score is None
    assert whole(point, groups).score is not None


def test_what_cannot_be_compared_is_refused() -> None:
    model = toy()
    with pytest.raises(TemplateError, match="no text"):
        match_outputs(model, [[soft(model)]], [])
    with pytest.raises(TemplateError, match="has room for"):
        match_outputs(model, [[soft(model, 70)]], TEMPLATES)
    with pytest.raises(ValueError, match="two classes"):
        match_outputs(model, [[soft(model)]], TEMPLATES, ["sun"])


def test_the_distiller_finds_planted_words_by_what_the_model_expects() -> None:
    backend = toy_language_model()
    vocabulary = backend.vocabulary
    planted = vocabulary.embed(torch.tensor(vocabulary.encode("old stone")))
    distiller = PromptDistiller(backend)
    options = {"templates": [one.text for one in TEMPLATES], "restarts": 4, "seed": 0, "progress": False}
    found = distiller.distill(SoftPrompt({"lm": planted}), 2, max_steps=400, held_out=["blue {} the"], **options)
    assert found.text == "old stone"
    assert found.faithfulness is not None and found.faithfulness.held_out is not None
    assert found.faithfulness.matched.value == pytest.approx(1.0, abs=1e-4)
    assert found.faithfulness.held_out.value == pytest.approx(1.0, abs=1e-4)
    assert found.faithfulness.matched.templates == tuple(options["templates"])
    assert found.provenance["match"] == "outputs"
    for template in TEMPLATES:
        assert vocabulary.survives_round_trip(found.token_ids, template)
    answered = distiller.distill(planted, 2, max_steps=2, answers=ANSWERS, **options)
    assert answered.faithfulness is not None and answered.faithfulness.held_out is None
    assert "answers" in answered.faithfulness.matched.quantity
    short = distiller.distill("old stone bridge near the river", 3, max_steps=2, **options)
    assert short.lost == ()
    nearest = PromptDistiller(backend, "nearest").distill(planted, **options)
    assert nearest.text == "old stone", "words that lie on the vocabulary are their own nearest"
