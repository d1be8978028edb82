"""Decoding by the nearest token: what soft prompts are usually shown as, and the baseline of every other way."""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.errors import VocabularyError
from hardprompts.prompts import PromptTemplate
from hardprompts.softprompts.prompt import SoftPrompt
from hardprompts.vocabulary import Metric, Vocabulary


@dataclasses.dataclass(frozen=True)
class NearestDecoding:
    """The tokens nearest to a soft prompt, and their text.

    Attributes:
        text: the text of the nearest tokens.
        token_ids: what that text is encoded to in the template: whatever is measured of it is measured of these.
        nearest_ids: the nearest tokens themselves.
        metric: what was meant by near: "cosine" or "l2".
    """

    text: str
    token_ids: tuple[int, ...]
    nearest_ids: tuple[int, ...]
    metric: Metric

    @property
    def survives(self) -> bool:
        """True if the text is encoded to the nearest tokens, and not to others."""
        return self.token_ids == self.nearest_ids


def decode_nearest(
    prompt: SoftPrompt | Mapping[str, Float[Tensor, "tokens _"]] | Float[Tensor, "tokens dim"],
    vocabulary: Vocabulary,
    metric: Metric = "cosine",
    template: PromptTemplate = PromptTemplate(),
) -> NearestDecoding:
    """The text of the tokens nearest to each soft token.

    Args:
        prompt: a soft prompt, or the embeddings of its encoders side by side, in the order of the vocabulary's.
        vocabulary: the tokens; of several encoders that share their ids, `Vocabulary.joint`.
        metric: "cosine" or "l2"; of several encoders the cosines, or the squared distances, add up.

    Raises:
        ValueError: the widths are not those of the vocabulary.
        VocabularyError: in this template the text is not encoded as template + prompt.

    Source: the nearest-neighbor baseline of Khashabi et al. 2022 (arXiv 2112.08348) and Bailey et al. 2023, which
    keeps next to nothing of what a soft prompt does.
    """
    parts = prompt.embeddings if isinstance(prompt, SoftPrompt) else prompt
    embeddings = parts if isinstance(parts, Tensor) else _side_by_side(parts)
    if embeddings.shape[1] != vocabulary.table.shape[1]:
        raise ValueError(
            f"the soft prompt has width {embeddings.shape[1]}, and the vocabulary has {vocabulary.table.shape[1]}; "
            "join the vocabularies of its encoders, or take the embeddings of one"
        )
    nearest = tuple(vocabulary.nearest(embeddings.to(vocabulary.table.device), metric).tolist())
    found = vocabulary.respelled(nearest, template)
    if found is None:
        raise VocabularyError(
            f"{vocabulary.decode(nearest)!r}, the text of the nearest tokens, runs together with the template "
            f"{template.text!r}; use another template"
        )
    return NearestDecoding(vocabulary.decode(nearest), found, nearest, metric)


def _side_by_side(parts: Mapping[str, Float[Tensor, "tokens _"]]) -> Float[Tensor, "tokens dim"]:
    return torch.cat(list(parts.values()), dim=1)
