"""A word of a prompt exchanged for another one, and what else that changes."""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hardprompts.applications.joining import _ids_of
from hardprompts.encoders import Backend, opened_backend
from hardprompts.errors import VocabularyError, listed, quoted
from hardprompts.inversion.evidence.statements import Statement, statements, without
from hardprompts.objectives import check_length
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate
from hardprompts.search.markup import read_markup
from hardprompts.vocabulary import EmbeddedTemplate
from hardprompts.wording import Categories, check_text, words_in

#: From which share of its contribution on a word that an exchange changes is called entangled with it.
ENTANGLED = 0.75


@dataclasses.dataclass(frozen=True)
class WordChange:
    """What a phrase adds to a prompt's features before and after another word was exchanged.

    Attributes:
        phrase: as it stands in the prompt.
        before, after: how far the features move when it is left out, in [0, 2].
        change: how far what it adds afterwards is from what it added before; 0: the same.
    """

    phrase: str
    before: float
    after: float
    change: float

    @property
    def share(self) -> float:
        """The change as a share of the larger contribution: 0 for a phrase that is independent of the exchange."""
        most = max(self.before, self.after)
        return self.change / most if most > 0 else 0.0

    @property
    def entangled(self) -> bool:
        """Whether most of what it adds depends on the word that was exchanged."""
        return self.share >= ENTANGLED


