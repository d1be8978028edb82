"""Prompts matched by what a language model makes of them: brute force, finite differences, planted prompts."""

import dataclasses
import random

import pytest
import torch

from hardprompts import PromptDistiller, PromptTemplate, SoftPrompt, TemplateError
from hardprompts.classification import ClassificationTemplate, Verbalizer
from hardprompts.classification.opened import PromptedModel
from hardprompts.language_matching import match_outputs, output_features
from hardprompts.matching import Match
from hardprompts.prompt_tuning import (
    classifier_robustness,
    decode_classifier,
    text_templates,
    tune_soft_prompt,
)
from hardprompts.softprompts.robustness import robustness
from hardprompts.testing import WORDS, ToyLanguageModel, toy_language_model

KINDS = ("causal", "masked", "seq2seq")
TEMPLATES = tuple(map(PromptTemplate, ("{} red house the", "old {} river in the", "green {} dog")))
ANSWERS = ("sun", "moon", "star over snow")
LABELS = ("moon", "sun")


def toy(kind: str = "causal") -> ToyLanguageModel:
    return ToyLanguageModel.create(kind)


def soft(model: ToyLanguageModel, tokens: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, model.vocabulary.table.shape[1], generator=torch.Generator().manual_seed(seed))


def outcome(model: ToyLanguageModel, embeddings: torch.Tensor, answers: tuple[str, ...]) -> torch.Tensor:
    """log p of what may follow a text given as embeddings, one pass for each token of each answer."""
    vocabulary = model.vocabulary

    def following(written: list[int], masks: int, place: int) -> torch.Tensor:
        before, behind = (vocabulary.embed(torch.tensor(part, dtype=torch.long)) for part in model.frame)
        parts = [before, embeddings]
        decoder = None
        if model.kind == "causal":
            parts.append(vocabulary.embed(torch.tensor(written, dtype=torch.long)))
            at = len(before) + len(embeddings) + len(written) - 1
        elif model.kind == "masked":
            parts.append(vocabulary.embed(torch.tensor([model.mask_id] * masks)))
            at = len(before) + len(embeddings) + place
        else:
            decoder, at = torch.tensor([written], dtype=torch.long), len(written)
        row = torch.cat([*parts, behind])[None]
        states = model.states(row, torch.ones(row.shape[:2], dtype=torch.bool), decoder)
        return model.logits(states[0, at]).log_softmax(dim=-1)

    if not answers:
        return following([], 1, 0)
    totals = []
    for answer in answers:
        ids = vocabulary.encode(answer)
        totals.append(sum(following(ids[:i], len(ids), i)[token] for i, token in enumerate(ids)))
    return torch.stack(totals).log_softmax(dim=0)


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
    options = {"inside": [one.text for one in TEMPLATES], "restarts": 4, "seed": 0, "progress": False}
    found = distiller.distill(SoftPrompt({"lm": planted}), 2, max_steps=400, held_out=["blue {} the"], **options)
    assert found.text == "old stone"
    assert found.faithfulness is not None and found.faithfulness.held_out is not None
    assert found.faithfulness.matched.value == pytest.approx(1.0, abs=1e-4)
    assert found.faithfulness.held_out.value == pytest.approx(1.0, abs=1e-4)
    assert found.faithfulness.matched.templates == tuple(options["inside"])
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


# --- classifiers --------------------------------------------------------------------------


