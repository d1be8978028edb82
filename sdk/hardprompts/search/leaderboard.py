"""The best prompts of a search, all of which survive the round trip."""

import dataclasses
import heapq
from collections.abc import Sequence

from hardprompts.prompts import Candidate, PromptTemplate
from hardprompts.vocabulary import Vocabulary


def admissible(
    vocabulary: Vocabulary, template: PromptTemplate, ids: Sequence[int], max_tokens: int
) -> tuple[int, ...] | None:
    """The ids of the prompt's text as it is read back, if a prompt of them may be returned; else None.

    Nearly always they are `ids` themselves.
    """
    found = vocabulary.respelled(ids, template)
    if found is None or len(found) > max_tokens:
        return None
    if found != tuple(ids) and not vocabulary.survives_round_trip(found, template):
        return None
    return None if vocabulary.tears_words(found) or vocabulary.spells_banned(found, template) else found


@dataclasses.dataclass
class Leaderboard:
    """The best prompts of one task, without duplicates, none of which fails the round trip."""

    vocabulary: Vocabulary
    template: PromptTemplate
    size: int
    score_per_token: float
    max_tokens: int
    scores: dict[tuple[int, ...], float] = dataclasses.field(default_factory=dict)
    rejected: int = 0

    def offer(self, ids: tuple[int, ...], score: float) -> tuple[int, ...] | None:
        """Takes the prompt in if it is good enough; else returns other ids that its text is read back as, if any."""
        if ids in self.scores or score <= self.threshold:
            return None
        found = admissible(self.vocabulary, self.template, ids, max(self.max_tokens, len(ids)))
        if found != ids:
            self.rejected += 1
            return None if found in self.scores else found
        self.scores[ids] = score
        if len(self.scores) > self.size:
            del self.scores[min(self.scores, key=self.scores.__getitem__)]
        return None

    @property
    def best_score(self) -> float:
        """The best score so far, -inf before there is any."""
        return max(self.scores.values(), default=-float("inf"))

    @property
    def threshold(self) -> float:
        """A prompt must score more than this to be kept."""
        return -float("inf") if len(self.scores) < self.size else min(self.scores.values())

    def best(self) -> Candidate | None:
        found = self.top(1)
        return found[0] if found else None

    def top(self, size: int | None = None) -> tuple[Candidate, ...]:
        order = heapq.nlargest(size or self.size, self.scores.items(), key=lambda item: item[1])
        return tuple(Candidate(self.vocabulary.decode(ids), ids, self.plain(ids, score)) for ids, score in order)

    def plain(self, ids: tuple[int, ...], score: float) -> float:
        """The score without the cost of the tokens."""
        return score + self.score_per_token * len(ids)
