"""Prompts under which a language model goes on as it does under an original, behind the same texts.

What is compared is the model's output distribution: of the next token, out of the whole vocabulary, or of a few answers
alone. Each text is a template with one slot, where the original stands, or a prompt instead of it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.classification.batches import MemoryLimit, RowBatches, draw, fit_batches, loss_by_batches
from hardprompts.classification.objective import LabelReader
from hardprompts.classification.prefixes import read
from hardprompts.classification.rows import LABEL, PROMPT, Row
from hardprompts.classification.verbalizer import LabelTokens, Query, Verbalizer
from hardprompts.distillation.matching import Windows, check_room, filled, one_window
from hardprompts.encoders import LanguageModel
from hardprompts.errors import NonFiniteError, TemplateError
from hardprompts.objectives import Evaluation
from hardprompts.prompts import SLOT, PromptTemplate
from hardprompts.search.graphs import gradient_of
from hardprompts.search.seeds import generator_of


@dataclasses.dataclass(frozen=True, eq=False)
class Continuations:
    """How a language model goes on behind rows of tokens: the logarithms of what it finds likely.

    Attributes:
        answers: what it is asked to choose among; None: any token of its vocabulary.
        max_batch_tokens, limit: see `LabelReader`.
    """

    model: LanguageModel
    answers: LabelTokens | None = None
    max_batch_tokens: int | None = None
    limit: MemoryLimit = dataclasses.field(default_factory=MemoryLimit, repr=False)

    @classmethod
    def create(
        cls,
        model: LanguageModel,
        template: PromptTemplate,
        answers: Sequence[str] = (),
        max_batch_tokens: int | None = None,
    ) -> "Continuations":
        """Those of the next token, or of answers that stand one space behind the template's end.

        Raises:
            ValueError: one answer alone, one that is empty, or one that is given twice.
            TemplateError, VocabularyError: an answer has no tokens of its own.
            BackendError: a masked model without a mask token.
        """
        if not answers:
            return cls(model, None, max_batch_tokens)
        words = Verbalizer(tuple(range(len(answers))), tuple((answer,) for answer in answers))
        tokens = LabelTokens.create(words, model, template.fill("a").rstrip(), " ")
        return cls(model, tokens, max_batch_tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return 1 if self.answers is None else self.answers.longest

    def read(
        self, rows: Sequence[Row], prompts: Float[Tensor, "prompts prompt_tokens dim"]
    ) -> Float[Tensor, "prompts rows outcomes"]:
        """log p of each outcome in every row under every prompt; of answers it is that among the answers alone."""
        if self.answers is not None:
            _, words = LabelReader(self.model, self.answers).read(rows, prompts)
            return words.log_softmax(dim=-1)
        inserted = () if self.model.mask_id is None or self.model.kind != "masked" else (self.model.mask_id,)
        query = Query(inserted, () if self.model.kind == "seq2seq" else None, ())
        (reading,) = read(self.model, rows, prompts, [query])
        likely = self.model.logits(reading.at_label()).float().log_softmax(dim=-1)
        return likely.reshape(len(prompts), len(rows), -1)

    def of_rows(
        self, rows: Sequence[Row], prompt: Float[Tensor, "1 prompt_tokens dim"] | None = None
    ) -> Float[Tensor, "rows outcomes"]:
        """log p of each outcome in every row under one prompt; None: in rows that need none."""
        table = self.model.vocabulary.table
        filled_in = table.new_zeros(1, 0, table.shape[1]) if prompt is None else prompt
        found: list[Tensor] = [table] * len(rows)

        def keep(_: slice, part: list[int]) -> None:
            likely = self.read([rows[i] for i in part], filled_in)[0]
            for place, i in enumerate(part):
                found[i] = likely[place]

        with torch.no_grad():
            self.batches(rows, 1, filled_in.shape[1]).each(keep)
        return torch.stack(found)

    def batches(self, rows: Sequence[Row], prompts: int, prompt_tokens: int) -> RowBatches:
        """(prompts, rows) that go through the model together."""
        return RowBatches(self.model, rows, prompts, prompt_tokens + self.longest, self.max_batch_tokens, self.limit)


@dataclasses.dataclass(frozen=True, eq=False)
class OutputMatch:
    """The share of the empty slot's divergence from an original's outputs that a prompt removes.

    The divergence is KL(original || prompt) of the output distributions, in nats, the mean over the templates.

    The gradient is computed batch by batch; see `loss_by_batches`.

    Attributes:
        continuations: what is read of the model.
        templates: the texts with one slot, in all of which prompts are compared.
        targets: (tasks, templates, outcomes) log p under the originals.
        empty: (tasks,) the divergence of the empty slot, in nats.
        sample_size: templates drawn at random at each call for the loss; None: all.
        generator: for that draw.
        drawn: the templates that every call takes; None: each call draws.
    """

    continuations: Continuations
    templates: tuple[PromptTemplate, ...]
    targets: Float[Tensor, "tasks templates outcomes"]
    empty: Float[Tensor, " tasks"]
    sample_size: int | None = None
    generator: torch.Generator | None = None
    drawn: tuple[int, ...] | None = None
    _rows: list[Row] = dataclasses.field(default_factory=list, repr=False)

    unit = "share of the empty slot's divergence removed"

    def __post_init__(self) -> None:
        if not self._rows:
            self._rows.extend(open_row(self.continuations.model, template) for template in self.templates)

    @property
    def template(self) -> PromptTemplate:
        """The first, in which the prompt is returned."""
        return self.templates[0]

    def free_tokens(self) -> int:
        """Tokens that the model's context leaves for the prompt in every template."""
        longest = max(map(len, self._rows)) - 2 + self.continuations.longest
        return self.continuations.model.max_tokens - longest

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        chosen = self._chosen()
        loss = self._divergences(embeddings, groups, chosen)
        return Evaluation(loss, 1 - loss.detach() if len(chosen) == len(self.templates) else None)

    def held(self) -> "OutputMatch":
        """The same with one draw of templates for all its calls."""
        return dataclasses.replace(self, drawn=tuple(self._chosen()))

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        embeddings = self.continuations.model.vocabulary.embed(ids)
        return 1 - self._divergences(embeddings, groups, range(len(self.templates)))

    def fit(self, num_tokens: int, at_once: Callable[[int, int, str], int]) -> None:
        """See `DividedObjective`."""
        vocabulary = self.continuations.model.vocabulary
        prompt = vocabulary.embed(vocabulary.sample((1, num_tokens), generator_of(0)))
        group = torch.zeros(1, dtype=torch.long, device=prompt.device)
        fit_batches(
            self.continuations.batches(self._rows, 1, num_tokens),
            lambda rows: gradient_of(lambda own: Evaluation(self._divergences(own, group, rows)), prompt),
            at_once,
        )

    def distances(self, texts: Sequence[str], group: int) -> list[float]:
        """How far each text, as the tokenizer reads it, is from the original of a task: 0 is the same, 1 as nothing."""
        model = self.continuations.model
        rows = [filled_row(model, filled(template, text)) for text in texts for template in self.templates]
        likely = self.continuations.of_rows(rows).unflatten(0, (len(texts), len(self.templates)))
        each = _divergence(self.targets[group], likely).mean(dim=1) / self.empty[group]
        found: list[float] = each.tolist()
        return found

    def _chosen(self) -> Sequence[int]:
        if self.drawn is not None:
            return self.drawn
        if self.sample_size is None or self.sample_size >= len(self.templates):
            return range(len(self.templates))
        return draw(len(self.templates), self.sample_size, self.generator)

    def _divergences(
        self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"], chosen: Sequence[int]
    ) -> Float[Tensor, " batch"]:
        """The mean divergence of each prompt as a share of the empty slot's, in float32."""
        rows, targets = [self._rows[i] for i in chosen], self.targets[:, list(chosen)]

        def value(own: Tensor, prompts: slice, part: list[int]) -> Tensor:
            likely = self.continuations.read([rows[i] for i in part], own)
            each = _divergence(targets[groups[prompts]][:, part], likely).sum(dim=1) / len(rows)
            return each / self.empty[groups[prompts]]

        batches = self.continuations.batches(rows, len(embeddings), embeddings.shape[1])
        return loss_by_batches(embeddings, batches, value)


