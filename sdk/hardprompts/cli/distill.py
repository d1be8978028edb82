"""`hardprompts distill`: a long prompt, or a soft prompt's file, becomes a short prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardprompts.cli import screen
from hardprompts.cli.options import (
    AsJson,
    Banned,
    Compile,
    Deadline,
    Device,
    DistillMethod,
    Dtype,
    EmbeddingName,
    MarkupOption,
    Match,
    MostTokens,
    Ratio,
    Rename,
    Restarts,
    Save,
    Seed,
    Steps,
    Templates,
    TextModel,
    Texts,
    Threads,
    Vram,
    given,
    texts_of,
    torch_dtype,
)
from hardprompts.cli.screen import clear_errors, fail, say, soft_prompt_at, stdout_kept
from hardprompts.errors import printable

if TYPE_CHECKING:
    from hardprompts.distillation.distiller import PromptDistiller
    from hardprompts.distillation.faithfulness import DistilledPrompt
    from hardprompts.softprompts.prompt import SoftPrompt

#: What a file of a soft prompt ends in: text with such an end that names no file is most likely a misspelled path.
_SUFFIXES = (".safetensors", ".pt", ".bin", ".png", ".webp")

#: Parameters of the command that are not options of the search.
_OF_THE_COMMAND = (
    "what", "model", "name", "rename", "method", "texts", "device", "threads", "dtype", "as_json", "save",
)  # fmt: skip


def distill(
    what: Annotated[
        str, typer.Argument(metavar="PROMPT|FILE", help="A long prompt, or the file (or folder) of a soft prompt.")
    ],
    model: TextModel = None,
    num_tokens: MostTokens = None,
    ratio: Ratio = None,
    templates: Templates = None,
    match: Match = None,
    markup: MarkupOption = None,
    name: EmbeddingName = "",
    rename: Rename = None,
    method: DistillMethod = None,
    max_steps: Steps = None,
    restarts: Restarts = None,
    compile: Compile = None,
    vram: Vram = None,
    deadline: Deadline = None,
    seed: Seed = None,
    banned: Banned = None,
    texts: Texts = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    save: Save = None,
) -> None:
    """Find the short prompt that does what a long or a soft prompt does, and how faithfully.

    Nothing in a file is run. Ctrl-C ends the search with the best prompt so far.
    """
    options = given(locals(), but=_OF_THE_COMMAND)
    with clear_errors():
        screen.check_save(save)
        with stdout_kept():
            original = _original(what, name, rename or ())
            screen.use_threads(threads, device)
            distiller = _open(model, method, device, dtype, **texts_of(texts))
            if deadline is None:
                screen.read_words(distiller.search, distiller.backend)
            with screen.LiveSearch() as live:
                prompt = distiller.distill(original, callback=live, progress=False, **options)
        if as_json:
            screen.show_json(prompt)
        else:
            _show(prompt)
        if save is not None:
            screen.show_saved(prompt.save_pretrained(save))
    screen.end(prompt.stop_reason)


def _original(what: str, name: str, rename: Sequence[str]) -> "str | SoftPrompt":
    """The prompt, or the soft prompt of the file that it names; what had to be assumed of it goes to stderr."""
    path = Path(what)
    try:
        is_file = path.exists()
    except (OSError, ValueError):  # too long for a path, or with a zero byte: a prompt
        is_file = False
    if not is_file:
        if what.lower().endswith(_SUFFIXES) and len(what.split()) == 1:
            fail(f"there is no file {what!r}; check the path (a prompt would not end so)")
        if name or rename:
            fail(f"--name and --rename are for files, and {what!r} names none")
        return what
    return soft_prompt_at(path, name, rename)


def _open(
    model: str | None, method: str | None, device: str | None, dtype: str | None, **own: Any
) -> "PromptDistiller":
    """The distiller; without a model's name that of the SDK, with a line about what it is good for.

    Args:
        own: options of the model's scheme.
    """
    from hardprompts.distillation.distiller import PromptDistiller
    from hardprompts.encoders import load_backend

    place: dict[str, Any] = {"device": device, "dtype": torch_dtype(dtype)}
    with screen.opening(model or "the embedded model"):
        backend = load_backend(model or "emoji", **place, **own) if own else model
        distiller = PromptDistiller(**given({"backend": backend, "method": method, **place}))
    if model is None and distiller.backend.note:
        say(" ".join(distiller.backend.note.split()), "dim")
    return distiller


def _show(prompt: "DistilledPrompt") -> None:
    """The prompt on stdout; on stderr how faithful it is, and what was lost."""
    screen.show_prompt(prompt)
    if prompt.markup is not None:
        say(str(prompt.markup), "dim")
    found = prompt.faithfulness
    if found is not None:
        say(str(found), "dim")
    for phrase in prompt.lost[:5]:
        say(f"lost: {printable(phrase.text)}", "yellow")
