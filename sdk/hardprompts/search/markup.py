"""Prompts as people paste them into UIs, "(neon:1.3), <lora:style:0.8> BREAK [fox|cat]", and what their words say.

A text encoder knows no markup: to it, "(neon:1.3)" is seven words. So a prompt is read as the UI reads it: brackets,
weights and keywords are taken away, and files that it names are set aside. The result says what was done.

What each UI makes of its own syntax:

| | AUTOMATIC1111's web UI | ComfyUI |
|---|---|---|
| `(word)`, `(word:1.3)` | weights multiply: `((a:2):3)` is 6 | the inner number counts: `((a:2):3)` is 2 |
| `[word]` | weight divided by 1.1 | brackets are words |
| `\\\\(`, `\\\\)`; `\\\\[`, `\\\\]` | literal | only parentheses are |
| `[from:to:0.5]`, `[to:9]`, `[a|b]` | other words at other steps; here all of them | words |
| `BREAK`, `AND`, `AND x:0.5` | parts, each by itself; here all in one text | words |
| `# ...` to the end of a line | a comment | words |
| `// ...`, `/* ... */` | words | a comment |
| `<lora:name:0.8>` | a file, set aside | the same, though only some nodes read it |
| `embedding:name` | words | a file, set aside |
| `{a|b}`, `__name__` | of a widespread extension: one of the choices, here the first; a file, set aside | the same |

diffusers has no markup: it reads every character as words.

Source: AUTOMATIC1111/stable-diffusion-webui, modules/prompt_parser.py and modules/extra_networks.py; comfyanonymous/
ComfyUI, comfy/sd1_clip.py; Comfy-Org/ComfyUI_frontend, formatUtil.ts; adieyal/sd-dynamic-prompts.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, get_args

#: How a prompt is to be read: as a UI does, as plain words, or whichever its markup shows.
Markup = Literal["auto", "a1111", "comfyui", "none"]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_FILE = re.compile(r"<(\w+):([^>]+)>")
_WILDCARD = re.compile(r"(?<!\w)__[\w/*~@-]*?\w__(?!\w)")

#: What only markup looks like. Single brackets, AND and the like stand in plain texts too.
_SIGNS = (
    _FILE,
    _WILDCARD,
    re.compile(rf"\([^()]*:\s*{_NUMBER}\s*\)"),
    re.compile(r"\(\(|\)\)|\\[()\[\]]"),
    re.compile(rf"\[[^\[\]]*:\s*{_NUMBER}\s*\]|\[[^\[\]|]*\|[^\[\]]*\]"),
    re.compile(r"\{[^{}]*\|[^{}]*\}"),
    re.compile(r"(?<![A-Z]\s)\bBREAK\b(?!\s[A-Z]{2})"),
)
_EMBEDDING = re.compile(r"(?:^|(?<=[\s(]))embedding:[^\s,()]+")
#: The same where parentheses are gone: a word, without the commas behind it.
_NAMED_FILE = re.compile(r"(?:^|(?<=\s))embedding:\S*?[^\s,](?=,*(?:\s|$))")

#: Markup of the web UI that ComfyUI reads as words.
_OF_A1111 = re.compile(r"\[[^\[\]]*[:|][^\[\]]*\]|\bBREAK\b|\bAND\b")


@dataclasses.dataclass(frozen=True)
class PlainPrompt:
    """What the words of a prompt say, and what was taken out of it.

    Attributes:
        text: the words alone.
        syntax: whose markup was read: "a1111", "comfyui", or "none".
        weights: phrases with another weight than 1, and these; in `text` they weigh as much as the others.
        set_aside: what belongs behind any prompt made from it, in this order: `<lora:name:0.8>`, `embedding:name`,
            `AND` with a weight below 0.
        notes: what else was done, a sentence each.
    """

    text: str
    syntax: str = "none"
    weights: tuple[tuple[str, float], ...] = ()
    set_aside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What was done, in a line; "" if the prompt had no markup."""
        if self.syntax == "none":
            return ""
        told = [f"read as {_UIS[self.syntax]} reads it: {self.text}"]
        if self.weights:
            told.append("weights left out: " + ", ".join(f"{phrase} {weight:g}" for phrase, weight in self.weights))
        if self.set_aside:
            told.append(f"set aside, to be pasted behind: {' '.join(self.set_aside)}")
        return "; ".join((*told, *self.notes))

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        values = dataclasses.asdict(self)
        return {**values, **{name: list(values[name]) for name in ("set_aside", "notes")},
                "weights": [list(pair) for pair in self.weights]}  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PlainPrompt":
        """The prompt that `to_dict` described.

        Raises:
            ValueError, KeyError, TypeError: fields are missing or of the wrong kind.
        """
        return cls(
            str(values["text"]),
            str(values["syntax"]),
            tuple((str(phrase), float(weight)) for phrase, weight in values["weights"]),
            tuple(map(str, values["set_aside"])),
            tuple(map(str, values["notes"])),
        )


