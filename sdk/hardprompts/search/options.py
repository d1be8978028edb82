"""What every front door takes: lengths, limits, seed, bans, vocabulary and callback, declared and checked once.

A front door extends `SearchOptions` by a dataclass of its own, and `SearchArguments` by a `TypedDict` of the same
names, which types its `**options`.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, TypeVar

from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from hardprompts.allowance import Allowance
from hardprompts.objectives import FeatureObjective, Objective, Score
from hardprompts.prompts import PromptTemplate
from hardprompts.search.loop import run_search
from hardprompts.search.markup import read_markup
from hardprompts.search.memory import Room
from hardprompts.search.progress import about, on_bar
from hardprompts.search.protocol import BY_CALLER, Callback, Search, SearchProgress, SearchResult
from hardprompts.search.seeds import checked_seed, drawn_seed
from hardprompts.search.tables import room_for
from hardprompts.towers.memory import bytes_of
from hardprompts.vocabulary import Vocabulary
from hardprompts.wording import check_text

Options = TypeVar("Options", bound="SearchOptions")

#: Options of the front doors that are texts, or have some.
TEXTS = (
    "initial_prompt", "initial_prompts", "banned", "vocabulary", "words", "required", "caption", "text", "template",
    "templates", "held_out", "answers", "penalties", "verbalizer",
)  # fmt: skip


class SearchArguments(TypedDict, total=False):
    """The fields of `SearchOptions`, as keyword arguments."""

    initial_prompt: str | None
    banned: Sequence[str]
    vocabulary: Sequence[str] | Vocabulary | None
    restarts: int | None
    max_steps: int | None
    max_evaluations: int | None
    deadline: float | None
    patience: int | None
    token_cost: float | None
    top_k: int
    seed: int | None
    callback: Callback | None
    compile: bool
    vram: int | str | None
    progress: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What every front door takes beside what it is about.

    Attributes:
        initial_prompt: text to start from; markup of UIs is taken away, as by `hardprompts.search.read_markup`.
            Default: random tokens, or what the front door itself begins with.
        banned: what must not occur in the prompt, whatever its case: strings, regular expressions between slashes, and
            lists such as "category:artist" or "category:FILE.txt"; see `hardprompts.wording.Bans.of`.
        vocabulary: phrases whose tokens alone may be used (a keyword bank), or a `Vocabulary`, which is used as it is.
        restarts: starts that are searched in one batch. Default: `DEFAULT_RESTARTS` of the front door.
        max_steps: steps of the method. Default: `DEFAULT_MAX_STEPS` of the front door where there is no other limit.
        max_evaluations: forward and backward passes of one prompt each, for the whole call: for what is prepared, the
            search, and what is measured of its result. Only what a result cannot be without comes on top: the scores
            of one start for each task, and of the prompt that is returned.
        deadline: seconds for the whole call, likewise. What there was no room for is named in the result's `left_out`.
        patience: steps without an improvement.
        token_cost: what a token must add to be worth its place, as a share of the spread (standard deviation) of the
            score of random prompts. Default: that of the front door.
        top_k: candidates to keep.
        seed: of all randomness, 0 to 2**64 - 1. Default: drawn, and recorded in the result.
        callback: see `hardprompts.search.Callback`; a keyboard interrupt also ends a search with the best so far.
        compile: gradients are compiled by torch into one graph for each shape of a batch, which takes about a minute
            and is kept for the next call; for methods that take many gradients, such as "pez". Prompts are the same
            but for rounding. Without a compiler it does nothing, and says so.
        vram: bytes of memory that the device has for all of this, or a text such as "8GB", which means what cards are
            sold as: 8 times 2**30. It is measured on the model how many prompts fit at once, beside the weights and a
            tenth that is left for torch itself; prompts are the same but for rounding. Default: as much as a method
            asks for, and half as much where memory runs out.
        progress: a progress bar with the best text so far, on a terminal or in a notebook.

    Raises:
        ValueError: a number out of range, a text where a list of texts belongs, or half of a character in a text.
    """

    #: Restarts, and steps of a method that would never stop by itself, where nobody says.
    DEFAULT_RESTARTS: ClassVar[int] = 16
    DEFAULT_MAX_STEPS: ClassVar[int] = 1000

    #: Options that change what another one says, which must be given then.
    NEEDS: ClassVar[Mapping[str, str]] = {}

    #: Fields that must be at least 1 where they are given.
    COUNTS: ClassVar[tuple[str, ...]] = ("restarts", "top_k")

    #: Fields that must not be negative where they are given.
    AMOUNTS: ClassVar[tuple[str, ...]] = ("max_steps", "max_evaluations", "deadline", "patience", "token_cost")

    #: Fields that people paste prompts of UIs into, which are read as such: see `hardprompts.search.markup`.
    PASTED: ClassVar[tuple[str, ...]] = ("initial_prompt",)

    initial_prompt: str | None = None
    banned: Sequence[str] = ()
    vocabulary: Sequence[str] | Vocabulary | None = None
    restarts: int | None = None
    max_steps: int | None = None
    max_evaluations: int | None = None
    deadline: float | None = None
    patience: int | None = None
    token_cost: float | None = None
    top_k: int = 10
    seed: int | None = None
    callback: Callback | None = None
    compile: bool = False
    vram: int | str | None = None
    progress: bool = True

    #: Of the amounts, those that are counted.
    WHOLE: ClassVar[tuple[str, ...]] = ("max_steps", "max_evaluations", "patience")

    def __post_init__(self) -> None:
        for name in {*self.COUNTS, *self.AMOUNTS}:
            value, whole = getattr(self, name), name in self.COUNTS or name in self.WHOLE
            kind = numbers.Integral if whole else numbers.Real
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
        for name in self.COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in self.AMOUNTS:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value}")

        if self.seed is not None:
            object.__setattr__(self, "seed", checked_seed(self.seed))
        if self.vram is not None:
            bytes_of(self.vram)
        for name in TEXTS:
            check_text(name, getattr(self, name, None))
        for name in self.PASTED:
            object.__setattr__(self, name, _plain(getattr(self, name)))
        for name, other in self.NEEDS.items():
            if getattr(self, name) != getattr(type(self), name) and getattr(self, other) is None:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is of no use without {other}; give {other}, or leave it"
                )

    @classmethod
    def of(cls: type[Options], door: str, **options: Any) -> Options:
        """The options of a call.

        Args:
            door: what was called, for the message.

        Raises:
            TypeError: an option of a name that there is not; the message has the nearest that there is.
            ValueError: as the class.
        """
        check_names(door, options, [field.name for field in dataclasses.fields(cls)])
        return cls(**options)

    @property
    def starts(self) -> int:
        """Restarts, with the front door's default."""
        return self.DEFAULT_RESTARTS if self.restarts is None else self.restarts

    @property
    def is_endless(self) -> bool:
        """Whether no limit is given at all."""
        limits = (self.max_steps, self.max_evaluations, self.deadline, self.patience)
        return all(limit is None for limit in limits)

    @property
    def steps(self) -> int | None:
        """The limit of steps, with the front door's default where there is no limit at all."""
        return self.DEFAULT_MAX_STEPS if self.is_endless else self.max_steps

    def seeded(self: Options) -> Options:
        """The same with a seed, which is drawn if there is none."""
        return dataclasses.replace(self, seed=drawn_seed(self.seed))

    def allowance(self) -> Allowance:
        """What a call may spend, beginning now: a front door makes it once and hands it to all that it does."""
        allowance = Allowance(self.deadline, self.max_evaluations)
        if self.callback is not None:
            self._watch(allowance, SearchProgress(0, self.steps, 0.0, 0, (None,)))
        return allowance

    def room(self, vocabulary: Vocabulary, search: Search, objective: object, held: Sequence[object]) -> Room | None:
        """The memory that the batches of a search must fit into; None where `vram` is not given.

        Args:
            held: the models, and what else is on the device as long as the search runs.
        """
        if self.vram is None:
            return None
        features = objective.mean_targets.shape[1] if isinstance(objective, FeatureObjective) else None
        return room_for(self.vram, vocabulary, search, features, (objective, *held))

    def _watch(self, allowance: Allowance, progress: SearchProgress) -> None:
        """Lets the call ask the callback, with the progress so far, while no search is running."""
        callback = self.callback
        if callback is not None:
            allowance.watch(lambda: bool(callback(progress)))

    def run(
        self,
        search: Search,
        objective: Objective,
        score: Score,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        *,
        groups: Int[Tensor, " rows"] | None = None,
        template: PromptTemplate = PromptTemplate(),
        score_per_token: float = 0.0,
        top_k: int | None = None,
        description: str = "",
        allowance: Allowance | None = None,
        expected_seconds: float | None = None,
        room: Room | None = None,
    ) -> list[SearchResult]:
        """`run_search` within these limits, with a progress bar.

        Args:
            top_k: another number of candidates than the option's, for what is chosen among them afterwards.
            description: what the bar says, the method's name say.
            allowance: what the search may spend, of which its passes are taken; default: that of a call that begins
                now. After the caller has ended the call nothing but the starts is looked at.
            expected_seconds: that the search will take, where that is known; the bar and the callback get it first.
            room: the memory that batches must fit into; see `room`.

        The others, the results and the errors are those of `run_search`.
        """
        own = self.allowance() if allowance is None else allowance

        def follow(progress: SearchProgress) -> bool | None:
            told = dataclasses.replace(progress, expected_seconds=expected_seconds)
            self._watch(own, told)
            return None if self.callback is None else self.callback(told)

        if expected_seconds is not None:
            description = f"{description}, {about(expected_seconds)}"
        with tqdm(disable=None if self.progress else True, desc=description, unit="step", leave=False) as bar:
            # Before the first step, which may take long.
            if expected_seconds is not None and follow(SearchProgress(0, self.steps, 0.0, 0, (None,))):
                own.stop("cancelled", grace=0.0)
            results = run_search(
                search,
                objective,
                score,
                vocabulary,
                initial_ids,
                groups=groups,
                template=template,
                max_steps=0 if own.stopped else self.steps,
                max_evaluations=own.remaining,
                deadline=own.seconds_left,
                patience=self.patience,
                score_per_token=score_per_token,
                top_k=self.top_k if top_k is None else top_k,
                seed=self.seed,
                callback=on_bar(follow, bar),
                compile=self.compile,
                room=room,
            )
        own.spend(results[0].evaluations)
        if results[0].stop_reason in BY_CALLER:
            own.stop(str(results[0].stop_reason))
        return results


def _plain(given: Any) -> Any:
    """The words of a prompt, or of several, without the markup of UIs; None stays None."""
    if isinstance(given, str):
        return read_markup(given).text
    return given if given is None else tuple(map(_plain, given))


def check_names(door: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises unless each option that is given is one that a front door knows; see `SearchOptions.of`.

    Raises:
        TypeError: one is not; the message has the nearest that there is.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise TypeError(
                f"{door} has no option {name!r}; did you mean {near!r}? It takes {', '.join(sorted(known))}"
            )
