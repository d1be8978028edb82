"""The default for features: build the prompt from what is still missing, then exchange and move its words."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.devices import to_device, to_host
from hardprompts.encoders import TextEncoder
from hardprompts.methods.pez_refine import PEZRefine
from hardprompts.methods.word_table import Word, WordTable
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import pack, unpack
from hardprompts.vocabulary import Vocabulary

Prompt = tuple[Word, ...]

#: What a walk asks for, prompts, and what it gets for them.
Walk = Generator[list[Prompt], "_Answers", None]

#: What a prompt must gain for the search to continue from it.
LEAST_GAIN = 1e-6

#: The share of the target's length that no longer counts as a difference.
LEAST_DISTANCE = 1e-4

#: How much of the whole target is added to what a prompt lacks of it.
TARGET_SHARE = 0.35

#: How much error it takes before the predictions are corrected by it.
CORRECTION_RIDGE = 3.0

#: Of the seconds that are left, how many may go into reading the words of a model that nobody has read before.
READING_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class BuildRefine:
    """Builds a prompt word by word from what it still lacks, then refines it, and rebuilds parts of it.

    The features that every word has by itself are known from a table (`WordTable`). With them it is predicted, for
    nothing, what a prompt would score with other words; the best of what is predicted is tried. What was tried
    corrects the predictions from then on. No gradient is taken, so that it works for any model and any score.

    Building begins with the best word, then tries those whose own features fit best what is missing, in front of
    the prompt and behind it. Refining tries, in each step, the exchanges, insertions and deletions that are
    predicted to be best, and words moved to other places, and goes on from the best that improves. Where none of
    `patience` prompts around one improves it, two or three of its words are taken out and others are built in,
    until `rounds` of that brought nothing.

    No word is added that the prompt has already.

    Where the score is not a similarity of features (predicted noise, what a language model answers), nothing can be
    predicted so, and `otherwise` searches.

    Attributes:
        step_size: prompts of each task tried in a step.
        words_tried: words tried in front of a prompt, and behind it, while it is built.
        moved_share: the share of a refining step that is words moved to other places.
        patience: prompts tried around one before it counts as the best around it.
        rounds: rebuilt prompts in a row that are no better, after which the method is done.
        pool: words that are considered at all, those nearest to the target by themselves.
        continues: begin with the best of the starts, which somebody wrote for the target, instead of with one word.
        exchange_scale: how much of a word's own features is seen in those of a prompt, to begin with.
        otherwise: the method where there are no features.

    Source: this project's. What is missing is the residual of matching pursuit (Mallat and Zhang 1993); taking out
    and building in anew is ruin and recreate (Schrimpf et al. 2000); the corrections are a ridge regression.
    """

    step_size: int = 32
    words_tried: int = 16
    moved_share: float = 0.25
    patience: int = 160
    rounds: int = 6
    pool: int = 8192
    exchange_scale: float = 0.5
    continues: bool = False
    otherwise: PEZRefine = PEZRefine()

    def __post_init__(self) -> None:
        for name in ("step_size", "words_tried", "patience", "pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.rounds < 0 or not 0 <= self.moved_share < 1:
            raise ValueError(
                f"rounds must not be negative and moved_share in [0, 1), got {self.rounds}, {self.moved_share}"
            )

    @classmethod
    def for_language_models(cls) -> PEZRefine:
        """What searches where a language model is to answer with labels, which have no features to be similar to."""
        return PEZRefine.for_language_models()

    def read_words(self, encoder: TextEncoder, progress: bool = True) -> None:
        """Reads the words of a model now, which the first search would do; see `WordTable`.

        Those that are searched by default: real words, if there are enough of them.
        """
        WordTable.of(encoder).features(encoder.vocabulary.narrowed(None, (), None).units, progress=progress)

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes what is tried for every task, until all are done; restarts are prompts to continue from."""
        if objective.text_encoder is None:
            yield from self.otherwise.steps(objective, vocabulary, initial_ids, generator)
            return
        words = _Words.read(objective, vocabulary)
        initial, tasks = unpack(initial_ids), objective.groups.tolist()
        walks: dict[int, Walk] = {}
        asked: dict[int, list[Prompt]] = {}
        for row in {task: row for row, task in reversed(list(enumerate(tasks)))}.values():
            given = [vocabulary.split(initial[other]) for other, task in enumerate(tasks) if task == tasks[row]]
            around = _Neighborhood(self, objective, words, row, initial_ids.shape[1], generator)
            walks[row] = around.walk([tuple(prompt) for prompt in given if prompt])
            asked[row] = next(walks[row])
        while asked:
            tokens = [sum(prompt, ()) for prompts in asked.values() for prompt in prompts]
            owners = torch.tensor([row for row, prompts in asked.items() for _ in prompts])
            (ids, rows), lengths = to_device(initial_ids.device, pack(tokens), owners), list(map(len, tokens))
            features, scores = None, None
            if objective.scores_features:
                features, scores = objective.features(ids, rows, lengths=lengths)
            if scores is None:
                scores = objective.score(ids, rows, lengths=lengths)
            yield Candidates(ids, scores, rows)
            first, told = 0, scores.tolist()
            for row, prompts in list(asked.items()):
                part = slice(first, first + len(prompts))
                first += len(prompts)
                answers = _Answers(
                    prompts, told[part], None if features is None else features[part], _asking(objective, row)
                )
                try:
                    asked[row] = walks[row].send(answers)
                except StopIteration:
                    del asked[row]