def read_markup(prompt: str, markup: str = "auto") -> PlainPrompt:
    """What the words of a prompt say, read as a UI reads it.

    Args:
        markup: "a1111" or "comfyui", by whose rules; "none": every character is meant; "auto": the one whose markup
            it has, and as it stands if it has none that could be nothing else (a weight, a file, nested brackets).
            Then embedding:name is a file beside the web UI's markup, too.

    Raises:
        ValueError: an unknown markup; nothing is left, since the prompt consists of markup only; or brackets lie
            hundreds deep within each other.
    """
    if markup not in get_args(Markup):
        raise ValueError(f"markup must be one of {', '.join(get_args(Markup))}, got {markup!r}")
    syntax = _syntax_of(prompt) if markup == "auto" else markup
    if syntax == "none":
        return PlainPrompt(prompt)
    try:
        plain = _Reading(syntax, markup != "a1111").read(prompt)
    except RecursionError as error:
        raise ValueError(
            "the prompt's brackets lie too deep within each other; markup='none' reads it as it stands"
        ) from error
    if not plain.text and prompt.strip():
        raise ValueError(
            f"the prompt {prompt!r} has no words beside its markup; give words, or markup='none' if it is meant so"
        )
    return plain


def _syntax_of(prompt: str) -> str:
    named = _EMBEDDING.search(prompt) is not None
    if not named and not any(sign.search(prompt) for sign in _SIGNS):
        return "none"
    return "comfyui" if named and _OF_A1111.search(prompt) is None else "a1111"


_UIS = {"a1111": "AUTOMATIC1111's web UI", "comfyui": "ComfyUI"}


