"""Rows of token ids: of different lengths in one tensor, random, filled up."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.errors import VocabularyError
from hardprompts.search.seeds import Stream, generator_of
from hardprompts.vocabulary import Vocabulary

#: Stands behind the last token of a row that is shorter than its batch.
NO_TOKEN = -1


def random_starts(
    vocabulary: Vocabulary, rows: int, num_tokens: int, seed: int, initial_prompt: str | None = None
) -> Int[Tensor, "rows tokens"]:
    """Random tokens for every restart, which begin with the tokens of `initial_prompt`.

    Raises:
        VocabularyError: the initial prompt has no tokens, or more than `num_tokens`.
    """
    ids = vocabulary.sample((rows, num_tokens), Stream.STARTS.generator(seed))
    if initial_prompt is not None:
        given = vocabulary.encode(initial_prompt)
        if not 0 < len(given) <= num_tokens:
            raise VocabularyError(
                f"initial_prompt {initial_prompt!r} has {len(given)} tokens; it needs 1 to num_tokens = {num_tokens}"
            )
        ids[:, : len(given)] = torch.tensor(given, device=ids.device)
    return ids


def random_texts(vocabulary: Vocabulary, count: int, num_tokens: int, seed: int = 0) -> list[str]:
    """Random prompts as texts, the same whatever the seed of a search, so that figures can be compared."""
    drawn = vocabulary.sample((count, num_tokens), generator_of(seed)).tolist()
    return [vocabulary.decode(ids) for ids in drawn]


def filled(
    ids: Int[Tensor, "rows tokens"], vocabulary: Vocabulary, generator: torch.Generator
) -> Int[Tensor, "rows tokens"]:
    """The rows with random tokens in place of NO_TOKEN, for methods that move prompts of one length."""
    missing = ids == NO_TOKEN
    if not bool(missing.any()):
        return ids
    drawn = vocabulary.sample((ids.shape[0], ids.shape[1]), generator)
    return torch.where(missing, drawn.to(ids.device), ids)


def pack(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Int[Tensor, "rows tokens"]:
    """Rows of ids of any length as one tensor, with NO_TOKEN behind the shorter ones."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[NO_TOKEN] * (width - len(row))] for row in rows], device=device)


Ids = tuple[int, ...]


def unpack(ids: Int[Tensor, "rows tokens"]) -> list[Ids]:
    """The rows as tuples, without NO_TOKEN."""
    return [tuple(i for i in row if i != NO_TOKEN) for row in ids.tolist()]
