"""`hardprompts weight`: the words of a prompt get weights, as ComfyUI and A1111 read them."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from hardprompts.cli import screen
from hardprompts.cli.options import (
    AsJson,
    Deadline,
    Device,
    Dtype,
    ImageModel,
    Save,
    Seed,
    Steps,
    Template,
    Threads,
    given,
    torch_dtype,
)
from hardprompts.cli.screen import clear_errors, fail, say, stdout_kept

#: Parameters of the command that are not options of the fit.
_OF_THE_COMMAND = ("prompt", "images", "model", "text", "template", "device", "threads", "dtype", "as_json", "save")


def weight(
    prompt: Annotated[str, typer.Argument(help="The prompt, or the folder of a saved one.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="What should be drawn with it.")
    ] = None,
    model: ImageModel = None,
    text: Annotated[
        str | None, typer.Option("--like", metavar="TEXT", help="A text that it should do the same as.")
    ] = None,
    template: Template = None,
    syntax: Annotated[
        Literal["comfyui", "a1111"] | None, typer.Option(help="Whose rule, and brackets (default: comfyui).")
    ] = None,
    num_noises: Annotated[
        int | None, typer.Option("--noises", help="Noises that the model is asked about (default: 32).")
    ] = None,
    max_steps: Steps = None,
    deadline: Deadline = None,
    seed: Seed = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    save: Save = None,
) -> None:
    """Weight the words of a prompt, "(fox:1.2) (neon:0.9)", so that a text-to-image model does better with them.

    Ctrl-C ends the fit with the best weights so far.
    """
    options = given(locals(), but=_OF_THE_COMMAND)
    with clear_errors():
        screen.check_save(save)
        if model is None:
            fail(
                "--model is missing: the text-to-image model that the prompt is for, as in diffusers:<folder or hub id>"
            )
        if not images and text is None:
            fail("there is nothing to fit weights to: name an image, or give a text with --like")
        with stdout_kept():
            from hardprompts.applications.weights import fit_weights
            from hardprompts.encoders import load_backend
            from hardprompts.prompts import HardPrompt

            own = HardPrompt.from_pretrained(prompt) if Path(prompt).is_dir() else HardPrompt(prompt, (), 0.0)
            if template is not None:
                own = HardPrompt(own.text, own.token_ids, own.score, template)
            screen.use_threads(threads, device)
            with screen.opening(model):
                backend = load_backend(model, device=device, dtype=torch_dtype(dtype))
            found = fit_weights(own, backend, images=images or None, text=text, **options)
        assert found.weights is not None
        typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else found.weighted())
        own_noises = found.weights.plain, found.weights.weighted
        before, after = found.weights.held_out or own_noises
        which = "were used" if found.weights.held_out is None else "were not used"
        say(f"{found.weights.unit} on noises that {which}: {before:.3f} without weights, {after:.3f} with", "dim")
        if save is not None:
            say(f"saved {found.save_pretrained(save)}", "dim")
    screen.end(str(found.provenance["weights"]["stop_reason"]))