def match_outputs(
    model: LanguageModel,
    originals: Sequence[Windows],
    templates: Sequence[PromptTemplate],
    answers: Sequence[str] = (),
    *,
    sample_size: int | None = None,
    generator: torch.Generator | None = None,
    max_batch_tokens: int | None = None,
) -> OutputMatch:
    """Prompts behind which a language model goes on as behind the originals.

    Args:
        templates: texts with one slot each, where the originals stand.
        answers: words one space behind the templates' ends, whose likelihoods among each other are to be the
            same; none: the likelihoods of all next tokens.
        sample_size: templates that are drawn for a gradient, by `generator`; None for all.

    Raises:
        BackendError: an original is longer than the context.
        TemplateError: there is no template, an original does not fit beside one, or a causal model has nothing to
            read where the slot is empty.
        NonFiniteError: the model's outputs are NaN or infinite.
    """
    if not templates:
        raise TemplateError("there is no text to compare outputs behind; give one template or more")
    continuations = Continuations.create(model, templates[0], answers, max_batch_tokens)
    bare = torch.zeros(1, len(templates), 1)
    match = OutputMatch(continuations, tuple(templates), bare, torch.ones(1), sample_size, generator)
    rows, targets = match._rows, []
    for windows in originals:
        (original,) = one_window(windows, model.name)
        check_room([original], match.free_tokens(), templates[0], model.name)
        prompt = original[None].to(model.vocabulary.table)
        targets.append(continuations.of_rows(rows, prompt))
    known = torch.stack(targets)
    if not known.isfinite().all():
        raise NonFiniteError(f"the outputs of {model.name} are NaN or infinite; use dtype=torch.float32")
    ones = torch.ones(len(known), device=known.device)
    match = dataclasses.replace(match, targets=known, empty=ones)
    empty = torch.tensor([match.distances([""], task)[0] for task in range(len(known))], device=known.device)
    return dataclasses.replace(match, empty=empty.clamp_min(torch.finfo(empty.dtype).tiny))


