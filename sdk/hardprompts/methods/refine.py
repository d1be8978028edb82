"""Coordinate refinement: change one place at a time, as long as the score of the text improves."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.devices import to_device, to_host
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
        limit = self.max_tokens or initial_ids.shape[1]
        restarts = [
            _Restart(ids, score, self._places(ids, limit, generator))
            for ids, score in zip(unpack(initial_ids), objective.score(initial_ids).tolist(), strict=True)
        ]
        while active := self._active(restarts, limit, generator):
            moves = self._moves(objective, vocabulary, restarts, active, limit)
            if moves is None:
                continue
            scores = objective.score(moves.ids, moves.rows, lengths=moves.lengths)
            yield Candidates(moves.ids, scores, moves.rows)
            ids, rows, told = to_host(moves.ids, moves.rows, scores)
            proposed = list(zip(rows.tolist(), unpack(ids), strict=True))
            for row, (prompt, score) in self._winners(objective, restarts, proposed, told.tolist(), limit).items():
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
            # Not better, or NaN: only what truly improves is worth the check of its text. In half precision the
            # prompt itself, among others, may seem to.
            if row in winners or not score > restarts[row].score + 1e-6 or proposal == restarts[row].ids:
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
    ) -> "_Moves | None":
        """Every move at the next place of each active restart; None, if there are none."""
        shorter: list[tuple[int, Ids]] = []
        probes: list[_Probe] = []
        for row in active:
            ids, place = restarts[row].ids, restarts[row].places.pop()
            if self.swap and place < len(ids):
                probes.append(_Probe(row, ids, place))
            if self.insert and len(ids) < limit:
                # Where a token would come in, a copy of its neighbor stands while the gradient is taken.
                neighbor = ids[min(place, len(ids) - 1)]
                probes.append(_Probe(row, (*ids[:place], neighbor, *ids[place:]), place))
            if self.delete and place < len(ids) > 1 and not restarts[row].wide:
                shorter.append((row, (*ids[:place], *ids[place + 1 :])))
        few = min(self.first_candidates, self.candidates_per_slot)
        count = min(self.candidates_per_slot, len(vocabulary.allowed_ids))
        columns = [range(few, count) if restarts[probe.row].wide else range(min(few, count)) for probe in probes]
        device = objective.groups.device
        if device.type != "cpu":
            return _moves_on_device(device, shorter, probes, columns, self._tokens(objective, vocabulary, probes))
        proposals = dict.fromkeys(shorter)
        tokens = [found for part in self._tokens(objective, vocabulary, probes) for found in part.tolist()]
        of_probe = dict(zip(_by_length(probes), tokens, strict=True))
        for place, (probe, own) in enumerate(zip(probes, columns, strict=True)):
            for column in own:
                proposals[probe.row, probe.with_token(of_probe[place][column])] = None
        moves = [(row, ids) for row, ids in proposals if ids != restarts[row].ids]
        return _Moves.of(moves) if moves else None

    def _tokens(
        self, objective: BoundObjective, vocabulary: Vocabulary, probes: "Sequence[_Probe]"
    ) -> list[Int[Tensor, "probes tokens"]]:
        """The tokens of steepest descent in the slot of each probe: the shortest prompts together, then the next."""
        count = min(self.candidates_per_slot, len(vocabulary.allowed_ids))
        if count == len(vocabulary.allowed_ids) <= self.first_candidates:
            return [vocabulary.allowed_ids.expand(len(probes), -1)] if probes else []
        found = []
        for length in sorted({len(probe.ids) for probe in probes}):
            same = [probe for probe in probes if len(probe.ids) == length]
            ids, rows, slots = to_device(
                objective.groups.device,
                torch.tensor([probe.ids for probe in same]),
                torch.tensor([probe.row for probe in same]),
                torch.tensor([probe.slot for probe in same]),
            )
            _, grad = objective.value_and_grad(vocabulary.embed(ids), rows)
            at_slot: Float[Tensor, "probes dim"] = grad[torch.arange(len(same), device=grad.device), slots]
            found.append(vocabulary.steepest(vocabulary.slopes(at_slot), count))
        return found


@dataclasses.dataclass(frozen=True)
class _Probe:
    """A prompt of a restart, and the slot whose token is exchanged."""

    row: int
    ids: Ids
    slot: int

    def with_token(self, token: int) -> Ids:
        return (*self.ids[: self.slot], token, *self.ids[self.slot + 1 :])


@dataclasses.dataclass(frozen=True)
class _Moves:
    """Prompts that are tried, the restart of each, and its tokens."""

    ids: Int[Tensor, "moves tokens"]
    rows: Int[Tensor, " moves"]
    lengths: list[int]

    @classmethod
    def of(cls, moves: Sequence[tuple[int, Ids]]) -> "_Moves":
        return cls(
            pack([ids for _, ids in moves]), torch.tensor([row for row, _ in moves]), [len(ids) for _, ids in moves]
        )


def _by_length(probes: Sequence[_Probe]) -> list[int]:
    """The places of the probes in the order in which they are asked for tokens."""
    return sorted(range(len(probes)), key=lambda place: len(probes[place].ids))


def _moves_on_device(
    device: torch.device,
    shorter: Sequence[tuple[int, Ids]],
    probes: Sequence[_Probe],
    columns: Sequence[range],
    tokens: Sequence[Int[Tensor, "probes tokens"]],
) -> _Moves | None:
    """The moves put together where the tokens are, so that the host need not see these first.

    The token that a slot has already is among them.
    """
    order = {place: number for number, place in enumerate(_by_length(probes))}
    exchanged = [(place, column) for place, own in enumerate(columns) for column in own]
    moves = [*shorter, *((probes[place].row, probes[place].ids) for place, _ in exchanged)]
    if not moves:
        return None
    found = _Moves.of(moves)
    read = torch.tensor([(order[place], column) for place, column in exchanged], dtype=torch.long).reshape(-1, 2)
    written = torch.tensor([(len(shorter) + i, probes[place].slot) for i, (place, _) in enumerate(exchanged)])
    ids, rows, read, written = to_device(device, found.ids, found.rows, read, written.long().reshape(-1, 2))
    if exchanged:
        ids[written[:, 0], written[:, 1]] = torch.cat(list(tokens))[read[:, 0], read[:, 1]]
    return _Moves(ids, rows, found.lengths)
