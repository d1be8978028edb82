"""The embedded models as backends: `emoji` and `emoji:emoji-clip-reference` for images, `emoji:emoji-lm` for labels."""

import functools
from pathlib import Path

import torch

from hardprompts.applications import Generate, load_generator
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, UnknownName
from hardprompts.inversion import EvidenceCalibration, Proposer, load_proposer, proposers
from hardprompts.inversion.evidence.calibration import load_calibrations

NOTE = "it knows emoji scenes; for photos pass another model, e.g. --model open_clip:ViT-L-14/openai"
LANGUAGE_NOTE = (
    "it has read short definitions of English words; for other texts pass another model, e.g. --model "
    "transformers:openai-community/gpt2"
)
MASKED_NOTE = (
    "it fills in words of captions of emoji scenes, and of definitions; for other texts pass another model, e.g. "
    "--proposer mlm:transformers:FacebookAI/roberta-base"
)

#: What a person should know of each before use. The model that is searched through comes first, then the neutral
#: judge, then the language models.
NOTES = {
    "emoji-clip": NOTE,
    "emoji-clip-reference": NOTE,
    "emoji-lm": LANGUAGE_NOTE,
    "emoji-lm-large": LANGUAGE_NOTE,
    "emoji-mlm": MASKED_NOTE,
}

MODELS = tuple(NOTES)

GENERATOR = "emoji-sd"
"""The diffusion model that draws."""

DECODER = "emoji-clip-decoder"
"""The decoder that comes with the first of them."""


def open_backend(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
    """An embedded CLIP that knows emoji scenes, or an embedded language model.

    Args:
        name: "" or "emoji-clip", or "emoji-clip-reference", the judge that no search should follow; "emoji-lm" or
            "emoji-lm-large" for `ClassifierPromptTuner`; "emoji-mlm", which fills in masks, for proposals.

    Raises:
        UnknownName: there is no embedded model of that name.
        BackendError: its files are damaged or were not installed.
        MissingExtra: it is in the package of the larger models, which is not installed.
    """
    chosen = name or MODELS[0]
    if chosen not in MODELS:
        raise UnknownName("embedded model", name, MODELS)
    from hardprompts_emoji import path
    from hardprompts_transformers.backend import open_model

    try:
        folder = path(chosen)
    except FileNotFoundError as error:
        raise BackendError(
            f"emoji:{chosen}: {error}, or open another model, e.g. a folder as transformers:<folder>"
        ) from error
    return open_model(folder, name=f"emoji:{chosen}", device=device, dtype=dtype, note=f"{chosen}: {NOTES[chosen]}")


def open_proposer(name: str, *, backend: Backend) -> Proposer | None:
    """The embedded decoder for emoji-clip; None for another model, or where the plugin "decoder" is not loaded.

    Args:
        name: "" or "emoji-clip-decoder".

    Raises:
        UnknownName: there is no embedded decoder of that name.
        BackendError: it is for another model, or its files are damaged or were not installed.
    """
    if name not in ("", DECODER):
        raise UnknownName("embedded decoder", name, [DECODER])
    if not name and (backend.name != f"emoji:{MODELS[0]}" or "decoder" not in proposers()):
        return None
    from hardprompts_emoji import path

    try:
        folder = path(DECODER)
    except FileNotFoundError as error:
        raise BackendError(f"emoji:{DECODER}: {error}") from error
    return load_proposer(f"decoder:{folder}", backend)


CALIBRATIONS = Path(__file__).resolve().parent / "calibrations.json"


def calibrations(backend: Backend) -> tuple[EvidenceCalibration, ...]:
    """What evidence for words is calibrated by, for emoji-clip; none for other models."""
    return _calibrations() if backend.name == f"emoji:{MODELS[0]}" else ()


@functools.cache
def _calibrations() -> tuple[EvidenceCalibration, ...]:
    return load_calibrations(CALIBRATIONS)


def open_generator(
    name: str, *, device: torch.device, dtype: torch.dtype, steps: int | None, guidance_scale: float | None
) -> Generate:
    """The embedded diffusion model as a generator, in a few steps unless more are asked for.

    Args:
        name: "" or "emoji-sd".
        steps, guidance_scale: of the denoiser; None: 8 steps, and a scale of 3.

    Raises:
        UnknownName: there is no embedded generator of that name.
        BackendError: its files are damaged or were not installed; MissingExtra if it is in a package that is not.
    """
    if name not in ("", GENERATOR):
        raise UnknownName("embedded generator", name, [GENERATOR])
    from hardprompts_emoji import path

    try:
        folder = path(GENERATOR)
    except FileNotFoundError as error:
        raise BackendError(f"emoji:{GENERATOR}: {error}") from error
    chosen = {
        "steps": 8 if steps is None else steps,
        "guidance_scale": 3.0 if guidance_scale is None else guidance_scale,
    }
    return load_generator(f"diffusers:{folder}", device=device, dtype=dtype, **chosen)
