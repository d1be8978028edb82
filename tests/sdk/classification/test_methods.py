"""Search methods on language models: each tunes, and each against its paper's algorithm."""

import dataclasses
import itertools

import pytest
import torch
from toy_classification import LABELS, examples

from hardprompts import ClassifierPromptTuner, run_search
from hardprompts.classification import ClassificationTemplate, LabelLikelihood, Verbalizer
from hardprompts.classification.prompted import PromptedModel
from hardprompts.methods import PEZ, AutoPromptSGD, FluentPrompt, PromptTuning, RandomSearch
from hardprompts.methods.optimizers import Adafactor
from hardprompts.search.bound import BoundObjective
from hardprompts.testing import ToyLanguageModel, toy_language_model
from hardprompts.vocabulary import Vocabulary

TEMPLATE = "{prompt} {text} the {label}"


def tuner(kind: str = "causal", **options) -> ClassifierPromptTuner:
    chosen = {"num_tokens": 3, "template": TEMPLATE, "restarts": 2, "max_steps": 6, "random_state": 0, **options}
    # Set afterwards, since the checks of types would stop misuse before the messages do.
    return ClassifierPromptTuner(toy_language_model(kind), progress=False).set_params(**chosen)


def prompted(kind: str = "causal", words=LABELS, template: str = TEMPLATE, **options) -> PromptedModel:
    verbalizer = Verbalizer(LABELS, tuple((word,) if isinstance(word, str) else word for word in words))
    model = ToyLanguageModel.create(kind)
    return PromptedModel.create(model, ClassificationTemplate(template), verbalizer, prompt_tokens=3, **options)


def likelihood(parts: PromptedModel, count: int = 6, **options) -> LabelLikelihood:
    texts, labels = examples(count)
    rows = [parts.encoder.row(text) for text in texts]
    return LabelLikelihood(parts.reader, rows, [LABELS.index(label) for label in labels], **options)


@pytest.mark.parametrize("method", ["pez", "autoprompt", "hotflip", "autoprompt-sgd", "fluentprompt", "gcg", "greedy", "refine", "pez+refine", "evolution", RandomSearch(), PromptTuning()])  # fmt: skip
def test_every_method_tunes(method) -> None:
    texts, labels = examples(16)
    fitted = tuner(method=method, max_steps=4).fit(texts, labels)
    assert 1 <= len(fitted.hard_prompt_.token_ids) <= 3
    assert fitted.predict(texts[:3]).tolist()
    values = [point.score for point in fitted.history_]
    assert values == sorted(values)


def algorithm_1(objective, vocabulary, initial, rate: float, steps: int) -> list[torch.Tensor]:
    """The continuous iterates of PEZ as the paper prints them: P <- P - rate * grad at Proj(P)."""
    soft, seen = vocabulary.embed(initial).clone(), []
    for _ in range(steps):
        hard = vocabulary.embed(vocabulary.nearest(soft)).requires_grad_()
        (grad,) = torch.autograd.grad(objective(hard, torch.zeros(len(hard), dtype=torch.long)).loss.sum(), hard)
        seen.append(soft.clone())
        soft = soft - rate * grad
    return seen


def test_pez_keeps_its_continuous_iterate_as_algorithm_1_does() -> None:
    parts = prompted()
    objective = likelihood(parts, 8)
    vocabulary = parts.encoder.model.vocabulary
    initial = vocabulary.sample((2, 3), torch.Generator().manual_seed(0))
    projected: list[torch.Tensor] = []

    class Watched(Vocabulary):
        def nearest(self, embeddings, metric="cosine"):
            projected.append(embeddings.detach().clone())
            return super().nearest(embeddings, metric)

    watched = Watched(**{field.name: getattr(vocabulary, field.name) for field in dataclasses.fields(vocabulary)})
    rate, steps = 20.0, 12
    run_search(
        PEZ(learning_rate=rate, optimizer="sgd"), objective, objective, watched, initial, max_steps=steps, seed=0
    )
    expected = algorithm_1(objective, vocabulary, initial, rate, steps)
    assert len(projected) >= steps
    for found, own in zip(projected, expected, strict=False):
        assert torch.allclose(found, own, atol=1e-4)
    on_vocabulary = [bool(torch.equal(vocabulary.embed(vocabulary.nearest(soft)), soft)) for soft in expected[1:]]
    assert not any(on_vocabulary), "an iterate that is projected every step would be AutoPromptSGD"
    tokens = {tuple(vocabulary.nearest(soft).flatten().tolist()) for soft in expected}
    assert len(tokens) > 1, "a transcript without a token change proves nothing"


def test_adafactor_keeps_restarts_apart_and_bounds_its_steps() -> None:
    draw = torch.Generator().manual_seed(0)
    grads = [torch.randn(3, 4, 8, generator=draw) for _ in range(5)]
    together = torch.zeros(3, 4, 8)
    optimizer = Adafactor(together, 0.3)
    alone = [torch.zeros(1, 4, 8) for _ in range(3)]
    singles = [Adafactor(soft, 0.3) for soft in alone]
    for grad in grads:
        before = together.clone()
        optimizer.step(grad)
        assert float((together - before).square().mean(dim=(1, 2)).sqrt().max()) <= 0.3 + 1e-6
        for row, single in enumerate(singles):
            single.step(1000 * grad[row : row + 1])  # the scale of the gradient changes nothing
    for row in range(3):
        assert torch.allclose(together[row], alone[row][0], atol=1e-4)


def test_fluentprompt_anneals_its_noise_geometrically() -> None:
    method = FluentPrompt(anneal_steps=5)
    betas = [method.beta(step) for step in range(7)]
    assert betas[0] == 1.0
    assert betas[4] == betas[6] == pytest.approx(1e-4)
    ratios = [b / a for a, b in itertools.pairwise(betas[:5])]
    assert ratios == pytest.approx([ratios[0]] * 4)


def test_autoprompt_sgd_starts_every_step_on_the_vocabulary() -> None:
    parts = prompted()
    objective, vocabulary = likelihood(parts), parts.encoder.model.vocabulary
    bound = BoundObjective(
        objective,
        objective,
        vocabulary,
        ClassificationTemplate(TEMPLATE).for_search(),
        torch.zeros(1, dtype=torch.long),
    )
    steps = AutoPromptSGD(relative=False, learning_rate=50.0).steps(
        bound, vocabulary, torch.tensor([vocabulary.encode("old stone bridge")]), torch.Generator()
    )
    ids = [next(steps).ids for _ in range(3)]
    for before, after in itertools.pairwise(ids):
        point = vocabulary.embed(before).clone().requires_grad_()
        (grad,) = torch.autograd.grad(objective(point, torch.zeros(1, dtype=torch.long)).loss.sum(), point)
        assert torch.equal(after, vocabulary.nearest(point - 50.0 * grad))


def test_prompt_tuning_shows_its_soft_prompts() -> None:
    seen: list[float] = []
    texts, labels = examples(16)
    method = PromptTuning(observe=lambda soft, loss: seen.append(float(loss.min())))
    tuner(method=method, max_steps=40, holdout=0.0, batch_size=16).fit(texts, labels)
    assert seen[-1] < seen[0] - 0.05
