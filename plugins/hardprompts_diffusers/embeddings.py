"""Text encoders driven from token embeddings, and the vocabularies that belong to them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hardprompts import towers
from hardprompts.errors import BackendError
from hardprompts.towers import Tokenizer, tokenizer_of
from hardprompts.vocabulary import Vocabulary


def embedding_modules(encoder: nn.Module) -> list[nn.Module]:
    """The modules that look tokens up."""
    return towers.embedding_modules(encoder, encoder.get_input_embeddings())  # type: ignore[operator]


@torch.no_grad()
def token_table(encoder: nn.Module, device: torch.device) -> Float[Tensor, "vocab dim"]:
    """The embeddings of all tokens as the encoder sees them, at least in float32.

    In float32 even of a model in half precision, so that small steps of a soft prompt are not lost.
    """
    embedding: Any = embedding_modules(encoder)[0]
    table: Tensor = embedding(torch.arange(len(embedding.weight), device=embedding.weight.device))
    return table.to(device, torch.promote_types(table.dtype, torch.float32))


def vocabulary_of(
    tokenizer: Any, encoder: nn.Module, device: torch.device, adapted: Tokenizer | None = None
) -> Vocabulary:
    """The tokens of one text encoder; added tokens (of textual inversions, say) are left out.

    Raises:
        BackendError: no token survives decode -> encode.
    """
    known = adapted or tokenizer_of(tokenizer)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    vocabulary = Vocabulary.create(token_table(encoder, device), known, special)
    if not len(vocabulary.allowed_ids):
        raise BackendError(
            f"none of the {len(tokenizer)} tokens of the {type(tokenizer).__name__} is text that encodes to that "
            "token; its files are missing or damaged"
        )
    return vocabulary


@contextlib.contextmanager
def soft_tokens(
    encoder: nn.Module,
    embeddings: Float[Tensor, "batch tokens dim"],
    ids: Int[Tensor, " length"],
    slots: Int[Tensor, " tokens"],
) -> Iterator[None]:
    """The text encoder, with embeddings in place of some tokens.

    Args:
        ids: the row of ids that stands for the prompt; other rows (a negative prompt's) are left alone.
        slots: the places of `ids` that the embeddings take, in order.
    """

    def replace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        given = args[0] if args else kwargs["input"]
        rows = given.reshape(-1, given.shape[-1])
        if rows.shape != (len(embeddings), len(ids)) or not bool((rows == ids.to(rows.device)).all()):
            return output
        mask = torch.zeros(len(ids), dtype=torch.bool, device=output.device)
        mask[slots.to(output.device)] = True
        return output.masked_scatter(mask.unsqueeze(-1), embeddings.to(output))

    hooks = [part.register_forward_hook(replace, with_kwargs=True) for part in embedding_modules(encoder)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
