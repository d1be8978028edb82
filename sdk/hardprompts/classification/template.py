"""The text that a language model completes: a prompt, the text to classify, and the place of the label."""

import dataclasses
import functools
import re
from typing import NamedTuple

from hardprompts.errors import TemplateError
from hardprompts.prompts import SLOT, PromptTemplate
from hardprompts.wording import check_text

#: The slots of a template, each of which stands in it once.
SLOTS = ("{prompt}", "{text}", "{label}")

_CUT = re.compile(r"(\{prompt\}|\{text\}|\{label\})")


class Surroundings(NamedTuple):
    """What stands around the prompt and the label of one text, as strings.

    `before` + prompt + `between` is all that stands before the label, less the white space next to the
    label, which belongs to the label's word; `behind` stands behind the label. Where the prompt stands
    behind the label, `before` is what stands before the label and `between` what is between the two.
    """

    before: str
    between: str
    behind: str


@dataclasses.dataclass(frozen=True)
class ClassificationTemplate:
    """Text with the slots {prompt}, {text} and {label}, as in "{prompt} {text} It was {label}".

    White space is taken as it is written. A prompt or a text that is empty takes the white space behind
    it along (at the end of the template: before it), as a person would who leaves it out.

    Raises:
        TemplateError: a slot is missing or stands there twice, or the prompt touches another slot, so
            that its last token could merge with what follows.
    """

    text: str = "{prompt} {text} It was {label}"

    def __post_init__(self) -> None:
        check_text("the template", self.text, TemplateError)
        for slot in SLOTS:
            if self.text.count(slot) != 1:
                raise TemplateError(
                    f"the template {self.text!r} has {self.text.count(slot)} slots {slot}; write {{prompt}}, {{text}} "
                    "and {label} exactly once each, as in '{prompt} {text} It was {label}'"
                )
        if SLOT in self.text:
            raise TemplateError(f"the template {self.text!r} has a slot without a name; remove {SLOT!r}")
        for first, between, second in zip(self._parts[1::2], self._parts[2::2], self._parts[3::2], strict=False):
            if not between:
                raise TemplateError(
                    f"in the template {self.text!r} {first} touches {second}, and their letters could merge into other "
                    "tokens; put a space or a line break between them"
                )

    @functools.cached_property
    def _parts(self) -> tuple[str, ...]:
        """Fixed text and slots in turn; begins and ends with fixed text, which may be empty."""
        return tuple(_CUT.split(self.text))

    def _place(self, slot: str) -> int:
        return self._parts.index(slot)

    @property
    def label_is_last(self) -> bool:
        """True if nothing stands behind the label."""
        return self._parts[-2] == "{label}" and not self._parts[-1]

    @property
    def prompt_is_first(self) -> bool:
        """True if the prompt stands somewhere before the label."""
        return self._place("{prompt}") < self._place("{label}")

    @property
    def label_space(self) -> str:
        """The white space before the label's word, which is a part of its tokens."""
        before = self._parts[self._place("{label}") - 1]
        return before[len(before.rstrip()) :]

    def surroundings(self, text: str) -> Surroundings:
        """What stands around the prompt and the label when `text` is filled in."""
        parts, prompt, label = self._filled(text=text), self._place("{prompt}"), self._place("{label}")
        if prompt < label:
            between = "".join(parts[prompt + 1 : label]).rstrip()
            return Surroundings("".join(parts[:prompt]), between, "".join(parts[label + 1 :]))
        behind = "".join(parts[prompt + 1 :])
        return Surroundings("".join(parts[:label]).rstrip(), "".join(parts[label + 1 : prompt]), behind)

    def around_label(self, prompt: str, text: str) -> tuple[str, str]:
        """What stands before the label, without the white space next to it, and what stands behind it."""
        parts, label = self._filled(text=text, prompt=prompt), self._place("{label}")
        return "".join(parts[:label]).rstrip(), "".join(parts[label + 1 :])

    def fill(self, prompt: str, text: str, label: str) -> str:
        """The whole text."""
        before, behind = self.around_label(prompt, text)
        return f"{before}{self.label_space}{label}{behind}"

    def for_search(self) -> PromptTemplate:
        """The template in which a search checks its prompts: the prompt among its fixed neighbors."""
        around = self.surroundings("a")
        if self.prompt_is_first:
            return PromptTemplate(f"{around.before}{SLOT}{around.between}")
        return PromptTemplate(f"{around.before}{self.label_space}a{around.between}{SLOT}{around.behind}")

    def _filled(self, text: str, prompt: str | None = None) -> list[str]:
        parts = list(self._parts)
        for slot, value in (("{text}", text), ("{prompt}", prompt)):
            if value is None:
                continue
            place = self._place(slot)
            parts[place] = value
            if value:
                continue
            behind = parts[place + 1]
            if behind.strip() or place + 2 < len(parts):
                parts[place + 1] = behind.lstrip() if behind[:1].isspace() else behind
            else:
                parts[place - 1] = parts[place - 1].rstrip()
        return parts
