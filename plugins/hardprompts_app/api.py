"""What programs call through Gradio's client: the same searches, with JSON values."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gradio as gr

from hardprompts.applications import edit, word_interactions
from hardprompts.distillation.faithfulness import DistilledPrompt
from hardprompts.images import load_images
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.prompts import HardPrompt
from hardprompts.softprompts.audit import Audit
from hardprompts_app import embedding, image, shorten
from hardprompts_app.work import MENDABLE, OPTIONS, Job, Models, checked_options, reason

#: An option of a call that is an argument of the front door.
FLUENCY_MODEL = "fluency_model"

Values = dict[str, Any]


class Calls:
    """The endpoints of the page. Those that search yield the best so far; a call that is cancelled ends its search."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def invert(
        self, images: list[str] | None, model: str, together: bool, options: Mapping[str, Any] | None
    ) -> Iterator[Values]:
        """The prompts of images, one for each or one for all, under "prompts", with the fields of `prompt.json`.

        What their user is to know stands under "notices".

        Options are those of `PromptInverter.invert`, and "fluency_model", the name of a language model that tells how
        fluent they are. Until they are found: "doing", and "best", the texts so far.
        """
        job: Job[image.Found] = Job()
        with _as_gradio_says(images or ()):
            chosen = checked_options(options or {}, (*OPTIONS, FLUENCY_MODEL))
            judging = str(chosen.pop(FLUENCY_MODEL, ""))
            finding = image.find(self.models, job, images, together, model, chosen, fluency_model=judging)
            found = yield from _told(finding, lambda live: {"doing": live.doing, "best": live.texts})
            yield {"prompts": [_values(prompt) for prompt in found.prompts], "notices": job.notices}

    def shorten(self, text: str, model: str, options: Mapping[str, Any] | None) -> Iterator[Values]:
        """The short prompt of a long one, with the fields of `prompt.json`; faithfulness stands in its provenance.

        Options are those of `PromptDistiller.distill`. Until it is found: "doing".
        """
        job: Job[DistilledPrompt] = Job()
        with _as_gradio_says():
            finding = shorten.shorten(self.models, job, text, model, checked_options(options or {}, shorten.OPTIONS))
            found = yield from _told(finding, lambda doing: {"doing": doing})
            yield _values(found)

    def inspect(self, file: str | None, model: str, decode: bool) -> Iterator[Values]:
        """What an embedding's file holds, under "soft_prompts": what `hardprompts inspect --json` has, with sentences.

        A model's name compares it with that model's words; `decode` searches for words that do the same.
        """
        job: Job[list[Audit]] = Job()
        with _as_gradio_says([file] if file else []):
            finding = embedding.inspect(self.models, job, file, model, decode)
            found = yield from _told(finding, lambda live: {"doing": live[0]})
            yield {"soft_prompts": embedding.values_of(found)}

    def score(self, text: str, image: str | None, model: str) -> float:
        """The cosine similarity of a text and an image."""
        with _as_gradio_says([image] if image else []):
            if image is None:
                raise ValueError("there is no image to compare the text with")
            return PromptInverter(self.models.open(model)).score(text, load_images(image))

    def edit(self, text: str, old: str, new: str, model: str, every: bool) -> Values:
        """A prompt with a word exchanged, and what that changes: what `hardprompts edit --json` has."""
        with _as_gradio_says():
            return edit(text, old, new, self.models.open(model), every=every).to_dict()

    def interactions(self, text: str, image: str | None, model: str) -> Values:
        """How much the words of a text depend on each other for an image, among the fields of `prompt.json`."""
        with _as_gradio_says([image] if image else []):
            if image is None:
                raise ValueError("there is no image to compare the text with")
            return _values(word_interactions(text, self.models.open(model), load_images(image)))


def _told(finding: Generator[Any, None, Any], values: Any) -> Generator[Values, None, Any]:
    """What goes on, as JSON values; `yield from` gives what was found."""
    while True:
        try:
            live = next(finding)
        except StopIteration as end:
            return end.value
        yield values(live)


def _values(prompt: HardPrompt) -> Values:
    values: Values = json.loads(prompt.to_json())
    return values


@contextmanager
def _as_gradio_says(paths: Any = ()) -> Iterator[None]:
    """An error that the caller can mend becomes its message, without a traceback on the server."""
    try:
        yield
    except MENDABLE as error:
        raise gr.Error(reason(error, paths), print_exception=False) from error
