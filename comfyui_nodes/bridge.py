"""The border with ComfyUI's runtime: images, gradients, progress, interruption and memory. Nothing else knows it."""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from hardprompts.search import SearchProgress

#: Seconds between two texts that are sent to the browser.
TEXT_EVERY = 0.2
#: Images of one task whose best text is shown while a search runs.
MAX_LINES = 8

#: Values of an IMAGE above this are no highlights, but 0 to 255.
BRIGHTEST = 100.0
#: Values leave [0, 1] by as much when images are scaled; nobody has to know.
OVERSHOOT = 0.05

_CHECK = "Check the node that it comes from"

# --- images -------------------------------------------------------------------------------


def to_images(batch: Tensor, mask: Tensor | None = None) -> list[Image.Image]:
    """The images of an IMAGE, as RGB images of PIL; transparent and masked-out areas become white.

    Args:
        batch: (images, height, width, channels), floats in [0, 1]; values outside are clipped, as ComfyUI's own nodes
            do, with a UserWarning. 1, 3 or 4 channels.
        mask: (1 or images, height, width), 1 where the image counts. A mask of another size is scaled.

    Raises:
        ImageError: no images, no pixels, a number of channels other than 1, 3 or 4, no floats, NaN, or 0 to 255.
        ValueError: the number of masks is neither 1 nor the number of images.
    """
    from hardprompts.errors import ImageError, warn_user
    from hardprompts.images import load_images

    if batch.ndim == 3:
        batch = batch.unsqueeze(0)
    if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4) or 0 in batch.shape:
        raise ImageError(
            f"an IMAGE of shape {tuple(batch.shape)} cannot be read; it must hold at least one image, as (images, "
            f"height, width, channels) with 1, 3 or 4 channels. {_CHECK}"
        )
    if not batch.is_floating_point():
        raise ImageError(f"an IMAGE of {batch.dtype} is not one: its values are floats in [0, 1]. {_CHECK}")
    pixels = batch.detach().float().cpu()
    bad = [number for number, one in enumerate(pixels, 1) if not one.isfinite().all()]
    if bad:
        raise ImageError(f"{_named(bad, len(pixels))} NaN or infinite values. {_CHECK} (often a VAE in float16)")
    low, high = float(pixels.min()), float(pixels.max())
    if high > BRIGHTEST:
        raise ImageError(f"the IMAGE has values up to {high:g}, and an IMAGE has 0 to 1: divide by 255. {_CHECK}")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        warn_user(f"an IMAGE with values from {low:.3g} to {high:.3g} is clipped to [0, 1]. {_CHECK}")
    if mask is not None:
        pixels = _masked(pixels, mask.detach().float().cpu())
    values = pixels.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    return load_images([Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in values])


def _named(numbers: list[int], count: int) -> str:
    """Which images of a batch have something: "image 3 of 8 has", "images 3, 5 of 8 have"."""
    if len(numbers) == 1:
        return f"image {numbers[0]} of {count} has"
    return f"images {', '.join(map(str, numbers[:MAX_LINES]))}{', ...' * (len(numbers) > MAX_LINES)} of {count} have"


def _masked(pixels: Tensor, mask: Tensor) -> Tensor:
    mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
    if len(mask) not in (1, len(pixels)):
        raise ValueError(f"{len(mask)} masks for {len(pixels)} images; connect one mask, or one mask for each image")
    if mask.shape[1:] != pixels.shape[1:3]:
        mask = torch.nn.functional.interpolate(mask.unsqueeze(1), size=pixels.shape[1:3], mode="nearest").squeeze(1)
    kept = mask.clamp(0, 1).unsqueeze(-1)
    return pixels * kept + (1 - kept)


def to_batch(images: list[Image.Image]) -> list[Tensor]:
    """Each image as an IMAGE of its own, (1, height, width, 3): they may differ in size."""
    import numpy

    return [torch.from_numpy(numpy.asarray(image, dtype=numpy.float32) / 255).unsqueeze(0) for image in images]


# --- gradients ----------------------------------------------------------------------------


@contextlib.contextmanager
def gradients() -> Iterator[None]:
    """Where a search may run: ComfyUI executes every node in inference mode, in which there are no gradients.

    Tensors that were made outside are still inference tensors: clone them before autograd sees them.
    """
    with torch.inference_mode(False):
        yield


@contextlib.contextmanager
def gradients_through_graph() -> Iterator[None]:
    """As `gradients`, for gradients through ComfyUI's own networks: newer versions must know that this is training."""
    import comfy.model_management as management

    training = getattr(management, "in_training", None)
    if training is not None:
        management.in_training = True
    try:
        with gradients():
            yield
    finally:
        if training is not None:
            management.in_training = training


@contextlib.contextmanager
def kept_inputs(network: torch.nn.Module) -> Iterator[None]:
    """Makes the layer norms of a network save copies of their inputs: ComfyUI's CLIP layers change those in place."""

    def copied(module: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(one.clone() if isinstance(one, Tensor) else one for one in given)

    hooks = [
        part.register_forward_pre_hook(copied) for part in network.modules() if isinstance(part, torch.nn.LayerNorm)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def private(tensor: Tensor) -> Tensor:
    """A weight that autograd may save, whatever memory ComfyUI hands it out from."""
    return tensor.detach().clone()


# --- progress -----------------------------------------------------------------------------


def check_interrupted() -> None:
    """Raises ComfyUI's InterruptProcessingException if the user pressed the button; no caller may catch it."""
    import comfy.model_management as management

    management.throw_exception_if_processing_interrupted()


class Progress:
    """The callback of a search: the node's progress bar, its best prompts so far, and the interrupt button.

    A search calls it; what counts by itself calls `show`.
    """

    def __init__(self, node_id: Any) -> None:
        import comfy.utils

        self._bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self._node_id = node_id
        self._shown, self._text = 0.0, ""

    def __call__(self, progress: "SearchProgress") -> None:
        best = [candidate for candidate in progress.best if candidate is not None]
        lines = [f"{candidate.score:.3f}  {candidate.text}" for candidate in best[:MAX_LINES]]
        if len(best) > MAX_LINES:
            lines.append(f"... and {len(best) - MAX_LINES} more")
        self.show(progress.step, progress.max_steps or progress.step + 1, "\n".join(lines))

    def show(self, step: int, steps: int, text: str) -> None:
        """So many steps are done of so many, and this is the best so far."""
        check_interrupted()
        self._bar.update_absolute(step, steps)
        now = time.monotonic()
        if text != self._text and now - self._shown >= TEXT_EVERY:
            self._text, self._shown = text, now
            show_text(text, self._node_id)


def show_text(text: str, node_id: Any) -> None:
    """Shows a text inside a node while it runs."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)


# --- paths --------------------------------------------------------------------------------


def inside(folder: str, name: str) -> str:
    """The absolute path of `name` in one of ComfyUI's folders ("input" or "output").

    Raises:
        ValueError: the name points outside that folder, or no file can be called so.
    """
    import os

    import folder_paths

    try:
        usable = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ValueError(f"no file can be called {name!r}: a NUL character or half of one is in it; write another name")
    # Not resolved: links inside the folders are the owner's own, a workflow cannot make them.
    root = os.path.abspath(
        {"input": folder_paths.get_input_directory, "output": folder_paths.get_output_directory}[folder]()
    )
    path = os.path.abspath(os.path.join(root, name))
    if os.path.commonpath((root, path)) != root:
        raise ValueError(
            f"{name!r} points outside ComfyUI's {folder} folder; write a path inside it, such as cats/tabby"
        )
    return path
