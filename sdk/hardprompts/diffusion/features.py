"""A text encoder that is a denoiser's conditioning, so that searches can compare it."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.encoders import Backend, ConditioningEncoder, NoisePredictor, load_backend
from hardprompts.errors import BackendError
from hardprompts.noise import Conditioning
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class ConditioningFeatures:
    """The conditioning of a denoiser, as the features of a `TextEncoder`.

    The mean over the places of what the text encoders give, less the same of the empty prompt: two
    texts are near to each other if they change the denoiser's conditioning in the same direction.
    """

    encoder: ConditioningEncoder

    @property
    def vocabulary(self) -> Vocabulary:
        return self.encoder.vocabulary

    @property
    def max_tokens(self) -> int:
        return self.encoder.max_tokens

    def encode(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Features of texts given as the embeddings of all their tokens. Not normalized."""
        return _pooled(self.encoder.condition(embeddings)) - self._empty()

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        """Features of texts by the model's own tokenizers and forward pass. Not normalized."""
        return torch.cat([_pooled(self.encoder.condition_text(text)) for text in texts]) - self._empty()

    def _empty(self) -> Float[Tensor, "1 features"]:
        table = self.vocabulary.table
        with torch.no_grad():
            return _pooled(self.encoder.condition(table.new_zeros(1, 0, table.shape[1])))


def _pooled(conditioning: Conditioning) -> Float[Tensor, "batch features"]:
    parts = [tensor for tensor in conditioning.tensors if tensor.is_floating_point()]
    return torch.cat([part if part.ndim == 2 else part.flatten(1, -2).mean(dim=1) for part in parts], dim=-1)


def backend_of(encoder: ConditioningEncoder) -> Backend:
    """A denoiser with its text encoders, or these alone, as a backend of text."""
    table = encoder.vocabulary.table
    predictor = encoder if isinstance(encoder, NoisePredictor) else None
    return Backend(
        encoder.name, ConditioningFeatures(encoder), None, table.device, table.dtype, noise_predictor=predictor
    )


def conditioning_encoder(backend: Backend) -> ConditioningEncoder | None:
    """What conditions the denoiser of a backend: its noise predictor, or text encoders alone; None if it has none."""
    if backend.noise_predictor is None and isinstance(backend.text_encoder, ConditioningFeatures):
        return backend.text_encoder.encoder
    return backend.noise_predictor


def denoiser_of(model: str | Backend | NoisePredictor) -> NoisePredictor:
    """The denoiser of a model: itself, that of a backend, or that of the model of a name.

    Raises:
        BackendError: the model makes no images.
        UnknownName: no such backend.
    """
    opened = load_backend(model) if isinstance(model, str) else model
    if not isinstance(opened, Backend):
        return opened
    if opened.noise_predictor is None:
        raise BackendError(
            f"{opened.name} has no denoiser; open a text-to-image model, as in diffusers:<folder or hub id>"
        )
    return opened.noise_predictor