def _asking(objective: BoundObjective, row: int) -> Callable[[Prompt], Tensor]:
    """What gives the features of one prompt of a restart where the score did not bring them along."""

    def features(prompt: Prompt) -> Tensor:
        device = objective.groups.device
        ids = torch.tensor([sum(prompt, ())], device=device)
        return objective.features(ids, torch.tensor([row], device=device))[0][0]

    return features


@dataclasses.dataclass(frozen=True, eq=False)
class _Words:
    """The words that may be used, with the features of each by itself, and the mean of these.

    Attributes:
        width: the numbers that the encoder gives; `features` repeat them where a prompt stands in several templates.
    """

    words: list[Word]
    features: Float[Tensor, "words features"]
    mean: Float[Tensor, " features"]
    places: dict[Word, int]
    width: int

    @classmethod
    def read(cls, objective: BoundObjective, vocabulary: Vocabulary) -> "_Words":
        """Those of a vocabulary, from the table of the objective's encoder."""
        assert objective.text_encoder is not None
        left = objective.seconds_left
        features = WordTable.of(objective.text_encoder).features(
            vocabulary.units, seconds=None if left is None else READING_SHARE * left, memory=objective.memory
        )
        places = {word: place for place, word in enumerate(vocabulary.units)}
        width = features.shape[1]
        if (templates := objective.targets.shape[1] // width) > 1:
            features = features.repeat(1, templates) / templates**0.5
        return cls(vocabulary.units, features, features.mean(dim=0), places, width)

    def likeliest(self, target: Float[Tensor, " features"], count: int) -> "_Words":
        """Those that are nearest to a target by themselves, in the order that all have; the mean stays that of all."""
        if count >= len(self.words):
            return self
        kept = (self.features @ target).topk(count).indices.sort().values
        words = [self.words[place] for place in kept.tolist()]
        places = {word: place for place, word in enumerate(words)}
        return _Words(words, self.features[kept], self.mean, places, self.width)

    def of(self, prompt: Sequence[Word]) -> Float[Tensor, "words features"]:
        """The features of a prompt's words; the mean for a word that may not be used, from a caption, say."""
        rows = [self.features[self.places[word]] if word in self.places else self.mean for word in prompt]
        return torch.stack(rows)


@dataclasses.dataclass(frozen=True, eq=False)
class _Answers:
    """The scores of the prompts that a walk asked for, and their features or what gives these."""

    prompts: list[Prompt]
    scores: list[float]
    features: Float[Tensor, "prompts features"] | None
    ask: Callable[[Prompt], Tensor]

    def features_of(self, place: int) -> Float[Tensor, " features"]:
        return self.ask(self.prompts[place]) if self.features is None else self.features[place]


@dataclasses.dataclass(frozen=True, eq=False)
class _State:
    """A prompt to continue from; the empty one has nothing of the target, and any prompt is better."""

    prompt: Prompt
    score: float
    features: Float[Tensor, " features"]


class _Neighborhood:
    """What may be tried around the prompts of one task, and in which order."""

    def __init__(
        self,
        method: BuildRefine,
        objective: BoundObjective,
        words: _Words,
        row: int,
        max_tokens: int,
        generator: torch.Generator,
    ) -> None:
        self.method, self.objective = method, objective
        self.max_tokens, self.generator = max_tokens, generator
        self.target = objective.targets[row].float()
        self.target_length = float(self.target.norm())
        self.words = words.likeliest(self.target, method.pool)
        self.fits = self.words.features @ self.target  # (words,)
        self.tried: set[Prompt] = set()
        width = words.width
        # A ridge regression from what is exchanged to what the predictions were wrong by.
        self._gram = CORRECTION_RIDGE * torch.eye(width, device=self.target.device)
        self._errors = torch.zeros(width, device=self.target.device)

    # --- the walk -------------------------------------------------------------------------

    def walk(self, given: list[Prompt]) -> Walk:
        """From the best of a word and of the prompts that are given, to the best around it, again and again."""
        best = _State((), -torch.inf, torch.zeros_like(self.target))
        if given and self.method.continues:
            best = self._better((yield list(dict.fromkeys(given))), best) or best
        best = yield from self._build(best)
        if given and not self.method.continues:
            best = self._better((yield list(dict.fromkeys(given))), best) or best
        best = yield from self._refine(best, self.method.patience)
        failed = 0
        while failed < self.method.rounds and len(best.prompt) > 1 and not self._is_perfect(best):
            dropped = self._chosen(best.prompt)
            kept = tuple(word for place, word in enumerate(best.prompt) if place not in dropped)
            answers = yield [kept]
            state = _State(kept, answers.scores[0], answers.features_of(0))
            state = yield from self._build(state, {best.prompt[place] for place in dropped})
            state = yield from self._refine(state, self.method.patience // 2)
            failed = 0 if state.score > best.score + LEAST_GAIN else failed + 1
            best = max(best, state, key=lambda one: one.score)

    def _is_perfect(self, state: _State) -> bool:
        """True if the prompt has the features of the target itself, as the text that a target was taken from has."""
        if not self.objective.scores_features:
            return False
        tokens = sum(map(len, state.prompt))
        return state.score + self.objective.score_per_token * tokens > (1 - LEAST_DISTANCE) * self.target_length

    def _chosen(self, prompt: Prompt) -> set[int]:
        """Places of two or three words, drawn at random; of one, where there are but two."""
        most = min(3, len(prompt) - 1)
        count = int(torch.randint(min(2, most), most + 1, (1,), generator=self.generator))
        return set(torch.randperm(len(prompt), generator=self.generator)[:count].tolist())

    def _build(
        self, state: _State, without: set[Word] | frozenset[Word] = frozenset()
    ) -> Generator[list[Prompt], _Answers, _State]:
        """Adds words as long as there is room and they are worth their place."""
        while True:
            prompt, new = state.prompt, self._missing(state, without)
            tried = self._fresh([*((word, *prompt) for word in new), *((*prompt, word) for word in new)])
            if not tried:
                return state
            better = self._better((yield tried), state)
            if better is None:
                return state
            state = better

    def _missing(self, state: _State, without: set[Word] | frozenset[Word]) -> list[Word]:
        """The words whose own features fit best what a prompt still lacks."""
        room = self.max_tokens - sum(map(len, state.prompt))
        if not state.prompt:
            fits, count = self.fits, 2 * self.method.words_tried
        else:
            lacks = self.target - (self.target @ state.features) * state.features + TARGET_SHARE * self.target
            fits, count = (self.words.features - self.words.mean) @ lacks, self.method.words_tried
        unwanted = {*state.prompt, *without}
        order = fits.topk(min(len(fits), count + len(unwanted))).indices.tolist()
        found = [
            word for word in map(self.words.words.__getitem__, order) if word not in unwanted and len(word) <= room
        ]
        return found[:count]

    def _refine(self, state: _State, patience: int) -> Generator[list[Prompt], _Answers, _State]:
        """Goes on from the best that improves, until so many around a prompt do not."""
        without_gain = 0
        moved = self._moved(state.prompt)
        while without_gain < patience and not self._is_perfect(state):
            predicted = self._predicted(state)
            corrected = self._corrected(state, predicted)
            count = min(len(moved), round(self.method.moved_share * self.method.step_size))
            tried = self._fresh(moved[:count])
            moved = moved[count:]
            if without_gain == 0:
                tried += self._fresh(self._shorter(state.prompt))
            tried += self._fresh(self._inserted(state))
            tried += self._exchanged(state.prompt, corrected, max(1, self.method.step_size - len(tried)), without_gain)
            if not tried:
                if not moved:
                    break
                continue
            answers = yield list(dict.fromkeys(tried))
            self._learn(state, predicted, answers)
            better = self._better(answers, state)
            if better is None:
                without_gain += len(answers.prompts)
            else:
                state, without_gain, moved = better, 0, self._moved(better.prompt)
        return state

    def _better(self, answers: _Answers, state: _State) -> _State | None:
        """The best of the answers that improves on a state and survives the round trip."""
        self.tried.update(answers.prompts)
        for place in sorted(range(len(answers.prompts)), key=lambda i: -answers.scores[i]):
            prompt, score = answers.prompts[place], answers.scores[place]
            if not score > state.score + LEAST_GAIN:
                return None
            ids = sum(prompt, ())
            if self.objective.admissible(ids, self.max_tokens) == ids:
                return _State(prompt, score, answers.features_of(place))
        return None

    def _fresh(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.tried]

    # --- moves ----------------------------------------------------------------------------

    def _moved(self, prompt: Prompt) -> list[Prompt]:
        """Every word at every other place, in random order."""
        found = []
        for here, word in enumerate(prompt):
            rest = prompt[:here] + prompt[here + 1 :]
            found += [(*rest[:there], word, *rest[there:]) for there in range(len(prompt)) if there != here]
        order = torch.randperm(len(found), generator=self.generator).tolist()
        return self._fresh([found[i] for i in order])

    def _shorter(self, prompt: Prompt) -> list[Prompt]:
        """The prompt without each of its words."""
        return [prompt[:i] + prompt[i + 1 :] for i in range(len(prompt))] if len(prompt) > 1 else []

    def _inserted(self, state: _State) -> list[Prompt]:
        """The prompt with words that fit what is missing, at a place drawn at random, while there is room."""
        if sum(map(len, state.prompt)) >= self.max_tokens:
            return []
        new = self._missing(state, set())
        places = torch.randint(len(state.prompt) + 1, (len(new),), generator=self.generator).tolist()
        found = [(*state.prompt[:at], word, *state.prompt[at:]) for at, word in zip(places, new, strict=True)]
        return self._fresh(found)[: self.method.step_size // 4]

    def _exchanged(self, prompt: Prompt, predicted: Tensor, count: int, known: int) -> list[Prompt]:
        """The exchanges of one word that are predicted to be best, a few at each place.

        Args:
            known: exchanges around this prompt that were tried before, and have to be looked past.
        """
        few = max(2, 2 * count // len(prompt))
        values, columns = predicted.topk(min(predicted.shape[1], few + known), dim=1)
        room = self.max_tokens - sum(map(len, prompt))
        found: list[tuple[float, Prompt]] = []
        likely_words, predictions = (told.tolist() for told in to_host(columns, values))
        for place, (own, likely) in enumerate(zip(likely_words, predictions, strict=True)):
            words = ((value, self.words.words[column]) for column, value in zip(own, likely, strict=True))
            changed = (
                (value, (*prompt[:place], word, *prompt[place + 1 :]))
                for value, word in words
                if value > -torch.inf and len(word) - len(prompt[place]) <= room
            )
            found += itertools.islice((entry for entry in changed if entry[1] not in self.tried), few)
        return [changed for _, changed in sorted(found, key=lambda entry: -entry[0])[:count]]

    # --- predictions ----------------------------------------------------------------------

    def _predicted(self, state: _State) -> Float[Tensor, "places words"]:
        """What each exchange of a word for another is predicted to score, before any correction."""
        scale, words, old = self.method.exchange_scale, self.words, self.words.of(state.prompt)
        own, near = words.features @ state.features, old @ words.features.T  # (words,), (places, words)
        reached = state.features @ self.target + scale * (self.fits - (old @ self.target)[:, None])
        # |f + s (new - old)|, where f and all words have unit length
        squares = 1 + 2 * scale * (own - (old @ state.features)[:, None]) + 2 * scale**2 * (1 - near)
        predicted: Tensor = reached / squares.clamp_min(1e-6).sqrt()
        return predicted

    def _corrected(self, state: _State, predicted: Tensor) -> Float[Tensor, "places words"]:
        """The predictions with what was learned of their errors; -inf for words that the prompt has already."""
        weights = torch.linalg.solve_ex(self._gram, self._errors)[
            0
        ]  # of full rank: nothing to be checked and waited for
        words, width = self.words, self.words.width
        old = words.of(state.prompt)[:, :width] @ weights
        found: Tensor = predicted + words.features[:, :width] @ weights - old[:, None]
        known = [words.places[word] for word in state.prompt if word in words.places]
        (columns,) = to_device(found.device, torch.tensor(known, dtype=torch.long))
        return found.index_fill_(1, columns, -torch.inf)

    def _learn(self, state: _State, predicted: Tensor, answers: _Answers) -> None:
        """Takes in by how much the gains of exchanges were other than predicted."""
        new: list[int] = []
        old: list[int] = []
        gains: list[float] = []
        for prompt, score in zip(answers.prompts, answers.scores, strict=True):
            places = [i for i, (a, b) in enumerate(zip(prompt, state.prompt, strict=False)) if a != b]
            if len(prompt) == len(state.prompt) and len(places) == 1 and math.isfinite(score):
                new.append(self.words.places[prompt[places[0]]])
                old.append(places[0])
                gains.append(score - state.score)
        if not new:
            return
        here = self.words.of(state.prompt)
        added, left, gained = to_device(here.device, torch.tensor(new), torch.tensor(old), torch.tensor(gains))
        exchanged = (self.words.features[added] - here[left])[:, : self.words.width]
        expected = predicted[left, added] - state.features @ self.target
        errors = gained - expected
        self._gram += exchanged.T @ exchanged
        self._errors += exchanged.T @ errors
