"""What a search method may call: the run's objective and score, counted and split to fit memory."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.allowance import BATCH_TIME, FIRST_BATCH, Allowance, clock
from hardprompts.devices import check_gradients, to_device, wait_for
from hardprompts.encoders import TextEncoder
from hardprompts.objectives import (
    Evaluation,
    FeatureObjective,
    ItemizedScore,
    Objective,
    Score,
    Stochastic,
    TraceableObjective,
)
from hardprompts.prompts import PromptTemplate
from hardprompts.search.graphs import Gradient, compiled_gradient, gradient_of
from hardprompts.search.leaderboard import admissible
from hardprompts.search.memory import BatchMemory, Room
from hardprompts.search.rows import NO_TOKEN
from hardprompts.vocabulary import Vocabulary


class _BudgetSpent(Exception):
    """The passes that are left do not suffice for what a method asks for."""


@dataclasses.dataclass
class _Spent:
    """What the run may spend, what goes through the model at once, and how many prompts are scored in a second.

    The last is known where there is a deadline, after something was scored. `part` is the part of a pass that was made
    and not counted yet.
    """

    allowance: Allowance
    memory: BatchMemory
    pace: float = 0.0
    part: float = 0.0

    def in_time(
        self, places: Sequence[int], device: torch.device, timed: bool, share: float
    ) -> Iterator[Sequence[int]]:
        """The places in parts that are scored one after the other, as long as there is time; their passes are counted.

        Without a deadline, all of them. Each place takes `share` of a pass.
        """
        if not timed or self.allowance.seconds_left is None:
            self.count(len(places) * share)
            yield places
            return
        begun, done = clock(), 0
        first = max(FIRST_BATCH, int(BATCH_TIME * self.allowance.seconds_left * self.pace / share))
        for part in self.allowance.batches(places, len(places), passes=0, first=first):
            self.count(len(part) * share)
            yield part
            done += len(part)
            wait_for(device)
            self.pace = done * share / max(clock() - begun, 1e-9)

    def count(self, passes: float) -> None:
        """Counts whole passes, and keeps what is left over for the next time."""
        self.part += passes
        whole = int(self.part + 1e-9)
        self.part -= whole
        self.allowance.spend(whole)


class BoundObjective:
    """What a method may call: the run's objective and score. Passes are counted, and batches are split to fit memory.

    `rows` tells which restart each sequence belongs to; None: sequence i belongs to restart i. `lengths` are the
    tokens of each sequence, or of all of them, for a method that knows them: a GPU then need not be asked for them.

    Attributes:
        look_every: steps after which the run looks at the scores, and a method at what it wants to see of a GPU; 1 on
            the CPU, where a look costs nothing.
    """

    def __init__(
        self,
        objective: Objective,
        score: Score,
        vocabulary: Vocabulary,
        template: PromptTemplate,
        groups: Int[Tensor, " rows"],
        score_per_token: float = 0.0,
        compile: bool = False,
        look_every: int = 1,
        room: Room | None = None,
    ) -> None:
        self.groups = groups
        self.compile = compile and isinstance(objective, TraceableObjective)
        self.score_per_token = score_per_token
        self.look_every = 1 if groups.device.type == "cpu" else look_every
        self._objective = objective
        self._score = score
        self._vocabulary = vocabulary
        self._template = template
        self._follows_score = objective is score  # type: ignore[comparison-overlap]  # one class may be both
        self._spent = _Spent(Allowance(), BatchMemory(room))

    @property
    def evaluations(self) -> int:
        """Forward and backward passes of one prompt each, so far."""
        return self._spent.allowance.evaluations

    @property
    def remaining(self) -> int | None:
        """Passes that the run may still spend; None: there is no limit."""
        return self._spent.allowance.remaining

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the run's deadline, 0 behind it; None: there is none."""
        return self._spent.allowance.seconds_left

    @property
    def memory(self) -> BatchMemory:
        """What divides batches so that they fit, for a method that runs the model by itself."""
        return self._spent.memory

    def limit(self, allowance: Allowance) -> None:
        """From now on the passes of the run, those so far included, stay within this."""
        allowance.spend(self.evaluations)
        self._spent.allowance = allowance

    def of_rows(self, rows: Int[Tensor, " chosen"]) -> "BoundObjective":
        """The same for some of the restarts, which count from 0 again; the passes add up in one count."""
        chosen = copy.copy(self)
        chosen.groups = self.groups[rows]
        return chosen

    def held(self) -> "BoundObjective":
        """The same with one draw for all calls, if the objective is stochastic; the passes add up in one count."""
        if not isinstance(self._objective, Stochastic):
            return self
        chosen = copy.copy(self)
        chosen._objective = self._objective.held()
        return chosen

    def admissible(self, ids: Sequence[int], max_tokens: int) -> tuple[int, ...] | None:
        """The ids of the prompt's text as it is read back, if a prompt of them may be returned; else None.

        Nearly always they are `ids` themselves, whose score is known; any others have another.
        """
        return admissible(self._vocabulary, self._template, ids, max_tokens)

    def value_and_grad(
        self, embeddings: Float[Tensor, "batch tokens dim"], rows: Int[Tensor, " batch"] | None = None
    ) -> tuple[Evaluation, Float[Tensor, "batch tokens dim"]]:
        """The evaluation of each sequence, and the gradient of its loss with respect to its embeddings.

        `Evaluation.score` is None unless the objective's forward pass gives the run's score. Where the passes
        left are too few for all of the batch the run ends here.
        """
        if self.remaining is not None and self.remaining < 2 * len(embeddings):
            raise _BudgetSpent
        check_gradients()
        # One draw for all parts of the batch, as without parts.
        one = self.held() if self._spent.memory.divides(len(embeddings)) else self

        def part(embeddings: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
            found = one._gradient(embeddings, groups)
            known = self._follows_score and found.score is not None
            return tuple(found if known else found[:2])  # type: ignore[arg-type]  # mypy forgets that it is known

        loss, grad, *score = self._spent.memory.in_parts(part, embeddings, self._groups_of(rows), "gradient")
        self._spent.allowance.spend(2 * len(embeddings))
        return Evaluation(loss, score[0] - self.score_per_token * embeddings.shape[1] if score else None), grad

    def _gradient(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Gradient:
        objective = self._objective
        if self.compile and isinstance(objective, TraceableObjective):
            return compiled_gradient(objective, embeddings, groups, self.seconds_left)
        return gradient_of(objective, embeddings, groups)

    def score(
        self,
        ids: Int[Tensor, "batch tokens"],
        rows: Int[Tensor, " batch"] | None = None,
        *,
        lengths: int | Sequence[int] | None = None,
        timed: bool = True,
    ) -> Float[Tensor, " batch"]:
        """The run's score of each sequence, less what its tokens cost; rows may end in NO_TOKEN.

        A row of no tokens scores -inf, and so do those for which no passes are left, from the last row on, or no time.

        Args:
            timed: False: all are scored that there are passes for, however long that takes.
        """
        groups = self._groups_of(rows)
        scores = torch.full((len(ids),), -torch.inf, device=ids.device)
        for length, chosen in self._of_lengths(ids, lengths, timed):
            (scores[chosen],) = self._spent.memory.in_parts(
                lambda part, part_groups: (self._score.score(part, part_groups),),
                ids[chosen, :length],
                groups[chosen],
                "score",
            )
        return self._less_tokens(scores, ids)

    # --- where the score is a sum over items --------------------------------------------------

    @property
    def items(self) -> int | None:
        """The items that the score is a sum over; None where it is not."""
        return self._score.items if isinstance(self._score, ItemizedScore) else None

    def item_scores(
        self, ids: Int[Tensor, "batch tokens"], rows: Int[Tensor, " batch"], items: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "batch chosen"]:
        """What each of these items adds to the score of each sequence, without the cost of its tokens.

        A pass counts by its share of the items. Rows may end in NO_TOKEN. A row of no tokens gets -inf, and so do
        those for which no passes are left, from the last row on, or no time.
        """
        whole, groups = self._score, self._groups_of(rows)
        assert isinstance(whole, ItemizedScore)
        found = torch.full((len(ids), len(items)), -torch.inf, device=ids.device)
        for length, chosen in self._of_lengths(ids, None, share=len(items) / whole.items):
            (found[chosen],) = self._spent.memory.in_parts(
                lambda part, part_groups: (whole.item_scores(part, part_groups, items).to(found),),
                ids[chosen, :length],
                groups[chosen],
                "score",
            )
        return found

    # --- where the score is a similarity of features ------------------------------------------

    @property
    def text_encoder(self) -> TextEncoder | None:
        """What gives the features that the objective compares with its targets; None: it compares none."""
        return self._objective.text_encoder if isinstance(self._objective, FeatureObjective) else None

    @property
    def targets(self) -> Float[Tensor, "rows features"]:
        """What the features of each restart's prompts are compared with, where there is a `text_encoder`."""
        assert isinstance(self._objective, FeatureObjective)
        return self._objective.mean_targets[self.groups]

    @property
    def scores_features(self) -> bool:
        """Whether the score falls out of the features, so that both cost one pass."""
        return self._follows_score and isinstance(self._objective, FeatureObjective)

    def features(
        self,
        ids: Int[Tensor, "batch tokens"],
        rows: Int[Tensor, " batch"] | None = None,
        *,
        lengths: int | Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, " batch"]]:
        """The unit features of each sequence, and its similarity with its target less what its tokens cost.

        That is the run's score if `scores_features`. Rows may end in NO_TOKEN. Those for which no passes are left,
        from the last row on, or no time, have features of 0 and -inf.
        """
        assert isinstance(self._objective, FeatureObjective)
        whole, groups = self._objective, self._groups_of(rows)
        found = torch.zeros(len(ids), whole.mean_targets.shape[1], device=ids.device)
        scores = torch.full((len(ids),), -torch.inf, device=ids.device)

        @torch.no_grad()
        def part(ids: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
            features = whole.features(self._vocabulary.embed(ids))
            return features, (features * whole.mean_targets[groups]).sum(dim=1)

        for length, chosen in self._of_lengths(ids, lengths):
            found[chosen], scores[chosen] = self._spent.memory.in_parts(
                part, ids[chosen, :length], groups[chosen], "score"
            )
        return found, self._less_tokens(scores, ids)

    def _less_tokens(
        self, scores: Float[Tensor, " batch"], ids: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, " batch"]:
        return scores - self.score_per_token * (ids != NO_TOKEN).sum(dim=1) if self.score_per_token else scores

    def _of_lengths(
        self,
        ids: Int[Tensor, "batch tokens"],
        lengths: int | Sequence[int] | None,
        timed: bool = True,
        share: float = 1.0,
    ) -> Iterator[tuple[int, slice | Tensor]]:
        """Which sequences to score one after the other, all of one length, as long as there are passes and time for it.

        Their passes are counted.
        """
        if lengths is None:
            lengths = (ids != NO_TOKEN).sum(dim=1).tolist()
        each = [lengths] * len(ids) if isinstance(lengths, int) else lengths
        count = len(ids) if self.remaining is None else min(len(ids), int(self.remaining / share))
        for length in sorted(set(each[:count])):
            if length == 0:
                continue
            same = range(count) if len(set(each[:count])) == 1 else [i for i in range(count) if each[i] == length]
            for part in self._spent.in_time(same, ids.device, timed, share):
                yield length, _places(part, ids.device)
        self._spent.count(share * each[:count].count(0))

    def _groups_of(self, rows: Tensor | None) -> Tensor:
        return self.groups if rows is None else self.groups[rows]


def _places(chosen: Sequence[int], device: torch.device) -> slice | Tensor:
    """An index for some rows: of rows that follow each other, one that reads them where they are."""
    if isinstance(chosen, range):
        return slice(chosen.start, chosen.stop)
    (found,) = to_device(device, torch.tensor(chosen))
    return found
