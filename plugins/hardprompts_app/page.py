"""The page's parts, and what they do when they are touched. It imports Gradio: import it when the page is opened."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from hardprompts.batch import BatchReport
from hardprompts.distillation.audits import DECODING_SECONDS
from hardprompts.distillation.faithfulness import DistilledPrompt
from hardprompts.images import IMAGE_SUFFIXES
from hardprompts.prompts import HardPrompt, ranking_note
from hardprompts.softprompts.audit import Audit
from hardprompts_app import api, display, drawing, embedding, folder, image, shorten
from hardprompts_app.display import error_html, status_html
from hardprompts_app.drawing_panel import DrawingPanel
from hardprompts_app.exchange_panel import ExchangePanel
from hardprompts_app.work import (
    LANGUAGE_MODELS,
    Job,
    Jobs,
    Models,
    checked_options,
    installed_captioners,
    one_line,
    phrases,
    seed_of,
)

#: Searches wait for one another; scores of edited prompts do not wait for searches.
DEVICE = {"concurrency_id": "device", "concurrency_limit": 1}
SCORES = {"concurrency_id": "scores", "concurrency_limit": 1}

#: Events of the page itself, which `api` has under better names.
OWN: dict[str, Any] = {"api_visibility": "private"}

WORDS = {"Real words": None, "Any tokens": False}

#: How a prompt reads, as `InversionOptions.style` has it.
STYLES = {"As found": None, "Tags": "tags", "Caption": "caption", "Keywords": "keywords"}

#: How it is found.
ALONE, OWN_WORDS, DRAWN = "Search without the decoder", "My own words", "By pictures of a generator"
WAYS: dict[str, dict[str, bool]] = {
    "Search": {}, ALONE: {}, "Decoder alone (fast)": {"fast": True}, OWN_WORDS: {}, DRAWN: {},
}  # fmt: skip

#: Whether words are checked against the image, and how.
CHECKS: dict[str, dict[str, Any]] = {
    "No": {},
    "Yes": {"evidence": True},
    "Yes, and drop what is less than 80% likely": {"evidence": True, "min_evidence": 0.8},
}

#: All words of a table that are seen somewhere, in one picture.
EVERY_WORD = "all of them"

NO_LIMIT = "empty: until it is done"

#: What may be banned.
BANNED_INFO = "separated by commas; category:artist, category:brand, category:quality ban whole lists"

#: Seconds that a search of the page may take where nobody says: a person waits for it.
SECONDS = 10

_SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]

#: How it looks: fonts of the machine itself, since others would come from Google's servers.
LOOKS: dict[str, Any] = {
    "theme": gr.themes.Default(primary_hue="cyan", font=_SANS, font_mono=_MONO).set(
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300"
    ),
    "css": Path(__file__).with_name("style.css").read_text(encoding="utf-8"),
}

#: Copies a text, also where the page is not served safely, and says so on the button.
COPY = """(text) => {
  const button = document.activeElement;
  const say = (word) => { if (!button) return; const old = button.textContent; button.textContent = word;
    setTimeout(() => { button.textContent = old; }, 2500); };
  const old = () => { const area = document.createElement("textarea"); area.value = text;
    document.body.append(area); area.select(); document.execCommand("copy"); area.remove(); say("Copied"); };
  if (!text) return;
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => say("Copied"), old); else old();
}"""


def build(models: Models) -> gr.Blocks:
    """The page, not yet started."""
    jobs = Jobs()

    def forget(request: gr.Request) -> None:
        jobs.forget(str(request.session_hash))

    from hardprompts_app.server import CLEANING

    with gr.Blocks(title="hardprompts", analytics_enabled=False, delete_cache=CLEANING) as page:
        gr.Markdown("# What cannot be typed becomes a prompt")
        with gr.Tab("Image"):
            _ImageTab(models, jobs)
        with gr.Tab("Embedding"):
            _EmbeddingTab(models, jobs)
        with gr.Tab("Shorten"):
            _ShortenTab(models, jobs)
        if models.private:
            with gr.Tab("Folder"):
                _FolderTab(models, jobs)
        _endpoints(models)
        page.unload(forget)
    return page


def _session(request: gr.Request) -> str:
    return str(request.session_hash)


class _Tab:
    """What the tabs have in common: a button that begins, one that stops, and a line that says what goes on."""

    def __init__(self, models: Models, jobs: Jobs) -> None:
        self.models, self.jobs = models, jobs

    def model(self, known: Sequence[str], **options: Any) -> gr.Dropdown:
        return gr.Dropdown(
            known, value=known[0], allow_custom_value=self.models.private, label="Model",
            info="from the list, or any name that `hardprompts models` explains" if self.models.private else None,
            **options,
        )  # fmt: skip

    def buttons(self, name: str) -> None:
        with gr.Row():
            self.start = gr.Button(name, variant="primary")
            self.end = gr.Button("Stop", interactive=False)
        self.status = gr.HTML(status_html(""))

    def copies(self) -> list[gr.Textbox]:
        """Buttons that copy, and the hidden texts that they copy."""
        with gr.Row():
            buttons = [
                gr.Button(name, size="sm", elem_classes="hp-copy")
                for name in ("Copy for ComfyUI", "Copy for A1111", "Copy for diffusers", "Copy JSON")
            ]
        texts = [gr.Textbox(visible="hidden", show_label=False) for _ in buttons]
        for button, text in zip(buttons, texts, strict=True):
            button.click(None, text, None, js=COPY, **OWN)
        return texts

    def wire(self, run: Any, inputs: list[Any], outputs: list[Any], clear: list[Any]) -> Any:
        """A press empties what was shown, runs in its turn and can be stopped; returns the event behind it."""

        def begin(request: gr.Request) -> list[Any]:
            self.jobs.begin(_session(request))
            waits = status_html("waiting for its turn", busy=True)
            return [waits, gr.update(interactive=False), gr.update(interactive=True), *(None for _ in clear)]

        def stop(request: gr.Request) -> None:
            self.jobs.stop(_session(request))

        def done() -> tuple[Any, Any]:
            return gr.update(interactive=True), gr.update(interactive=False)

        pressed = self.start.click(
            begin, None, [self.status, self.start, self.end, *clear], queue=False, show_progress="hidden", **OWN
        )
        ran = pressed.then(run, inputs, outputs, show_progress="hidden", **DEVICE, **OWN)
        self.end.click(stop, None, None, queue=False, show_progress="hidden", **OWN)
        ran.then(done, None, [self.start, self.end], queue=False, show_progress="hidden", **OWN)
        return ran


# --- images -----------------------------------------------------------------------------------


class _ImageTab(_Tab):
    """Images to prompts."""

    def __init__(self, models: Models, jobs: Jobs) -> None:
        super().__init__(models, jobs)
        with gr.Row():
            with gr.Column():
                self.files = gr.File(
                    label="Images (drop them here)", file_count="multiple", height=160,
                    file_types=["image", *sorted(IMAGE_SUFFIXES)],
                )  # fmt: skip
                self.seen = gr.HTML()
                self.together = gr.Radio(
                    ["One prompt each", "One prompt for all"], value="One prompt each", label="Several images"
                )
                self.name = self.model(models.image_models)
                self.length = gr.Slider(1, 24, value=8, step=1, label="Length in tokens")
                self.style = gr.Radio(
                    list(STYLES), value=next(iter(STYLES)), label="Style",
                    info="a caption needs a decoder that comes with the model, as emoji and photo have one",
                )  # fmt: skip
                self.ways = gr.Radio(
                    list(WAYS), value=next(iter(WAYS)), label="How",
                    info="a search begins with what a decoder writes, if the model has one; fast takes that as it is; "
                    "your own words are only compared with the image; by pictures: what a generator draws like it",
                )  # fmt: skip
                self.own = gr.Textbox("", label="Your own words, which are compared with the image", visible=False)
                self.drawing = DrawingPanel(models)
                self.checks = gr.Radio(
                    list(CHECKS), value=next(iter(CHECKS)), label="Check each word against the image",
                    info="how likely it is true, what it adds, and where it is seen",
                )  # fmt: skip
                with gr.Accordion("Words, bans, time, seed", open=False):
                    self.words = gr.Radio(list(WORDS), value="Real words", label="Words")
                    self.banned = gr.Textbox("", label="Words that must not occur", info=BANNED_INFO)
                    self.seconds = gr.Number(SECONDS, label="Seconds at most", minimum=0, info=NO_LIMIT)
                    self.seed = gr.Textbox("", label="Seed", info="a whole number; empty: drawn")
                    self.editable = gr.Checkbox(
                        False, label="Words that can be exchanged",
                        info="prefer words that say by themselves what they say together",
                    )  # fmt: skip
                    self.captioner = gr.Dropdown(
                        ["", *(installed_captioners() if models.private else ())], value="", visible=models.private,
                        allow_custom_value=models.private, label="Captioner",
                        info="an image-to-text model whose captions the search also starts from; empty: none",
                    )  # fmt: skip
                    self.fluency_model = gr.Dropdown(
                        ["", *LANGUAGE_MODELS], value="", allow_custom_value=models.private,
                        label="How fluent is it? A language model to ask",
                        info="it has no say in what is found, and counts nats a word: fewer read better; empty: none",
                    )  # fmt: skip
            with gr.Column():
                self.buttons("Find the prompt")
                self.best, self.curve, self.found = gr.HTML(), gr.HTML(), gr.State()
                with gr.Column(visible=False) as self.after:
                    self.pick = gr.Dropdown(label="Image", visible=False, type="index")
                    self.candidates = gr.Radio(label="Candidates", elem_classes="hp-candidates")
                    self.text = gr.Textbox("", label="Edit it; its score follows", lines=2)
                    self.edited, self.contributions = gr.HTML(), gr.HTML()
                    self.texts = self.copies()
                    self.check = gr.Button("Check each word against the image", size="sm")
                    self.evidence, self.known = gr.HTML(), gr.State()
                    self.word = gr.Radio(label="Where is it seen?", visible=False)
                    self.place = gr.HTML()
                    self.exchange = ExchangePanel(models, self.found, self.pick, self.text)
        self._events()

    def _events(self) -> None:
        choices = [self.after, self.pick, self.candidates, self.text]
        checked = [self.evidence, self.word, self.place, self.known]
        shown = [self.edited, self.contributions, *self.texts, *checked, self.exchange.depends]
        inputs = [
            self.files, self.together, self.name, self.length, self.words, self.banned, self.seconds, self.seed,
            self.captioner, self.style, self.ways, self.fluency_model, self.checks, self.editable,
            self.own, *self.drawing.inputs,
        ]  # fmt: skip
        self.files.change(self.look, self.files, [self.seen, self.status], show_progress="hidden", **SCORES, **OWN)
        ran = self.wire(
            self.run, inputs, [self.status, self.best, self.curve, self.found], [self.best, self.curve, self.found]
        )
        ran.then(self.choices, self.found, choices, show_progress="hidden", **SCORES, **OWN)
        self.pick.input(self.picked, [self.found, self.pick], choices[2:], show_progress="hidden", **SCORES, **OWN)
        # In the browser: an answer of the server could come after the user has begun to type.
        self.candidates.input(None, self.candidates, self.text, js="(text) => text", show_progress="hidden", **OWN)
        self.text.change(
            self.follow, [self.found, self.pick, self.text], shown, show_progress="hidden", trigger_mode="always_last",
            **SCORES, **OWN,
        )  # fmt: skip

        self.check.click(
            self.checked, [self.found, self.pick, self.text], checked, show_progress="minimal", **SCORES, **OWN
        )
        self.word.input(self.placed, [self.known, self.word], self.place, show_progress="hidden", **SCORES, **OWN)
        parts = [self.own, self.drawing.group, self.start]
        self.ways.input(self.chosen, self.ways, parts, queue=False, show_progress="hidden", **OWN)
        self.exchange.events(ran, [self.text.input, self.candidates.input], {**SCORES, **OWN})

    def chosen(self, way: str) -> tuple[Any, Any, Any]:
        """A field for own words, or what draws, if a person chose that, and what the button is called."""
        own = way == OWN_WORDS
        button = gr.update(value="Compare my words" if own else "Find the prompt")
        return gr.update(visible=own), gr.update(visible=way == DRAWN), button

    def look(self, files: list[str] | None) -> tuple[str, str]:
        """The dropped images in small, or what is wrong with them."""
        if not files:
            return "", status_html("")
        with one_line(files) as problems:
            return image.thumbnails(files), status_html("")
        return "", error_html(problems[0])

    def run(
        self, files: list[str] | None, together: str, model: str, length: float, words: str, banned: str,
        seconds: float | None, seed: str, captioner: str | None, style: str, way: str, fluency_model: str | None,
        check: str, editable: bool, own: str, generator: str | None, budget: float | None, request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        """What is found so far, and at last what was found."""
        job: Job[image.Found] = self.jobs.of(_session(request))
        with one_line(files or ()) as problems:
            options = checked_options({
                "num_tokens": int(length), "words": WORDS[words], "banned": phrases(banned), "deadline": seconds,
                "seed": seed_of(seed), "style": STYLES[style], "editable": editable or None, **WAYS[way],
                **CHECKS[check],
            })  # fmt: skip
            shared, judging = together != "One prompt each", fluency_model or ""
            if way == OWN_WORDS:
                finding = image.written(self.models, job, files, shared, model, own, options, judging)
            elif way == DRAWN:
                finding = drawing.find(
                    self.models, job, files, model, generator or "", int(budget or 0), options, captioner or "", judging
                )
            else:
                finding = image.find(
                    self.models, job, files, shared, model, options, captioner or "", way != ALONE, judging
                )
            found = yield from self._watched(finding, job)
            until = max(prompt.provenance.get("seconds", 0.0) for prompt in found.prompts)
            lines = [display.line_of(prompt.history) for prompt in found.prompts]
            best = "".join(
                display.prompt_html(prompt, label if len(found.prompts) > 1 else "")
                for prompt, label in zip(found.prompts, found.labels, strict=True)
            )
            best += display.drawn_html(found.pictures[0], found.drawn)
            said = status_html(display.ended(found.prompts[0])) + display.notices_html(found.prompts, job.notices)
            yield said, best, display.curve_svg(lines, until), found
        if problems:
            yield error_html(problems[0]), "", "", None

    def _watched(self, finding: Any, job: Job[image.Found]) -> Any:
        while True:
            try:
                live = next(finding)
            except StopIteration as end:
                return end.value
            best = "".join(map(display.prompt_html, live.prompts)) + display.drawn_html([], live.drawn)
            seconds = 0.0 if job.progress is None else job.progress.seconds
            yield status_html(live.doing, busy=True), best, display.curve_svg(job.curve, seconds), None

    def choices(self, found: image.Found | None) -> tuple[Any, ...]:
        """What can be chosen of what was found."""
        if found is None:
            return gr.update(visible=False), gr.update(), gr.update(), ""
        pick = gr.update(choices=found.labels, value=found.labels[0], visible=len(found.prompts) > 1)
        return gr.update(visible=True), pick, *self.picked(found, 0)

    def picked(self, found: image.Found, index: int | None) -> tuple[Any, str]:
        """The candidates of one prompt, with what they are ranked by, and the best of them to edit."""
        prompt = found.prompts[index or 0]
        choices = [(f"{one.score:.3f}  {one.text}", one.text) for one in prompt.candidates]
        return gr.update(choices=choices, value=prompt.text, info=ranking_note(prompt)), prompt.text

    def follow(self, found: image.Found | None, index: int | None, text: str) -> tuple[Any, ...]:
        """The edited prompt with its score, what its words contribute, how it is copied, and what is known of words."""
        nothing = ("", "", "", "", "", "")
        if found is None or not text.strip():
            return *nothing, *self._words(None, None), ""
        with one_line() as problems:
            best = found.prompts[index or 0]
            prompt = image.edited(self.models, found, index or 0, text.strip())
            comparable = prompt.text != best.text and prompt.score_unit == best.score_unit
            note = f"{prompt.score - best.score:+.3f} against the best" if comparable else ""
            about = display.prompt_html(prompt, note), display.contributions_html(prompt), *display.for_uis(prompt)
            return *about, *self._words(prompt, found.pictures[index or 0][0]), ""
        return error_html(problems[0]), *nothing[1:], *self._words(None, None), ""

    def checked(self, found: image.Found | None, index: int | None, text: str) -> tuple[Any, ...]:
        """What is known of each word of the prompt, as found or edited."""
        if found is None or not text.strip():
            return self._words(None, None)
        with one_line() as problems:
            prompt = image.checked_words(self.models, found, index or 0, text.strip())
            told, *others = self._words(prompt, found.pictures[index or 0][0])
            return told or status_html("there is no word in it that could be true or false of an image"), *others
        return error_html(problems[0]), *self._words(None, None)[1:]

    def placed(self, known: tuple[Any, ...] | None, word: str | None) -> str:
        """The picture with the regions of a word, or of all words."""
        if known is None or word is None:
            return ""
        evidence, picture = known
        return display.place_html(picture, [one for one in evidence if word in (one.phrase, EVERY_WORD)])

    def _words(self, prompt: HardPrompt | None, picture: Any) -> tuple[Any, ...]:
        """The table of words, those that are seen somewhere, the picture with the first, and what that is drawn of."""
        if prompt is None or not prompt.evidence:
            return "", gr.update(visible=False), "", None
        seen = [one.phrase for one in prompt.evidence if one.regions]
        known = (prompt.evidence, picture)
        choices = [*seen, *([EVERY_WORD] if len(seen) > 1 else [])]
        words = gr.update(choices=choices, value=seen[0] if seen else None, visible=bool(seen))
        return display.evidence_html(prompt), words, self.placed(known, seen[0]) if seen else "", known


# --- embeddings -------------------------------------------------------------------------------


class _EmbeddingTab(_Tab):
    """What a soft prompt's file is."""

    def __init__(self, models: Models, jobs: Jobs) -> None:
        super().__init__(models, jobs)
        with gr.Row():
            with gr.Column():
                self.file = gr.File(label="An embedding: .safetensors, .pt, .bin, .webp, .png", height=160)
                self.name = gr.Dropdown(
                    ["", *models.names], value="", allow_custom_value=models.private, label="Compare with the words of",
                    info="empty: only say what the file is",
                )  # fmt: skip
                self.decode = gr.Checkbox(False, label=f"Search for words that do the same ({DECODING_SECONDS:.0f} s)")
            with gr.Column():
                self.buttons("Look into it")
                self.lines = gr.HTML()
        self.wire(self.run, [self.file, self.name, self.decode], [self.status, self.lines], [self.lines])

    def run(self, file: str | None, model: str | None, decode: bool, request: gr.Request) -> Iterator[tuple[str, str]]:
        """What is known so far."""
        job: Job[list[Audit]] = self.jobs.of(_session(request))
        with one_line([file] if file else []) as problems:
            looking = embedding.inspect(self.models, job, file, model or "", decode)
            while True:
                try:
                    doing, known = next(looking)
                except StopIteration as end:
                    verdict = " ".join(audit.verdict.text for audit in end.value)
                    yield status_html(verdict), display.list_html(embedding.lines_of(end.value))
                    break
                yield status_html(doing, busy=True), display.list_html(embedding.lines_of(known))
        if problems:
            yield error_html(problems[0]), ""


