"""What can be found out about a soft prompt: what it is, where it lies among words, how robust and how odd it is."""

import dataclasses
import hashlib
import math
import re
from pathlib import Path
from typing import Any, Literal

from hardprompts.errors import printable
from hardprompts.hub.machine import model_label, without_machine
from hardprompts.softprompts.families import ENCODER_DECODER, LANGUAGE_MODEL
from hardprompts.softprompts.geometry import NEAR, GeometryReport
from hardprompts.softprompts.nearest import NearestDecoding
from hardprompts.softprompts.prompt import SoftPrompt
from hardprompts.softprompts.robustness import RobustnessReport, Spread

#: A soft token longer than all but so many of the model's own tokens is out of distribution.
LONGEST_SHARE = 0.999

#: A median length so many times that of the model's own tokens is out of distribution too, and so is its inverse.
FAR_RATIO = 3.0

#: Tokens that a context of CLIP has room for.
CLIP_CONTEXT = 75

#: What embeddings are stored as; other floats are read too, and lose or feign precision.
_USUAL_DTYPES = ("float32", "float16", "bfloat16")

Level = Literal["fine", "note", "warning"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a person should know, and how much it matters."""

    level: Level
    text: str


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """A file as it lies on the disk: its name, its bytes, and their SHA-256; of a folder the name alone."""

    name: str
    size: int = 0
    sha256: str = ""

    @classmethod
    def of(cls, path: Path) -> "FileFacts":
        """What is known of a file; it is read as a stream.

        Raises:
            OSError: it cannot be read.
        """
        if path.is_dir():
            return cls(path.resolve().name)
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while part := file.read(2**20):
                digest.update(part)
        return cls(path.name, path.stat().st_size, digest.hexdigest())


@dataclasses.dataclass(frozen=True)
class DecodedText:
    """A hard prompt that makes the model do what the soft prompt does, and how faithfully.

    Attributes:
        text: the prompt, with its template.
        quantity: what of the model was matched.
        faithfulness: the share of the soft prompt's effect that it keeps in that; 1 is all, 0 as much as nothing.
        held_out: the same where the search did not look; None if nobody measured it.
    """

    text: str
    quantity: str
    faithfulness: float
    held_out: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Audit:
    """One soft prompt, and beside a model, if there is one, where it lies in it and what it does there.

    It is made to be shown to others, so it holds no folders of this machine or of the one that trained the soft prompt.

    Attributes:
        dtypes: what its values are stored as.
        model: the name of the model that it was compared with.
        encoder: the text encoder of the soft prompt that was compared with the model's.
        geometry, nearest, spread, robustness, decoded: see their classes; None where they were not asked for.
        ban_list: words that should not turn up in what it decodes to.
        notes: why something was left out.
        left_out: what there was no time for, in words.
        stop_reason: "interrupted" or "cancelled" where somebody ended the audit; else "".
    """

    prompt: SoftPrompt
    dtypes: tuple[str, ...] = ()
    model: str = ""
    encoder: str = ""
    geometry: GeometryReport | None = None
    nearest: NearestDecoding | None = None
    spread: Spread | None = None
    robustness: RobustnessReport | None = None
    decoded: DecodedText | None = None
    ban_list: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    stop_reason: str = ""

    def __post_init__(self) -> None:
        cleared, told = self.prompt.cleared()
        notes = list(map(without_machine, self.notes))
        if told.shortened:
            fields = ", ".join(field.removeprefix("metadata.") for field in told.shortened)
            notes.append(f"It names folders of the machine that it was trained on ({fields}); they are left out here.")
        object.__setattr__(self, "prompt", cleared)
        object.__setattr__(self, "model", model_label(self.model))
        object.__setattr__(self, "notes", tuple(notes))

    @property
    def is_far(self) -> bool:
        """True if most of its tokens have no word near; False too if there is no model to tell."""
        return self.geometry is not None and self.geometry.share_near < 0.5

    @property
    def _nearest_kept(self) -> str:
        kept, quantity = 0.0, "text features"
        if self.robustness is not None:
            kept, quantity = self.robustness.nearest_kept, self.robustness.quantity
        return f"{max(kept, 0.0):.0%} of its effect on the {quantity}"

    @property
    def verdict(self) -> Finding:
        """The most important thing about it, in one sentence."""
        count = _counted(self.prompt.num_tokens, "token")
        what = f"{count} for {' or '.join(self.prompt.families)}"
        warnings = [finding for finding in self.findings if finding.level == "warning"]
        if self.geometry is None:
            rest = "it was not compared with a model, so how far it lies from words is open"
            return Finding("warning" if warnings else "note", f"{what}; {rest}.")
        near = sum(token.angle <= NEAR for token in self.geometry.tokens)
        total = len(self.geometry.tokens)
        if self.is_far:
            whose = f"{'its' if total == 1 else f'{near} of its {total}'} token{'s' * (total != 1)}"
            have = f"has no word within {NEAR:.0f} degrees" if total == 1 else f"have a word within {NEAR:.0f} degrees"
            rest = f"far from natural language: {whose} {have}, so the nearest words may say little about what it does"
            if self.robustness is not None:
                rest = f"far from natural language: {whose} {have}, and the nearest words keep {self._nearest_kept}"
        else:
            rest = f"near to natural language: {near} of {total} tokens have a word within {NEAR:.0f} degrees"
        if self.decoded is not None:
            rest += f"; a prompt was found that keeps {self.decoded.faithfulness:.0%}"
        level: Level = "warning" if warnings else "note" if self.is_far else "fine"
        return Finding(level, f"{what}, {rest}.")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is odd about it, what matters most first."""
        found = [*self._banned(), *self._lengths(), *self._values(), *self._name()]
        found += [Finding("note", note) for note in (*self.prompt.notes, *self.notes)]
        if self.left_out:
            why = "The audit was interrupted before" if self.stop_reason else "There was no time for all of"
            found.append(Finding("note", f"{why} {'; '.join(self.left_out)}."))
        return tuple(sorted(found, key=lambda finding: finding.level != "warning"))

    def _banned(self) -> list[Finding]:
        places: list[tuple[str, str]] = [("its name", self.prompt.name)]
        if self.nearest is not None:
            places.append(("its nearest words", self.nearest.text))
        if self.geometry is not None:
            words = " \n ".join(near.text for token in self.geometry.tokens for near in token.by_cosine)
            places.append(("the words near to its tokens", words))
        if self.decoded is not None:
            places.append(("the prompt that it was decoded to", self.decoded.text))
        found = []
        for word in dict.fromkeys(self.ban_list):
            hits = [place for place, text in places if spells(text, word)]
            if hits:
                found.append(Finding("warning", f"{word!r} is on the ban list, and is in {', '.join(hits)}."))
        return found

    def _lengths(self) -> list[Finding]:
        if self.geometry is None:
            return []
        tokens, ratio = self.geometry.tokens, self.geometry.norm_ratio
        longer = sum(token.norm_rank >= LONGEST_SHARE for token in tokens)
        if not longer and 1 / FAR_RATIO < ratio < FAR_RATIO:
            return []
        times = f"{ratio:.1f} times" if ratio >= 0.1 else f"{ratio:.2g} times"
        text = f"its tokens are {times} as long as the model's own (medians)"
        if longer:
            text += f", and {longer} of {len(tokens)} longer than {LONGEST_SHARE:.1%} of these"
        return [Finding("warning", f"Out-of-distribution length: {text}.")]

    def _values(self) -> list[Finding]:
        prompt, found = self.prompt, []
        odd = [dtype for dtype in self.dtypes if dtype not in _USUAL_DTYPES]
        if odd:
            found.append(Finding("note", f"Stored as {', '.join(odd)}, which tools seldom write."))
        of_clip = prompt.encoders not in (LANGUAGE_MODEL, ENCODER_DECODER)
        if prompt.num_tokens > CLIP_CONTEXT and of_clip:
            text = f"{prompt.num_tokens} tokens; a context of CLIP has room for {CLIP_CONTEXT}, so most UIs cut it off"
            found.append(Finding("warning" if prompt.num_tokens >= 1000 else "note", f"{text}."))
        for encoder, values in prompt.embeddings.items():
            zeros = int((values.norm(dim=1) == 0).sum())
            if zeros:
                found.append(Finding("warning", f"{zeros} of the tokens for {printable(encoder)} are zero throughout."))
            same = len(values) - len(values.unique(dim=0))
            if same:
                found.append(Finding("note", f"{same} of the tokens for {printable(encoder)} repeat another one."))
            largest = float(values.abs().max())
            if largest > 100:
                found.append(
                    Finding("warning", f"A value for {printable(encoder)} is {largest:.3g}; words have below 1.")
                )
        return found

    def _name(self) -> list[Finding]:
        name = self.prompt.name
        if not name:
            return [Finding("note", "It has no name; a UI will call it as its file.")]
        if not name.isascii():
            return [Finding("note", f"Its name has letters beyond ASCII, which may look like others: {name!a}.")]
        return []

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        prompt = self.prompt
        return {
            "name": prompt.name,
            "format": prompt.source_format,
            "families": list(prompt.families),
            "num_tokens": prompt.num_tokens,
            "encoders": dict(zip(prompt.encoders, prompt.widths, strict=True)),
            "dtypes": list(self.dtypes),
            "base_models": list(prompt.base_models),
            "step": prompt.step,
            "metadata": {key: _json(value) for key, value in prompt.metadata.items()},
            "notes": list(prompt.notes),
            "model": self.model,
            "compared": self.encoder,
            "verdict": self.verdict.text,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "geometry": None if self.geometry is None else self.geometry.to_dict(),
            "nearest_words": None if self.nearest is None else self.nearest.text,
            "robustness": None if self.robustness is None else dataclasses.asdict(self.robustness),
            "decoded": None if self.decoded is None else dataclasses.asdict(self.decoded),
            "left_out": list(self.left_out),
        }


def spells(text: str, phrase: str) -> bool:
    """True if a text has a word, or words, whatever their case, and not as a part of other words."""
    words = " ".join(phrase.split()).casefold()
    joined = " ".join(text.split()).casefold()
    return bool(words) and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", joined) is not None


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _json(value: object) -> object:
    """A value of metadata; JSON has no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
