"""Label words: their likelihoods by brute force, which of them may be, and which are suggested."""

import pytest
import torch
from toy_classification import LABELS, brute_force_word, examples

from hardprompts import ClassifierPromptTuner
from hardprompts.classification import ClassificationTemplate, Verbalizer, suggest_verbalizer
from hardprompts.classification.prompted import PromptedModel
from hardprompts.testing import ToyLanguageModel, toy_language_model

KINDS = ("causal", "masked", "seq2seq")


TEMPLATE = "{prompt} {text} the {label}"


def tuner(kind: str = "causal", **options) -> ClassifierPromptTuner:
    chosen = {"num_tokens": 3, "template": TEMPLATE, "restarts": 2, "max_steps": 6, "random_state": 0, **options}
    # Set afterwards, since the checks of types would stop misuse before the messages do.
    return ClassifierPromptTuner(toy_language_model(kind), progress=False).set_params(**chosen)


def prompted(kind: str = "causal", words=LABELS, template: str = TEMPLATE, **options) -> PromptedModel:
    verbalizer = Verbalizer(LABELS, tuple((word,) if isinstance(word, str) else word for word in words))
    model = ToyLanguageModel.create(kind)
    return PromptedModel.create(model, ClassificationTemplate(template), verbalizer, prompt_tokens=3, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_scored_as_whole_sequences(kind: str) -> None:
    parts = prompted(kind, words=(("red house", "sun"), ("red boat", "moon over snow")))
    model, ids = parts.encoder.model, parts.labels.ids
    assert [len(word) for word in ids] == [2, 1, 2, 3]
    assert set(parts.labels.shared) == {"red house", "red boat"}
    texts, _ = examples(5)
    rows = [parts.encoder.filled_row("old", text + " dog" * (i % 3)) for i, text in enumerate(texts)]
    found = parts.reader.word_scores(rows)[0]
    for i, row in enumerate(rows):
        for j, word in enumerate(ids):
            assert float(found[i, j]) == pytest.approx(brute_force_word(model, row, word), abs=1e-4)
    classes = parts.labels.class_scores(found)
    assert torch.allclose(classes[:, 0], torch.logsumexp(found[:, :2], dim=1))
    shared = parts.labels.class_scores(found, length_normalized=True)
    assert torch.allclose(shared[:, 0], torch.logsumexp(found[:, :2] / torch.tensor([2.0, 1.0]), dim=1))


def test_batches_of_any_size_give_the_same_scores() -> None:
    texts, _ = examples(9)
    texts = [text + " dog" * i for i, text in enumerate(texts)]
    found = []
    for limit in (1, 40, 10_000):
        parts = prompted(max_batch_tokens=limit)
        rows = [parts.encoder.row(text) for text in texts]
        table = parts.encoder.model.vocabulary.sample((3, 4), torch.Generator().manual_seed(0))
        found.append(parts.reader.word_scores(rows, parts.encoder.model.vocabulary.embed(table)))
    assert found[0].shape == (3, 9, 2)
    assert torch.allclose(found[0], found[2], atol=1e-5)
    assert torch.allclose(found[1], found[2], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"sun": "sun"}, "'moon'.*no words"),
        ({"sun": "sun", "moon": ()}, "no words"),
        ({"sun": "sun", "moon": "sun"}, "use it once"),
        ({"sun": "sun", "moon": " moon"}, "white space"),
        ({"sun": "sun", "moon": "qqq"}, "no tokens"),
        ({"sun": "sun", "moon": "qqq sun"}, "same tokens"),
        ({"sun": "sun", "mooon": "moon"}, "'moon'.*no words.*'mooon'.*do not occur"),
        (["sun"], "list of 1.*labels are \\['moon', 'sun'\\]"),
        ("suggested", "suggest"),
    ],
)
def test_words_that_cannot_be_label_words_are_refused(words, message: str) -> None:
    texts, labels = examples(8)
    with pytest.raises(ValueError, match=message):
        tuner(verbalizer=words).fit(texts, labels)


def test_suggested_words_are_those_that_tell_the_classes_apart() -> None:
    texts, labels = examples(60)
    words = suggest_verbalizer(texts, labels, ToyLanguageModel.create(), top_k=2)
    assert {label: set(own) for label, own in words.items()} == {"sun": {"fire", "gold"}, "moon": {"night", "silver"}}
    fitted = tuner(verbalizer="suggest", max_steps=1).fit(texts, labels)
    assert any("chosen by" in note for note in fitted.report_["notes"])
