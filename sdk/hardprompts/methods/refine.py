"""Coordinate refinement: change one place at a time, as long as the score of the text improves."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import Ids, pack, unpack
from hardprompts.vocabulary import Vocabulary

#: Moves of a restart in one step whose text is read back as other tokens and is therefore scored again.
RESPELLED = 4


@dataclasses.dataclass
class _Restart:
    """One prompt on its way to a local optimum, the places still to be tried, and whether with all candidates."""

    ids: Ids
    score: float
    places: list[int]
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Refine:
    """Exact coordinate refinement, to a prompt that no single change improves.

    A step looks at one place of each restart's prompt: one gradient there, then the tokens of
    steepest descent replace it (swap), or before it while there is room (insert), or
    the place is left out (delete). All of these are scored in one batch, and the best that
    improves the score and survives the round trip is taken. A restart goes through its places
    with few tokens, and with all of them where none of the few improves it any more. One whose
    places have all been tried since its last change is done; the method returns when all are.

    Attributes:
        candidates_per_slot: tokens tried in each place; all, if the vocabulary is smaller.
        swap, insert, delete: the moves that are made; without the last two the length stays.
        max_tokens: the length up to which tokens are inserted; None: the initial length.
        first_candidates: tokens tried in each place as long as such a change still improves the prompt.

    Source: the swap is that of greedy coordinate gradient (GCG, arXiv 2307.15043, algorithm 1),
    place by place instead of at random ones; insert and delete as in FLRT (arXiv 2407.17447).
    """

    candidates_per_slot: int = 64
    swap: bool = True
    insert: bool = True
    delete: bool = True
    max_tokens: int | None = None
    first_candidates: int = 16

    def __post_init__(self) -> None:
        for name in ("candidates_per_slot", "first_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the moves at one place of every unfinished restart, until all are done."""
        device = initial_ids.device
        limit = self.max_tokens or initial_ids.shape[1]
        restarts = [
            _Restart(ids, score, self._places(ids, limit, generator))
            for ids, score in zip(unpack(initial_ids), objective.score(initial_ids).tolist(), strict=True)
        ]
        while active := self._active(restarts, limit, generator):
            moves = self._moves(objective, vocabulary, restarts, active, limit)
            if not moves:
                continue
            ids = pack([ids for _, ids in moves], device)
            rows = torch.tensor([row for row, _ in moves], device=device)
            scores = objective.score(ids, rows)
            yield Candidates(ids, scores, rows)
            for row, (prompt, score) in self._winners(objective, restarts, moves, scores.tolist(), limit).items():
                restarts[row] = _Restart(prompt, score, self._places(prompt, limit, generator))

    def _active(self, restarts: Sequence[_Restart], limit: int, generator: torch.Generator) -> list[int]:
        """The restarts with places to try; those that are through with few candidates go on with all."""
        for restart in restarts:
            if not restart.places and not restart.wide and self.first_candidates < self.candidates_per_slot:
                restart.places, restart.wide = self._places(restart.ids, limit, generator), True
        return [row for row, restart in enumerate(restarts) if restart.places]

    def _winners(
        self,
        objective: BoundObjective,
        restarts: Sequence[_Restart],
        moves: Sequence[tuple[int, Ids]],
        scores: Sequence[float],
        limit: int,
    ) -> dict[int, tuple[Ids, float]]:
        """For each restart that a move improves, the best such prompt and its score."""
        winners: dict[int, tuple[Ids, float]] = {}
        tried: collections.Counter[int] = collections.Counter()
        for score, (row, proposal) in sorted(zip(scores, moves, strict=True), key=lambda entry: -entry[0]):
            # Not better, or NaN: only what truly improves is worth the check of its text.
            if row in winners or not score > restarts[row].score + 1e-6:
                continue
            prompt = objective.admissible(proposal, limit)
            if prompt is not None and prompt != proposal and tried[row] < RESPELLED:
                tried[row] += 1
                device = objective.groups.device
                own = objective.score(pack([prompt], device), torch.tensor([row], device=device))
                score = float(own)  # noqa: PLW2901
            elif prompt != proposal:
                continue
            if prompt is not None and score > restarts[row].score + 1e-6:
                winners[row] = (prompt, score)
        return winners

    def _places(self, ids: Ids, limit: int, generator: torch.Generator) -> list[int]:
        """The places to try, in random order: each slot, and the gap behind the last one."""
        count = len(ids) + (self.insert and len(ids) < limit)
        return torch.randperm(count, generator=generator).tolist()

    def _moves(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        restarts: Sequence[_Restart],
        active: Sequence[int],
        limit: int,
    ) -> list[tuple[int, Ids]]:
        """(restart, prompt) for every move at the next place of each active restart."""
        proposals: dict[tuple[int, Ids], None] = {}
        probes: list[tuple[int, Ids, int]] = []  # restart, prompt, the slot whose tokens are exchanged
        for row in active:
            ids, place = restarts[row].ids, restarts[row].places.pop()
            if self.swap and place < len(ids):
                probes.append((row, ids, place))
            if self.insert and len(ids) < limit:
                # Where a token would come in, a copy of its neighbor stands while the gradient is taken.
                neighbor = ids[min(place, len(ids) - 1)]
                probes.append((row, (*ids[:place], neighbor, *ids[place:]), place))
            if self.delete and place < len(ids) > 1 and not restarts[row].wide:
                proposals[row, (*ids[:place], *ids[place + 1 :])] = None
        few = min(self.first_candidates, self.candidates_per_slot)
        for (row, ids, slot), tokens in zip(probes, self._tokens(objective, vocabulary, probes), strict=True):
            for token in tokens[few:] if restarts[row].wide else tokens[:few]:
                proposals[row, (*ids[:slot], token, *ids[slot + 1 :])] = None
        return [move for move in proposals if move[1] != restarts[move[0]].ids]

    def _tokens(
        self, objective: BoundObjective, vocabulary: Vocabulary, probes: Sequence[tuple[int, Ids, int]]
    ) -> list[list[int]]:
        """For each probe the tokens of steepest descent in its slot."""
        count = min(self.candidates_per_slot, len(vocabulary.allowed_ids))
        if count == len(vocabulary.allowed_ids) <= self.first_candidates:
            return [vocabulary.allowed_ids.tolist()] * len(probes)
        device = vocabulary.table.device
        found: list[list[int]] = [[] for _ in probes]
        for length in sorted({len(ids) for _, ids, _ in probes}):
            chosen = [index for index, probe in enumerate(probes) if len(probe[1]) == length]
            ids = torch.tensor([probes[index][1] for index in chosen], device=device)
            rows = torch.tensor([probes[index][0] for index in chosen], device=device)
            _, grad = objective.value_and_grad(vocabulary.embed(ids), rows)
            slots = torch.tensor([probes[index][2] for index in chosen], device=device)
            at_slot: Float[Tensor, "probes dim"] = grad[torch.arange(len(chosen), device=device), slots]
            best = vocabulary.steepest(vocabulary.slopes(at_slot), count)
            for index, tokens in zip(chosen, best.tolist(), strict=True):
                found[index] = tokens
        return found
