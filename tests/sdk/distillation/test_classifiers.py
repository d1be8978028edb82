"""Soft prompts of classifiers: measured, learned, and put in words that answer alike."""

import random

import pytest
import torch
from language_outputs import outcome

from hardprompts import PromptTemplate, TemplateError
from hardprompts.classification import ClassificationTemplate, Verbalizer
from hardprompts.classification.prompted import PromptedModel
from hardprompts.distillation.classifiers import (
    classifier_robustness,
    decode_classifier,
    text_templates,
    tune_soft_prompt,
)
from hardprompts.distillation.outputs import output_features
from hardprompts.softprompts.robustness import measure_robustness
from hardprompts.testing import WORDS, ToyLanguageModel

KINDS = ("causal", "masked", "seq2seq")


LABELS = ("moon", "sun")


def toy(kind: str = "causal") -> ToyLanguageModel:
    return ToyLanguageModel.create(kind)


def soft(model: ToyLanguageModel, tokens: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, model.vocabulary.table.shape[1], generator=torch.Generator().manual_seed(seed))


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
    report = measure_robustness(soft(model), model.vocabulary, encode, model.max_tokens, template=PromptTemplate("old {} the"), natural_prompts=2)  # fmt: skip
    assert report.shrunk.soft[0] == pytest.approx(1.0, abs=1e-4)