def examples(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Texts whose last word tells the label."""
    draw = random.Random(seed)
    clues = (("night", "silver"), ("fire", "gold"))
    plain = [word for word in WORDS if word not in ("sun", "moon", "fire", "gold", "night", "silver")]
    targets = [i % 2 for i in range(count)]
    return [" ".join([*draw.sample(plain, 3), draw.choice(clues[target])]) for target in targets], targets


def prompted(kind: str = "causal", template: str = "{prompt} {text} the {label}") -> PromptedModel:
    verbalizer = Verbalizer(LABELS, tuple((word,) for word in LABELS))
    return PromptedModel.create(toy(kind), ClassificationTemplate(template), verbalizer, prompt_tokens=3)


@pytest.mark.parametrize("kind", KINDS)
def test_soft_prompts_are_measured_as_their_text_is(kind: str) -> None:
    parts = prompted(kind)
    texts, targets = examples(10)
    vocabulary = parts.encoder.model.vocabulary
    embeddings = vocabulary.embed(torch.tensor(vocabulary.encode("snow on stone")))
    assert torch.allclose(parts.class_scores(embeddings, texts), parts.class_scores("snow on stone", texts), atol=1e-5)
    by_text, by_embedding = (parts.measure(prompt, texts, targets) for prompt in ("snow on stone", embeddings))
    assert by_embedding.category_errors == by_text.category_errors
    assert by_embedding.histogram == by_text.histogram


def test_prompt_tuning_learns_what_no_nearest_words_do() -> None:
    parts = prompted()
    texts, targets = examples(40)
    learned = tune_soft_prompt(parts, texts, targets, num_tokens=3, max_steps=60, restarts=2, name="clues", seed=1)
    assert learned.encoders == ("lm",) and learned.num_tokens == 3 and learned.name == "clues"
    other = examples(40, seed=9)
    embeddings = learned.embeddings["lm"]
    figures, empty = parts.measure(embeddings, *other), parts.measure("", *other)
    assert figures.loss < empty.loss - 0.05
    again = tune_soft_prompt(parts, texts, targets, num_tokens=3, max_steps=60, restarts=2, seed=1)
    assert torch.equal(again.embeddings["lm"], embeddings)
    untrained = tune_soft_prompt(parts, texts, targets, num_tokens=3, max_steps=0, seed=1)
    assert parts.measure(untrained.embeddings["lm"], *other).loss > figures.loss
    with pytest.raises(ValueError, match="needs texts"):
        tune_soft_prompt(parts, [], [])


def test_a_soft_prompt_becomes_words_that_answer_alike() -> None:
    parts = prompted()
    texts, targets = examples(40)
    vocabulary = parts.encoder.model.vocabulary
    planted = vocabulary.embed(torch.tensor(vocabulary.encode("gold fire")))
    found = decode_classifier(parts, planted, texts[:8], (texts[8:], targets[8:]), num_tokens=2, seed=0, max_steps=200, progress=False)  # fmt: skip
    assert found.prompt.text == "gold fire"
    assert found.prompt.faithfulness is not None and found.prompt.faithfulness.held_out is not None
    assert found.prompt.faithfulness.held_out.value == pytest.approx(1.0, abs=1e-3)
    assert found.hard.accuracy == found.soft.accuracy == parts.measure("gold fire", texts[8:], targets[8:]).accuracy
    assert found.accuracy.distance == 0.0
    assert found.accuracy.empty == pytest.approx(found.soft.accuracy - found.empty.accuracy)
    worse = decode_classifier(parts, planted, texts[:8], (texts[8:], targets[8:]), num_tokens=1, seed=0, max_steps=1, restarts=1, progress=False)  # fmt: skip
    assert worse.accuracy.distance == pytest.approx(worse.soft.accuracy - worse.hard.accuracy)


def test_texts_become_templates_up_to_the_label() -> None:
    parts = prompted(template="in {text} {prompt} the {label}")
    assert [one.text for one in text_templates(parts, ["red house ", ""])] == ["in red house {} the", "in {} the"]
    with pytest.raises(ValueError, match="no texts"):
        text_templates(parts, [])
    with pytest.raises(TemplateError, match=r"end in ' \{label\}'"):
        text_templates(prompted("masked", "{prompt} {text} the {label} snow"), ["red"])


def test_robustness_tells_errors_of_category_from_others() -> None:
    parts = prompted()
    texts, targets = examples(20)
    point = soft(parts.encoder.model, 3) * 2
    found = classifier_robustness(parts, point, texts, targets, factors=(1.0, 4.0), degrees=(0.0, 180.0))
    figures = parts.measure(point, texts, targets)
    assert found.shrunk.accuracy[0] == found.rotated.accuracy[0] == figures.accuracy
    assert found.shrunk.category_errors[0] == pytest.approx(figures.category_errors)
    smaller = parts.measure(point / 4, texts, targets)
    assert (found.shrunk.accuracy[1], found.shrunk.category_errors[1]) == pytest.approx(
        (smaller.accuracy, smaller.category_errors)
    )
    rows = [parts.encoder.row(text) for text in texts]
    labels = {parts.encoder.model.vocabulary.encode(word)[0] for word in LABELS}
    outside = 0
    for row in rows:
        place = row.index(-1)
        table = parts.encoder.model.vocabulary.embed
        ends = [table(torch.tensor(part, dtype=torch.long)) for part in (row[:place], row[place + 1 : -1])]
        embeddings = torch.cat([ends[0], point, ends[1]])[None]
        states = parts.encoder.model.states(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool))
        outside += int(parts.encoder.model.logits(states[0, -1]).argmax()) not in labels
    assert figures.category_errors == pytest.approx(outside / len(rows))
    assert found.empty == parts.measure("", texts, targets).accuracy


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_serve_as_features_for_the_robustness_of_files(kind: str) -> None:
    model = toy(kind)
    encode = output_features(model)
    ids = torch.tensor([model.vocabulary.encode("old stone"), model.vocabulary.encode("red house")])
    features = encode(model.vocabulary.embed(ids))
    assert torch.allclose(features.square().sum(dim=1), torch.ones(2), atol=1e-5)
    expected = [outcome(model, model.vocabulary.embed(row), ()).exp().sqrt() for row in ids]
    assert torch.allclose(features, torch.stack(expected), atol=1e-5)
    report = robustness(soft(model), model.vocabulary, encode, model.max_tokens, template=PromptTemplate("old {} the"), natural_prompts=2)  # fmt: skip
    assert report.shrunk.soft[0] == pytest.approx(1.0, abs=1e-4)
