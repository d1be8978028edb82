"""How a prompt does in other models: with and without it, with random ones, calibrated, with intervals."""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hardprompts.allowance import Allowance, clock
from hardprompts.classification.data import as_labels, as_texts
from hardprompts.classification.judging import FEWEST
from hardprompts.classification.measures import Measures
from hardprompts.classification.prompted import PromptedModel, batch_prior, language_model
from hardprompts.classification.template import ClassificationTemplate
from hardprompts.encoders import Backend, load_backend
from hardprompts.evaluation import Interval, bootstrap_interval, markdown_table
from hardprompts.hub.machine import model_label
from hardprompts.search.seeds import generator_of

if TYPE_CHECKING:
    from hardprompts.classification.tuner import ClassifierPromptTuner

#: What the figures of a prompt take of the time of its scores: answers out of all tokens, and intervals, are more.
COST_OF_FIGURES = 2.5


@dataclasses.dataclass(frozen=True)
class PromptFigures:
    """How one prompt does in one model.

    Attributes:
        prompt: its text; "" is the empty template.
        tokens: how many it has in this model's tokenizer.
        raw: without calibration.
        interval: of the raw accuracy, by bootstrap over the texts.
        content_free: after taking away what the model says of texts without content.
        batch: after taking away what the model says of these texts on average; it sees all of them at once.
    """

    prompt: str
    tokens: int
    raw: Measures
    interval: Interval
    content_free: Measures
    batch: Measures


@dataclasses.dataclass(frozen=True)
class TransferReport:
    """How a prompt does in one model, beside the empty template and random prompts.

    Attributes:
        model: its name.
        label_tokens: how many tokens each label word has there.
        empty, prompt: the two.
        best_random: the best of `random_prompts` random prompts of as many words, by raw accuracy on these
            very texts: what luck alone reaches. None if there were none.
        gain: of the prompt over the empty template in raw accuracy, text by text, by bootstrap.
        left_out: what the limits left no room for, in words.
    """

    model: str
    label_tokens: tuple[int, ...]
    empty: PromptFigures
    prompt: PromptFigures
    best_random: PromptFigures | None
    random_prompts: int
    gain: Interval
    left_out: tuple[str, ...] = ()

    HEAD = (
        "model", "prompt", "tokens", "accuracy", "content-free", "batch", "balanced", "category errors", "answers",
    )  # fmt: skip

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of a table under `HEAD`."""
        named = [("empty", self.empty), ("this", self.prompt)]
        if self.best_random is not None:
            named.append((f"best of {self.random_prompts} random", self.best_random))
        label = model_label(self.model)
        return [
            (
                label, name, f"{figures.tokens}", str(figures.interval), f"{figures.content_free.accuracy:.3f}",
                f"{figures.batch.accuracy:.3f}", f"{figures.raw.balanced_accuracy:.3f}",
                "" if figures.raw.category_errors is None else f"{100 * figures.raw.category_errors:.1f} %",
                "/".join(map(str, figures.raw.histogram)),
            )
            for name, figures in named
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, without folders of this machine."""
        return {**dataclasses.asdict(self), "model": model_label(self.model)}


def transfer_table(reports: Sequence[TransferReport]) -> str:
    """A Markdown table of several models, and below it what was left out."""
    table = markdown_table([TransferReport.HEAD, *(row for report in reports for row in report.rows())])
    told = dict.fromkeys(f"{report.model}: {what}" for report in reports for what in report.left_out)
    return table + (f"\nNo room within the limits: {'; '.join(told)}.\n" if told else "")


def evaluate_transfer(
    tuner: "ClassifierPromptTuner",
    models: "Iterable[str | Backend]",
    X: Iterable[Any],
    y: Iterable[Any],
    *,
    random_prompts: int = 5,
    seed: int = 0,
    confidence: float = 0.95,
    deadline: float | None = None,
    max_evaluations: int | None = None,
) -> list[TransferReport]:
    """How the prompt of a fitted tuner does in other models, as text that each tokenizer reads in its own way.

    Raw accuracy can be the prior of the labels and nothing else: a constant answer is right for every
    text of its class. So it stands beside balanced and calibrated accuracy and the counts of the answers.

    Args:
        models: names or backends; the tuner's own may be among them.
        X, y: labeled texts that neither search nor choice has seen.
        random_prompts: drawn from each model's words, as many as the prompt has.
        seed: of those and of the bootstrap.
        confidence: of the intervals.
        deadline: seconds for the whole call, to open models too. Fewer texts and random prompts are taken where it is
            short, and models that it does not suffice for are left out, but for the first; a keyboard interrupt does
            the same. The reports say so.
        max_evaluations: prompts with a text that go through the models, likewise.

    Raises:
        ValueError: the tuner is not fitted, or a label is unknown.
        BackendError: a model is not a language model.
    """
    tuner.prompted()  # raises where the tuner is not fitted
    texts = as_texts(X)
    known = list(tuner.verbalizer_.classes)
    labels = as_labels(y, len(texts))
    if unknown := sorted({repr(label) for label in labels if label not in known}):
        raise ValueError(f"labels that fit did not see: {', '.join(unknown)}; known are {known}")
    targets = [known.index(label) for label in labels]
    allowance, chosen = Allowance(deadline, max_evaluations), list(models)
    reports: list[TransferReport] = []
    for number, opened in enumerate(chosen):
        if reports and not allowance.affords(1):
            break
        with allowance.reporting() if reports else contextlib.nullcontext():
            backend = opened if isinstance(opened, Backend) else load_backend(opened, device=tuner.device)
            left = allowance.share(len(chosen) - number)
            reports.append(_report(tuner, backend, texts, targets, random_prompts, seed, confidence, left))
    if len(reports) < len(chosen):
        told = f"models: {len(reports)} of {len(chosen)}"
        reports[-1] = dataclasses.replace(reports[-1], left_out=(*reports[-1].left_out, told))
    return reports


