"""How many prompts go through a model at once: as many as fit into the memory that a search may take."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.devices import is_out_of_memory, release
from hardprompts.errors import BackendError
from hardprompts.objectives import Objective, Score
from hardprompts.search.graphs import gradient_of
from hardprompts.search.seeds import generator_of
from hardprompts.towers.memory import RESERVED, held_bytes, held_tensors, peak_of, size_text
from hardprompts.vocabulary import Vocabulary

#: What a batch of prompts is for: their gradients, or their scores alone.
Purpose = Literal["gradient", "score"]

#: What is done with some prompts and the tasks that they are for.
Work = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class Room:
    """A device's memory, and what lies in it as long as a search runs.

    Attributes:
        size: bytes of the device's memory; `RESERVED` of it is left alone.
        device: that the search runs on.
        held: what holds tensors there: models, vocabularies, objectives.
        tables: bytes that the search makes for itself, beside those; see `hardprompts.search.tables`.
    """

    size: int
    device: torch.device
    held: tuple[object, ...]
    tables: int = 0

    @property
    def usable(self) -> int:
        """Bytes for all that a search needs."""
        return int((1 - RESERVED) * self.size)

    @property
    def resident(self) -> int:
        """Bytes that are there whatever batch goes through the model; on CUDA those of the whole process."""
        held = sum(held_bytes(held_tensors(*self.held), self.device).values())
        allocated = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
        return max(held, allocated) + self.tables

    def at_once(self, one: int, two: int, what: str) -> int:
        """How many fit, of something of which one takes `one` bytes and two take `two`.

        Args:
            what: is one of them, for the message.

        Raises:
            BackendError: not even one does; the message has the least memory that would do.
        """
        resident = self.resident
        left = self.usable - resident - one
        if left < 0:
            least = int((resident + one) / (1 - RESERVED)) // 2**20 + 2  # a prompt may get a token longer, too
            raise BackendError(
                f"vram = {size_text(self.size)} is too little: the model and its tables take {size_text(resident)}, "
                f"and {what} {size_text(one)} more, of {size_text(self.usable)} that can be used; the least is "
                f"vram='{least}MB'. Half precision (dtype=torch.bfloat16) takes about half"
            )
        return 1 + int(left // max(1, two - one))


def bytes_of_a_prompt(objective: Objective, score: Score, vocabulary: Vocabulary, num_tokens: int) -> int:
    """What a single prompt takes: its gradient or its score, whichever is more."""
    ids = vocabulary.sample((1, num_tokens), generator_of(0))
    draws = getattr(objective, "generator", None)
    before = None if draws is None else draws.get_state()
    group = torch.zeros(1, dtype=torch.long, device=ids.device)
    embeddings = vocabulary.embed(ids)
    taken = 0
    for work in (lambda: gradient_of(objective, embeddings, group), lambda: score.score(ids, group)):
        work()  # what is only made once
        taken = max(taken, peak_of(work, ids.device))
    if draws is not None and before is not None:
        draws.set_state(before)  # the search finds what it would have found
    return taken


class BatchMemory:
    """Has work done for prompts in parts that fit into memory.

    Where the room is known, it is measured on two prompts of each length how many fit, before a batch of that length
    goes through the model for the first time. Where memory runs out nevertheless, the parts are halved.
    """

    def __init__(self, room: Room | None = None) -> None:
        self.room = room
        self._limit: int | None = None
        self._measured: dict[tuple[Purpose, int], int] = {}

    def divides(self, count: int) -> bool:
        """Whether a batch of so many prompts may be done in several parts."""
        return self.room is not None or (self._limit is not None and self._limit < count)

    def in_parts(self, work: Work, batch: Tensor, groups: Int[Tensor, " batch"], purpose: Purpose) -> list[Tensor]:
        """What the work gives for a batch of prompts.

        Raises:
            BackendError: a single prompt does not fit into the room.
        """
        most = len(batch) if self.room is None else self._fitting(self.room, work, batch, groups, purpose)
        while True:
            limit = max(1, min(most, self._limit or len(batch)))
            try:
                parts = [work(b, g) for b, g in zip(batch.split(limit), groups.split(limit), strict=True)]
                return [torch.cat(values) if len(parts) > 1 else values[0] for values in zip(*parts, strict=True)]
            except RuntimeError as error:
                if not is_out_of_memory(error) or limit == 1:
                    raise
                self._limit = max(1, min(limit, len(batch)) // 2)
            release()
            warnings.warn(
                f"out of memory with {min(limit, len(batch))} prompts at once; going on with {self._limit}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _fitting(self, room: Room, work: Work, batch: Tensor, groups: Tensor, purpose: Purpose) -> int:
        """The prompts of this length that fit at once."""
        tokens = batch.shape[1]
        if (purpose, tokens) not in self._measured:

            def taken(count: int) -> int:
                rows = torch.arange(count, device=batch.device) % len(batch)
                own, tasks = batch[rows], groups[rows]
                return peak_of(lambda: work(own, tasks), room.device)

            work(batch[:1], groups[:1])  # what is only made once
            self._measured[purpose, tokens] = room.at_once(
                taken(1), taken(2), f"the {purpose} of one prompt of {tokens} tokens"
            )
        return self._measured[purpose, tokens]
