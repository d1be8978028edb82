"""What the adapters of transformers' language models share."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from hardprompts.towers import uncompiled
from hardprompts.vocabulary import Vocabulary
from hardprompts_transformers import checkpointing


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """A model and what is known of it; each kind says how states and logits come about.

    Attributes:
        model: transformers' model with its head, frozen.
        gradient_checkpointing: trades time for memory: see `checkpointing.checkpointed`.

    The others are those of `hardprompts.encoders.LanguageModel`.
    """

    model: Any
    name: str
    vocabulary: Vocabulary
    max_tokens: int
    frame: tuple[tuple[int, ...], tuple[int, ...]]
    mask_id: int | None
    output_scale: float | None
    gradient_checkpointing: bool = False

    @contextlib.contextmanager
    def checkpointing(self, *inputs: Tensor) -> Iterator[None]:
        """What a pass of the model runs in."""
        chosen = self.gradient_checkpointing and checkpointing.needed(*inputs)
        with uncompiled(self.model), checkpointing.checkpointed(self.model) if chosen else contextlib.nullcontext():
            yield
