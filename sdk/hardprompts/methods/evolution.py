"""Evolution: cross prompts token by token, let a few tokens drift to their neighbors, keep the best."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import Ids, pack, unpack
from hardprompts.vocabulary import Vocabulary

#: Children that are bred for one that is new and survives the round trip, before a generation is left smaller.
ATTEMPTS = 20


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Crossover and mutation of whole prompts: needs no gradient, so a score may be of generated images.

    In every step, which is a generation, pairs of the survivors have children, the children are
    scored, and the best of both survive. Only children that are new and survive the round trip
    are scored, since scores of images are dear.

    Attributes:
        population: children of each task in a generation.
        survivors: prompts of each task that may have children.
        crossover: "uniform" takes each place from either parent; "one-point" the beginning of one and the end
            of the other.
        mutation_rate: chance of each token to become one of its neighbors. A child that would be like a
            parent always changes in one place.
        neighbors: how many tokens, by the cosine of their embeddings, a token may become; see
            `Vocabulary.neighbors`.
        max_tokens: of a child; None: of the longest prompt to start from.
        choose: takes the selection over from the score: given a task and its prompts, survivors and children,
            it returns the places of those that survive, best first; an empty answer ends the search. All that
            the search starts from may have children in the first generation.
        born: called for each child before it is scored, with its parents and its generation, from 1.

    Source: crossing the prompts of two images is an application of PH2P (arXiv 2312.12416, evolutionary
    generation); the operators are those of genetic algorithms.
    """

    population: int = 16
    survivors: int = 8
    crossover: Literal["uniform", "one-point"] = "uniform"
    mutation_rate: float = 0.1
    neighbors: int = 16
    max_tokens: int | None = None
    choose: Callable[[int, Sequence[Ids]], Sequence[int]] | None = None
    born: Callable[[Ids, tuple[Ids, Ids], int], None] | None = None

    def __post_init__(self) -> None:
        for name in ("population", "survivors", "neighbors", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.mutation_rate <= 1:
            raise ValueError(f"mutation_rate must be in [0, 1], got {self.mutation_rate}")
        if self.crossover not in ("uniform", "one-point"):
            raise ValueError(f"crossover must be uniform or one-point, got {self.crossover!r}")

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes one generation after the other, until no new child is found."""
        device, limit = initial_ids.device, self.max_tokens or initial_ids.shape[1]
        tasks = objective.groups.tolist()
        pools: dict[int, dict[Ids, float]] = {task: {} for task in sorted(set(tasks))}
        for task, ids, score in zip(tasks, unpack(initial_ids), objective.score(initial_ids).tolist(), strict=True):
            pools[task][ids] = score
        met = {task: set(pool) for task, pool in pools.items()}
        if self.choose is None:
            pools = {task: self._selected(task, pool) for task, pool in pools.items()}
        generation = 0
        while all(pools.values()):
            generation += 1
            children = [
                (task, child)
                for task, pool in pools.items()
                for child in self._children(list(pool), met[task], objective, vocabulary, limit, generation, generator)
            ]
            if not children:
                return
            rows = torch.tensor([tasks.index(task) for task, _ in children], device=device)
            bred = pack([child for _, child in children], device)
            scores = objective.score(bred, rows, lengths=[len(child) for _, child in children])
            for (task, child), score in zip(children, scores.tolist(), strict=True):
                pools[task][child] = score
            # Before the candidates are proposed, since who chooses is to see the last generation too.
            pools = {task: self._selected(task, pool) for task, pool in pools.items()}
            yield Candidates(bred, scores, rows)

    def _selected(self, task: int, pool: dict[Ids, float]) -> dict[Ids, float]:
        if self.choose is not None:
            prompts = list(pool)
            return {prompts[place]: pool[prompts[place]] for place in self.choose(task, prompts)}
        best = sorted(pool, key=lambda ids: -pool[ids] if math.isfinite(pool[ids]) else math.inf)
        return {ids: pool[ids] for ids in best[: self.survivors]}

    def _children(
        self,
        pool: Sequence[Ids],
        met: set[Ids],
        objective: BoundObjective,
        vocabulary: Vocabulary,
        limit: int,
        generation: int,
        generator: torch.Generator,
    ) -> list[Ids]:
        """New prompts of a task's survivors; all are added to what was met."""
        children: list[Ids] = []
        for _ in range(ATTEMPTS * self.population):
            if len(children) == self.population:
                break
            order = torch.randperm(len(pool), generator=generator).tolist()
            parents = (pool[order[0]], pool[order[min(1, len(pool) - 1)]])
            crossed = cross(*parents, self.crossover, limit, generator)
            child = objective.admissible(self._mutated(crossed, parents, vocabulary, generator), limit)
            if child is None or child in met:
                continue
            met.add(child)
            children.append(child)
            if self.born is not None:
                self.born(child, parents, generation)
        return children

    def _mutated(self, ids: Ids, parents: tuple[Ids, Ids], vocabulary: Vocabulary, generator: torch.Generator) -> Ids:
        places = (torch.rand(len(ids), generator=generator) < self.mutation_rate).nonzero().flatten().tolist()
        if not places and ids in parents:
            places = [int(torch.randint(len(ids), (), generator=generator))]
        changed = list(ids)
        if places:
            tokens = torch.tensor([ids[place] for place in places], device=vocabulary.table.device)
            for place, near in zip(places, vocabulary.neighbors(tokens, self.neighbors).tolist(), strict=True):
                if near:
                    changed[place] = near[int(torch.randint(len(near), (), generator=generator))]
        return tuple(changed)


def cross(first: Ids, second: Ids, how: Literal["uniform", "one-point"], limit: int, generator: torch.Generator) -> Ids:
    """The tokens of a child of two prompts, `limit` at the most and 1 at the least.

    "uniform": as long as one of them, each place from either, or from the longer one where the
    other has ended. "one-point": the beginning of `first` up to a random place, and what stands
    behind a random place in `second`.
    """
    if how == "one-point":
        head = int(torch.randint(len(first) + 1, (), generator=generator))
        tail = int(torch.randint(len(second) + 1, (), generator=generator))
        child = (*first[:head], *second[tail:])
        return child[:limit] or first[:limit]
    heads = torch.rand(max(len(first), len(second)) + 1, generator=generator) < 0.5
    length = len(first) if bool(heads[-1]) else len(second)
    pairs = zip(range(min(length, limit)), heads.tolist(), strict=False)
    return tuple(first[i] if (of_first and i < len(first)) or i >= len(second) else second[i] for i, of_first in pairs)
