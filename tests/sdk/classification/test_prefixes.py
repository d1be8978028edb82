"""What rows have in common is computed once, and batches that do not fit into memory are halved; no number changes."""

import dataclasses
import itertools

import pytest
import torch

from hardprompts.classification import ClassificationTemplate, LabelLikelihood, Verbalizer
from hardprompts.classification import prefixes as reading
from hardprompts.classification.batches import MAX_BATCH_TOKENS, MemoryLimit, RowBatches, draw
from hardprompts.classification.prefixes import common_beginning
from hardprompts.classification.prompted import PromptedModel
from hardprompts.classification.rows import LABEL, PROMPT
from hardprompts.distillation.outputs import match_outputs
from hardprompts.encoders import PrefixReader
from hardprompts.prompts import PromptTemplate
from hardprompts.testing import ToyLanguageModel

TEXTS = ("red house", "old boat in the river", "green dog", "blue bird on snow and stone", "a", "wind")
WORDS = (("sun", "red house"), ("moon over snow", "red boat"))
TEMPLATES = (
    "{prompt} {text} the {label}",
    "{text} {prompt} the {label}",
    "old {prompt} {text} {label}",
    "old {text} dog {prompt} {label}",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Remembered:
    """All that was read, as embeddings."""

    embeddings: torch.Tensor
    mask: torch.Tensor

    def of_rows(self, rows: torch.Tensor) -> "Remembered":
        return Remembered(self.embeddings[rows], self.mask[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class SharingToy(ToyLanguageModel):
    """The toy with `read_on`; it counts the tokens that a model with keys and values would compute."""

    counted: list[int] = dataclasses.field(default_factory=list)
    most: int | None = None
    max_shared_tokens: int = 1000

    def states(self, embeddings, mask, decoder_ids=None):
        self._count(mask.numel())
        return super().states(embeddings, mask, decoder_ids)

    def read_on(self, embeddings, mask, behind=None, *, keep=True):
        self._count(mask.numel())
        if behind is not None:
            before = (behind.embeddings, behind.mask)
            whole = Remembered(torch.cat([before[0], embeddings], dim=1), torch.cat([before[1], mask], dim=1))
        else:
            whole = Remembered(embeddings, mask)
        found = super().states(whole.embeddings, whole.mask)[:, -mask.shape[1] :]
        return found, whole if keep else None

    def _count(self, tokens: int) -> None:
        if self.most is not None and tokens > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {tokens} tokens")
        self.counted.append(tokens)


def toy(kind: str = "causal", **fields) -> SharingToy:
    plain = ToyLanguageModel.create(kind)
    own = {field.name: getattr(plain, field.name) for field in dataclasses.fields(ToyLanguageModel)}
    return SharingToy(**own, **fields)


def likelihood(model: ToyLanguageModel, template: str, **options) -> LabelLikelihood:
    limit = options.pop("max_batch_tokens", None)
    parts = PromptedModel.create(
        model, ClassificationTemplate(template), Verbalizer((0, 1), WORDS), prompt_tokens=3, max_batch_tokens=limit
    )
    rows = [parts.encoder.row(text) for text in TEXTS]
    return LabelLikelihood(parts.reader, rows, [i % 2 for i in range(len(rows))], **options)


def prompts(count: int = 5, tokens: int = 3) -> torch.Tensor:
    return torch.randn(count, tokens, 24, generator=torch.Generator().manual_seed(1))


def loss_and_grad(objective: LabelLikelihood, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = given.clone().requires_grad_()
    loss = objective(leaf, torch.zeros(len(leaf), dtype=torch.long)).loss
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), grad


@pytest.fixture
def eager_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading.MIN_SAVED_TOKENS, "cpu", 1)


# --- read once ----------------------------------------------------------------------------


@pytest.mark.usefixtures("eager_to_share")
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("count", [1, 5])
def test_what_is_read_once_gives_the_same_losses_and_gradients(template: str, count: int) -> None:
    options = {"fluency_weight": 0.3, "max_batch_tokens": 200}
    plain, sharing = toy(max_shared_tokens=0), toy()
    assert isinstance(sharing, PrefixReader)
    assert not isinstance(ToyLanguageModel.create(), PrefixReader)
    expected = loss_and_grad(likelihood(plain, template, **options), prompts(count))
    found = loss_and_grad(likelihood(sharing, template, **options), prompts(count))
    assert torch.allclose(found[0], expected[0], atol=1e-5)
    assert torch.allclose(found[1], expected[1], atol=1e-5)
    assert found[1].abs().sum(dim=2).min() > 1e-4
    assert sum(sharing.counted) < 0.6 * sum(plain.counted)


def test_each_beginning_saves_the_tokens_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading.MIN_SAVED_TOKENS, "cpu", 1)
    words = Verbalizer((0, 1), (("sun",), ("moon",)))
    texts = ["red house and dog", "old boat in snow"] * 4  # eight texts of four tokens
    spent = {}
    for text in ("{text} {prompt} the {label}", "{prompt} {text} the {label}"):
        model = toy()
        parts = PromptedModel.create(model, ClassificationTemplate(text), words, prompt_tokens=3)
        parts.reader.word_scores([parts.encoder.row(one) for one in texts], prompts(5))
        spent[text] = sum(model.counted)
    # An end token and the text once for each text, then five prompts of three tokens with one behind them.
    assert spent["{text} {prompt} the {label}"] == 8 * (1 + 4) + 5 * 8 * (3 + 1)
    # An end token and the prompt once for each prompt, then the texts with one token behind them.
    assert spent["{prompt} {text} the {label}"] == 5 * (1 + 3) + 5 * 8 * (4 + 1)


def test_words_of_several_tokens_share_the_whole_row() -> None:
    words = Verbalizer((0, 1), (("sun over snow",), ("red boat",)))
    model = toy()
    parts = PromptedModel.create(model, ClassificationTemplate(TEMPLATES[0]), words, prompt_tokens=3)
    row = parts.encoder.filled_row("old", "green dog")
    parts.reader.word_scores([row])
    assert model.counted == [len(row) - 1, 1, 1, 2], "the row, then what words begin with: red, sun, sun over"


def test_few_tokens_are_not_worth_another_pass() -> None:
    model = toy()
    parts = PromptedModel.create(
        model, ClassificationTemplate(TEMPLATES[0]), Verbalizer((0, 1), (("sun",), ("moon",))), prompt_tokens=3
    )
    parts.reader.word_scores([parts.encoder.filled_row("old", text) for text in TEXTS[:2]])
    assert len(model.counted) == 1


@pytest.mark.usefixtures("eager_to_share")
@pytest.mark.parametrize("answers", [(), ("sun", "moon over snow")])
def test_outputs_are_matched_the_same(answers: tuple[str, ...]) -> None:
    templates = [PromptTemplate(text) for text in ("{} red house the", "{} old river in the", "{} a green dog")]
    original = torch.randn(4, 24, generator=torch.Generator().manual_seed(2))
    found, spent = [], []
    for model in (toy(max_shared_tokens=0), toy()):
        match = match_outputs(model, [[original]], templates, answers)
        found.append(loss_and_grad(match, prompts(4)))
        spent.append(sum(model.counted))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
    assert spent[1] < spent[0]


def test_common_beginnings_end_before_the_label() -> None:
    assert common_beginning([(7, PROMPT, 3, 4, LABEL), (7, PROMPT, 3, 5, LABEL), (7, PROMPT, 3, LABEL)]) == 3
    assert common_beginning([(7, 3, LABEL)] * 2) == 2
    assert common_beginning([(7, 3, LABEL), (8, 3, LABEL)]) == 0


# --- batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES[:2])
@pytest.mark.parametrize("limit", [1, 40, 10_000])
def test_every_pair_is_met_once(template: str, limit: int) -> None:
    rows = likelihood(toy(), template).rows
    met = [
        pair
        for chosen, part in RowBatches(toy(), rows, 7, 4, limit)
        for pair in itertools.product(range(chosen.start, chosen.stop), part)
    ]
    assert sorted(met) == [*itertools.product(range(7), range(len(rows)))]


def test_texts_that_come_first_meet_many_prompts_at_once() -> None:
    rows = likelihood(toy(), TEMPLATES[1]).rows
    chosen, part = next(iter(RowBatches(toy(), rows, 7, 4, 60)))
    assert (chosen.stop - chosen.start, len(part)) == (7, 1)
    chosen, part = next(iter(RowBatches(toy(), likelihood(toy(), TEMPLATES[0]).rows, 7, 4, 60)))
    assert (chosen.stop - chosen.start, len(part)) == (1, 4)
    assert set(MAX_BATCH_TOKENS) == {"cpu", "mps", "cuda"}


@pytest.mark.parametrize("kind", ["causal", "masked", "seq2seq"])
@pytest.mark.parametrize("most", [24, 60])
def test_batches_that_do_not_fit_into_memory_are_halved(kind: str, most: int) -> None:
    weight = 0.3 if kind == "causal" else 0.0
    expected = loss_and_grad(likelihood(toy(kind), TEMPLATES[0], max_batch_tokens=1, fluency_weight=weight), prompts())
    objective = likelihood(toy(kind, most=most), TEMPLATES[0], max_batch_tokens=10_000, fluency_weight=weight)
    with pytest.warns(RuntimeWarning, match="out of memory with") as told:
        found = loss_and_grad(objective, prompts())
    assert torch.allclose(found[0], expected[0], atol=1e-5)
    assert torch.allclose(found[1], expected[1], atol=1e-5)
    assert len(told) < 6, "what was learned of the memory is kept within a call"
    again = loss_and_grad(objective, prompts())  # a warning here would be an error
    assert torch.allclose(again[0], found[0], atol=1e-5)
    scores = objective.reader.word_scores(objective.rows, prompts())
    plain = likelihood(toy(kind), TEMPLATES[0]).reader.word_scores(objective.rows, prompts())
    assert torch.allclose(scores, plain, atol=1e-5)


def test_outputs_are_matched_in_what_memory_there_is() -> None:
    templates = [PromptTemplate(text) for text in ("{} red house the", "{} old river in the", "{} a green dog")]
    original = torch.randn(4, 24, generator=torch.Generator().manual_seed(2))
    expected = loss_and_grad(match_outputs(toy(), [[original]], templates), prompts(4))
    with pytest.warns(RuntimeWarning, match="going on with"):
        found = loss_and_grad(match_outputs(toy(most=20), [[original]], templates), prompts(4))
    assert torch.allclose(found[0], expected[0], atol=1e-5)
    assert torch.allclose(found[1], expected[1], atol=1e-5)


@pytest.mark.filterwarnings("ignore:out of memory:RuntimeWarning")
def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        loss_and_grad(likelihood(toy(most=5), TEMPLATES[0]), prompts())


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    rows = likelihood(toy(), TEMPLATES[0]).rows
    limit, calls = MemoryLimit(), []

    def fail(chosen: slice, part: list[int]) -> None:
        calls.append(part)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        RowBatches(toy(), rows, 3, 4, None, limit).each(fail)
    assert (len(calls), limit.tokens) == (1, None)


def test_mini_batches_are_drawn_without_repetition() -> None:
    first = draw(20, 6, torch.Generator().manual_seed(0))
    assert len(set(first)) == 6 and set(first) <= set(range(20))
    assert first == draw(20, 6, torch.Generator().manual_seed(0)) != draw(20, 6, torch.Generator().manual_seed(1))
