"""How well prompts can be edited: a word is exchanged, the picture drawn anew, and what it shows is read."""

import dataclasses
import re
from collections.abc import Callable, Collection, Hashable, Sequence

from PIL import Image

from hardprompts.evaluation.intervals import Interval, t_interval
from hardprompts.evaluation.texts import filled
from hardprompts.prompts import HardPrompt

#: Letters and digits, with hyphens and apostrophes among them.
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")

#: What draws each text, the picture of a target from the same noise whatever its text: `draw(texts, targets)`.
Draw = Callable[[Sequence[str], Sequence[int]], Sequence[Image.Image]]

#: What says which statements hold of each picture; the second argument is the target that each picture is for.
Read = Callable[[Sequence[Image.Image], Sequence[int]], Sequence[Collection[Hashable]]]


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What is to be changed in a picture by exchanging one word of its prompt.

    Attributes:
        names: whether a word of a prompt, in lower case, says what is to be changed.
        text: what is written in its place.
        old, new: the statement that is to stop holding, and the one that is to begin: ("object", "fox").
        others: statements that are true of the target and are to stay.
    """

    names: Callable[[str], bool]
    text: str
    old: Hashable
    new: Hashable
    others: frozenset[Hashable]

    def written(self, text: str) -> str | None:
        """The text with the exchange: of its first word, or run of words, that names it; None if it has none.

        Words are of one run where nothing but spaces stands between them, as in "hot air balloon".
        """
        start = end = -1
        for word in _WORD.finditer(text):
            named = self.names(word[0].lower())
            if start < 0 and named:
                start, end = word.start(), word.end()
            elif start >= 0 and named and not text[end : word.start()].strip():
                end = word.end()
            elif start >= 0:
                break
        return None if start < 0 else f"{text[:start]}{self.text}{text[end:]}"


@dataclasses.dataclass(frozen=True)
class EditOutcome:
    """What became of one exchange.

    Attributes:
        exchange: what was asked.
        before, after: the whole text; `after` is None where the prompt has no word for it, so nothing could be done.
        shown_before, shown_after: the statements that the pictures were read to show, of those in question.
    """

    exchange: Exchange
    before: str
    after: str | None
    shown_before: frozenset[Hashable]
    shown_after: frozenset[Hashable]

    @property
    def named(self) -> bool:
        """Whether the prompt has a word that can be exchanged."""
        return self.after is not None

    @property
    def success(self) -> bool:
        """Whether the picture then shows the new, and no longer the old."""
        return self.named and self.exchange.new in self.shown_after and self.exchange.old not in self.shown_after

    @property
    def locality(self) -> float | None:
        """Of the other true statements that the picture showed before, the share that it still shows; None if none."""
        others = self.exchange.others & self.shown_before
        return len(others & self.shown_after) / len(others) if self.named and others else None

    @property
    def clean(self) -> bool:
        """Whether the picture shows the new, no longer the old, and all else that is true of the target."""
        return self.success and self.exchange.others <= self.shown_after


@dataclasses.dataclass(frozen=True)
class EditFigures:
    """How well the prompts of a method can be edited: means over targets, each the mean over its exchanges.

    Attributes:
        named: share of the exchanges that the prompt has a word for.
        success: share of all exchanges after which the picture shows the new and no longer the old.
        locality: of what else was shown and true before an exchange that could be made, the share that stays.
        clean: share of all exchanges after which the picture shows the new, and all else that is true of the target.
    """

    named: Interval
    success: Interval
    locality: Interval
    clean: Interval

    HEAD = ("named", "success", "locality", "clean")

    def row(self) -> tuple[str, ...]:
        """The cells of a table under `HEAD`."""
        return tuple(str(getattr(self, name)) for name in self.HEAD)


def edit_outcomes(
    prompts: Sequence[HardPrompt | str], exchanges: Sequence[Sequence[Exchange]], draw: Draw, read: Read
) -> tuple[tuple[EditOutcome, ...], ...]:
    """What becomes of the picture of each prompt where one word of it is exchanged.

    Each picture is drawn before and after from the same noise, so that a difference is of the words.

    Args:
        exchanges: for each prompt, those that are made in it, each alone.
        draw: see `Draw`.
        read: see `Read`. It errs like any reader: give its accuracy on true pictures beside the figures.

    Raises:
        ValueError: there are not as many lists of exchanges as prompts, or pictures or readings as texts.
    """
    if len(prompts) != len(exchanges):
        raise ValueError(f"each prompt needs its exchanges, got {len(prompts)} prompts and {len(exchanges)} lists")
    texts = [filled(prompt) for prompt in prompts]
    written = [[one.written(text) for one in own] for text, own in zip(texts, exchanges, strict=True)]
    jobs = [(text, target) for target, text in enumerate(texts)]
    jobs += [(text, target) for target, own in enumerate(written) for text in own if text is not None]
    jobs = list(dict.fromkeys(jobs))
    drawn = draw([text for text, _ in jobs], [target for _, target in jobs]) if jobs else []
    told = read(drawn, [target for _, target in jobs]) if jobs else []
    if not len(jobs) == len(drawn) == len(told):
        raise ValueError(f"{len(jobs)} texts need as many pictures and readings, got {len(drawn)} and {len(told)}")
    shown = {job: frozenset(own) for job, own in zip(jobs, told, strict=True)}

    def outcome(exchange: Exchange, text: str, edited: str | None, target: int) -> EditOutcome:
        asked = exchange.others | {exchange.old, exchange.new}
        after = frozenset[Hashable]() if edited is None else shown[edited, target] & asked
        return EditOutcome(exchange, text, edited, shown[text, target] & asked, after)

    return tuple(
        tuple(outcome(one, text, edited, target) for one, edited in zip(own, edits, strict=True))
        for target, (text, own, edits) in enumerate(zip(texts, exchanges, written, strict=True))
    )


def edit_values(outcomes: Sequence[Sequence[EditOutcome]], figure: str) -> tuple[float | None, ...]:
    """One of the figures for each target, the mean over its exchanges; None where none of them has it.

    Methods are compared by the differences of these, target by target.

    Args:
        figure: "named", "success", "locality" or "clean"; see `EditFigures`.

    Raises:
        ValueError: there is no such figure.
    """
    if figure not in EditFigures.HEAD:
        raise ValueError(f"unknown figure {figure!r}; known: {', '.join(EditFigures.HEAD)}")
    found: list[float | None] = []
    for own in outcomes:
        values = [float(value) for one in own if (value := getattr(one, figure)) is not None]
        found.append(sum(values) / len(values) if values else None)
    return tuple(found)


def edit_figures(outcomes: Sequence[Sequence[EditOutcome]]) -> EditFigures:
    """The figures of all targets, with their intervals.

    Raises:
        ValueError: no target has one of the figures: there are no exchanges, or none could be made.
        MissingExtra: SciPy is not installed.
    """
    found: dict[str, Interval] = {}
    for figure in EditFigures.HEAD:
        values = [value for value in edit_values(outcomes, figure) if value is not None]
        if not values:
            raise ValueError(f"no prompt has the figure {figure!r}: there are no exchanges, or none could be made")
        found[figure] = t_interval(values)
    return EditFigures(**found)