class _Reading:
    """One prompt on its way to plain words, and what was noted on it.

    Args:
        embeddings: whether embedding:name is a file.
    """

    def __init__(self, syntax: str, embeddings: bool) -> None:
        self.syntax = syntax
        self._embeddings = embeddings
        self._weights: list[tuple[str, float]] = []
        self._aside: list[str] = []
        self._behind: list[str] = []  # what must follow all that is set aside
        self._notes: dict[str, None] = {}

    def read(self, prompt: str) -> PlainPrompt:
        text = _COMMENTS[self.syntax].sub(self._without_comment, prompt)
        text = self._choices(re.sub(r"\s+", " ", text))
        for pattern in (_FILE, _WILDCARD):
            text = pattern.sub(self._set_aside, text)
        text = self._parts(text) if self.syntax == "a1111" else self._comfyui(text)
        text = _tidy(text)
        aside = (*dict.fromkeys(self._aside), *self._behind)
        return PlainPrompt(text, self.syntax, tuple(self._weights), aside, tuple(self._notes))

    # --- of both ------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def _without_comment(self, found: re.Match[str]) -> str:
        self._note(f"left out a comment: {found[0].strip()}")
        return ""

    def _set_aside(self, found: re.Match[str]) -> str:
        self._aside.append(found[0])
        return " "

    def _choices(self, text: str) -> str:
        """The first of the choices in braces, the inner ones first; "{2$$a|b|c}" takes two, "0.5::" is their chance."""

        def chosen(found: re.Match[str]) -> str:
            count = re.match(r"(\d+)(?:-\d*)?\$\$(?:([^$|]*)\$\$)?", found[1])
            options = found[1][count.end() if count else 0 :].split("|")
            number, between = (max(1, int(count[1])), count[2] or ", ") if count else (1, "")
            taken = between.join(re.sub(rf"^\s*{_NUMBER}::", "", option) for option in options[:number])
            if len(options) > number:
                self._note(f"of {found[0]} took {taken.strip() or 'nothing'}")
            return taken

        braces = re.compile(r"(?<!\\)\{((?:[^{}\\]|\\.)*)\}")
        while braces.search(text):
            text = braces.sub(chosen, text)
        return re.sub(r"\\([{}|])", r"\1", text)

    def _weighted(self, pieces: Iterator[tuple[str, float]]) -> str:
        """The words of pieces with weights; what weighs nothing or less is left out."""
        kept = []
        for text, weight in pieces:
            words = _tidy(text)
            if words and weight <= 0:
                self._note(f"left out {words!r}, whose weight is {weight:g}")
                continue
            if words and abs(weight - 1) > 1e-6:
                self._weights.append((words, round(weight, 4)))
            kept.append(text)
        return "".join(kept)

    # --- AUTOMATIC1111's web UI ---------------------------------------------------------------

    def _parts(self, text: str) -> str:
        """The words of all parts that AND joins; one with a weight below 0 is set aside."""
        said = []
        parts = re.split(r"\bAND\b", text)
        for place, part in enumerate(parts):
            # The web UI takes ":9" at the end of a prompt without AND for its weight too: more likely it is 16:9.
            found = re.fullmatch(rf"(.*?)\s*:\s*({_NUMBER})\s*", part, re.DOTALL) if len(parts) > 1 else None
            words, count = (found[1], float(found[2])) if found else (part, 1.0)
            if count <= 0:
                self._behind.append(f"AND {_tidy(words)}:{count:g}")
                continue
            pieces = _attention(self._schedules(words))
            plain = self._weighted(self._without_embeddings(piece, weight) for piece, weight in pieces)
            if count != 1:
                self._note(f"the part {_tidy(plain)!r} counts {count:g} times")
            said.append(plain)
            if place:
                self._note("the parts that AND joins stand one behind the other")
        return ", ".join(said)

    def _schedules(self, text: str) -> str:
        """The text with the words of all steps where square brackets change them."""
        found: list[str] = []
        place, closed = 0, _squares(text)
        while place < len(text):
            end = closed.get(place, -1)
            if text[place] == "\\":
                found.append(text[place : place + 2])
                place += 2
            elif end < 0:
                found.append(text[place])
                place += 1
            else:
                found.append(self._bracket(text[place + 1 : end]))
                place = end + 1
        return "".join(found)

    def _bracket(self, inside: str) -> str:
        choices = _split(inside, "|")
        phases = _split(inside, ":")
        if len(choices) > 1:
            self._note(f"said all that alternates in [{inside}]")
            return " ".join(map(self._schedules, choices))
        if len(phases) in (2, 3) and re.fullmatch(rf"\s*{_NUMBER}\s*", phases[-1]):
            self._note(f"said the words of all steps of [{inside}]")
            return " ".join(self._schedules(phase).strip() for phase in phases[:-1] if phase.strip())
        return f"[{self._schedules(inside)}]"

    # --- ComfyUI ------------------------------------------------------------------------------

    def _comfyui(self, text: str) -> str:
        return self._weighted(self._without_embeddings(piece, weight) for piece, weight in _parentheses(text, 1.0))

    def _without_embeddings(self, text: str, weight: float) -> tuple[str, float]:
        """A piece without the embeddings that it names, which are set aside with their weight."""
        if not self._embeddings:
            return text, weight

        def aside(found: re.Match[str]) -> str:
            self._aside.append(found[0] if abs(weight - 1) < 1e-6 else f"({found[0]}:{weight:.4g})")
            return " "

        return _NAMED_FILE.sub(aside, text), weight