def _report(
    tuner: "ClassifierPromptTuner",
    backend: Backend,
    texts: Sequence[str],
    targets: Sequence[int],
    random_prompts: int,
    seed: int,
    confidence: float,
    allowance: Allowance,
) -> TransferReport:
    model = language_model(backend)
    encode = model.vocabulary.encode
    prompted = PromptedModel.create(
        model, ClassificationTemplate(tuner.template), tuner.verbalizer_,
        prompt_tokens=max(tuner.num_tokens, len(encode(tuner.prompt_))), max_length=tuner.max_length,
        max_batch_tokens=tuner.max_batch_tokens, length_normalized=tuner.length_normalized,
    )  # fmt: skip
    generator = generator_of(seed)

    texts, targets = _affordable(prompted, tuner.prompt_, texts, targets, random_prompts, allowance)

    def figures(prompt: str) -> tuple[PromptFigures, Tensor]:
        allowance.spend(len(texts))
        rows = [prompted.encoder.filled_row(prompt, prompted.encoder.cut(text)) for text in texts]
        words = prompted.reader.word_scores(rows)[0]
        scores = prompted.labels.class_scores(words, length_normalized=prompted.length_normalized)
        starts = prompted.labels.first_ids
        raw = Measures.of(scores, targets, prompted.reader.first_choices(rows), starts)
        hits = (scores.argmax(dim=1).cpu() == torch.tensor(targets)).double()
        found = PromptFigures(
            prompt, len(encode(prompt)), raw, bootstrap_interval(hits.tolist(), generator, confidence),
            Measures.of(scores - prompted.prior(prompt), targets), Measures.of(scores - batch_prior(scores), targets),
        )  # fmt: skip
        return found, hits

    empty, without = figures("")
    own, hits = figures(tuner.prompt_)
    length = max(1, len(tuner.prompt_.split()))
    drawn = model.vocabulary.sample((random_prompts, length), generator).tolist()
    others: list[PromptFigures] = []
    with allowance.reporting():
        for ids in drawn:
            if not allowance.affords(len(texts)):
                break
            others.append(figures(model.vocabulary.decode(ids))[0])
    allowance.leave_out("random prompts", len(others), random_prompts)
    return TransferReport(
        model=backend.name,
        label_tokens=tuple(map(len, prompted.labels.ids)),
        empty=empty,
        prompt=own,
        best_random=max(others, key=lambda other: other.raw.rank, default=None),
        random_prompts=len(others),
        left_out=tuple(allowance.left_out),
        gain=bootstrap_interval((hits - without).tolist(), generator, confidence),
    )


def _affordable(
    prompted: PromptedModel,
    prompt: str,
    texts: Sequence[str],
    targets: Sequence[int],
    random_prompts: int,
    allowance: Allowance,
) -> tuple[list[str], list[int]]:
    """As many of the texts, drawn at random, as there is room for under all prompts; all, without limits.

    How long they take is measured on the first few.
    """
    if not allowance.is_limited:
        return list(texts), list(targets)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    prompts, count = 2 + random_prompts, len(texts)
    if allowance.remaining is not None:
        count = min(count, allowance.remaining // prompts)
    if allowance.seconds_left is not None:
        began = clock()
        prompted.class_scores(prompt, [texts[i] for i in order[:FEWEST]])
        each = COST_OF_FIGURES * (clock() - began) / min(FEWEST, len(order))
        count = min(count, int(allowance.seconds_left / (prompts * each)))
    chosen = sorted(order[: max(FEWEST, count)])
    allowance.leave_out("texts", len(chosen), len(texts))
    return [texts[i] for i in chosen], [targets[i] for i in chosen]
