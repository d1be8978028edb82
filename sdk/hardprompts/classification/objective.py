"""The likelihood of the right label under a prompt: what the gradient follows and what picks the winner."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.classification.batches import MemoryLimit, RowBatches, draw, fit_batches, loss_by_batches
from hardprompts.classification.prefixes import PrefixReading, read
from hardprompts.classification.rows import PROMPT, Row
from hardprompts.classification.verbalizer import LabelTokens
from hardprompts.encoders import LanguageModel
from hardprompts.errors import BackendError
from hardprompts.objectives import Evaluation
from hardprompts.search.graphs import gradient_of
from hardprompts.search.seeds import generator_of

#: What the fluency of a prompt is measured by: "ids" as in PEZ, "embeddings" as in FluentPrompt.
FluencyKind = Literal["ids", "embeddings"]


@dataclasses.dataclass(frozen=True, eq=False)
class LabelReader:
    """Log-likelihoods of label words by a language model, in batches that fit into memory.

    Rows of like length go through the model together, so that little is padded.

    Attributes:
        max_batch_tokens: tokens of all rows of a batch, at most; a longer row is a batch by itself.
        limit: what was learned of the device's memory; where it runs out, the batches are halved.
    """

    model: LanguageModel
    labels: LabelTokens
    max_batch_tokens: int | None = None
    limit: MemoryLimit = dataclasses.field(default_factory=MemoryLimit, repr=False)

    def word_scores(
        self, rows: Sequence[Row], prompts: Float[Tensor, "prompts prompt_tokens dim"] | None = None
    ) -> Float[Tensor, "prompts rows words"]:
        """log p of every label word in every row, under every prompt; without prompts, of rows that need none."""
        prompts = self._no_prompt() if prompts is None else prompts
        found = torch.zeros(len(prompts), len(rows), len(self.labels.ids), device=prompts.device)

        def score(chosen: slice, part: list[int]) -> None:
            _, words = self.read([rows[i] for i in part], prompts[chosen])
            found[chosen, torch.tensor(part, device=prompts.device)] = words

        with torch.no_grad():
            self.batches(rows, len(prompts), prompts.shape[1]).each(score)
        return found

    def first_choices(
        self, rows: Sequence[Row], prompt: Float[Tensor, "1 prompt_tokens dim"] | None = None
    ) -> Int[Tensor, " rows"]:
        """The token that the model itself would begin the label with, out of its whole vocabulary."""
        prompt = self._no_prompt() if prompt is None else prompt
        found = torch.zeros(len(rows), dtype=torch.long)

        def choose(_: slice, part: list[int]) -> None:
            (reading,) = read(self.model, [rows[i] for i in part], prompt, self.labels.queries[:1])
            found[torch.tensor(part)] = self.model.logits(reading.at_label()).argmax(dim=-1).cpu()

        with torch.no_grad():
            self.batches(rows, 1, prompt.shape[1]).each(choose)
        return found

    def read(
        self, rows: Sequence[Row], prompts: Float[Tensor, "prompts prompt_tokens dim"]
    ) -> tuple[PrefixReading, Float[Tensor, "prompts rows words"]]:
        """The batch as it is read for the first query, and log p of each word."""
        words = torch.zeros(len(prompts) * len(rows), len(self.labels.ids), device=prompts.device)
        first: PrefixReading | None = None
        for query, reading in zip(
            self.labels.queries, read(self.model, rows, prompts, self.labels.queries), strict=True
        ):
            first = first or reading
            for place in query.reads:
                likely = self.model.logits(reading.at_label(place.offset)).float().log_softmax(dim=-1)  # (rows, vocab)
                tokens, numbers = zip(*place.picks, strict=True)
                words = words.index_add(1, torch.tensor(numbers, device=words.device), likely[:, list(tokens)])
        assert first is not None, "there are label words"
        return first, words.reshape(len(prompts), len(rows), -1)

    def batches(self, rows: Sequence[Row], prompts: int, prompt_tokens: int) -> RowBatches:
        """(prompts, rows) that go through the model together."""
        added = prompt_tokens + self.labels.longest
        return RowBatches(self.model, rows, prompts, added, self.max_batch_tokens, self.limit)

    def _no_prompt(self) -> Tensor:
        table = self.model.vocabulary.table
        return table.new_zeros(1, 0, table.shape[1])


@dataclasses.dataclass(frozen=True, eq=False)
class LabelLikelihood:
    """How well a prompt makes the model say the right labels: Objective and Score at once.

    L = (1 - fluency_weight) * L_task + fluency_weight * L_fluency. L_task is the mean cross entropy of the
    right class, out of all classes; L_fluency the mean cross entropy of each token of the prompt but the
    first, given what stands before it, so it needs a causal model and two tokens.

    The gradient is computed batch by batch; see `loss_by_batches`.

    Attributes:
        reader: the model and the label words.
        rows: the filled texts, with the prompt's place open.
        targets: the number of the right class of each row.
        sample_size: rows drawn at random at each call for the loss; None: all that the score takes.
        scored: the rows that the score takes; None: all.
        fluency_weight: in [0, 1).
        fluency: "ids": the target tokens are constants, as in PEZ; a prompt that is not made of tokens
            takes the nearest. "embeddings": the probability of the next token is read from its embedding,
            which the gradient reaches, as in FluentPrompt; needs a model whose two ends are tied.
        length_normalized: see `LabelTokens.class_scores`.
        generator: for the draw of rows.
        drawn: the rows that every call takes; None: each call draws.

    Source: PEZ (arXiv 2302.03668), section 5; FluentPrompt (arXiv 2212.10539), equation 5.
    """

    reader: LabelReader
    rows: Sequence[Row]
    targets: Sequence[int]
    sample_size: int | None = None
    scored: Sequence[int] | None = None
    fluency_weight: float = 0.0
    fluency: FluencyKind = "ids"
    length_normalized: bool = False
    generator: torch.Generator | None = None
    drawn: tuple[int, ...] | None = None
    _scores: dict[tuple[int, ...], float] = dataclasses.field(default_factory=dict, repr=False)

    unit = "negative loss"

    def __post_init__(self) -> None:
        if not 0 <= self.fluency_weight < 1:
            raise ValueError(f"fluency_weight must be in [0, 1), got {self.fluency_weight}")
        if self.fluency not in ("ids", "embeddings"):
            raise ValueError(f'fluency must be "ids" or "embeddings", got {self.fluency!r}')
        model = self.reader.model
        if self.fluency_weight and model.kind != "causal":
            raise ValueError(f"{model.name} does not read from left to right, so it knows no fluency; use 0")
        if self.fluency_weight and self.fluency == "embeddings" and model.output_scale is None:
            raise BackendError(
                f"the output layer of {model.name} is not tied to its embeddings, which fluency='embeddings' needs; "
                "use fluency='ids'"
            )

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        drawn = self._draw() if self.drawn is None else list(self.drawn)
        chosen = self._score_rows() if drawn is None else drawn
        loss = self.losses(embeddings, chosen)
        return Evaluation(loss, -loss.detach() if drawn is None else None)

    def held(self) -> "LabelLikelihood":
        """The same with one draw of rows for all its calls."""
        drawn = self._draw() if self.drawn is None else None
        return self if drawn is None else dataclasses.replace(self, drawn=tuple(drawn))

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        prompts = [tuple(row) for row in ids.tolist()]
        missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._scores))
        if missing:
            embeddings = self.reader.model.vocabulary.embed(torch.tensor(missing, device=ids.device))
            with torch.no_grad():
                loss = self.losses(embeddings, self._score_rows())
            self._scores.update(zip(missing, (-loss).tolist(), strict=True))
        return torch.tensor([self._scores[prompt] for prompt in prompts], device=ids.device)

    def fit(self, num_tokens: int, at_once: Callable[[int, int, str], int]) -> None:
        """See `DividedObjective`; it counts for all that this reader reads."""
        vocabulary = self.reader.model.vocabulary
        prompt = vocabulary.embed(vocabulary.sample((1, num_tokens), generator_of(0)))
        fit_batches(
            self.reader.batches(self.rows, 1, num_tokens),
            lambda rows: gradient_of(lambda own: Evaluation(self.losses(own, rows)), prompt),
            at_once,
        )

    def fluency_loss(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, " batch"]:
        """The mean cross entropy of each token of the prompt but the first, over the rows that the score takes."""
        with torch.no_grad():
            return self._mean_fluency(embeddings.detach())

    # --- passes ---------------------------------------------------------------------------

    def _score_rows(self) -> list[int]:
        return list(range(len(self.rows))) if self.scored is None else list(self.scored)

    def _draw(self) -> list[int] | None:
        if self.sample_size is None:
            return None
        if self.sample_size >= len(self.rows):
            return None if self.scored is None else list(range(len(self.rows)))
        return draw(len(self.rows), self.sample_size, self.generator)

    def losses(self, embeddings: Float[Tensor, "batch tokens dim"], chosen: Sequence[int]) -> Float[Tensor, " batch"]:
        """The loss of each prompt over the chosen rows, in float32."""
        with_fluency = self.fluency_weight > 0 and embeddings.shape[1] > 1
        rows = [self.rows[i] for i in chosen]
        targets = torch.tensor([self.targets[i] for i in chosen], device=embeddings.device)
        fluent = self._fluency_rows(rows) if with_fluency else {}
        return loss_by_batches(
            embeddings,
            self.reader.batches(rows, len(embeddings), embeddings.shape[1]),
            lambda own, _, part: self._batch_loss(own, rows, part, targets, fluent),
        )

    def _batch_loss(
        self, prompts: Tensor, rows: Sequence[Row], part: Sequence[int], targets: Tensor, fluent: dict[int, float]
    ) -> Float[Tensor, " prompts"]:
        """What these rows add to the loss of each prompt."""
        chosen = [rows[i] for i in part]
        reading, words = self.reader.read(chosen, prompts)  # (prompts, rows, words)
        classes = self.reader.labels.class_scores(words, length_normalized=self.length_normalized)
        right = classes.log_softmax(dim=-1)[:, torch.arange(len(part), device=words.device), targets[list(part)]]
        loss = (1 - self.fluency_weight) * -right.sum(dim=1) / len(rows)
        weights = [fluent.get(i, 0.0) for i in part]
        if any(weights):
            kept = [place for place, weight in enumerate(weights) if weight]
            own = self._fluency(prompts, reading, kept)  # (prompts, kept)
            weight = torch.tensor([weights[place] for place in kept], device=own.device)
            loss = loss + self.fluency_weight * (own * weight).sum(dim=1)
        return loss

    # --- fluency --------------------------------------------------------------------------

    def _fluency_rows(self, rows: Sequence[Row]) -> dict[int, float]:
        """The rows in which fluency is measured, with their weights: one, where all begin alike."""
        before = {row[: row.index(PROMPT)] for row in rows}
        if len(before) == 1:
            return {0: 1.0}
        return {i: 1 / len(rows) for i in range(len(rows))}

    def _fluency(self, prompts: Tensor, reading: PrefixReading, kept: Sequence[int]) -> Float[Tensor, "prompts kept"]:
        """The mean cross entropy of the prompt's tokens, from the states of the rows that are kept."""
        count, length = prompts.shape[:2]
        rows, states = len(reading.prompt_at), reading.states
        places = reading.prompt_at[list(kept)].unsqueeze(1) + torch.arange(length - 1, device=states.device)
        by_prompt = states.reshape(count, rows, *states.shape[1:])[:, list(kept)]  # (prompts, kept, places, width)
        index = places.reshape(1, len(kept), length - 1, 1).expand(count, -1, -1, states.shape[-1])
        before = by_prompt.gather(2, index)  # (prompts, kept, length - 1, width)
        logits = self.reader.model.logits(before).float()
        if self.fluency == "embeddings":
            scale = self.reader.model.output_scale
            assert scale is not None
            target = (before.float() * (scale * prompts[:, None, 1:].float())).sum(dim=-1)
        else:
            ids = self._tokens(prompts[:, 1:]).unsqueeze(1).expand(-1, len(kept), -1)
            target = logits.gather(3, ids.unsqueeze(-1)).squeeze(-1)
        return (logits.logsumexp(dim=-1) - target).mean(dim=2)

    def _tokens(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Int[Tensor, "batch tokens"]:
        """The token that each embedding is, or is nearest to."""
        table = self.reader.model.vocabulary.table.float()
        query = embeddings.detach().float().reshape(-1, table.shape[1])
        halves = table.square().sum(dim=1) / 2
        return (query @ table.T - halves).argmax(dim=1).reshape(embeddings.shape[:2])

    def _mean_fluency(self, embeddings: Tensor) -> Float[Tensor, " batch"]:
        rows = [self.rows[i] for i in self._score_rows()]
        fluent = self._fluency_rows(rows)
        found = torch.zeros(len(embeddings), device=embeddings.device)
        chosen, queries = [rows[i] for i in fluent], self.reader.labels.queries[:1]

        def add(prompts: slice, part: list[int]) -> None:
            (reading,) = read(self.reader.model, [chosen[i] for i in part], embeddings[prompts], queries)
            own = self._fluency(embeddings[prompts], reading, range(len(part)))
            found[prompts] += own.sum(dim=1) / len(chosen)

        self.reader.batches(chosen, len(embeddings), embeddings.shape[1]).each(add)
        return found
