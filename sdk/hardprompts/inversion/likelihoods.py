"""How likely proposers find texts for a target: a product of experts with the model's similarity."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.errors import NonFiniteError
from hardprompts.inversion.proposals import LikelihoodProposer, Proposer
from hardprompts.objectives import Score
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class LikelyScore:
    """A score with what prompts gain as texts that proposers would write: `base + weight * log p / words`.

    Attributes:
        base: the score of the prompts' meaning.
        proposers: whose log-likelihoods are averaged; each text is asked for once.
        features: unit features of each task's target.
        weight: what a nat for each word is worth, in the unit of `base`.
    """

    base: Score
    vocabulary: Vocabulary
    proposers: Sequence[LikelihoodProposer]
    features: Float[Tensor, "tasks features"]
    weight: float
    _known: dict[tuple[int, str], float] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def unit(self) -> str:
        return f"{self.base.unit} and what proposers find likely"

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        scores = self.base.score(ids, groups)
        asked = list(zip(groups.tolist(), map(self.vocabulary.decode, ids.tolist()), strict=True))
        new = [one for one in dict.fromkeys(asked) if one not in self._known]
        if new:
            told = likelihoods(self.proposers, self.features[[task for task, _ in new]], [text for _, text in new])
            self._known.update(
                (one, value / max(1, len(one[1].split()))) for one, value in zip(new, told.tolist(), strict=True)
            )
        gains = self.weight * torch.tensor([self._known[one] for one in asked])
        return scores + gains.to(scores.device, scores.dtype)


def able(proposers: Sequence[Proposer]) -> list[LikelihoodProposer]:
    """The proposers that say how likely texts are."""
    return [one for one in proposers if isinstance(one, LikelihoodProposer)]


def likelihoods(
    proposers: Sequence[LikelihoodProposer], features: Float[Tensor, "texts features"], texts: Sequence[str]
) -> Float[Tensor, " texts"]:
    """log p of each text given the features of its row: the mean over the proposers, in nats.

    Raises:
        ValueError: a proposer gives something else than a number for each text.
        NonFiniteError: a likelihood is NaN or infinite.
    """
    told = []
    for proposer in proposers:
        found = torch.as_tensor(proposer.likelihoods(features, texts)).float().cpu()
        if found.shape != (len(texts),):
            raise ValueError(
                f"{type(proposer).__name__} gave likelihoods of the shape {tuple(found.shape)} for {len(texts)} texts; "
                "it must give one number for each"
            )
        if not found.isfinite().all():
            bad = texts[int((~found.isfinite()).nonzero()[0])]
            raise NonFiniteError(
                f"{type(proposer).__name__} gives {bad!r} a log-likelihood that is NaN or infinite; every text must "
                "have a finite one"
            )
        told.append(found)
    return torch.stack(told).mean(dim=0)


def weighed_by_likelihood(
    score: Score,
    vocabulary: Vocabulary,
    proposers: Sequence[Proposer],
    features: Float[Tensor, "tasks features"],
    weight: float,
) -> Score:
    """The score with what prompts gain by the proposers' likelihoods; the score itself where none has that ability."""
    experts = able(proposers)
    return LikelyScore(score, vocabulary, experts, features, weight) if experts and weight else score
