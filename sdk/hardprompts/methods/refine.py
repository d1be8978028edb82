"""Coordinate refinement: change one place at a time, as long as the score of the text improves."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.devices import to_device, to_host
from hardprompts.methods.racing import Race
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import NO_TOKEN, Ids, pack, unpack
from hardprompts.vocabulary import Vocabulary

#: Moves of a restart in one step whose text is read back as other tokens and is therefore scored again.
RESPELLED = 4


@dataclasses.dataclass
class _Restart:
    """One prompt on its way to a local optimum, the places still to be tried, and whether with all candidates.

    Where moves race, `parts` is what each item adds to its score, and `gradient` the last one at these tokens.
    """

    ids: Ids
    score: float
    places: list[int]
    wide: bool = False
    parts: Float[Tensor, " items"] | None = None
    gradient: Float[Tensor, "tokens dim"] | None = None


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
        race: how moves are judged where the score is a sum over items, such as the noises of a denoiser; None: each on
            all of them. One gradient then serves all places of a prompt.

    Source: the swap is that of greedy coordinate gradient (GCG, arXiv 2307.15043, algorithm 1),
    place by place instead of at random ones; insert and delete as in FLRT (arXiv 2407.17447).
    """

    candidates_per_slot: int = 64
    swap: bool = True
    insert: bool = True
    delete: bool = True
    max_tokens: int | None = None
    first_candidates: int = 16
    race: Race | None = None

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
        scores, parts = self._judged(objective, initial_ids, None, None)
        restarts = [
            _Restart(ids, score, self._places(ids, limit, generator), parts=own)
            for ids, score, own in zip(unpack(initial_ids), scores.tolist(), parts, strict=True)
        ]
        while active := self._active(restarts, limit, generator):
            moves = self._moves(objective, vocabulary, restarts, active, limit)
            if moves is None:
                continue
            scores, parts = self._judged(objective, moves.ids, moves.rows, moves.lengths, restarts, generator)
            yield Candidates(moves.ids, scores, moves.rows)
            ids, rows, told = to_host(moves.ids, moves.rows, scores)
            proposed = list(zip(rows.tolist(), unpack(ids), strict=True))
            winners = self._winners(objective, restarts, proposed, told.tolist(), parts, limit)
            for row, (prompt, score, own) in winners.items():
                restarts[row] = _Restart(prompt, score, self._places(prompt, limit, generator), parts=own)

    def _judged(
        self,
        objective: BoundObjective,
        ids: Int[Tensor, "batch tokens"],
        rows: Int[Tensor, " batch"] | None,
        lengths: list[int] | None,
        restarts: Sequence[_Restart] = (),
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, " batch"], Sequence[Float[Tensor, " items"] | None]]:
        """The scores of prompts, and what each item adds to them; -inf where a race with the restarts was lost."""
        if self.race is None or objective.items is None:
            return objective.score(ids, rows, lengths=lengths), [None] * len(ids)
        every = torch.arange(len(ids), device=ids.device) if rows is None else rows
        if generator is None:
            parts = objective.item_scores(ids, every, torch.arange(objective.items, device=ids.device))
        else:
            known = torch.stack([one.parts for one in restarts if one.parts is not None])  # where moves race, all have
            tokens = torch.tensor([len(one.ids) for one in restarts], device=ids.device)
            parts = self.race.judged(objective, ids, every, generator, (known, tokens))
        scores = parts.sum(dim=1).nan_to_num(nan=-torch.inf)
        return scores - objective.score_per_token * (ids != NO_TOKEN).sum(dim=1), list(parts)

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
        parts: Sequence[Float[Tensor, " items"] | None],
        limit: int,
    ) -> dict[int, tuple[Ids, float, Float[Tensor, " items"] | None]]:
        """For each restart that a move improves, the best such prompt, its score, and what the items add to it."""
        winners: dict[int, tuple[Ids, float, Float[Tensor, " items"] | None]] = {}
        tried: collections.Counter[int] = collections.Counter()
        for score, own, (row, proposal) in sorted(zip(scores, parts, moves, strict=True), key=lambda entry: -entry[0]):
            # Not better, or NaN: only what truly improves is worth the check of its text. In half precision the
            # prompt itself, among others, may seem to.
            if row in winners or not score > restarts[row].score + 1e-6 or proposal == restarts[row].ids:
                continue
            prompt = objective.admissible(proposal, limit)
            if prompt is not None and prompt != proposal and tried[row] < RESPELLED:
                tried[row] += 1
                device = objective.groups.device
                spelled = self._judged(objective, pack([prompt], device), torch.tensor([row], device=device), None)
                score, own = float(spelled[0]), spelled[1][0]  # noqa: PLW2901
            elif prompt != proposal:
                continue
            if prompt is not None and score > restarts[row].score + 1e-6:
                winners[row] = (prompt, score, own)
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
            tokens_there = self._tokens(objective, vocabulary, probes, restarts)
            return _moves_on_device(device, shorter, probes, columns, tokens_there)
        proposals = dict.fromkeys(shorter)
        tokens = [found for part in self._tokens(objective, vocabulary, probes, restarts) for found in part.tolist()]
        of_probe = dict(zip(_by_length(probes), tokens, strict=True))
        for place, (probe, own) in enumerate(zip(probes, columns, strict=True)):
            for column in own:
                proposals[probe.row, probe.with_token(of_probe[place][column])] = None
        moves = [(row, ids) for row, ids in proposals if ids != restarts[row].ids]
        return _Moves.of(moves) if moves else None

    def _tokens(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        probes: "Sequence[_Probe]",
        restarts: Sequence[_Restart],
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
            if self.race is None:
                _, grad = objective.value_and_grad(vocabulary.embed(ids), rows)
            else:
                grad = _kept_gradients(objective, vocabulary, same, ids, rows, restarts)
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


def _kept_gradients(
    objective: BoundObjective,
    vocabulary: Vocabulary,
    probes: Sequence[_Probe],
    ids: Int[Tensor, "probes tokens"],
    rows: Int[Tensor, " probes"],
    restarts: Sequence[_Restart],
) -> Float[Tensor, "probes tokens dim"]:
    """The gradient at each probe; that at the tokens of a restart itself is taken once."""
    own = [probe.ids == restarts[probe.row].ids for probe in probes]
    known = [restarts[probe.row].gradient if mine else None for probe, mine in zip(probes, own, strict=True)]
    new = [place for place, gradient in enumerate(known) if gradient is None]
    if new:
        (chosen,) = to_device(ids.device, torch.tensor(new))
        _, fresh = objective.value_and_grad(vocabulary.embed(ids[chosen]), rows[chosen])
        for place, gradient in zip(new, fresh, strict=True):
            known[place] = gradient
            if own[place]:
                restarts[probes[place].row].gradient = gradient
    return torch.stack([gradient for gradient in known if gradient is not None])


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
