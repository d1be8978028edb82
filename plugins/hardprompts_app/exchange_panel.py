"""The part of the tab *Image* in which a word is exchanged for another. It imports Gradio."""

from typing import Any

import gradio as gr

from hardprompts_app import exchange, image
from hardprompts_app.display import error_html
from hardprompts_app.work import Models, one_line


class ExchangePanel:
    """Two words and a button; what the exchange changed; the way back; and which words depend on each other.

    Args:
        found: what was found for some images.
        pick: which of them.
        text: the prompt as it stands, which the exchange writes.
    """

    def __init__(self, models: Models, found: gr.State, pick: gr.Dropdown, text: gr.Textbox) -> None:
        self.models, self.found, self.pick, self.text = models, found, pick, text
        with gr.Accordion("Exchange a word", open=False, elem_classes="hp-exchange"):
            with gr.Row():
                self.old = gr.Textbox("", label="This word", min_width=120)
                self.new = gr.Textbox("", label="becomes", min_width=120)
            self.every = gr.Checkbox(False, label="Everywhere, if it stands there several times")
            with gr.Row():
                self.start = gr.Button("Exchange", size="sm")
                self.back = gr.Button("", size="sm", visible=False)
            self.changed, self.past = gr.HTML(), gr.State([])
            self.ask = gr.Button("Which words depend on each other?", size="sm")
            self.depends = gr.HTML()

    def events(self, ran: Any, typed: list[Any], options: dict[str, Any]) -> None:
        """Wires the panel.

        Args:
            ran: the event at whose end there are other prompts.
            typed: events at which a person changes the text in another way.
            options: of all events.
        """
        shown = [self.text, self.changed, self.past, self.back]
        inputs = [self.found, self.pick, self.text, self.old, self.new, self.every, self.past]
        for event in (self.start.click, self.new.submit):
            event(self.exchange, inputs, [*shown, self.old, self.new], show_progress="minimal", **options)
        self.back.click(self.undo, [self.past], shown, show_progress="hidden", **options)
        self.ask.click(
            self.depend, [self.found, self.pick, self.text], self.depends, show_progress="minimal", **options
        )
        for event in (ran.then, self.pick.input):
            event(self.forget, None, shown[1:], show_progress="hidden", **options)
        for event in typed:
            event(lambda: "", None, self.changed, show_progress="hidden", **options)

    def exchange(
        self, found: image.Found | None, index: int | None, text: str, old: str, new: str, every: bool, past: list[str]
    ) -> tuple[Any, ...]:
        """The text with the word exchanged, what that changed, the way back, and empty fields for the next words."""
        with one_line() as problems:
            if found is None or not text.strip():
                raise ValueError("there is no prompt yet: find one, or type one above")
            made = exchange.exchanged(self.models, found, index or 0, text.strip(), old, new, every)
            past = [*past, text]
            return made.prompt.text, exchange.exchange_html(made), past, self._way(past), "", ""
        told = error_html(problems[0].replace("with every=True", "with the tick below"))
        return gr.skip(), told, past, self._way(past), gr.skip(), gr.skip()

    def undo(self, past: list[str]) -> tuple[Any, ...]:
        """The prompt before the last exchange."""
        *before, text = past
        return text, "", before, self._way(before)

    def forget(self) -> tuple[Any, ...]:
        """No exchange: there are other prompts."""
        return "", [], self._way([])

    def depend(self, found: image.Found | None, index: int | None, text: str) -> str:
        """How much the words of the prompt depend on each other."""
        if found is None or not text.strip():
            return ""
        with one_line() as problems:
            return exchange.dependence_html(exchange.dependent(self.models, found, index or 0, text.strip()))
        return error_html(problems[0])

    def _way(self, past: list[str]) -> Any:
        return gr.update(visible=bool(past), value=exchange.back_to(past[-1]) if past else "")
