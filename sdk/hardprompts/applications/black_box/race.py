"""The race of prompts for a budget of pictures: mutate, draw with one seed, draw the best quarter with the next."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from PIL import Image

from hardprompts.allowance import Allowance, clock
from hardprompts.applications.black_box.bandit import UpperConfidence
from hardprompts.applications.black_box.drawing import Drawing, Ended, Pair
from hardprompts.applications.black_box.journal import Journal
from hardprompts.applications.black_box.mutations import Mutation, Watcher
from hardprompts.applications.black_box.options import PictureOptions
from hardprompts.applications.pictures import Generate, ImageScore
from hardprompts.errors import SearchError, VocabularyError, warn_user
from hardprompts.prompts import Candidate, HistoryPoint, PromptTemplate
from hardprompts.search.protocol import SearchProgress, StopReason
from hardprompts.search.seeds import Stream
from hardprompts.wording import Bans

#: Mutations that are tried for one that gives a new prompt, before a round is left smaller.
ATTEMPTS = 30

#: One of so many pictures of the budget may go to the texts that the user gave, before anything is made of them.
GIVEN_SHARE = 4

#: Of so many prompts one goes on to the next seed: successive halving, but not by halves, since most are no good.
ETA = 4

#: What the prompts that a search begins with were made by.
START = "start"


@dataclasses.dataclass(eq=False)
class Runner:
    """A prompt in the race.

    Attributes:
        filled: its text in the template.
        scores: by the seeds so far, in their order.
        failed: whether a picture of it never came.
        picture: its last one, of those that may be asked for later: those that are changed, and those that led.
    """

    text: str
    filled: str
    mutation: str
    parent: "Runner | None"
    scores: list[float] = dataclasses.field(default_factory=list)
    failed: bool = False
    picture: Image.Image | None = None

    def mean(self, seeds: int) -> float:
        """The mean score by the first seeds; minus infinity where it was not drawn with so many."""
        return math.fsum(self.scores[:seeds]) / seeds if len(self.scores) >= seeds else -math.inf


class Race:
    """One search: prompts, their pictures, and the best so far.

    Attributes:
        drawing: the generator, and what came of its pictures.
        runners: all prompts, by their text in the template.
        pool: those that are changed, best first.
        seeds: that prompts are chosen by: the first one alone where the generator takes no notice of them.
        level: by how many of them the best is chosen: all, as soon as one prompt was drawn with all.
        leader: the best so far.
        leaders: the best after so many pictures, at each change.
    """

    def __init__(
        self,
        generate: Generate,
        image_score: ImageScore,
        journal: Journal,
        options: PictureOptions,
        mutations: Sequence[Mutation],
        allowance: Allowance,
    ) -> None:
        self.options = options
        self.mutations = {mutation.name: mutation for mutation in mutations}
        if not mutations or len(self.mutations) < len(mutations):
            raise ValueError(
                f"mutations must be one or more, each of another name; got {[one.name for one in mutations]}"
            )
        self.watchers = [mutation for mutation in mutations if isinstance(mutation, Watcher)]
        self.template, self.bans = PromptTemplate(options.template), Bans.of(options.banned)
        assert options.seed is not None, "it is drawn before"
        self.generator = Stream.SEARCH.generator(options.seed)
        self.bandit = UpperConfidence(list(self.mutations), options.exploration)
        self.whole = allowance
        self.drawing = Drawing(generate, image_score, journal, options, allowance.keeping(0), self._seen, self._pause)
        self.runners: dict[str, Runner] = {}
        self.pool: list[Runner] = []
        self.seeds, self.fresh_seeds = list(options.seeds), list(options.fresh_seeds)
        self.level = 1
        self.leader: Runner | None = None
        self.leaders: list[tuple[int, Runner]] = []
        self.history: list[HistoryPoint] = []
        self._began, self._searching = clock(), True

    def run(self, texts: Sequence[str], given: int = 0) -> StopReason:
        """Races the texts and what is made of them until something ends it; returns what did.

        Args:
            given: so many of the texts, the first ones, are drawn always, within a quarter of the budget.

        Raises:
            VocabularyError: none of the texts may be used.
            SearchError: no picture came.
        """
        entered = [self._entered(text, START, None) for text in texts]
        starts = [runner for runner in entered if runner is not None]
        if not starts:
            raise VocabularyError(
                f"none of the {len(texts)} texts to begin with may be used: they are banned, or have more than "
                f"{self.options.max_words} words (max_words)"
            )
        self.drawing.limit = self.options.budget - self.options.reserve
        reason = StopReason.CONVERGED
        try:
            first = max(self.options.population, min(given, self.options.budget // GIVEN_SHARE))
            while group := self._children() if self.pool else self._next(starts, first):
                self._round(group)
        except Ended as ended:
            reason = ended.reason
        except KeyboardInterrupt:
            if self.leader is None:
                raise
            reason = StopReason.INTERRUPTED
        if self.leader is None:
            why = f"the last failure: {self.drawing.last_failure}" if self.drawing.asked else reason.sentence
            raise SearchError(
                f"no picture came of the {self.drawing.asked} that the generator was asked for; {why}"
            ) from self.drawing.error
        return reason

    def draw_fresh(self, texts: Sequence[str], reason: StopReason) -> None:
        """Draws filled prompts with the fresh seeds while budget and time last; the scores are in `drawing.scores`."""
        self._searching = False
        self.drawing.limit, self.drawing.allowance = self.options.budget, self.whole
        if reason in (StopReason.CANCELLED, StopReason.INTERRUPTED):
            return
        try:
            for text in dict.fromkeys(texts):
                self.drawing.of([(text, seed) for seed in self.fresh_seeds])
        except Ended:
            return
        except KeyboardInterrupt:
            self.whole.stop("interrupted", grace=0.0)

    def leader_at(self, pictures: int) -> Runner | None:
        """The best prompt after so many pictures; None before any came."""
        return next((own for asked, own in reversed(self.leaders) if asked <= pictures), None)

    # --- a round --------------------------------------------------------------------------

    def _round(self, group: Sequence[Runner]) -> None:
        """Draws prompts with the first seed, the best quarter with the next, and so on; the last may be changed.

        Only those go on that are ahead of the last of those that are changed, by the same seeds, or for whom there is
        a place among them.
        """
        running, number = list(group), 0
        while number < len(self.seeds):
            running = self._ahead(running, number)
            self.drawing.of([(runner.filled, self.seeds[number]) for runner in running])
            number += 1
            running = [runner for runner in running if not runner.failed]
            if number == 1:
                self._reward(running)
            if running and number > self.level:
                self._raise_level(number, running)
        pool = sorted([*self.pool, *running], key=lambda own: -own.mean(len(self.seeds)))
        self.pool = pool[: self.options.survivors]
        led = {own for _, own in self.leaders}
        for own in pool[self.options.survivors :]:
            own.picture = own.picture if own in led else None
        for own in group:
            own.picture = own.picture if own in led or own in self.pool else None

    def _ahead(self, running: Sequence[Runner], number: int) -> list[Runner]:
        """Those that are drawn with one more seed, by their scores with so many."""
        if not number:
            return list(running)
        free = self.options.survivors - len(self.pool)
        bar = min(own.mean(number) for own in self.pool) if free <= 0 else -math.inf
        best = sorted(running, key=lambda own: -own.mean(number))[: max(free, -(-len(running) // ETA))]
        return [own for own in best if own.mean(number) > bar]

    def _reward(self, running: Sequence[Runner]) -> None:
        """Tells the bandit which prompts beat those that they were made of."""
        for own in running:
            if own.parent is not None and own.scores[0] > own.parent.scores[0]:
                self.bandit.reward(own.mutation)

    def _raise_level(self, number: int, running: Sequence[Runner]) -> None:
        """Chooses by more seeds from now on, unless they change nothing."""
        if number == 2 and self._ignores_seeds(running):
            self.seeds, self.fresh_seeds = self.seeds[:1], self.fresh_seeds[:1]
            points = self.options.reserve // max(1, len(self.options.fresh_seeds))
            self.drawing.limit = self.options.budget - points * len(self.fresh_seeds)
            warn_user(
                "the generator draws the same picture whatever the seed, so that each prompt is drawn once, and once "
                "more at the end; let it use its seeds if it can"
            )
            return
        self.level = number
        self._lead(max(running, key=lambda own: own.mean(number)))

    def _ignores_seeds(self, running: Sequence[Runner]) -> bool:
        hashes = self.drawing.hashes
        return all(hashes[own.filled, self.seeds[0]] == hashes[own.filled, self.seeds[1]] for own in running)

    # --- new prompts ----------------------------------------------------------------------

    def _next(self, starts: list[Runner], count: int) -> list[Runner]:
        """The next of those to begin with: more than the first few are drawn only if no picture of those came."""
        group = starts[:count]
        del starts[: len(group)]
        return group

    def _children(self) -> list[Runner]:
        """New prompts, made of those in the pool; a mutation that makes nothing new has failed, too."""
        children: list[Runner] = []
        for _ in range(ATTEMPTS * self.options.population):
            if len(children) == self.options.population or not self.pool:
                break
            name = self.bandit.choose()
            self.bandit.pull(name)
            parent = self.pool[self._rank()]
            others = [own.text for own in self.pool if own is not parent]
            text = self.mutations[name].mutated([parent.text, *others], self.generator)
            child = None if text is None else self._entered(" ".join(text.split()), name, parent)
            if child is not None:
                children.append(child)
        return children

    def _rank(self) -> int:
        """A place in the pool, each half as likely as the one before; what is left goes to the first."""
        draws = torch.rand(len(self.pool), generator=self.generator) < 0.5
        return int(draws.long().argmax()) if bool(draws.any()) else 0

    def _entered(self, text: str, mutation: str, parent: Runner | None) -> Runner | None:
        """A new prompt; None where it was there before, or may not be."""
        filled = self.template.fill(text)
        if not text or filled in self.runners or len(text.split()) > self.options.max_words or self.bans.found_in(text):
            return None
        self.runners[filled] = runner = Runner(text, filled, mutation, parent)
        return runner

    # --- the best so far ------------------------------------------------------------------

    def _seen(self, pair: Pair, score: float | None, picture: Image.Image | None) -> None:
        """Takes in one picture of the search."""
        runner = self.runners[pair[0]]
        if not self._searching:
            # What is shown of a prompt is what it draws with the first of the fresh seeds.
            runner.picture = picture if picture is not None and pair[1] == self.fresh_seeds[0] else runner.picture
            return
        runner.picture = picture
        if picture is not None:
            for watcher in self.watchers:
                watcher.drawn(runner.text, picture)
        if score is None:
            runner.failed = True
            return
        runner.scores.append(score)
        mean = runner.mean(self.level)
        if len(runner.scores) == self.level and (self.leader is None or mean > self.leader.mean(self.level)):
            self._lead(runner)

    def _lead(self, runner: Runner) -> None:
        self.leader = runner
        asked = self.drawing.asked
        self.leaders.append((asked, runner))
        self.history.append(HistoryPoint(asked, clock() - self._began, 0, runner.mean(self.level)))

    def _pause(self) -> None:
        """Looks, after every call of the generator, whether to go on."""
        best = None if self.leader is None else Candidate(self.leader.text, (), self.leader.mean(self.level))
        told = SearchProgress(self.drawing.asked, self.options.budget, clock() - self._began, 0, (best,))
        if self.options.callback is not None and self.options.callback(told):
            self.whole.stop(StopReason.CANCELLED.value, grace=0.0)
            raise Ended(StopReason.CANCELLED)
        gained = self.history[-1].step if self.history else 0
        patience = self.options.patience if self._searching else None
        if patience is not None and self.drawing.asked - gained >= patience:
            raise Ended(StopReason.PATIENCE)
