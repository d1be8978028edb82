"""What the adapters of transformers' language models share."""

import dataclasses
from typing import Any

from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """A model and what is known of it; each kind says how states and logits come about.

    Attributes:
        model: transformers' model with its head, frozen.

    The others are those of `hardprompts.encoders.LanguageModel`.
    """

    model: Any
    name: str
    vocabulary: Vocabulary
    max_tokens: int
    frame: tuple[tuple[int, ...], tuple[int, ...]]
    mask_id: int | None
    output_scale: float | None
