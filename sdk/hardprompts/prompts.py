"""Prompts as values: a template with one slot, and a hard prompt with all that is known about it."""

import dataclasses
import html
import math
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import Unpack

from hardprompts.atomic import json_text
from hardprompts.causes.standins import read_json, stand_in_at
from hardprompts.errors import FileFormatError, TemplateError, printable
from hardprompts.hub.card import CardPart, code_fence, code_span, facts_list, python_block
from hardprompts.hub.client import PullOptions, pull_files
from hardprompts.hub.machine import Clearance, model_label, shown_model
from hardprompts.hub.mixin import HubMixin
from hardprompts.hub.names import PROMPT_FILE, hub_model
from hardprompts.hub.places import model_here, write_with_place
from hardprompts.wording import Categories, WordEvidence, WordInteractions, check_text
from hardprompts.wording.evidence import NOTHING_DROPPED, UNCALIBRATED

if TYPE_CHECKING:
    from rich.text import Text


SLOT = "{}"

#: What of the provenance people wrote, or models read and write: none of it is ever changed.
_WORDS = frozenset("text original templates parts parents clip_prompt classification_template label_words".split())

FORMAT_VERSION = 1

#: What makes a text literal in a UI's prompt syntax: (pattern, replacement), one after the other. In ComfyUI a
#: backslash means something before a parenthesis alone, and "embedding:" at the beginning of a word names a file;
#: with a space in it it does not, and CLIP's tokenizers do not see the space.
_LITERAL = {
    "comfyui": ((re.compile(r"([()])"), r"\\\1"), (re.compile(r"(^|\s)(embedding):"), r"\1\2 :")),
    "a1111": ((re.compile(r"([\\()\[\]])"), r"\\\1"),),
}


