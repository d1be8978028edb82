"""Racing: all prompts are judged on a few items first, and only the best of them on all."""

import dataclasses
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hardprompts.search.bound import BoundObjective
from hardprompts.search.rows import NO_TOKEN


@dataclasses.dataclass(frozen=True)
class Race:
    """Which of several prompts are worth a whole pass, where the score is a sum over items (`ItemizedScore`).

    All of them are judged on the same few items. The best go on to the next round, which has twice as many items, until
    those that are left are judged on all. Where there is a prompt to be better than, it is compared item by item: the
    differences spread much less than the scores, since what one noise does to a picture it does to both. Whoever lies
    behind it by more than `confidence` standard errors is out, so that most races between bad prompts end early.

    Attributes:
        first_items: items of the first round.
        kept: the share of the prompts of each restart that go on to the next round, one at least.
        confidence: standard errors that the estimated gain may lie below 0; they are those of the differences of all
            prompts of the round.
        lead: standard errors of its own differences by which whoever finishes must be ahead; else it counts as
            beaten, since the best of many is ahead by chance.

    Source: successive halving, Jamieson and Talwalkar 2016 (arXiv 1502.07943); leaving early, Hoeffding races, Maron
    and Moore 1994; common random numbers, Glasserman and Yao 1992.
    """

    first_items: int = 2
    kept: float = 0.35
    confidence: float = 1.0
    lead: float = 1.0

    def __post_init__(self) -> None:
        if self.first_items < 1 or not 0 < self.kept <= 1 or not self.confidence >= 0 or not self.lead >= 0:
            raise ValueError(
                "first_items must be at least 1, kept in (0, 1], confidence and lead not negative, got "
                f"{self.first_items}, {self.kept}, {self.confidence}, {self.lead}"
            )

    def judged(
        self,
        objective: BoundObjective,
        ids: Int[Tensor, "batch tokens"],
        rows: Int[Tensor, " batch"],
        generator: torch.Generator,
        against: "tuple[Float[Tensor, 'restarts items'], Int[Tensor, ' restarts']] | None" = None,
    ) -> Float[Tensor, "batch items"]:
        """What every item adds to the scores of those who finish; NaN where a prompt was out before.

        Args:
            rows: the restart of each prompt; those of one restart race with each other.
            generator: of the order of the items.
            against: of each restart, what the items add to the score of the prompt to be better than, and how many
                tokens it has; None: there is none.
        """
        assert objective.items is not None
        order = spread_order(objective.items, generator)
        found = torch.full((len(ids), len(order)), torch.nan, device=ids.device)
        lengths = (ids != NO_TOKEN).sum(dim=1)
        left, done, wanted = torch.arange(len(ids), device=ids.device), 0, min(self.first_items, len(order))
        while len(left):
            now = order[done:wanted].to(ids.device)
            found[left[:, None], now] = objective.item_scores(ids[left], rows[left], now)
            done = wanted
            if done == len(order):
                if against is not None:
                    found[left[~self._ahead(found[left] - against[0][rows[left]])]] = torch.nan
                break
            seen = order[:done].to(ids.device)
            parts, costs = found[left][:, seen], objective.score_per_token * lengths[left]
            if against is not None:
                known, tokens = against
                parts = parts - known[rows[left]][:, seen]
                costs = costs - objective.score_per_token * tokens[rows[left]]
            left = left[self._kept(parts, costs, rows[left], len(order), against is not None)]
            wanted = min(2 * done, len(order))
        return torch.where(found.isfinite().all(dim=1, keepdim=True), found, torch.nan)

    def _ahead(self, differences: Float[Tensor, "left items"]) -> Bool[Tensor, " left"]:
        """Who is ahead beyond what the noises alone would do."""
        if differences.shape[1] < 2:
            return differences.sum(dim=1) > 0
        error = (differences.var(dim=1) / differences.shape[1]).sqrt()
        ahead: Tensor = differences.mean(dim=1) > self.lead * error
        return ahead

    def _kept(self, parts: Tensor, costs: Tensor, rows: Tensor, items: int, compared: bool) -> Bool[Tensor, " left"]:
        """Who goes on: the best of each restart, less those who are behind beyond doubt."""
        gains = items * parts.mean(dim=1) - costs
        alive = gains.isfinite()
        if compared and parts.shape[1] > 1 and bool(alive.any()):
            error = items * parts[alive].var(dim=1).mean().sqrt() / math.sqrt(parts.shape[1])
            alive = alive & (gains + self.confidence * error > 0)
        kept = torch.zeros_like(alive)
        for row in rows[alive].unique().tolist():
            own = (alive & (rows == row)).nonzero().squeeze(1)
            best = gains[own].topk(max(1, math.ceil(self.kept * len(own)))).indices
            kept[own[best]] = True
        return kept


def spread_order(items: int, generator: torch.Generator) -> Int[Tensor, " items"]:
    """The items in an order of which every beginning is spread over all of them, from a place drawn at random.

    Items that lie beside each other (noise levels, say) are alike.

    Source: van der Corput 1935.
    """
    bits = max(1, (items - 1).bit_length())
    halves = (int(f"{place:0{bits}b}"[::-1], 2) / 2**bits for place in range(2**bits))
    first = int(torch.randint(items, (1,), generator=generator))
    return torch.tensor([(place + first) % items for place in dict.fromkeys(int(items * part) for part in halves)])