@dataclasses.dataclass(frozen=True)
class Edit:
    """A prompt with one word exchanged, and what that changes in the features of the model that reads it.

    Attributes:
        prompt: the new prompt; its score is its similarity with the one before.
        before: the text before, in its template.
        old, new: what was exchanged for what.
        shift: how far the prompt's features moved, in [0, 2].
        explained: the cosine of that shift and the one from `old` to `new` alone, in [-1, 1]: 1 if the exchange does
            what the words say and no more.
        others: what every other phrase adds before and after, in the order of the text.
    """

    prompt: HardPrompt
    before: str
    old: str
    new: str
    shift: float
    explained: float
    others: tuple[WordChange, ...]

    @property
    def entangled(self) -> tuple[WordChange, ...]:
        """The phrases that do something else now, the most changed first."""
        return tuple(sorted((one for one in self.others if one.entangled), key=lambda one: -one.share))

    @property
    def moved(self) -> str:
        """How far the meaning moved, and in which direction, in a sentence."""
        share = max(0.0, self.explained)
        return f"the meaning moved by {self.shift:.2f}; {share:.0%} in the direction from {self.old!r} to {self.new!r}"

    @property
    def warnings(self) -> list[str]:
        """A sentence for each phrase that does something else now, the most changed first."""
        return [
            f"{one.phrase!r} depends on {self.old!r}: it says something else beside {self.new!r}"
            for one in self.entangled
        ]

    def rows(self) -> list[list[str]]:
        """The cells of a table: what each other phrase adds before and after."""
        return [
            ["other words", "add before", "add after", "changed by"],
            *([o.phrase, f"{o.before:.2f}", f"{o.after:.2f}", f"{o.share:.0%}"] for o in self.others),
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values that may be shared."""
        others = [{**dataclasses.asdict(one), "entangled": one.entangled} for one in self.others]
        return {**vars(self), "prompt": self.prompt.cleared()[0].to_dict(), "others": others}


def edit(
    prompt: HardPrompt | str,
    old: str,
    new: str,
    model: str | Backend | None = None,
    *,
    every: bool = False,
    categories: Categories | None = None,
) -> Edit:
    """The prompt with `new` in the place of `old`, and what else that changes in the eyes of a model.

    Args:
        prompt: one that was found, whose template stays, or one written by hand.
        old: a word of it, or several that stand together; case does not count.
        new: likewise, what is written there instead.
        model: the model that reads prompts, or its name for `load_backend`; default: the one that the prompt names.
        every: exchange all of several occurrences.
        categories: what reads several words as one phrase; default: the lists that come with the package.

    Raises:
        ValueError: a word is empty, or has markup in it, both are the same, or there is no model.
        VocabularyError: `old` is not in the prompt, or several times; or the new text is not encoded to tokens that
            spell it.
        TemplateError: the new text is too long for the model.
        BackendError, UnknownName: see `load_backend`.
    """
    given = prompt if isinstance(prompt, HardPrompt) else HardPrompt(prompt, (), 0.0)
    _check_plain("the prompt", given.text)
    old, new = _word("old", old), _word("new", new)
    if old == new:
        raise ValueError(f"{old!r} would be exchanged for itself; give another word")
    spans = _spans_of(given.text, old, every)
    text = _exchanged(given.text, spans, new)
    if model is None and not given.model:
        raise ValueError("this prompt names no model; pass the one that reads it, as model='emoji'")
    backend = opened_backend(model or given.model)
    template = PromptTemplate(given.template)
    ids = _ids_of(text, backend.vocabulary, template)
    _check_spelled(text, ids, backend)
    room = EmbeddedTemplate.of(backend.vocabulary, template).room(backend.text_encoder.max_tokens)
    check_length(len(ids), room, template, backend.name)
    phrases = _others(given.text, text, spans, categories or Categories.default())
    left_out = [(without(given.text, [a]), without(text, [b])) for a, b in phrases]
    texts = [given.text, text, old, new, *(one for pair in left_out for one in pair)]
    features = backend.encode_texts([template.fill(one) for one in texts]).double()
    before, after, shift, alone = features[0], features[1], features[1] - features[0], features[3] - features[2]
    score = float(before @ after)
    found = HardPrompt(
        text=text,
        token_ids=ids,
        score=score,
        template=template.text,
        model=backend.name,
        method="edit",
        score_unit="cosine similarity with the prompt before",
        tokens=backend.vocabulary.pieces(ids),
        candidates=(Candidate(text, ids, score),),
        evaluations=len(texts),
        provenance={"original": given.text, "parts": [old, new]},
    )
    changes = [
        _change(a.phrase, before - features[4 + 2 * place], after - features[5 + 2 * place])
        for place, (a, _) in enumerate(phrases)
    ]
    return Edit(found, given.filled, old, new, float(shift.norm()), _cosine(shift, alone), tuple(changes))


# --- the text ---------------------------------------------------------------------------------


def _word(name: str, word: str) -> str:
    """A word that may be exchanged, with single spaces.

    Raises:
        ValueError: it is empty, or has markup in it, or half of a character.
    """
    check_text(name, word)
    tidy = " ".join(word.split())
    if not words_in(tidy):
        raise ValueError(f"{name} is {word!r}, which has no letters or digits; give a word")
    _check_plain(name, tidy)
    return tidy


def _check_plain(name: str, text: str) -> None:
    if (plain := read_markup(text)).syntax != "none":
        raise ValueError(
            f"{name} is {text!r}, which has a user interface's markup in it, that a model would read as words; give "
            f"words alone, {plain.text!r}"
        )


def _spans_of(text: str, old: str, every: bool) -> list[tuple[int, int]]:
    """Where a word, or several that stand together, is in a text, as whole words whatever their case.

    Raises:
        VocabularyError: nowhere, or several times where `every` is not asked for.
    """
    pattern = r"\s+".join(map(re.escape, old.split()))
    first, last = (r"(?<![^\W_])" if old[0].isalnum() else ""), (r"(?![^\W_])" if old[-1].isalnum() else "")
    found = [match.span() for match in re.finditer(f"{first}{pattern}{last}", text, re.IGNORECASE)]
    if not found:
        near = difflib.get_close_matches(old.lower(), {word.lower() for word in words_in(text)}, 3, 0.5)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else f"its words: {listed(words_in(text), 20)}"
        raise VocabularyError(f"{old!r} is not a word of the prompt {quoted(text)}; {advice}")
    if len(found) > 1 and not every:
        raise VocabularyError(
            f"{old!r} occurs {len(found)} times in the prompt {quoted(text)}; exchange all of them with every=True, or "
            "name it together with a word beside it"
        )
    return found


def _exchanged(text: str, spans: Sequence[tuple[int, int]], new: str) -> str:
    for start, end in reversed(spans):
        text = f"{text[:start]}{new}{text[end:]}"
    return text


def _check_spelled(text: str, ids: Sequence[int], backend: Backend) -> None:
    """Raises unless the tokens spell all words: some tokenizers skip what they do not know, or read it as one sign.

    Raises:
        VocabularyError: they do not.
    """
    read = backend.vocabulary.decode(ids)
    if "".join(words_in(read)).lower() != "".join(words_in(text)).lower():
        raise VocabularyError(
            f"{backend.name} has no tokens that spell {quoted(text)}; it reads {quoted(read)}: use words that it knows"
        )


def _others(
    before: str, after: str, spans: Sequence[tuple[int, int]], categories: Categories
) -> list[tuple[Statement, Statement]]:
    """The statements that a text has before and after an exchange, but for those that it is made in."""
    left = {one.phrase.lower(): one for one in statements(after, categories)}
    return [
        (one, left[one.phrase.lower()])
        for one in statements(before, categories)
        if one.phrase.lower() in left and not any(s < end and start < e for s, e in one.spans for start, end in spans)
    ]


# --- the features -----------------------------------------------------------------------------


def _change(phrase: str, before: Float[Tensor, " features"], after: Float[Tensor, " features"]) -> WordChange:
    return WordChange(phrase, float(before.norm()), float(after.norm()), float((after - before).norm()))


def _cosine(one: Float[Tensor, " features"], other: Float[Tensor, " features"]) -> float:
    size = float(one.norm() * other.norm())
    return float(one @ other) / size if size > 0 else 0.0
