"""Which prompts and rows go through a language model together, and what to do where they do not fit into memory."""

import collections
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.classification.prefixes import common_beginning
from hardprompts.classification.rows import PROMPT, Row
from hardprompts.devices import is_out_of_memory, release
from hardprompts.encoders import LanguageModel, PrefixReader
from hardprompts.towers.memory import peak_of

#: Tokens of all rows that go through the model at once, where nothing else is said.
MAX_BATCH_TOKENS = {"cpu": 1024, "mps": 16384, "cuda": 65536}

#: What a batch is asked to do: (prompts, numbers of rows). Its effects come last, so that it can be repeated.
Work = Callable[[slice, list[int]], None]


@dataclasses.dataclass
class MemoryLimit:
    """What was learned of a device's memory.

    Attributes:
        tokens: of all rows under all prompts that fit at once; None: any number, or unknown.
    """

    tokens: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class RowBatches:
    """Every row under every prompt, in batches that go through a model together and fit into memory.

    Attributes:
        prompts: how many prompts each row is met with.
        added: tokens that a row has beside its own: those of a prompt and of a label.
        max_tokens: of all rows of a batch that are computed; a longer row is a batch by itself. None: by the device.
        limit: is lowered where memory runs out.
    """

    model: LanguageModel
    rows: Sequence[Row]
    prompts: int
    added: int
    max_tokens: int | None = None
    limit: MemoryLimit = dataclasses.field(default_factory=MemoryLimit)

    def each(self, work: Work) -> None:
        """Has the work done for each batch; one that does not fit into memory is done in halves.

        Raises:
            RuntimeError: there is no memory for a single row under a single prompt.
        """
        left = collections.deque(self)
        while left:
            batch = left.popleft()
            size = self._tokens(*batch)
            halves = self._halves(*batch)
            if self.limit.tokens is None or size <= self.limit.tokens or not halves:
                try:
                    work(*batch)
                    continue
                except RuntimeError as error:
                    if not halves or not is_out_of_memory(error):
                        raise
                release()
                self.limit.tokens = size // 2
                warnings.warn(
                    f"out of memory with {size} tokens at once; going on with {size // 2}", RuntimeWarning, stacklevel=2
                )
            left.extendleft(reversed(halves))

    def __iter__(self) -> Iterator[tuple[slice, list[int]]]:
        """(prompts, rows) of each batch: all pairs are met once, rows of like length side by side."""
        limit = self.max_tokens or MAX_BATCH_TOKENS.get(self.model.vocabulary.table.device.type, 4096)
        order = sorted(range(len(self.rows)), key=lambda i: -len(self.rows[i]))
        texts_first, start = self._texts_first(), 0
        while start < len(order):
            row = self.rows[order[start]]
            width = len(row) + self.added
            # What stands before the prompt is read once for all prompts: the more of them in a batch, the better.
            once = row.index(PROMPT) if texts_first else 0
            fit = max(1, (limit - once) // (width - once))
            at_once = min(self.prompts, fit) if texts_first else max(1, fit // (len(order) - start))
            count = max(1, limit // (once + at_once * (width - once)))
            part = order[start : start + count]
            for first in range(0, self.prompts, at_once):
                yield slice(first, min(first + at_once, self.prompts)), part
            start += count

    def _texts_first(self) -> bool:
        """True if more is saved by reading the texts once for all prompts than the prompts once for all texts."""
        if self.prompts < 2 or not isinstance(self.model, PrefixReader) or not all(PROMPT in row for row in self.rows):
            return False
        before = sum(row.index(PROMPT) for row in self.rows)
        return before > len(self.rows) * common_beginning(self.rows)

    def _tokens(self, prompts: slice, part: Sequence[int]) -> int:
        pairs: int = (prompts.stop - prompts.start) * len(part)
        return pairs * (max(len(self.rows[i]) for i in part) + self.added)

    def _halves(self, prompts: slice, part: list[int]) -> list[tuple[slice, list[int]]]:
        """The batch in two, or nothing where it is a single row under a single prompt."""
        if len(part) > 1:
            middle = (len(part) + 1) // 2
            return [(prompts, part[:middle]), (prompts, part[middle:])]
        middle = (prompts.start + prompts.stop + 1) // 2
        if middle == prompts.stop:
            return []
        return [(slice(prompts.start, middle), part), (slice(middle, prompts.stop), part)]


def fit_batches(
    batches: RowBatches, gradient: Callable[[Sequence[int]], object], at_once: Callable[[int, int, str], int]
) -> None:
    """Sets how many tokens go through the model together, from what its shortest and its longest row take.

    A short row takes more for each of its tokens, since what is as wide as the vocabulary is computed once a row.

    Args:
        gradient: takes one of some rows, by their numbers, under one prompt.
        at_once: see `DividedObjective`.
    """
    device = batches.model.vocabulary.table.device
    order = sorted(range(len(batches.rows)), key=lambda i: len(batches.rows[i]))
    tokens = []
    for row in (order[0], order[-1]):
        gradient([row])  # what is only made once
        one, two = (peak_of(functools.partial(gradient, [row] * count), device) for count in (1, 2))
        width = len(batches.rows[row]) + batches.added
        tokens.append(width * at_once(one, two, f"the gradient of one text of {width} tokens with its prompt"))
    batches.limit.tokens = min(tokens)


def loss_by_batches(
    embeddings: Float[Tensor, "batch tokens dim"],
    batches: RowBatches,
    value: Callable[[Tensor, slice, list[int]], Tensor],
) -> Float[Tensor, " batch"]:
    """The sum of a loss over batches, with its gradient if one is asked for, in float32.

    The gradient is taken batch by batch, as the passes are made, so that memory holds one batch however many there
    are. There are therefore no derivatives of higher order.

    Args:
        value: what a batch adds to the loss of each of its prompts, given their embeddings and the batch.
    """
    with_grad = torch.is_grad_enabled() and embeddings.requires_grad
    leaf = embeddings.detach()
    loss = torch.zeros(len(leaf), device=leaf.device)
    grad = torch.zeros(leaf.shape, device=leaf.device)

    def add(prompts: slice, part: list[int]) -> None:
        with torch.set_grad_enabled(with_grad):
            own = leaf[prompts].requires_grad_(with_grad)
            added = value(own, prompts, part)
        if with_grad:
            (found,) = torch.autograd.grad(added.sum(), own)
            grad[prompts] += found.float()
        loss[prompts] += added.detach()

    batches.each(add)
    # The value, with the gradient that was computed along the way.
    return loss + (grad * (embeddings - leaf)).sum(dim=(1, 2)) if with_grad else loss


def draw(total: int, size: int, generator: torch.Generator | None) -> list[int]:
    """The numbers of a mini-batch of `size` out of `total`, without repetition, drawn by the generator."""
    chosen: Int[Tensor, " size"] = torch.randperm(total, generator=generator)[:size]
    return [int(i) for i in chosen]
