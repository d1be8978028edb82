"""ClassifierPromptTuner on a toy language model: brute force, finite differences, scikit-learn's manners, bad input."""

import dataclasses
import enum
import itertools
import json
import random

import numpy as np
import pytest
import torch

from hardprompts import ClassifierPromptTuner, run_search
from hardprompts.classification import (
    ClassificationTemplate,
    LabelLikelihood,
    Verbalizer,
    evaluate_transfer,
    suggest_verbalizer,
)
from hardprompts.classification.data import holdout_split, sorted_classes
from hardprompts.classification.measures import Measures
from hardprompts.classification.opened import PromptedModel
from hardprompts.classification.rows import LABEL, PROMPT
from hardprompts.encoders import LanguageModel
from hardprompts.errors import BackendError, FileFormatError, NonFiniteError, TemplateError
from hardprompts.methods import PEZ, AutoPromptSGD, FluentPrompt, PromptTuning, RandomSearch, Refine
from hardprompts.methods.adafactor import Adafactor
from hardprompts.search import BoundObjective
from hardprompts.testing import WORDS, ToyLanguageModel, toy_backend, toy_language_model
from hardprompts.vocabulary import Vocabulary

KINDS = ("causal", "masked", "seq2seq")
TEMPLATE = "{prompt} {text} the {label}"
LABELS = ("sun", "moon")