def output_features(model: LanguageModel) -> Callable[[Tensor], Tensor]:
    """What a model expects behind texts given as the embeddings of all their tokens, as features: for `robustness`.

    The features of a text are the roots of the probabilities of the next token, so that the cosine of two texts is
    the overlap of their distributions (the Bhattacharyya coefficient): 1 where they are the same.
    """

    def encode(embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        before, behind = (
            model.vocabulary.embed(torch.tensor(part, dtype=torch.long, device=embeddings.device)).to(embeddings)
            for part in model.frame
        )
        ends = [part.expand(len(embeddings), -1, -1) for part in (before, behind)]
        if model.kind == "masked":
            mask = model.vocabulary.embed(torch.tensor([model.mask_id], device=embeddings.device)).to(embeddings)
            ends[1] = torch.cat([mask.expand(len(embeddings), -1, -1), ends[1]], dim=1)
        rows = torch.cat([ends[0], embeddings, ends[1]], dim=1)
        place = {"causal": rows.shape[1] - 1, "masked": ends[0].shape[1] + embeddings.shape[1], "seq2seq": 0}[
            model.kind
        ]
        states = model.states(rows, torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device))
        return (model.logits(states[:, place]).float().log_softmax(dim=-1) / 2).exp()

    return encode


# --- rows ---------------------------------------------------------------------------------


def open_row(model: LanguageModel, template: PromptTemplate) -> Row:
    """The ids of a template, with PROMPT in its slot and LABEL behind its end."""
    before, after = model.vocabulary.template_ids(template) if template.text != SLOT else ([], [])
    return (*model.frame[0], *before, PROMPT, *after, LABEL, *model.frame[1])


def filled_row(model: LanguageModel, text: str) -> Row:
    """The ids of a text as the tokenizer reads it, with LABEL behind its end."""
    return (*model.frame[0], *model.vocabulary.encode(text), LABEL, *model.frame[1])


def _divergence(target: Float[Tensor, "... outcomes"], likely: Float[Tensor, "... outcomes"]) -> Float[Tensor, "..."]:
    """KL(target || likely) in nats, of log-probabilities."""
    return (target.exp() * (target - likely)).sum(dim=-1)
