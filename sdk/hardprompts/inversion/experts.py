"""Who has a say in which prompt wins beside the searched model: a judge, a prior and proposers."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.encoders import Backend, normalize
from hardprompts.inversion.editability import EDITABLE_WEIGHT, EditableScore
from hardprompts.inversion.likelihoods import able, weighed_by_likelihood
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.proposals import Proposer, weighed_by_proposals
from hardprompts.inversion.readability import TextLikelihood, readable_score
from hardprompts.inversion.space import SearchSpace
from hardprompts.inversion.targets import Target
from hardprompts.objectives import JudgedSimilarity, Score
from hardprompts.search.rows import Ids


@dataclasses.dataclass(frozen=True, eq=False)
class Experts:
    """The models of one call.

    Attributes:
        backend: the searched model.
        judge, prior: see `PromptInverter`.
        proposers: those that are asked.
    """

    backend: Backend
    judge: Backend | None
    prior: TextLikelihood | None
    proposers: Sequence[Proposer]

    @property
    def models(self) -> list[Backend]:
        """The models that look at images, the searched one first."""
        return [self.backend] if self.judge is None else [self.backend, self.judge]

    def token_cost(self, options: InversionOptions) -> float:
        """What a token must add, in spreads."""
        if options.token_cost is not None:
            return options.token_cost
        whole = self.backend.image_encoder is None or options.style == "caption"
        return 0.0 if whole else options.TOKEN_COST

    def need_spread(self, options: InversionOptions) -> bool:
        """Whether anything counts in spreads."""
        costs = self.token_cost(options) or options.penalties or options.repetition_penalty or options.editable
        return bool(costs or self.proposers or self.prior is not None)

    def leave_whole(self, options: InversionOptions, proposals: Sequence[Sequence[Ids]]) -> bool:
        """Whether captions stay as they were proposed, since nobody knows how another text would read."""
        return options.style == "caption" and self.prior is None and not able(self.proposers) and all(proposals)

    def score(
        self,
        space: SearchSpace,
        aims: Sequence[Sequence[Target]],
        proposals: Sequence[Sequence[Ids]],
        options: InversionOptions,
        spread: float,
    ) -> Score:
        """What picks the winner: the judge's or the model's similarity, with what is asked of the text.

        Args:
            aims: for each model, what the prompt of each task is to resemble.
            spread: the unit of what options cost.
        """
        words, template = space.words, space.required.template
        similarity: Score = space.objective
        if self.judge is not None:
            means = torch.stack([target.mean for target in aims[1]])
            similarity = JudgedSimilarity(self.judge, self.backend, means, template)
        if options.editable:
            similarity = EditableScore(similarity, space.objective, words, EDITABLE_WEIGHT * spread)
        readable = readable_score(similarity, words, template, self.prior, options, spread)
        weight = options.likelihood_share * spread
        likely = weighed_by_likelihood(readable, words, self.proposers, unit_features(aims[0]), weight)
        return weighed_by_proposals(likely, proposals, len(words.table), options.proposal_weight * spread)


def unit_features(targets: Sequence[Target]) -> Float[Tensor, "targets features"]:
    """What proposers are shown of targets."""
    return normalize(torch.stack([target.mean for target in targets]))
