"""Audits of small soft prompts."""

from html.parser import HTMLParser
from typing import Any

from hardprompts import PromptTemplate, SoftPrompt
from hardprompts.softprompts import analyze, decode_nearest, measure_robustness
from hardprompts.softprompts.audit import Audit
from hardprompts.softprompts.robustness import Spread
from hardprompts.testing import toy_backend
from hardprompts.vocabulary import Vocabulary


def compared(prompt: SoftPrompt, vocabulary: Vocabulary, **fields: Any) -> Audit:
    """All that a model adds."""
    encoder = toy_backend().text_encoder
    embeddings = prompt.embeddings["text_encoder"]
    return Audit(
        prompt,
        model="toy",
        encoder="text_encoder",
        geometry=analyze(embeddings, vocabulary),
        nearest=decode_nearest(embeddings, vocabulary),
        spread=Spread.of(embeddings, vocabulary),
        robustness=measure_robustness(
            embeddings, vocabulary, encoder.encode, encoder.max_tokens, template=PromptTemplate("red {}")
        ),
        **fields,
    )


VOID = {"meta", "img", "br", "line", "circle", "rect", "polygon", "polyline"}


class Page(HTMLParser):
    """The page as a browser takes it: well nested, and all elements and attributes known."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.elements}
