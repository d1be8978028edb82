"""Captioners: what describes an image in words, by name or as any function."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from PIL import Image

from hardprompts import plugins
from hardprompts.devices import checked_device, checked_dtype
from hardprompts.errors import quoted

#: Any image-to-text model: RGB images become one caption each.
Captioner: TypeAlias = Callable[[Sequence[Image.Image]], Sequence[str]]


@runtime_checkable
class OpenCaptioner(Protocol):
    """How a plugin opens the captioners of its scheme."""

    def __call__(self, name: str, *, device: torch.device, dtype: torch.dtype) -> Captioner:
        """The captioner `name` (what stands behind "scheme:").

        Raises:
            BackendError: it is unknown, missing or damaged, or describes no images.
        """
        ...


def captioners() -> dict[str, OpenCaptioner]:
    """The ways to open a captioner, by scheme."""
    return plugins.collect("captioners")


def load_captioner(
    name: str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None, **options: Any
) -> Captioner:
    """The captioner that `name` stands for: a function from RGB images to one caption each.

    Args:
        name: "scheme:name", for example "transformers:Salesforce/blip-image-captioning-base".
        device, dtype: as for `hardprompts.load_backend`.
        options: of the scheme's own, such as `instruction="What is in this picture?"` for "transformers:".

    Raises:
        UnknownName: no plugin has this scheme.
        BackendError: the plugin cannot open the captioner, or has no such option; MissingExtra if a package is missing.
    """
    opening, rest = plugins.opening_of("captioners", "captioner", name, options)
    chosen = checked_device(device)
    captioner: Captioner = opening(rest, device=chosen, dtype=checked_dtype(dtype, chosen), **options)
    return captioner


def opened_captioner(
    captioner: "str | Captioner", *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Captioner:
    """The captioner itself, or the one that is called so; see `load_captioner`.

    Raises:
        TypeError: it is neither a name nor a function.
    """
    if isinstance(captioner, str):
        return load_captioner(captioner, device=device, dtype=dtype)
    if not callable(captioner):
        raise TypeError(
            "a captioner must be a name such as 'transformers:Salesforce/blip-image-captioning-base', or a function "
            f"from a list of images to a caption each, got {type(captioner).__name__}"
        )
    return captioner


def captions_of(captioner: Captioner, images: Sequence[Image.Image]) -> list[str]:
    """What a captioner says of each image.

    Raises:
        ValueError: it gave something else than one text for each.
    """
    captions: list[Any] = list(captioner(images))
    if len(captions) != len(images):
        raise ValueError(f"the captioner gave {len(captions)} captions for {len(images)} images; it must give one each")
    wrong = next((caption for caption in captions if not isinstance(caption, str)), None)
    if wrong is not None:
        raise ValueError(
            f"the captioner must give one text for each image, and gave {quoted(wrong)}, a {type(wrong).__name__}; "
            "instead of a pipeline of transformers give its model by name, as captioner='transformers:NAME'"
        )
    return captions
