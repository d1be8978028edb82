"""Matching by features: the unit vectors of a text tower."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.distillation.matching import MeanMatch, Windows, check_room, filled
from hardprompts.encoders import Backend, TextEncoder, normalize
from hardprompts.errors import NonFiniteError
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate

#: Windows of a long text that are encoded at once.
WINDOWS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureMatch(FeatureSimilarity):
    """The cosine similarity with the text features of an original."""

    def distances(self, texts: Sequence[str], group: int) -> list[float]:
        features = normalize(encoded(self.text_encoder, [filled(self.template, text) for text in texts]))
        found: list[float] = (1 - features @ self.mean_targets[group].to(features)).tolist()
        return found


@torch.no_grad()
def sum_of_windows(match: FeatureSimilarity, windows: Sequence[Float[Tensor, "_ dim"]]) -> Float[Tensor, " features"]:
    """The sum of the unit features of windows in a match's template, each weighted with its number of tokens."""
    found: dict[int, Tensor] = {}
    for length in {len(window) for window in windows}:
        places = [place for place, window in enumerate(windows) if len(window) == length]
        rows = torch.stack([windows[place] for place in places]).to(match.text_encoder.vocabulary.table)
        features = match.features(rows).float() * length
        found.update(zip(places, features, strict=True))
    return torch.stack([found[place] for place in range(len(windows))]).sum(dim=0)


@torch.no_grad()
def encoded(encoder: TextEncoder, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
    """The features of texts as the model's own tokenizer reads them, in no more of the context than they fill.

    What is over the context is cut off, as by the model itself.
    """
    rows = [encoder.vocabulary.encode(text) for text in texts]
    if max(map(len, rows), default=0) > encoder.max_tokens:
        return encoder.encode_text(texts)
    found: dict[int, Tensor] = {}
    for length in sorted({len(row) for row in rows}):
        chosen = [place for place, row in enumerate(rows) if len(row) == length]
        ids = torch.tensor([rows[place] for place in chosen], dtype=torch.long, device=encoder.vocabulary.table.device)
        found |= zip(chosen, encoder.encode(encoder.vocabulary.embed(ids)), strict=True)
    return torch.stack([found[place] for place in range(len(rows))])


def match_features(
    backend: Backend,
    originals: Sequence[Windows],
    template: PromptTemplate = PromptTemplate(),
    allowance: Allowance | None = None,
) -> FeatureMatch:
    """Prompts that have the text features of the originals, one for each task.

    Of an original in several windows the target is the direction of the mean of their unit features, each
    weighted with its number of tokens.

    Args:
        allowance: what this may spend; of an original for which that does not suffice, the first windows are taken,
            at least one, and it is noted.

    Raises:
        TemplateError: an original does not fit into the context beside the template.
        NonFiniteError: its features are NaN or infinite.
    """
    encoder = backend.text_encoder
    # The targets are not known yet, but what goes around a prompt and how features are taken is.
    bare = FeatureMatch(encoder, torch.zeros(1, 1, 1), torch.ones(1, 1), template)
    targets = []
    left = Allowance() if allowance is None else allowance
    for place, windows in enumerate(originals):
        check_room(windows, bare.free_tokens(), template, backend.name)
        read, total = 0, torch.zeros((), device=encoder.vocabulary.table.device)
        for part in left.share(len(originals) - place).batches(windows, WINDOWS_AT_ONCE):
            read, total = read + len(part), total + sum_of_windows(bare, part)
        if not read:
            read, total = 1, left.insist(functools.partial(sum_of_windows, bare, windows[:1]), passes=1)
        left.leave_out("windows of the original", read, len(windows))
        targets.append(normalize(total))
    found = torch.stack(targets).unsqueeze(1)  # (tasks, 1, features)
    if not found.isfinite().all():
        raise NonFiniteError(
            f"the features of the original are NaN or infinite with {backend.name}; use dtype=torch.float32"
        )
    return FeatureMatch(encoder, found, torch.ones(found.shape[:2], device=found.device), template)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanFeatureMatch(MeanMatch):
    """The mean of several feature matches of one encoder, which is a similarity of features side by side too."""

    parts: tuple[FeatureMatch, ...]

    @property
    def text_encoder(self) -> TextEncoder:
        return self.parts[0].text_encoder

    @functools.cached_property
    def mean_targets(self) -> Float[Tensor, "groups features"]:
        """The targets of all templates, side by side, so that the dot product with `features` is the score."""
        joined = torch.cat([part.mean_targets for part in self.parts], dim=1)
        return joined / math.sqrt(len(self.parts))

    def features(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """The unit features in all templates, side by side and at unit length together."""
        joined = torch.cat([part.features(embeddings) for part in self.parts], dim=1)
        return joined / math.sqrt(len(self.parts))
