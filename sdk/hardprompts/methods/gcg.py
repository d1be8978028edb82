"""GCG: swaps at random places, drawn from the tokens of steepest descent, the best of which is taken."""

import dataclasses
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.devices import to_host
from hardprompts.search.bound import BoundObjective
from hardprompts.search.draws import Draws
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import filled
from hardprompts.vocabulary import Vocabulary

#: What is done to the slopes of a step before tokens are chosen by them.
Slopes = Callable[[Float[Tensor, "rows tokens allowed"]], Float[Tensor, "rows tokens allowed"]]


@dataclasses.dataclass(frozen=True)
class GCG:
    """Greedy coordinate gradient.

    Every step takes the `top_k` tokens of steepest descent for each place, draws `search_width` swaps of one
    token each from them, scores all, and goes on from the best, even if it is worse than before.

    Attributes:
        search_width: swaps of each restart in a step; 512 in the paper.
        top_k: tokens of each place that swaps are drawn from; 256 in the paper.
        filter_ids: go on only from swaps that survive the round trip; a restart without any stays where it is.
            On a GPU, the texts of several steps are looked at together, and a restart whose last prompt does not
            survive goes on from the last one that did.
        buffer_size: prompts that each restart remembers: a step goes on from the best of them, and what it finds
            takes the place of the worst if it is better than that. 0: none, as in the paper.

    Source: Zou et al. 2023, arXiv 2307.15043, algorithm 1, and its filter of candidates; the buffer is that of
    nanoGCG, https://github.com/GraySwanAI/nanoGCG. Deviations: restarts in one batch, scores of the whole
    objective, and the filter goes from the best swap downwards after the scores are known, so that few texts
    have to be read back.
    """

    search_width: int = 32
    top_k: int = 64
    filter_ids: bool = True
    buffer_size: int = 0

    def __post_init__(self) -> None:
        if self.search_width < 1 or self.top_k < 1:
            raise ValueError(f"search_width and top_k must be at least 1, got {self.search_width}, {self.top_k}")
        if self.buffer_size < 0:
            raise ValueError(f"buffer_size must not be negative, got {self.buffer_size}")

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the swaps of every restart, without end."""
        return self.steps_along(lambda slopes: slopes, objective, vocabulary, initial_ids, generator)

    def steps_along(
        self,
        direction: Slopes,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """The same, where tokens are chosen by what `direction` makes of the slopes."""
        ids = filled(initial_ids, vocabulary, generator).clone()
        count, width = min(self.top_k, len(vocabulary.allowed_ids)), self.search_width
        numbers = torch.arange(len(ids), device=ids.device)
        buffer = self._buffer(ids, objective, vocabulary, generator) if self.buffer_size else None
        at_once = self.filter_ids and buffer is None and objective.look_every > 1
        survivors = _Survivors(ids, objective) if at_once else None
        shape = (len(ids), width)

        def draw() -> tuple[Tensor, Tensor]:
            slots = torch.randint(ids.shape[1], shape, generator=generator)
            return slots, torch.randint(count, shape, generator=generator)

        draws = Draws(draw, ids.device, objective.look_every)
        while True:
            if buffer is not None:
                ids = buffer.best()
            _, grad = objective.value_and_grad(vocabulary.embed(ids))
            best = vocabulary.steepest(direction(vocabulary.slopes(grad)), count)  # (rows, tokens, count)
            slots, choice = draws.next()
            tokens = best[numbers.unsqueeze(1), slots, choice]  # (rows, width)
            tried = ids.unsqueeze(1).expand(-1, width, -1).clone()
            tried.scatter_(2, slots.unsqueeze(2), tokens.unsqueeze(2))
            rows = numbers.repeat_interleave(width)
            scores = objective.score(tried.flatten(0, 1), rows, lengths=ids.shape[1])
            yield Candidates(tried.flatten(0, 1), scores, rows)
            scores = scores.nan_to_num(nan=-torch.inf).reshape(len(ids), width)
            if survivors is not None:
                ids = survivors.after(tried[numbers, scores.argmax(dim=1)])
                continue
            place, found = self._chosen(tried, scores, objective)
            if buffer is not None:
                buffer.offer(tried[numbers, place], scores[numbers, place].masked_fill(~found, -torch.inf))
            ids = torch.where(found.unsqueeze(1), tried[numbers, place], ids)

    def _chosen(
        self, tried: Int[Tensor, "rows width tokens"], scores: Float[Tensor, "rows width"], objective: BoundObjective
    ) -> tuple[Int[Tensor, " rows"], Tensor]:
        """The place of the best swap of every restart that may be continued from, and whether there is any."""
        if not self.filter_ids:
            return scores.argmax(dim=1), torch.ones(len(scores), dtype=torch.bool, device=scores.device)
        limit = tried.shape[2]
        places: list[int] = []
        for prompts, order in zip(tried.tolist(), scores.argsort(dim=1, descending=True).tolist(), strict=True):
            surviving = (i for i in order if objective.admissible(prompts[i], limit) == tuple(prompts[i]))
            places.append(next(surviving, -1))
        place = torch.tensor(places, device=scores.device)
        return place.clamp_min(0), place >= 0

    def _buffer(
        self,
        ids: Int[Tensor, "rows tokens"],
        objective: BoundObjective,
        vocabulary: Vocabulary,
        generator: torch.Generator,
    ) -> "_Buffer":
        """Filled with what each restart begins with, and random prompts."""
        others = vocabulary.sample((len(ids), self.buffer_size - 1, ids.shape[1]), generator)
        prompts = torch.cat([ids.unsqueeze(1), others], dim=1)
        rows = torch.arange(len(ids), device=ids.device).repeat_interleave(self.buffer_size)
        scores = objective.score(prompts.flatten(0, 1), rows, lengths=ids.shape[1])
        return _Buffer(prompts, scores.nan_to_num(nan=-torch.inf).reshape(len(ids), -1))


class _Survivors:
    """What restarts go on from where the host looks at their prompts only now and then."""

    def __init__(self, ids: Int[Tensor, "rows tokens"], objective: BoundObjective) -> None:
        self._known, self._objective = ids, objective
        self._steps: list[Tensor] = []

    def after(self, ids: Int[Tensor, "rows tokens"]) -> Int[Tensor, "rows tokens"]:
        """These prompts of one more step; where it is time to look, the last of each restart that survive."""
        self._steps.append(ids)
        if len(self._steps) < self._objective.look_every:
            return ids
        found = torch.stack([self._known, *self._steps])  # (steps, rows, tokens)
        latest = self._latest(to_host(found)[0])
        if any(step < len(self._steps) for step in latest):
            ids = found[torch.tensor(latest, device=ids.device), torch.arange(len(latest), device=ids.device)]
        self._known, self._steps = ids, []
        return ids

    def _latest(self, found: Int[Tensor, "steps rows tokens"]) -> list[int]:
        """The last step at which each restart's prompt survives; 0, where none of them does."""
        limit, admissible = found.shape[2], self._objective.admissible
        return [
            next((step for step in range(len(found) - 1, 0, -1) if admissible(own[step], limit) == tuple(own[step])), 0)
            for own in found.transpose(0, 1).tolist()
        ]


@dataclasses.dataclass
class _Buffer:
    """The prompts that the restarts remember, (rows, size, tokens), and their scores, (rows, size)."""

    prompts: Tensor
    scores: Tensor

    def best(self) -> Tensor:
        return self.prompts[torch.arange(len(self.prompts), device=self.prompts.device), self.scores.argmax(dim=1)]

    def offer(self, prompts: Tensor, scores: Tensor) -> None:
        worst, place = self.scores.min(dim=1)
        better = (scores > worst).nonzero().squeeze(1)
        self.prompts[better, place[better]] = prompts[better]
        self.scores[better, place[better]] = scores[better]