def escape(text: str, syntax: str) -> str:
    """A text as a UI must be given it, to be read literally.

    Raises:
        ValueError: an unknown syntax.
    """
    if syntax not in _LITERAL:
        raise ValueError(f"unknown syntax {syntax!r}; known: {', '.join(_LITERAL)}")
    for pattern, replacement in _LITERAL[syntax]:
        text = pattern.sub(replacement, text)
    return text


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """Fixed text with one free slot, as in "a tiger in the style of {}".

    Raises:
        TemplateError: `text` has no slot "{}", or more than one, or half of a character.
    """

    text: str = SLOT

    def __post_init__(self) -> None:
        check_text("the template", self.text, TemplateError)
        slots = self.text.count(SLOT)
        if slots != 1:
            raise TemplateError(f'the template {self.text!r} has {slots} slots; write "{{}}" exactly once')

    @property
    def prefix(self) -> str:
        """The text before the slot."""
        return self.text.partition(SLOT)[0]

    @property
    def suffix(self) -> str:
        """The text after the slot."""
        return self.text.partition(SLOT)[2]

    def fill(self, prompt: str) -> str:
        """The template with `prompt` in its slot; braces in the prompt stay as they are."""
        return f"{self.prefix}{prompt}{self.suffix}"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One prompt that a search considered, with its score."""

    text: str
    token_ids: tuple[int, ...]
    score: float


@dataclasses.dataclass(frozen=True)
class TradeOff:
    """A prompt with all that may be weighed against one another.

    Attributes:
        similarity: of the prompt, higher is better.
        tokens: fewer are better.
        fluency: the log-likelihood of each word by a language model, higher is better; None without one.
    """

    candidate: Candidate
    similarity: float
    tokens: int
    fluency: float | None = None

    def dominates(self, other: "TradeOff") -> bool:
        """True if it is no worse in anything, and better in something."""
        own, theirs = self._goods(), other._goods()
        return own != theirs and all(a >= b for a, b in zip(own, theirs, strict=True))

    def _goods(self) -> tuple[float, ...]:
        return (self.similarity, -self.tokens, *(() if self.fluency is None else (self.fluency,)))


@dataclasses.dataclass(frozen=True)
class WordWeights:
    """A weight for each word of a prompt, for a UI that weights words, and what they gain.

    Attributes:
        values: one for each word; words are what white space divides. 1 changes nothing.
        syntax: "comfyui" or "a1111", by whose rule they were fitted.
        unit: of the figures that follow, higher is better.
        plain, weighted: the score without and with weights, where they were fitted.
        held_out: the same where they were not; None where there was no time to measure it.
    """

    values: tuple[float, ...]
    syntax: str
    unit: str
    plain: float
    weighted: float
    held_out: tuple[float, float] | None

    @property
    def gain(self) -> float:
        """What the weights add to the score where they were not fitted; of unknown, where they were."""
        plain, weighted = (self.plain, self.weighted) if self.held_out is None else self.held_out
        return weighted - plain


@dataclasses.dataclass(frozen=True)
class HistoryPoint:
    """How far a search had come: the best score after so many steps, seconds and evaluations.

    An evaluation is one forward or one backward pass of one prompt.
    """

    step: int
    seconds: float
    evaluations: int
    score: float


@dataclasses.dataclass(frozen=True)
class HardPrompt(HubMixin):
    """Text that any model takes, and what is known about it.

    `encode(prompt.filled)` of the model's tokenizer has `token_ids` in the slot, always:
    the text returned is the text that was scored.

    Attributes:
        text: the prompt, which goes into the slot of `template`.
        token_ids: its ids in the vocabulary of `model`.
        score: higher is better, in `score_unit`.
        template: text with one "{}" in which the prompt was scored.
        tokens: what each token adds to the text.
        attributions: for each token, the score that is lost when it is removed; none where that was not measured.
        candidates: the best prompts found, without duplicates, as the search ranks them; this one is the first. Their
            scores are of their texts, and may have another order: see `ranking_note`.
        history: best score against steps, seconds and evaluations.
        evaluations: forward and backward passes of one prompt each, in the whole call that found it.
        left_out: what the limits of that call left no room for, in words: "contributions of tokens: 0 of 8".
        pareto: the best trade-offs, if they were asked for: no other prompt is better in similarity, length and fluency
            at once; most similar first.
        fluency: the log-likelihood of each word of the whole text, in nats, by a language model that had no part in
            finding it, if one was asked; higher is better. Captions have about -5 by a good model.
        weights: of its words, if they were fitted; see `hardprompts.applications.fit_weights`.
        interactions: how much its phrases depend on one another, if that was measured; see
            `hardprompts.applications.word_interactions`.
        evidence: of its phrases, if it was asked for; see `PromptInverter.evidence`.
        provenance: whatever else tells how it came about; JSON values. Two prompts that differ in nothing else are
            not equal, but have the same hash.
    """

    text: str
    token_ids: tuple[int, ...]
    score: float
    template: str = SLOT
    model: str = ""
    method: str = ""
    score_unit: str = "cosine similarity"
    tokens: tuple[str, ...] = ()
    attributions: tuple[float, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    history: tuple[HistoryPoint, ...] = ()
    seed: int | None = None
    stop_reason: str = ""
    evaluations: int = 0
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    pareto: tuple[TradeOff, ...] = ()
    weights: WordWeights | None = None
    left_out: tuple[str, ...] = ()
    fluency: float | None = None
    evidence: tuple[WordEvidence, ...] = ()
    interactions: WordInteractions | None = None

    def __post_init__(self) -> None:
        for name in ("text", "template"):
            check_text(f"the {name} of a prompt", getattr(self, name))
        check_text("a candidate of a prompt", [candidate.text for candidate in self.candidates])

    @property
    def filled(self) -> str:
        """The whole text to paste: the template with the prompt in its slot."""
        return PromptTemplate(self.template).fill(self.text)

    def by_category(self, categories: Categories | None = None) -> dict[str, tuple[str, ...]]:
        """The phrases of the prompt by what they are about: {"subject": ("fox",), "color": ("purple",)}.

        Args:
            categories: the lists that say so; default: `Categories.default()` of `hardprompts.wording`. What is in
                none is "other".
        """
        return (categories or Categories.default()).of(self.text)

    def arranged(self, form: str, categories: Categories | None = None) -> str:
        """The phrases of the prompt in a form such as "{subject}, {medium}, {style}"; see `Categories.arranged`.

        It is another text than the one that was scored; `PromptInverter.score` scores it.

        Raises:
            UnknownName: the form asks for a category that there is not.
            ValueError: the form has a brace that belongs to no name.
        """
        return (categories or Categories.default()).arranged(self.text, form)

    def __str__(self) -> str:
        return self.filled

    def escaped(self, syntax: Literal["comfyui", "a1111"]) -> str:
        """`filled`, with the characters that weight words in a UI's syntax made literal.

        Raises:
            ValueError: an unknown syntax.
        """
        return escape(self.filled, syntax)

    def weighted(self) -> str:
        """`escaped`, with the weights of its words in the syntax they were fitted for: "(fox:1.2) (neon:0.9)".

        Raises:
            ValueError: no weights were fitted.
        """
        if self.weights is None:
            raise ValueError("this prompt has no weights; fit them with hardprompts.applications.fit_weights")
        syntax, template = self.weights.syntax, PromptTemplate(self.template)
        pieces, numbers = re.split(r"(\s+)", self.text), iter(self.weights.values)
        written = []
        for piece in pieces:
            weight = 1.0 if not piece.strip() else next(numbers)
            literal = escape(piece, syntax)
            written.append(literal if weight == 1 else f"({literal}:{weight:g})")
        return f"{escape(template.prefix, syntax)}{''.join(written)}{escape(template.suffix, syntax)}"

    # --- to look at -----------------------------------------------------------------------

    def __rich__(self) -> "Text":
        """The prompt with its tokens in two shades, for rich."""
        from rich.text import Text

        template = PromptTemplate(self.template)
        shades = ("black on bright_cyan", "black on bright_yellow")
        text = Text()
        text.append(printable(template.prefix), style="dim")
        for index, (piece, gap) in enumerate(self.pieces()):
            text.append(printable(piece), style=shades[index % 2]).append(printable(gap))
        return text.append(printable(template.suffix), style="dim")

    def _repr_html_(self) -> str:
        """The prompt with its tokens in two shades, for notebooks; all text is escaped."""
        template = PromptTemplate(self.template)
        spans = []
        for index, (piece, gap) in enumerate(self.pieces()):
            title = f"token {self.token_ids[index]}" if index < len(self.token_ids) else ""
            if index < len(self.attributions):
                title += f", contributes {self.attributions[index]:+.3f}"
            shade = ("#bfe9f2", "#fbe7a1")[index % 2]
            spans.append(
                f'<span title="{html.escape(title)}" style="background:{shade};color:#111;'
                f'border-radius:3px;padding:0 2px">{html.escape(piece)}</span>{html.escape(gap)}'
            )
        return (
            f'<div><code style="font-size:1.05em">{html.escape(template.prefix)}{"".join(spans)}'
            f"{html.escape(template.suffix)}</code><br><small>{html.escape(self.score_unit)} {self.score:.3f} &middot; "
            f"{html.escape(model_label(self.model))} &middot; {html.escape(self.method)}</small></div>"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The repr that a notebook keeps, without folders of this machine."""
        printer.text(repr(self.cleared()[0]))

    def pieces(self) -> list[tuple[str, str]]:
        """The text cut at its token boundaries: (token, the white space behind it)."""
        pieces: list[tuple[str, str]] = []
        position = 0
        for token in self.tokens:
            start = self.text.find(token, position)
            if start < 0 or self.text[position:start].strip():
                return [(self.text, "")]  # tokens that do not spell the text are not shown
            if pieces:
                pieces[-1] = (pieces[-1][0], self.text[position:start])
            pieces.append((token, ""))
            position = start + len(token)
        return pieces if not self.text[position:].strip() and pieces else [(self.text, "")]

    # --- to keep --------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HardPrompt":
        """The prompt that `to_dict` described.

        Fields that this release does not know are kept in the provenance, as `other_fields`.

        Raises:
            FileFormatError: fields are missing or of the wrong kind.
        """
        known = {field.name for field in dataclasses.fields(HardPrompt)} | {"format_version"}
        fields = {name: value for name, value in values.items() if name in known}
        others = {name: value for name, value in values.items() if name not in known}
        version = fields.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise FileFormatError(f"format version {version!r}; this release reads version {FORMAT_VERSION}")
        try:
            prompt = cls(
                **{
                    **fields,
                    "token_ids": tuple(operator.index(i) for i in fields["token_ids"]),
                    "score": float(fields["score"]),
                    "tokens": tuple(str(t) for t in fields.get("tokens", ())),
                    "attributions": tuple(float(a) for a in fields.get("attributions", ())),
                    "candidates": tuple(map(_candidate, fields.get("candidates", ()))),
                    "history": tuple(HistoryPoint(**point) for point in fields.get("history", ())),
                    "pareto": tuple(map(_trade_off, fields.get("pareto", ()))),
                    "weights": _word_weights(fields.get("weights"), str(fields["text"])),
                    "provenance": {**fields.get("provenance", {}), **({"other_fields": others} if others else {})},
                    "left_out": tuple(str(one) for one in fields.get("left_out", ())),
                    "fluency": _number(fields.get("fluency")),
                    "evidence": tuple(map(WordEvidence.from_dict, fields.get("evidence", ()))),
                    "interactions": _interactions(fields.get("interactions")),
                }
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FileFormatError(f"not a hard prompt: {error!r}") from error
        for name in ("text", "template", "model", "method", "score_unit", "stop_reason"):
            if not isinstance(getattr(prompt, name), str):
                raise FileFormatError(f"not a hard prompt: its {name} is {getattr(prompt, name)!r} and not a text")
        if math.isnan(prompt.score):
            raise FileFormatError("not a hard prompt: its score is not a number")
        PromptTemplate(prompt.template)
        return prompt

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> Path:
        """Writes `prompt.json` into a folder, which is made if need be; returns the file's path.

        It may be shared as it is. If the model is a folder of this machine, its path stands in a file of its own beside
        it, `this_machine.json`, from which `from_pretrained` takes it again.
        """
        return write_with_place(Path(save_directory) / PROMPT_FILE, self.to_json(), self.model)

    def to_json(self) -> str:
        """All fields as the text of `prompt.json`, without paths of this machine; see `cleared`."""
        return json_text(self.cleared()[0].to_dict())

    def cleared(self) -> "tuple[HardPrompt, Clearance]":
        """The same as it may be shared, and what was changed for that: names of models and of settings, and no words.

        A model in a folder is called by the folder's last part, "open_clip:…/my-model".
        """
        clearance = Clearance()
        for name in ("text", "template"):
            clearance.keep(name, getattr(self, name))
        cleared = dataclasses.replace(
            self,
            model=clearance.model("model", self.model),
            method=clearance.text("method", self.method),
            score_unit=clearance.text("score_unit", self.score_unit),
            stop_reason=clearance.text("stop_reason", self.stop_reason),
            provenance=clearance.values("provenance", self.provenance, _WORDS),
        )
        return cleared, clearance

    def hub_files(self, repo_id: str) -> dict[str, bytes]:
        """The files that hold it in a repository, by name."""
        return {PROMPT_FILE: self.to_json().encode()}

    def card_part(self, repo_id: str) -> CardPart:
        """What the repository's card says of it."""
        return CardPart(
            _card_section(repo_id, self.cleared()[0]),
            ("hard-prompt", "prompt-inversion"),
            base_model=hub_model(self.model),
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Unpack[PullOptions]
    ) -> "HardPrompt":
        """The prompt that `save_pretrained` wrote into a folder, or `push_to_hub` into a repository of the Hub.

        Args:
            pretrained_model_name_or_path: a folder; or "user/name", if there is no folder of that name.
            options: revision, token, cache_dir and local_files_only: see `hardprompts.hub.PullOptions`.

        Raises:
            FileFormatError: there is no prompt in that folder, or it is damaged.
            HubError: there is no such repository, no prompt is in it, or it cannot be reached and is not in the cache.
        """
        return cls._in_folder(pull_files(pretrained_model_name_or_path, [PROMPT_FILE], **options))

    @classmethod
    def _in_folder(cls, folder: Path) -> "HardPrompt":
        path = folder / PROMPT_FILE
        try:
            values = read_json(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            found = "it is a file; pass its folder" if folder.is_file() else stand_in_at(path)
            reason = f": {found}" if found else ""
            raise FileFormatError(f"no {PROMPT_FILE} in {os.fspath(folder)!r}{reason}") from error
        if not isinstance(values, dict):
            raise FileFormatError(f"{path}: not a hard prompt: {type(values).__name__} instead of named fields")
        try:
            prompt = cls.from_dict(values)
        except (FileFormatError, TemplateError) as error:
            raise FileFormatError(f"{path}: {error}") from error
        return dataclasses.replace(prompt, model=model_here(folder, prompt.model))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _interactions(values: Mapping[str, Any] | None) -> WordInteractions | None:
    return None if values is None else WordInteractions.from_dict(values)


def _candidate(values: Mapping[str, Any]) -> Candidate:
    return Candidate(str(values["text"]), tuple(map(operator.index, values["token_ids"])), float(values["score"]))


def _trade_off(values: Mapping[str, Any]) -> TradeOff:
    return TradeOff(
        _candidate(values["candidate"]),
        float(values["similarity"]),
        operator.index(values["tokens"]),
        _number(values["fluency"]),
    )


def _word_weights(values: Mapping[str, Any] | None, text: str) -> WordWeights | None:
    if values is None:
        return None
    each, held_out = tuple(float(value) for value in values["values"]), values["held_out"]
    elsewhere = None if held_out is None else tuple(float(value) for value in held_out)
    if elsewhere is not None and len(elsewhere) != 2:
        raise ValueError(f"its held-out figures are {elsewhere}, which are not two numbers")
    if len(each) != len(text.split()) or not all(map(math.isfinite, each)):
        raise ValueError(f"its weights are {each}, which are not one number for each word")
    return WordWeights(
        each, str(values["syntax"]), str(values["unit"]), float(values["plain"]), float(values["weighted"]),
        None if elsewhere is None else (elsewhere[0], elsewhere[1]),
    )  # fmt: skip


def unique(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates without repeated texts, best first."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: -c.score):
        best.setdefault(candidate.text, candidate)
    return tuple(best.values())


def ranking_note(prompt: HardPrompt) -> str:
    """What candidates are ranked by, where the scores shown beside them have another order; else ""."""
    scores = [candidate.score for candidate in prompt.candidates]
    if scores == sorted(scores, reverse=True):
        return ""
    views = prompt.provenance.get("views", 1)
    seen = f"{views} views of each image, with " if isinstance(views, int) and views > 1 else ""
    beside = f"the {prompt.score_unit} with each image as it is" if seen else f"the {prompt.score_unit} of each text"
    return f"ranked by {seen}length and all else that was asked for; the numbers are {beside}"


def notes_on(prompts: Iterable[HardPrompt]) -> list[str]:
    """What users should know of prompts that were found, in lines.

    That one is empty, what the limits left no room for, and what was left out for other reasons.
    """
    found = list(prompts)
    empty = any("evidence" in one.provenance and not one.text for one in found)
    each = dict.fromkeys(what for one in found for what in one.left_out)
    limited = [one for one in each if UNCALIBRATED not in one]
    others = [f"{one}, {NOTHING_DROPPED}" for one in each if UNCALIBRATED in one]
    return [
        *(["the prompt is empty: no word is as likely true as min_evidence asks for; lower it"] if empty else []),
        *([f"no room within the limits: {'; '.join(limited)}"] if limited else []),
        *others,
    ]


def fluency_note(prompt: HardPrompt) -> str:
    """How fluent a prompt is, "6.1 nats a word"; "" where no model was asked."""
    return "" if prompt.fluency is None else f"{-prompt.fluency:.1f} nats a word"


def _evidence_table(prompt: HardPrompt) -> str:
    rows = ["| phrase | category | contributes | lost when exchanged | probability |", "|---|---|---|---|---|"]
    for one in prompt.evidence:
        exchange = "" if one.exchange is None else f"{one.exchange:+.3f}"
        probability = "" if one.probability is None else f"{100 * one.probability:.0f} %"
        cells = (code_span(one.phrase), code_span(one.category), f"{one.contribution:+.3f}", exchange, probability)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _card_section(repo_id: str, prompt: HardPrompt) -> str:
    facts: list[tuple[str, object]] = [
        ("model", shown_model(prompt.model)),
        ("method", prompt.method),
        (prompt.score_unit if prompt.score_unit.replace(" ", "").isalnum() else "score", f"{prompt.score:.4f}"),
        ("tokens", len(prompt.token_ids)),
        ("nats a word", None if prompt.fluency is None else f"{-prompt.fluency:.1f}"),
        ("template", "" if prompt.template == "{}" else prompt.template),
        ("seed", prompt.seed),
        ("stopped", prompt.stop_reason),
        ("evaluations", prompt.evaluations or None),
        ("left out", "; ".join(prompt.left_out) or None),
    ]
    parts = [
        "A hard prompt: text that any model, UI or API takes. It was found by a search, so it need not read well.",
        code_fence(prompt.filled),
    ]
    if printable(prompt.filled) != prompt.filled:
        parts.append("Characters that cannot be seen are shown as escapes; `prompt.json` has the exact text.")
    parts.append(facts_list(facts))
    escapes: list[tuple[str, object]] = [
        (ui, text)
        for ui, text in (("ComfyUI", prompt.escaped("comfyui")), ("A1111", prompt.escaped("a1111")))
        if text != prompt.filled
    ]
    if escapes:
        parts.append("With the characters that weight words made literal:\n\n" + facts_list(escapes))
    if prompt.interactions is not None and (pairs := prompt.interactions.strongest()):
        told = "\n".join(f"1. {code_span(one)} and {code_span(other)}: {value:+.3f}" for one, other, value in pairs)
        parts.append(f"Phrases that depend on one another most (above 0 they say more together):\n\n{told}")
    if prompt.evidence:
        parts.append(f"What speaks for each phrase:\n\n{_evidence_table(prompt)}")
    if len(prompt.candidates) > 1:
        best = "\n".join(f"1. {code_span(c.text)} ({c.score:.4f})" for c in prompt.candidates[:5])
        note = f" ({told})" if (told := ranking_note(prompt)) else ""
        parts.append(f"The best that the search found{note}:\n\n{best}")
    parts.append(
        python_block(
            "from hardprompts import HardPrompt",
            "",
            f'prompt = HardPrompt.from_pretrained("{repo_id}")',
            "pipe(str(prompt))  # any text-to-image pipeline",
        )
    )
    return "\n\n".join(parts)