# --- long prompts -----------------------------------------------------------------------------


class _ShortenTab(_Tab):
    """Long prompts to short ones."""

    def __init__(self, models: Models, jobs: Jobs) -> None:
        super().__init__(models, jobs)
        with gr.Row():
            with gr.Column():
                self.text = gr.Textbox(
                    "", label="A long prompt", lines=6, info="with the markup of A1111 or ComfyUI, too"
                )
                self.name = self.model(models.names)
                self.length = gr.Slider(1, 24, value=8, step=1, label="Length in tokens, at most")
                with gr.Accordion("Bans, time, seed", open=False):
                    self.banned = gr.Textbox("", label="Words that must not occur", info=BANNED_INFO)
                    self.seconds = gr.Number(SECONDS, label="Seconds at most", minimum=0, info=NO_LIMIT)
                    self.seed = gr.Textbox("", label="Seed", info="a whole number; empty: drawn")
            with gr.Column():
                self.buttons("Shorten it")
                self.best, self.told, self.contributions = (
                    gr.HTML(),
                    gr.HTML(),
                    gr.HTML(),
                )
                self.texts = self.copies()
        shown = [self.best, self.told, self.contributions, *self.texts]
        inputs = [self.text, self.name, self.length, self.banned, self.seconds, self.seed]
        self.wire(self.run, inputs, [self.status, *shown], shown)

    def run(
        self, text: str, model: str, length: float, banned: str, seconds: float | None, seed: str,
        request: gr.Request,
    ) -> Iterator[tuple[str, ...]]:  # fmt: skip
        """The best so far, and at last the short prompt with its faithfulness and what is lost."""
        job: Job[DistilledPrompt] = self.jobs.of(_session(request))
        nothing = ("",) * 7
        with one_line() as problems:
            options = checked_options({
                "num_tokens": int(length), "banned": phrases(banned), "deadline": seconds,
                "seed": seed_of(seed),
            })  # fmt: skip
            shortening = shorten.shorten(self.models, job, text, model, options)
            while True:
                try:
                    doing = next(shortening)
                except StopIteration as end:
                    prompt: DistilledPrompt = end.value
                    break
                yield status_html(doing, busy=True), *nothing
            said = status_html(display.ended(prompt)) + display.notices_html([prompt], job.notices)
            yield (
                said, display.prompt_html(prompt), told_html(prompt),
                display.contributions_html(prompt), *display.for_uis(prompt),
            )  # fmt: skip
        if problems:
            yield error_html(problems[0]), *nothing


