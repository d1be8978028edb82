"""One batch of rows through a language model: what rows and prompts have in common is computed once.

A causal model does not look ahead, so what it makes of a beginning is the same whatever follows. There are three such
beginnings: a text before the prompt, for all prompts; a prompt before the texts, for all texts; and all that stands
before the label, for all words that may stand there.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.classification.rows import LABEL, PROMPT, Inputs, Row
from hardprompts.classification.verbalizer import Query
from hardprompts.encoders import LanguageModel, Prefix, PrefixReader

#: As many tokens as take the time that one more pass costs, whatever is in it.
MIN_SAVED_TOKENS = {"cpu": 64}
OTHER_MIN_SAVED_TOKENS = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class PrefixReading:
    """What a model makes of one batch for one query: every prompt in every row.

    Attributes:
        states: (prompts * rows, places, width)
        read_at: (rows,) the place at which the label is read.
        prompt_at: (rows,) where the prompt begins; -1 where it is not among the places.
    """

    states: Float[Tensor, "batch places width"]
    read_at: Int[Tensor, " rows"]
    prompt_at: Int[Tensor, " rows"]

    def at_label(self, offset: int = 0) -> Float[Tensor, "batch width"]:
        """The states at the place at which the label is read, or some places behind."""
        rows = torch.arange(len(self.states), device=self.states.device)
        return self.states[rows, self.read_at.repeat(len(self.states) // len(self.read_at)) + offset]


def read(
    model: LanguageModel,
    rows: Sequence[Row],
    prompts: Float[Tensor, "prompts prompt_tokens dim"],
    queries: Sequence[Query],
) -> Iterator[PrefixReading]:
    """What the model makes of the rows under the prompts, query by query."""
    longest = max(len(query.inserted) for query in queries)
    if isinstance(model, PrefixReader) and all(row[-1] == LABEL for row in rows):
        stem = Inputs.create(model, rows, prompts, Query((), None, ()))
        if 2 * stem.mask.shape[1] + longest <= model.max_shared_tokens:
            yield from _read_once(model, stem, _shared(rows, prompts), queries)
            return
    for query in queries:
        inputs = Inputs.create(model, rows, prompts, query)
        states = model.states(inputs.embeddings, inputs.mask, inputs.decoder_ids)
        yield PrefixReading(states, inputs.read_at, inputs.prompt_at)


def _read_once(
    model: PrefixReader, stem: Inputs, shared: "_Shared | None", queries: Sequence[Query]
) -> Iterator[PrefixReading]:
    """The same, with all that stands before the label read once for all queries."""
    keep = any(query.inserted for query in queries)
    prefix: Prefix | None = None
    if shared is not None:
        whole, prefix = shared.read(model, stem, keep)
    elif keep:
        states, prefix = model.read_on(stem.embeddings, stem.mask)
        whole = PrefixReading(states, stem.read_at, stem.prompt_at)
    else:
        whole = PrefixReading(model.states(stem.embeddings, stem.mask), stem.read_at, stem.prompt_at)
    for query in queries:
        if not query.inserted:
            yield whole
            continue
        words = model.vocabulary.embed(torch.tensor(query.inserted, device=stem.mask.device))
        words = words.expand(len(stem.mask), -1, -1)
        states, _ = model.read_on(words, stem.mask.new_ones(words.shape[:2]), prefix, keep=False)
        at = torch.full_like(stem.read_at, len(query.inserted) - 1)
        yield PrefixReading(states, at, torch.full_like(stem.prompt_at, -1))


# --- what is shared -----------------------------------------------------------------------


def common_beginning(rows: Sequence[Row]) -> int:
    """How many places all rows begin with alike, of those before the label; that of the prompt is one place."""
    first, last = min(rows), max(rows)  # what these two have in common, all have that stand between them
    most = min(row.index(LABEL) for row in (first, last))
    return next((i for i in range(most) if first[i] != last[i]), most)


@dataclasses.dataclass(frozen=True)
class _Shared:
    """The beginnings of a batch that are read once.

    Attributes:
        heads: (rows,) how many tokens of each row are.
        of_texts: True: they stand before the prompt and are read once for each row; False: they are the same in
            all rows and are read once for each prompt.
        tokens: that are read in all, padding included.
    """

    heads: tuple[int, ...]
    of_texts: bool
    tokens: int

    def read(self, model: PrefixReader, stem: Inputs, keep: bool) -> tuple[PrefixReading, Prefix | None]:
        """The states of the whole rows; the heads and what is behind them are padded apart from each other."""
        count, (batch, width) = len(self.heads), stem.mask.shape
        device, prompts = stem.mask.device, batch // count
        number = torch.arange(batch, device=device)  # prompt by prompt
        heads, longest = torch.tensor(self.heads, device=device), max(self.heads)
        if self.of_texts:  # no prompt is in them, so no gradient either
            embeddings, once = stem.embeddings[:count].detach(), number % count
            inside = torch.arange(longest, device=device) < heads.unsqueeze(1)
        else:
            embeddings, once = stem.embeddings[::count], number // count
            inside = torch.ones(prompts, longest, dtype=torch.bool, device=device)
        before, prefix = model.read_on(embeddings[:, :longest], inside)
        assert prefix is not None
        lengths = stem.mask.sum(dim=1)
        starts = heads.repeat(prompts)
        places = starts.unsqueeze(1) + torch.arange(int((lengths - starts).max()), device=device)
        mask = places < lengths.unsqueeze(1)
        index = places.clamp_max(width - 1).unsqueeze(-1).expand(-1, -1, stem.embeddings.shape[2])
        behind = stem.embeddings.gather(1, index)
        states, whole = model.read_on(behind, mask, prefix.of_rows(once), keep=keep)
        moved = longest - heads  # all that is read of a row whose head is padded stands behind that
        reading = PrefixReading(torch.cat([before[once], states], dim=1), stem.read_at + moved, stem.prompt_at + moved)
        return reading, whole


def _shared(rows: Sequence[Row], given: Float[Tensor, "prompts prompt_tokens dim"]) -> _Shared | None:
    """The beginnings that save the most tokens, if any save enough."""
    prompts, prompt_tokens = given.shape[:2]
    widths = [len(row) - 1 + (prompt_tokens - 1 if PROMPT in row else 0) for row in rows]
    every = prompts * len(rows) * max(widths)
    found = []
    if all(PROMPT in row for row in rows):
        heads = [min(row.index(PROMPT), width - 1) for row, width in zip(rows, widths, strict=True)]
        rest = max(width - head for width, head in zip(widths, heads, strict=True))
        found.append(_Shared(tuple(heads), True, len(rows) * (max(heads) + prompts * rest)))
    alike = common_beginning(rows)
    alike += prompt_tokens - 1 if PROMPT in rows[0][:alike] else 0
    alike = min(alike, min(widths) - 1)
    found.append(_Shared((alike,) * len(rows), False, prompts * (alike + len(rows) * (max(widths) - alike))))
    best = min((one for one in found if min(one.heads) > 0), key=lambda one: one.tokens, default=None)
    enough = MIN_SAVED_TOKENS.get(given.device.type, OTHER_MIN_SAVED_TOKENS)
    return best if best is not None and every - best.tokens >= enough else None
