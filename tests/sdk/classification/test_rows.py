"""Templates, and the rows of tokens that they and texts become."""

import pytest
import torch
from toy_classification import LABELS

from hardprompts import ClassifierPromptTuner
from hardprompts.classification import ClassificationTemplate, Verbalizer
from hardprompts.classification.prompted import PromptedModel
from hardprompts.classification.rows import LABEL, PROMPT
from hardprompts.errors import TemplateError
from hardprompts.testing import WORDS, ToyLanguageModel, toy_language_model

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


def test_template_fills_and_drops_empty_slots_with_their_space() -> None:
    template = ClassificationTemplate("{prompt} {text} It was {label}")
    assert template.fill("very odd", "A film.", "bad") == "very odd A film. It was bad"
    assert template.around_label("", "A film.") == ("A film. It was", "")
    assert template.around_label("odd", "") == ("odd It was", "")
    assert ClassificationTemplate("{text}\n{label} {prompt}").around_label("", "x") == ("x", "")
    behind = ClassificationTemplate("({prompt}) {text} is {label}.")
    assert behind.around_label("a", "{label} {}") == ("(a) {label} {} is", ".")


@pytest.mark.parametrize(
    "text", ["{prompt} {text}", "{text} {label}", "{prompt}{text} {label}", "{prompt} {prompt} {text} {label}", "{} {prompt} {text} {label}", ""]
)  # fmt: skip
def test_a_template_without_its_slots_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match="slot|touches"):
        ClassificationTemplate(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "template", ["{prompt} {text} the {label}", "{text} {prompt} the {label}", "old {text} in {prompt} {label}"]
)
def test_rows_equal_the_filled_text_as_the_tokenizer_reads_it(kind: str, template: str) -> None:
    parts = prompted(kind, template=template)
    encoder, vocabulary = parts.encoder, parts.encoder.model.vocabulary
    for text in ("red house", "", "the {prompt} river", "dog"):
        ids = vocabulary.encode("snow on stone")
        row = encoder.row(text)
        assert row.count(PROMPT) == row.count(LABEL) == 1
        place = row.index(PROMPT)
        whole = (*row[:place], *ids, *row[place + 1 :])
        assert whole == encoder.filled_row("snow on stone", text)
        assert encoder.misread("snow on stone", ids, [text]) == []
    assert encoder.misread("snow on stone", vocabulary.encode("snow on dog"), ["red"]) == ["red"]


def test_a_prompt_may_stand_behind_the_label_of_a_masked_model_alone() -> None:
    template = "{text} the {label} in {prompt} old"
    parts = prompted("masked", template=template)
    row = parts.encoder.row("red")
    assert row.index(LABEL) < row.index(PROMPT)
    ids = parts.encoder.model.vocabulary.encode("snow on stone")
    embedded = parts.encoder.model.vocabulary.embed(torch.tensor([ids]))
    by_embedding = parts.reader.word_scores([row], embedded)[0]
    by_text = parts.reader.word_scores([parts.encoder.filled_row("snow on stone", "red")])[0]
    assert torch.allclose(by_embedding, by_text, atol=1e-5)
    with pytest.raises(TemplateError, match="never sees"):
        prompted("causal", template=template)


def test_long_texts_are_cut_from_their_end_and_nothing_else_is() -> None:
    parts = prompted(max_length=12)  # the end token, 3 of the prompt, "the", 1 label: 6 are left
    text = "red green blue cat dog bird fish horse"
    cut = parts.encoder.cut(text)
    assert cut == "red green blue cat dog bird"
    assert parts.encoder.cut(cut) == cut
    model = tuner(max_length=12)
    model.fit([text + f" {word}" for word in WORDS[20:40]], ["sun", "moon"] * 10)
    assert any("20 of 20 texts are too long" in note for note in model.report_["notes"])
    assert parts.encoder.cut("redgreenblue" * 40) == "redgreenblue" * 40  # no token that the toy knows
    with pytest.raises(TemplateError, match="shorter"):
        prompted(max_length=5)
