"""The inputs of nodes that ask the graph's own model, each declared once."""

from typing import Any

from comfy_api.latest import io

from .defaults import sdk_default

MASK = "Only the area inside the mask counts; the rest becomes white."


def model_inputs() -> list[Any]:
    """MODEL, CLIP and VAE."""
    return [
        io.Model.Input("model", tooltip="The model that will draw the picture, with its LoRAs."),
        io.Clip.Input("clip", tooltip="Its text encoder, with its LoRAs."),
        io.Vae.Input("vae", tooltip="Its VAE."),
    ]


def size_inputs() -> list[Any]:
    """The size at which images are shown to the model."""
    return [
        io.Int.Input(
            "width", default=512, min=64, max=2048, step=8,
            tooltip="Images are scaled and cropped to this width. Smaller is faster.",
        ),
        io.Int.Input(
            "height", default=512, min=64, max=2048, step=8, tooltip="Images are scaled and cropped to this height."
        ),
    ]  # fmt: skip


def noises_input(options: str, tooltip: str) -> Any:
    """How many noises the model is asked about; `options` is the class with the default, as for `sdk_default`."""
    default = sdk_default(options, "num_noises")
    return io.Int.Input("num_noises", default=default, min=1, max=1000, optional=True, tooltip=tooltip)


def batch_size_input(options: str) -> Any:
    """Noisy images through the model at once; `options` as above."""
    return io.Int.Input(
        "batch_size", default=sdk_default(options, "batch_size"), min=1, max=256, optional=True,
        tooltip="How many noisy images go through the model at once. Fewer need less memory.",
    )  # fmt: skip