_COMMENTS = {"a1111": re.compile(r"#[^\n]*"), "comfyui": re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL | re.MULTILINE)}

_A1111_TOKEN = re.compile(rf"\\[()\[\]\\]|\\|[(\[\])]|:\s*{_NUMBER}\s*\)|[^\\()\[\]:]+|:")


def _attention(text: str) -> Iterator[tuple[str, float]]:
    """The pieces of a prompt of the web UI and their weights; brackets that stay open weight all that follows."""
    pieces: list[list[Any]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(kind: str, factor: float) -> None:
        for piece in pieces[opened[kind].pop() :]:
            piece[1] *= factor

    for token in _A1111_TOKEN.findall(text):
        if token[0] == "\\":
            pieces.append([token[1:], 1.0])
        elif token in ("(", "["):
            opened[token].append(len(pieces))
        elif token[0] == ":" and token[-1] == ")" and opened["("]:
            multiply("(", float(token[1:-1]))
        elif token == ")" and opened["("]:
            multiply("(", 1.1)
        elif token == "]" and opened["["]:
            multiply("[", 1 / 1.1)
        else:
            pieces.append([re.sub(r"\s*\bBREAK\b\s*", ", ", token), 1.0])
    for kind, factor in (("(", 1.1), ("[", 1 / 1.1)):
        while opened[kind]:
            multiply(kind, factor)
    return _merged(pieces)


def _merged(pieces: list[list[Any]]) -> Iterator[tuple[str, float]]:
    """Pieces of the same weight as one."""
    place = 0
    while place < len(pieces):
        text, weight = pieces[place]
        place += 1
        while place < len(pieces) and abs(pieces[place][1] - weight) < 1e-9:
            text += pieces[place][0]
            place += 1
        yield text, weight


def _parentheses(text: str, weight: float) -> Iterator[tuple[str, float]]:
    """The pieces of a prompt of ComfyUI and their weights: the number in the innermost parentheses counts."""
    start = level = 0
    for found in re.finditer(r"\\[()]|[()]", text):
        if found[0] == "(":
            if level == 0:
                yield _literal(text[start : found.start()]), weight
                start = found.start()
            level += 1
        elif found[0] == ")":
            level -= 1
            if level == 0:
                yield from _group(text[start + 1 : found.start()], weight)
                start = found.end()
    rest = text[start:]
    if level > 0 and rest.startswith("(") and re.search(r"(?<!\\)\)\Z", rest):  # one that is never closed, and ends so
        yield from _group(rest[1:-1], weight)
    else:
        yield _literal(rest), weight


def _group(inside: str, weight: float) -> Iterator[tuple[str, float]]:
    before, _, number = inside.rpartition(":")
    try:
        given = float(number) if before else math.nan
    except ValueError:
        given = math.nan
    yield from _parentheses(before, given) if math.isfinite(given) else _parentheses(inside, weight * 1.1)


def _literal(text: str) -> str:
    return re.sub(r"\\([()])", r"\1", text)


def _walk(text: str) -> Iterator[tuple[int, str, int]]:
    """Each character that is not escaped, its place, and how many brackets are open behind it; below 0 never again."""
    depth, place = 0, 0
    while place < len(text):
        character = text[place]
        depth += (character in "([") - (character in ")]")
        yield place, character, depth
        place += 2 if character == "\\" else 1


def _squares(text: str) -> dict[int, int]:
    """The places of square brackets that are closed, and where."""
    opened: list[int] = []
    closed: dict[int, int] = {}
    for place, character, _ in _walk(text):
        if character == "[":
            opened.append(place)
        elif character == "]" and opened:
            closed[opened.pop()] = place
    return closed


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand in no brackets and are not escaped."""
    cuts = [place for place, character, depth in _walk(text) if character == separator and depth == 0]
    edges = [-1, *cuts, len(text)]
    return [text[start + 1 : end] for start, end in pairwise(edges)]


def _tidy(text: str) -> str:
    """Single spaces and single commas, and none at the ends."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s*,(?:\s*,)+", ",", text)
    return re.sub(r"\s+,", ",", text).strip(" ,")