def told_html(prompt: DistilledPrompt) -> str:
    """How faithful a short prompt is, and what it lost."""
    lines = [] if prompt.faithfulness is None else [str(prompt.faithfulness)]
    lines += [] if prompt.markup is None else [str(prompt.markup)]
    lost = [f"{phrase.text} ({max(phrase.kept, 0.0):.0%} of it kept)" for phrase in prompt.lost]
    return display.list_html(lines) + display.list_html(lost, "What is lost")


# --- folders ----------------------------------------------------------------------------------


class _FolderTab(_Tab):
    """A caption beside each image of a folder."""

    def __init__(self, models: Models, jobs: Jobs) -> None:
        super().__init__(models, jobs)
        with gr.Row():
            with gr.Column():
                self.folder = gr.Textbox(
                    "",
                    label="A folder of this machine", info="cat.txt is written beside cat.png; images that have a "
                    "caption are left as they are, so the same again resumes what was stopped",
                )  # fmt: skip
                self.recursive = gr.Checkbox(False, label="Its subfolders too")
                self.overwrite = gr.Checkbox(False, label="Replace captions that exist")
                self.name = self.model(models.image_models)
                self.length = gr.Slider(1, 24, value=8, step=1, label="Length in tokens")
                self.seconds = gr.Number(SECONDS, label="Seconds at most for each image", minimum=0)
            with gr.Column():
                self.buttons("Write captions")
                self.rows = gr.HTML()
        inputs = [self.folder, self.recursive, self.overwrite, self.name, self.length, self.seconds]
        self.wire(self.run, inputs, [self.status, self.rows], [self.rows])

    def run(
        self, path: str, recursive: bool, overwrite: bool, model: str, length: float, seconds: float | None,
        request: gr.Request,
    ) -> Iterator[tuple[str, str]]:  # fmt: skip
        """How far it came, with the captions so far."""
        job: Job[BatchReport] = self.jobs.of(_session(request))
        with one_line() as problems:
            options = checked_options({"num_tokens": int(length), "deadline": seconds})
            writing = folder.caption(self.models, job, path, recursive, overwrite, model, options)
            while True:
                try:
                    doing = next(writing)
                except StopIteration as end:
                    yield status_html(folder.told(end.value)), display.list_html(folder.rows_of(job))
                    break
                yield status_html(doing, busy=True), display.list_html(folder.rows_of(job)[:50])
        if problems:
            yield error_html(problems[0]), ""


# --- for programs -----------------------------------------------------------------------------


def _endpoints(models: Models) -> None:
    """What Gradio's client calls: each takes and gives JSON values."""
    calls = api.Calls(models)
    files, text = gr.File(file_count="multiple", visible=False), gr.Textbox(visible=False)
    file, model = gr.File(visible=False), gr.Textbox("", visible=False)
    old, new = gr.Textbox(visible=False), gr.Textbox(visible=False)
    options, flag = gr.JSON({}, visible=False), gr.Checkbox(False, visible=False)
    answer, number = gr.JSON(visible=False), gr.Number(visible=False)
    call = gr.Button(visible=False)
    for function, inputs, given, group in (
        (calls.invert, [files, model, flag, options], answer, DEVICE),
        (calls.shorten, [text, model, options], answer, DEVICE),
        (calls.inspect, [file, model, flag], answer, DEVICE),
        (calls.score, [text, file, model], number, SCORES),
        (calls.edit, [text, old, new, model, flag], answer, SCORES),
        (calls.interactions, [text, file, model], answer, SCORES),
    ):
        call.click(function, inputs, given, api_name=function.__name__, **group)
