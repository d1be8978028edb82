"""The objective of the tuner: gradients against finite differences, its parts, its mini-batches."""

import dataclasses

import numpy as np
import pytest
import torch
from toy_classification import LABELS, brute_force_word, examples

from hardprompts.classification import ClassificationTemplate, LabelLikelihood, Verbalizer
from hardprompts.classification.prompted import PromptedModel
from hardprompts.classification.rows import PROMPT
from hardprompts.testing import ToyLanguageModel

KINDS = ("causal", "masked", "seq2seq")


TEMPLATE = "{prompt} {text} the {label}"


def prompted(kind: str = "causal", words=LABELS, template: str = TEMPLATE, **options) -> PromptedModel:
    verbalizer = Verbalizer(LABELS, tuple((word,) if isinstance(word, str) else word for word in words))
    model = ToyLanguageModel.create(kind)
    return PromptedModel.create(model, ClassificationTemplate(template), verbalizer, prompt_tokens=3, **options)


def likelihood(parts: PromptedModel, count: int = 6, **options) -> LabelLikelihood:
    texts, labels = examples(count)
    rows = [parts.encoder.row(text) for text in texts]
    return LabelLikelihood(parts.reader, rows, [LABELS.index(label) for label in labels], **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fluency", "weight"), [("ids", 0.0), ("ids", 0.4), ("embeddings", 0.4)])
def test_gradient_equals_finite_differences(kind: str, fluency: str, weight: float) -> None:
    if weight and kind != "causal":
        with pytest.raises(ValueError, match="left to right"):
            likelihood(prompted(kind), fluency_weight=weight)
        return
    objective = likelihood(prompted(kind, max_batch_tokens=30), fluency_weight=weight, fluency=fluency)
    vocabulary = objective.reader.model.vocabulary
    groups = torch.zeros(2, dtype=torch.long)
    point = vocabulary.embed(vocabulary.sample((2, 3), torch.Generator().manual_seed(3))).clone().requires_grad_()
    (grad,) = torch.autograd.grad(objective(point, groups).loss.sum(), point)
    direction = torch.randn(point.shape, generator=torch.Generator().manual_seed(4))
    step = 1e-2
    with torch.no_grad():
        up = objective(point + step * direction, groups).loss
        down = objective(point - step * direction, groups).loss
    expected = (up - down) / (2 * step)
    found = (grad * direction).sum(dim=(1, 2))
    if fluency == "ids" or not weight:
        assert torch.allclose(found, expected, rtol=3e-2, atol=2e-3)
        return
    assert torch.allclose(found, expected, rtol=3e-2, atol=2e-3)
    constant = dataclasses.replace(objective, fluency="ids")
    (other,) = torch.autograd.grad(constant(point, groups).loss.sum(), point)
    assert not torch.allclose(other, grad, atol=1e-3), "the gradient must reach the target embedding"


@pytest.mark.parametrize("template", [TEMPLATE, "{text} {prompt} the {label}"])
def test_loss_is_the_weighted_sum_of_its_two_parts(template: str) -> None:
    parts = prompted(template=template)
    objective, weight = likelihood(parts, fluency_weight=0.25), 0.25
    model, vocabulary = parts.encoder.model, parts.encoder.model.vocabulary
    ids = vocabulary.encode("old stone bridge")
    task, fluency = [], []
    for row, target in zip(objective.rows, objective.targets, strict=True):
        place = row.index(PROMPT)
        whole = (*row[:place], *ids, *row[place + 1 :])
        words = torch.tensor([brute_force_word(model, whole, word) for word in parts.labels.ids])
        task.append(float(-words.log_softmax(dim=0)[target]))
        inputs = torch.tensor([whole[: place + 3]])
        states = model.states(vocabulary.embed(inputs), torch.ones(1, place + 3, dtype=torch.bool))[0]
        likely = model.logits(states).log_softmax(dim=-1)
        fluency.append(-float(likely[place, ids[1]] + likely[place + 1, ids[2]]) / 2)
    expected = (1 - weight) * np.mean(task) + weight * np.mean(fluency)
    score = objective.score(torch.tensor([ids]), torch.zeros(1, dtype=torch.long))
    assert float(score) == pytest.approx(-expected, abs=1e-4)
    soft = objective(vocabulary.embed(torch.tensor([ids])), torch.zeros(1, dtype=torch.long))
    assert float(soft.loss) == pytest.approx(expected, abs=1e-4)
    assert soft.score is not None
    both = [
        dataclasses.replace(objective, fluency=kind).fluency_loss(vocabulary.embed(torch.tensor([ids])))
        for kind in ("ids", "embeddings")
    ]
    assert torch.allclose(*both, atol=1e-4), "on tokens the two kinds have one value"
    assert float(both[0]) == pytest.approx(np.mean(fluency), abs=1e-4)


def test_mini_batches_are_drawn_by_the_generator_and_average_to_the_whole() -> None:
    parts = prompted()
    whole = likelihood(parts, 12)
    drawn = likelihood(parts, 12, sample_size=4, generator=torch.Generator().manual_seed(0))
    vocabulary, groups = parts.encoder.model.vocabulary, torch.zeros(1, dtype=torch.long)
    point = vocabulary.embed(torch.tensor([vocabulary.encode("old stone bridge")]))
    losses = [float(drawn(point, groups).loss) for _ in range(300)]
    assert len(set(losses)) > 10
    assert np.mean(losses) == pytest.approx(float(whole(point, groups).loss), abs=4 * np.std(losses) / 300**0.5)
    held = drawn.held()
    assert float(held(point, groups).loss) == float(held(point, groups).loss)
    assert drawn(point, groups).score is None
