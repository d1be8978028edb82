"""Decoders as proposers: what a search begins with."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, NonFiniteError
from hardprompts.vocabulary import Vocabulary
from hardprompts_decoder.files import Decoder


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DecoderProposer:
    """Proposes what a decoder writes for features.

    A pickle has no weights, and says how to open it again.

    Attributes:
        place: the folder, or the repository of the Hub, that the decoder was opened from.
        backend: the model that it was trained for.
    """

    decoder: Decoder
    place: str
    backend: Backend

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the model."""
        return self.backend.vocabulary

    def __reduce__(self) -> "tuple[Callable[..., DecoderProposer], tuple[Any, ...]]":
        return opened, (self.place, self.backend)

    def __repr__(self) -> str:
        return f"DecoderProposer({self.place!r} for {self.backend.name!r})"

    def propose(
        self, features: Float[Tensor, "targets features"], count: int, max_tokens: int, generator: torch.Generator
    ) -> list[list[str]]:
        """For each row of unit features, `count` texts of at most `max_tokens` tokens.

        Raises:
            NonFiniteError: features are NaN or infinite.
        """
        if not features.isfinite().all():
            raise NonFiniteError("features that a decoder is to write texts for are NaN or infinite; check the images")
        written = self.decoder.write(features, count, max_tokens, generator)
        return [[self.vocabulary.decode(ids) for ids in rows] for rows in written]

    def likelihoods(self, features: Float[Tensor, "texts features"], texts: Sequence[str]) -> Float[Tensor, " texts"]:
        """log p of each text as one that has the unit features of its row, in nats."""
        return self.decoder.likelihoods(features, [self.vocabulary.encode(text) for text in texts])


def open_proposer(name: str, *, backend: Backend) -> DecoderProposer | None:
    """The decoder of a folder, or of a repository of the Hub, as a proposer for a model; None without a name.

    Args:
        name: a folder; or "user/name", if there is no folder of that name.

    Raises:
        BackendError: there is no decoder in the folder, or it was trained for another model.
        FileFormatError: its files are damaged.
        HubError: there is no such repository, or it cannot be reached and is not in the cache.
    """
    return opened(name, backend) if name else None


def opened(folder: str | os.PathLike[str], backend: Backend) -> DecoderProposer:
    """The decoder of a folder or repository as a proposer. Raises as `open_proposer`."""
    if backend.language_model is not None:
        raise BackendError(f"{backend.name} is a language model, which has no features that a decoder could read")
    decoder = Decoder.from_pretrained(folder, backend.device)
    decoder.check(backend, folder)
    return DecoderProposer(decoder, os.fspath(folder), backend)