def examples(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts whose last word tells the label."""
    draw = random.Random(seed)
    plain = [word for word in WORDS if word not in (*LABELS, "fire", "gold", "night", "silver")]
    labels = [LABELS[i % 2] for i in range(count)]
    clues = {"sun": ["fire", "gold"], "moon": ["night", "silver"]}
    return [" ".join([*draw.sample(plain, 3), draw.choice(clues[label])]) for label in labels], labels


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


# --- templates and rows -------------------------------------------------------------------


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


# --- label words --------------------------------------------------------------------------


def brute_force_word(model: LanguageModel, row: tuple[int, ...], word: tuple[int, ...]) -> float:
    """log p of a word by one pass for each of its tokens."""
    place, total = row.index(LABEL), 0.0
    vocabulary = model.vocabulary
    for step in range(len(word)):
        decoder = None
        if model.kind == "causal":
            ids, at = [*row[:place], *word[:step]], place + step - 1
        elif model.kind == "masked":
            ids, at = [*row[:place], *[model.mask_id] * len(word), *row[place + 1 :]], place + step
        else:
            ids, at = [*row[:place], *row[place + 1 :]], step
            decoder = torch.tensor([word[:step]], dtype=torch.long)
        embeddings = vocabulary.embed(torch.tensor([ids]))
        states = model.states(embeddings, torch.ones(1, len(ids), dtype=torch.bool), decoder)
        total += float(model.logits(states[0, at]).log_softmax(dim=-1)[word[step]])
    return total


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
        ({"sun": "sun", "moon": "moon", "star": "star"}, "do not occur"),
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


# --- objective ----------------------------------------------------------------------------


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


# --- the search ---------------------------------------------------------------------------


def test_the_default_finds_the_brute_force_optimum_of_one_token() -> None:
    texts, labels = examples(20)
    fitted = tuner(
        num_tokens=1,
        holdout=0.0,
        max_steps=None,
        restarts=4,
        top_k=1,
        method=Refine(candidates_per_slot=10**6, insert=False, delete=False),
    )
    fitted.fit(texts, labels)
    parts = fitted.prompted()
    targets = [LABELS[::-1].index(label) for label in labels]  # the classes are in alphabetical order
    assert list(fitted.classes_) == ["moon", "sun"]
    losses = {
        word: parts.measure(word, texts, targets, with_category_errors=False).loss
        for word in (fitted.backend.vocabulary.decode([i]) for i in fitted.backend.vocabulary.allowed_ids.tolist())
    }
    assert losses[fitted.prompt_] == pytest.approx(min(losses.values()), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_returned_is_what_was_scored(kind: str) -> None:
    texts, labels = examples(24)
    fitted = tuner(kind).fit(texts, labels)
    parts, prompt = fitted.prompted(), fitted.hard_prompt_
    assert prompt.text == fitted.prompt_
    assert parts.encoder.misread(prompt.text, prompt.token_ids, texts) == []
    assert fitted.backend.vocabulary.encode(prompt.text) == list(prompt.token_ids)
    table = fitted.backend.vocabulary.embed(torch.tensor([prompt.token_ids]))
    by_ids = parts.reader.word_scores([parts.encoder.row(text) for text in texts], table)[0]
    by_text = parts.class_scores(fitted.prompt_, texts)
    assert torch.allclose(parts.labels.class_scores(by_ids), by_text, atol=1e-5)
    assert np.allclose(fitted.predict_proba(texts), by_text.softmax(dim=1).numpy(), atol=1e-5)
    again = tuner(kind).fit(texts, labels)
    assert again.prompt_ == fitted.prompt_
    assert again.report_ == fitted.report_


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


# --- holdout, resume, interruption --------------------------------------------------------


def test_holdout_never_divides_what_belongs_together() -> None:
    texts = ["A film.", "a  FILM.", "good", "bad", "fine", "poor", "odd", "dull"] * 3
    targets = [0, 0, 1, 0, 1, 0, 1, 0] * 3
    groups = [i // 8 if text == "good" else f"{i % 8}" for i, text in enumerate(texts)]
    for seed in range(20):
        learn, held = holdout_split(texts, targets, 0.3, torch.Generator().manual_seed(seed), groups)
        assert sorted(learn + held) == list(range(len(texts)))
        assert {" ".join(texts[i].lower().split()) for i in learn}.isdisjoint(
            " ".join(texts[i].lower().split()) for i in held
        )
        assert {groups[i] for i in learn}.isdisjoint(groups[i] for i in held)
        assert {targets[i] for i in learn} == {0, 1}
        assert held
    assert holdout_split(["a", "b"], [0, 1], 0.5, torch.Generator()) == ([0, 1], [])


def test_an_interrupted_fit_goes_on_bit_by_bit(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = examples(20)
    whole = tuner(seeds=3).fit(texts, labels)
    calls = []

    def interrupt(progress) -> None:
        calls.append(progress.step)
        if len(calls) == 9:  # in the second search
            raise KeyboardInterrupt

    halted = tuner(seeds=3, checkpoint=tmp_path, callback=interrupt).fit(texts, labels)
    assert halted.prompt_, "the best so far is kept"
    assert len(list(tmp_path.glob("search-*.json"))) == 1
    resumed = tuner(seeds=3, checkpoint=tmp_path).fit(texts, labels)
    assert len(list(tmp_path.glob("search-*.json"))) == 3
    assert (resumed.prompt_, resumed.report_, resumed.seed_) == (whole.prompt_, whole.report_, whole.seed_)
    assert np.array_equal(resumed.predict_proba(texts), whole.predict_proba(texts))
    monkeypatch.setattr("hardprompts.classifier.run_search", lambda *a, **k: pytest.fail("searched again"))
    tuner(seeds=3, checkpoint=tmp_path).fit(texts, labels)
    monkeypatch.undo()
    other = tuner(seeds=3, checkpoint=tmp_path, num_tokens=2).fit(texts, labels)
    assert len(other.hard_prompt_.token_ids) <= 2, "searches of other settings are not taken"


class Mood(enum.Enum):
    GOOD = "+"
    BAD = "-"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1], {0: "sun", 1: "moon"}), (["sun", "moon"], None), ([Mood.GOOD, Mood.BAD], {Mood.GOOD: "sun", Mood.BAD: "moon"}),
        (np.array([0, 1]), {0: "sun", 1: ["moon", "star"]}), ([True, False], {True: "sun", False: "moon"}),
    ],
)  # fmt: skip
def test_labels_of_any_kind_come_back_after_saving(labels, words, tmp_path) -> None:
    texts, _ = examples(12)
    y = [labels[i % 2] for i in range(12)]
    fitted = tuner(verbalizer=words, max_steps=2).fit(np.array(texts), y)
    assert set(fitted.predict(texts)) <= set(fitted.classes_.tolist())
    assert fitted.score(texts, y) == pytest.approx(
        np.mean([a == b for a, b in zip(fitted.predict(texts), y, strict=True)])
    )
    path = fitted.save_pretrained(tmp_path / "saved")
    assert json.loads(path.read_text())["prompt"]["text"] == fitted.prompt_
    loaded = ClassifierPromptTuner.from_pretrained(tmp_path / "saved", model=toy_language_model())
    assert np.array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))
    assert loaded.hard_prompt_ == fitted.hard_prompt_
    if not isinstance(labels[0], Mood):
        assert np.array_equal(loaded.predict(texts), fitted.predict(texts))


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"format_version": 9}', "\ud800"])
def test_damaged_files_are_named(damage: str, tmp_path) -> None:
    (tmp_path / "tuner.json").write_bytes(damage.encode("utf-8", "surrogatepass"))
    with pytest.raises(FileFormatError, match=r"tuner\.json"):
        ClassifierPromptTuner.from_pretrained(tmp_path)
    with pytest.raises(FileFormatError, match=r"no tuner\.json"):
        ClassifierPromptTuner.from_pretrained(tmp_path / "none")


# --- scikit-learn -------------------------------------------------------------------------


def test_parameters_are_kept_as_they_are_given() -> None:
    model = tuner()
    assert model.get_params()["num_tokens"] == 3
    assert model.set_params(num_tokens=5) is model
    assert model.num_tokens == 5
    with pytest.raises(ValueError, match="no parameter 'tokens'"):
        model.set_params(tokens=3)
    assert "num_tokens=5" in repr(model)


def test_it_works_inside_scikit_learn() -> None:
    pytest.importorskip("sklearn")
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    texts, labels = examples(18)
    model = tuner(max_steps=1, restarts=1, method="pez")
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert copy.model is model.model
    assert is_classifier(model)
    grid = GridSearchCV(model, {"num_tokens": [1, 2]}, cv=2).fit(texts, labels)
    assert grid.best_params_["num_tokens"] in (1, 2)
    assert len(cross_val_score(model, texts, labels, cv=2)) == 2
    pipeline = Pipeline([("tidy", FunctionTransformer(lambda own: [text.lower() for text in own])), ("tuner", model)])
    assert len(pipeline.fit(texts, labels).predict(texts)) == 18
    assert pipeline.set_params(tuner__num_tokens=2)


def test_tables_are_taken() -> None:
    pandas = pytest.importorskip("pandas")
    texts, labels = examples(12)
    frame = pandas.DataFrame({"text": texts, "label": labels}).sample(frac=1, random_state=0)
    fitted = tuner(max_steps=1).fit(frame["text"], frame["label"])
    assert (fitted.predict(frame["text"]) == fitted.predict(frame[["text"]])).all()
    frame.loc[0, "text"] = None
    with pytest.raises(ValueError, match="is no text"):
        fitted.predict(frame["text"])


# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "texts", "labels", "message"),
    [
        ({}, "red house", ["sun"], "put it into a list"),
        ({}, ["red", "blue"], ["sun"], "as many labels"),
        ({}, ["red", "blue"], ["sun", "sun"], "two classes"),
        ({}, [], [], "two classes"),
        ({}, ["red", 3], ["sun", "moon"], r"X\[1\]"),
        ({}, ["red", "blue"], ["sun", None], r"y\[1\]"),
        ({}, ["red", "blue"], ["sun", float("nan")], r"y\[1\]"),
        ({}, ["red", "blue"], [0, 1], "are no words"),
        ({"num_tokens": 0}, ["red", "blue"], ["sun", "moon"], "num_tokens"),
        ({"holdout": 1.0}, ["red", "blue"], ["sun", "moon"], "holdout"),
        ({"init": "words"}, ["red", "blue"], ["sun", "moon"], "init"),
        ({"fluency_weight": 1.0}, ["red", "blue"], ["sun", "moon"], "fluency_weight"),
        ({"max_length": 0}, ["red", "blue"], ["sun", "moon"], "max_length"),
        ({"template": "{text} {label}"}, ["red", "blue"], ["sun", "moon"], "slots"),
        ({"num_tokens": 90}, ["red", "blue"], ["sun", "moon"], "shorter"),
    ],
)
def test_misuse_is_explained(options, texts, labels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tuner(**options).fit(texts, labels)


def test_models_that_cannot_classify_are_refused() -> None:
    with pytest.raises(BackendError, match="no language model"):
        ClassifierPromptTuner(toy_backend()).fit(["a", "b"], ["sun", "moon"])
    with pytest.raises(BackendError, match="ClassifierPromptTuner"):
        toy_language_model().encode_texts(["red"])
    with pytest.raises(ValueError, match="not fitted"):
        tuner().predict(["red"])
    with pytest.raises(ValueError, match="not fitted"):
        tuner().save_pretrained("nowhere")


def test_numbers_that_are_not_finite_are_named() -> None:
    model = ToyLanguageModel.create()
    broken = dataclasses.replace(model, value=model.value * torch.nan)
    backend = dataclasses.replace(toy_language_model(), language_model=broken)
    texts, labels = examples(8)
    with pytest.raises(NonFiniteError, match="NaN"):
        ClassifierPromptTuner(backend, template=TEMPLATE, num_tokens=2, max_steps=2, progress=False).fit(texts, labels)


def test_empty_texts_are_counted() -> None:
    texts, labels = examples(12)
    fitted = tuner(max_steps=1).fit([*texts, "", " "], [*labels, "sun", "moon"])
    assert any("2 of 14 texts are empty" in note for note in fitted.report_["notes"])
    assert fitted.predict_proba([]).shape == (0, 2)
    assert fitted.predict_proba([""]).shape == (1, 2)


def test_classes_are_in_order() -> None:
    assert sorted_classes([2, 10, 1]) == [1, 2, 10]
    assert sorted_classes(["b", "a"]) == ["a", "b"]
    assert sorted_classes([Mood.BAD, Mood.GOOD]) == [Mood.GOOD, Mood.BAD]


# --- figures and transfer -----------------------------------------------------------------


def test_measures_count() -> None:
    scores = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]).log_softmax(dim=1)
    found = Measures.of(scores, [0, 0, 1, 1], torch.tensor([5, 9, 5, 6]), [5, 6])
    assert found.accuracy == 0.75
    assert found.balanced_accuracy == 0.75
    assert found.histogram == (3, 1)
    assert found.category_errors == 0.25
    assert Measures.of(scores[:3], [0, 0, 1]).balanced_accuracy == 0.5
    with pytest.raises(ValueError, match="no texts"):
        Measures.of(scores[:0], [])


def test_transfer_reports_what_each_model_makes_of_the_prompt() -> None:
    texts, labels = examples(20)
    fitted = tuner(max_steps=4).fit(texts, labels)
    others = [fitted.backend, toy_language_model("causal", seed=5), toy_language_model("masked", seed=2)]
    reports = evaluate_transfer(fitted, others, texts, labels, random_prompts=3)
    assert [report.model for report in reports] == ["toy-lm"] * 3
    own = reports[0]
    assert own.prompt.raw.accuracy == pytest.approx(fitted.score(texts, labels))
    assert own.empty.raw == fitted.evaluate(texts, labels, prompt="")
    assert own.gain.mean == pytest.approx(own.prompt.raw.accuracy - own.empty.raw.accuracy)
    for report in reports:
        assert report.prompt.interval.low <= report.prompt.raw.accuracy <= report.prompt.interval.high
        assert sum(report.prompt.raw.histogram) == 20
        assert report.best_random is not None
        json.dumps(report.to_dict())
    from hardprompts.classification.transfer import transfer_table

    assert len(transfer_table(reports).splitlines()) == 2 + 9
    with pytest.raises(ValueError, match="did not see"):
        evaluate_transfer(fitted, others, ["red"], ["star"])


def test_calibration_undoes_a_constant_prior() -> None:
    from hardprompts.classification.opened import batch_prior

    draw = torch.Generator().manual_seed(0)
    targets = [i % 2 for i in range(200)]
    signal = torch.tensor([[1.0, 0.0] if target == 0 else [0.0, 1.0] for target in targets])
    biased = 3 * signal + torch.randn(200, 2, generator=draw) * 0.1 + torch.tensor([6.0, 0.0])
    assert Measures.of(biased, targets).accuracy == 0.5
    assert Measures.of(biased - batch_prior(biased), targets).accuracy > 0.95


# --- few examples -------------------------------------------------------------------------


def test_few_shots_are_drawn_anew_for_each_seed(tmp_path) -> None:
    from hardprompts.classification import few_shot

    texts, labels = examples(40)
    model = tuner(max_steps=2, restarts=1, init="random", checkpoint=tmp_path)
    drawn: list[int] = []
    report = few_shot(model, texts, labels, shots=2, seeds=3, report=lambda run: drawn.append(run.seed))
    assert drawn == [0, 1, 2]
    assert len({run.prompt for run in report.runs}) > 1
    assert report.tested == 40 - 2 * 2 * 2
    assert {path.name for path in tmp_path.iterdir()} == {"draw-0", "draw-1", "draw-2"}
    assert report.accuracy.mean == pytest.approx(np.mean([run.accuracy for run in report.runs]))
    assert report.gain.mean == pytest.approx(np.mean([run.accuracy - run.empty for run in report.runs]))
    assert not hasattr(model, "prompt_"), "the tuner that was given stays as it is"
    # A draw is a fit of its own: the same examples, half of them held out.
    from hardprompts.classification.few_shot import _drawn

    places = _drawn(texts, labels, 4, 1)
    assert sorted(labels[i] for i in places) == ["moon"] * 4 + ["sun"] * 4
    alone = tuner(max_steps=2, restarts=1, init="random", holdout=0.5, random_state=1).fit([texts[i] for i in places], [labels[i] for i in places])  # fmt: skip
    assert alone.prompt_ == report.runs[1].prompt
    assert alone.report_["examples"] == {"learned_from": 4, "held_out": 4}
    left = [i for i in range(40) if i not in places]
    assert alone.score([texts[i] for i in left], [labels[i] for i in left]) == report.runs[1].accuracy
    other = few_shot(model, texts, labels, shots=2, seeds=[1], test=examples(10, seed=3))
    assert other.tested == 10
    assert other.runs[0].prompt == alone.prompt_
    assert json.loads(json.dumps(report.to_dict()))["shots"] == 2
    assert len(report.table().splitlines()) == 3


def test_few_shots_stop_at_what_they_cannot_draw() -> None:
    from hardprompts.classification import few_shot

    texts, labels = examples(8)
    with pytest.raises(ValueError, match="take fewer shots"):
        few_shot(tuner(), texts, labels, shots=3)
    with pytest.raises(ValueError, match="take fewer shots"):
        few_shot(tuner(), [texts[0]] * 8, labels, shots=2)
    with pytest.raises(ValueError, match="shots must be"):
        few_shot(tuner(), texts, labels, shots=0)
    with pytest.raises(ValueError, match="pass some as test"):
        few_shot(tuner(max_steps=1), texts, labels, shots=2)

    def interrupt(progress) -> None:
        raise KeyboardInterrupt

    texts, labels = examples(20)
    halted = few_shot(tuner(callback=interrupt), texts, labels, shots=2, seeds=4)
    assert [run.stop_reason for run in halted.runs] == ["interrupted"]
