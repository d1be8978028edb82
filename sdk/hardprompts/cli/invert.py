"""`hardprompts invert` and `hardprompts score`: images and a prompt."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardprompts.cli import screen
from hardprompts.cli.options import (
    AsJson,
    Bank,
    Banned,
    Calibrations,
    Caption,
    CaptionerName,
    Compile,
    Deadline,
    Device,
    Dtype,
    Editable,
    Evidence,
    Fast,
    FluencyModel,
    Form,
    Interactions,
    Method,
    MinEvidence,
    Model,
    Prior,
    PriorWeight,
    PromptStyle,
    ProposerNames,
    Report,
    Required,
    Restarts,
    Save,
    Seed,
    Steps,
    Template,
    Texts,
    Threads,
    Tokens,
    Unlike,
    VocabularyFile,
    Vram,
    Words,
    flag,
    given,
    texts_of,
    torch_dtype,
)
from hardprompts.cli.report import check_report, write_report
from hardprompts.cli.screen import clear_errors, fail, out, say, stdout_kept

if TYPE_CHECKING:
    from hardprompts.diffusion.inverter import DenoisingInverter
    from hardprompts.encoders import Backend
    from hardprompts.inversion.evidence.calibration import EvidenceCalibration
    from hardprompts.inversion.inverter import PromptInverter
    from hardprompts.prompts import HardPrompt
    from hardprompts.search.protocol import Search

#: The share of a deadline that the search may take where something is measured behind it.
SEARCHING_SHARE = 0.9

#: Parameters of `invert` that are not options of the search.
_OF_THE_COMMAND = (
    "images",
    "model",
    "method",
    "bank",
    "prior",
    "captioner",
    "proposers",
    "fluency_model",
    "calibrations",
    "texts",
    "device",
    "threads",
    "dtype",
    "form",
    "as_json",
    "save",
    "report",
    "interactions",
)


def invert(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Several images give one prompt: a style.")],
    model: Model = None,
    num_tokens: Tokens = None,
    template: Template = None,
    method: Method = None,
    max_steps: Steps = None,
    restarts: Restarts = None,
    compile: Compile = None,
    vram: Vram = None,
    deadline: Deadline = None,
    seed: Seed = None,
    banned: Banned = None,
    unlike: Unlike = None,
    vocabulary: VocabularyFile = None,
    words: Words = None,
    required: Required = None,
    caption: Caption = None,
    captioner: CaptionerName = None,
    proposers: ProposerNames = None,
    fast: Fast = None,
    editable: Editable = None,
    style: PromptStyle = None,
    fluency_model: FluencyModel = None,
    evidence: Evidence = None,
    min_evidence: MinEvidence = None,
    calibrations: Calibrations = None,
    interactions: Interactions = False,
    bank: Bank = None,
    prior: Prior = None,
    prior_weight: PriorWeight = None,
    texts: Texts = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
    form: Form = None,
    as_json: AsJson = False,
    save: Save = None,
    report: Report = None,
) -> None:
    """Find the prompt of an image, or one prompt for what several images share.

    A model that only generates images is asked under which prompt it draws them best. Ctrl-C ends the search with the
    best prompt so far.
    """
    options = given(locals(), but=_OF_THE_COMMAND)
    with clear_errors():
        screen.check_save(save)
        if report is not None:
            check_report("--report", report, images)
        if vocabulary is not None:
            from hardprompts.wording import read_phrases

            options["vocabulary"] = read_phrases(vocabulary)
        check_options(options)
        if form is not None:
            from hardprompts.wording import Categories

            Categories.default().arranged("", form)  # a form that asks for what there is not, before a search
        if prior_weight is not None and prior is None:
            fail("--prior-weight needs --prior, the language model that it is the weight of")
        if captioner is not None and caption is not None:
            fail("--caption says what --captioner would find; leave one of them out")
        counted = calibrations_at(calibrations, bool(evidence) or min_evidence is not None)
        search = search_of(method, bank)
        with stdout_kept():
            screen.use_threads(threads, device)
            needed = fast or (style == "caption" and prior is None)
            asked = ["auto"] if needed and not proposers else proposers
            of_search = given({
                "prior": prior, "captioner": captioner, "proposers": asked, "fluency_model": fluency_model,
                "calibrations": counted, "interactions": interactions or None, **options,
            })  # fmt: skip
            inverter = open_inverter(model, search, of_search, device, dtype, **texts_of(texts))
            began = time.monotonic()
            if interactions and deadline is not None:
                options["deadline"] = SEARCHING_SHARE * deadline
            with screen.LiveSearch() as live:
                prompt = inverter.invert(list(images), callback=live, progress=False, **options)
            if interactions:
                left = None if deadline is None else max(1e-3, deadline - (time.monotonic() - began))
                prompt = _with_interactions(prompt, inverter, images, left)
        if as_json:
            screen.show_json(prompt)
        else:
            screen.show_prompt(prompt, form)
        if save is not None:
            screen.show_saved(prompt.save_pretrained(save))
        if report is not None:
            write_report(report, prompt, images)
    screen.end(prompt.stop_reason)


def _with_interactions(
    prompt: "HardPrompt",
    inverter: "PromptInverter | DenoisingInverter",
    images: Sequence[Path],
    seconds: float | None,
) -> "HardPrompt":
    """The prompt with how much its words depend on one another; as it is, where that cannot be measured."""
    from hardprompts.applications import word_interactions
    from hardprompts.errors import VocabularyError
    from hardprompts.inversion.inverter import PromptInverter
    from hardprompts.search.protocol import StopReason

    if prompt.stop_reason == StopReason.INTERRUPTED or not isinstance(inverter, PromptInverter):
        say("interrupted, so nothing was measured of how its words depend on one another", "yellow")
        return prompt
    try:
        return word_interactions(prompt, inverter.backend, list(images), deadline=seconds)
    except VocabularyError as error:  # an empty prompt, say, which is an answer
        say(f"nothing depends on another word: {error}", "yellow")
        return prompt


def score(
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    model: Model = None,
    evidence: Evidence = None,
    calibrations: Calibrations = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
) -> None:
    """Print the cosine similarity of a text and an image."""
    with clear_errors():
        counted = calibrations_at(calibrations, bool(evidence))
        from hardprompts.inversion.inverter import PromptInverter

        with stdout_kept():
            screen.use_threads(threads, device)
            inverter = PromptInverter(open_model(model, device, dtype), calibrations=counted)
            similarity = inverter.score(text, image)
            checked = inverter.evidence(text, image) if evidence else None
        say(f"{similarity:.4f}", console=out)
        if checked is not None:
            screen.show_evidence(checked)


def check_options(options: dict[str, Any]) -> None:
    """Finds misuse that needs no model, before one is opened.

    Raises:
        ValueError, TemplateError: see the messages.
    """
    from hardprompts.prompts import PromptTemplate
    from hardprompts.search.options import SearchOptions

    known = {field.name for field in dataclasses.fields(SearchOptions)}
    SearchOptions(**{name: value for name, value in options.items() if name in known})
    if "template" in options:
        PromptTemplate(options["template"])


def calibrations_at(path: Path | None, wanted: bool) -> "tuple[EvidenceCalibration, ...] | None":
    """The calibrations of a file, read before a model is opened; None for those that come with the model.

    Args:
        wanted: whether evidence is asked for.

    Raises:
        FileFormatError, OSError: it is another file, or cannot be read.
    """
    if path is None:
        return None
    if not wanted:
        fail("--calibrations is for --evidence and --min-evidence; add one of them, or leave it out")
    from hardprompts.inversion.evidence.calibration import load_calibrations

    return load_calibrations(path)


def search_of(method: str | None, bank: Path | None) -> "str | Search | None":
    """The method by name, or with the bank that was given; None for the default.

    Raises:
        UnknownName: there is no such method.
        ValueError: it has no bank.
        FileFormatError, OSError: the bank cannot be read.
    """
    from hardprompts.atomic import cache_folder
    from hardprompts.methods import PEZBank, PhraseBank, read_bank
    from hardprompts.search.registry import search_method

    if bank is None:
        if method is not None:
            search_method(method)
        return method
    search = search_method(method or "phrase-bank")
    if isinstance(search, PhraseBank):
        return dataclasses.replace(search, tables=read_bank(bank), cache=cache_folder())
    if isinstance(search, PEZBank):
        return dataclasses.replace(search, tables=read_bank(bank))
    raise ValueError(f"--bank is for --method phrase-bank, its variants and pez+bank, not for {method}")


def open_model(model: str | None, device: str | None, dtype: str | None, **own: Any) -> "Backend":
    """The model; without a name that of `default_model`, with a line about what it is good for.

    Args:
        own: options of its scheme.

    Raises:
        UnknownName, BackendError: see `load_backend`.
    """
    from hardprompts.encoders import default_model, load_backend

    name = default_model() if model is None else model
    with screen.opening(name):
        backend = load_backend(name, device=device, dtype=torch_dtype(dtype), **own)
    if model is None:
        screen.show_note(name, backend.note)
    return backend


def open_inverter(
    model: str | None,
    search: "str | Search | None",
    options: dict[str, Any],
    device: str | None,
    dtype: str | None,
    **own: Any,
) -> "PromptInverter | DenoisingInverter":
    """What inverts with a model: its image tower or, of a model that only generates images, its denoiser.

    Args:
        own: options of the model's scheme.

    Raises:
        ValueError: an option does not apply to a denoiser.
        UnknownName, BackendError: see `load_backend`.
    """
    from hardprompts.inversion.inverter import PromptInverter

    backend = open_model(model, device, dtype, **own)
    method: dict[str, Any] = {} if search is None else {"method": search}
    if backend.image_encoder is not None or backend.noise_predictor is None:
        inverter = PromptInverter(
            backend, device=device, dtype=torch_dtype(dtype), prior=options.get("prior"),
            captioner=options.get("captioner"), proposers=options.get("proposers"),
            fluency_model=options.get("fluency_model"), calibrations=options.get("calibrations"), **method,
        )  # fmt: skip
        if "deadline" not in options:
            screen.read_words(inverter.search, backend)
        return inverter
    from hardprompts.diffusion.inverter import DenoisingInverter
    from hardprompts.diffusion.options import DenoisingOptions

    known = {field.name for field in dataclasses.fields(DenoisingOptions)}
    foreign = [flag(name) for name in options if name not in known]
    if foreign:
        raise ValueError(
            f"{', '.join(foreign)} cannot be used with {backend.name}, which has no image tower: its denoiser is asked "
            "instead. Leave them out, or choose a model that compares images with text"
        )
    return DenoisingInverter(backend, **method)
