"""Images as people have them, as RGB images that a model's preprocessing takes."""

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hardprompts.causes.failures import cause_of
from hardprompts.causes.standins import HEAD_BYTES, other_kind_of, stand_in, stand_in_at
from hardprompts.errors import ImageError, warn_user
from hardprompts.images.decoders import kind_of, register_decoders, unreadable
from hardprompts.images.modes import FLOAT_TOLERANCE, depth_of, to_rgb

#: One image, or a batch of images as one array or tensor; see `load_images`.
ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor

#: Models scale the shorter side to a fixed length, so a thin strip would become gigabytes.
MAX_ASPECT_RATIO = 100

CHANNELS = (1, 3, 4)

_ACCEPTED = (
    "accepted are paths, PIL images, numpy arrays (H, W), (H, W, C) or (B, H, W, C), torch tensors (H, W), "
    "(C, H, W) or (B, C, H, W) with 1, 3 or 4 channels, and lists of these"
)

#: What Pillow's decoders raise on damaged files (AVIF's a RuntimeError, DDS's its NotImplementedError, SPIDER's an
#: AttributeError), or where there is too little memory for whole ones.
DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, RuntimeError, ArithmeticError, AttributeError,
    struct.error, zlib.error, MemoryError,
)  # fmt: skip

#: Files that hold one picture, whatever else is in them: a preview, layers, or others than the one that is shown.
_ONE_PICTURE = ("HEIF", "MPO", "PSD")

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://|data:")


def load_images(images: "ImageInput | Sequence[ImageInput]") -> list[Image.Image]:
    """The images in RGB, in order.

    - Paths: any format that Pillow reads, HEIC and JPEG XL too where its plugins are installed
      (extras `heif`, `jxl`). Of an animation or a file of several pages the first frame is taken,
      with a UserWarning. EXIF rotation is applied.
    - PIL images of any mode, at the frame that they stand at. Transparency is laid over white.
      Colors with a profile (Display P3, Adobe RGB, CMYK) become sRGB; a profile that cannot be
      used is left out, with a UserWarning.
      "I;16" has 16 bits. "I" and "F" do not say their range: it is taken to be 8 bits if no value
      exceeds 255, else 16 bits; for "F" it is [0, 1] if no value exceeds 1.
    - numpy arrays (H, W), (H, W, C) or (B, H, W, C), and torch tensors (H, W), (C, H, W) or
      (B, C, H, W) on any device, with 1, 3 (RGB) or 4 (RGBA) channels: uint8, uint16, bool, or
      floats in [0, 1].
    - Lists and tuples of these.

    Raises:
        ImageError: nothing was given; a file is missing, damaged or not an image; a URL; more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS` (89 million by default); no pixels at all; one side more
            than 100 times the other; a shape, dtype or range that is not understood, or NaN.
    """
    loaded = _load(images, "")
    if not loaded:
        raise ImageError(f"no images were given; {_ACCEPTED}")
    return loaded


def load_item(images: "ImageInput | Sequence[ImageInput]", place: int) -> list[Image.Image]:
    """The images of one item of several, as `load_images` opens all of them; of a single input all of its own.

    Raises:
        ImageError: see `load_images`; the message says which item it is.
    """
    if isinstance(images, list | tuple):
        return _load(images[place], f"image {place + 1} of {len(images)}: ")
    return _load(images, "")


def _load(item: Any, label: str) -> list[Image.Image]:
    """`label` says which of several images a message is about."""
    if isinstance(item, list | tuple):
        return [image for i, one in enumerate(item) for image in _load(one, f"image {i + 1} of {len(item)}: ")]
    if isinstance(item, str | os.PathLike):
        return [_open(os.fspath(item), label)]
    if isinstance(item, Image.Image):
        return [_decode(item, f"{label}the PIL image")]
    if isinstance(item, np.ndarray):
        return _from_array(item, label, "numpy array", channels_first=False)
    if isinstance(item, Tensor):
        if item.is_meta or item.layout != torch.strided:
            state = "on the meta device, without values" if item.is_meta else f"of the layout {item.layout}"
            raise ImageError(f"{label}the torch tensor is {state}; pass one that holds its values: tensor.to_dense()")
        array = item.detach().cpu()
        # numpy has no bfloat16
        return _from_array(
            (array.float() if array.is_floating_point() else array).numpy(), label, "torch tensor", channels_first=True
        )
    advice = "; open bytes and files with PIL.Image.open" if isinstance(item, bytes) or hasattr(item, "read") else ""
    if not advice and isinstance(item, Iterator):
        advice = "; what can be gone through only once is to be made a list first: list(...)"
    raise ImageError(f"{label}{type(item).__name__} is not an image; {_ACCEPTED}{advice}")


def image_weights(weights: Sequence[float] | None, count: int) -> Float[Tensor, " images"]:
    """The weights of `count` images; all 1 where none are given.

    Raises:
        ValueError: there are more or fewer, or one is not positive and finite.
    """
    checked = torch.ones(count) if weights is None else torch.tensor(list(weights), dtype=torch.float32)
    if len(checked) != count or not bool((checked > 0).all()) or not bool(checked.isfinite().all()):
        raise ValueError(f"weights must be {count} positive numbers, one for each image, got {weights}")
    return checked


# --- files and PIL images -----------------------------------------------------------------


def open_encoded(data: bytes) -> Image.Image:
    """The image that bytes encode, not yet decoded.

    Raises:
        ImageError: they are not an image.
    """
    what = "the image"
    if not data:
        raise ImageError(f"{what} is empty; get it again")
    register_decoders()
    try:
        with warnings.catch_warnings():
            # `load_images` refuses what is too large.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ImageError(f"{what} {_unidentified(data[:HEAD_BYTES])}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{what} has too many pixels: {error}; {_limit_advice()}") from error
    except DECODING_ERRORS as error:
        raise _damaged(what, error) from error


def _open(path: Any, label: str) -> Image.Image:
    what = f"{label}{path!r}"
    if isinstance(path, str) and _URL.match(path):
        raise ImageError(f"{what} is a URL; download it first, and pass the file")
    if "\0" in os.fspath(path):
        raise ImageError(
            f"{what} cannot be the path of a file, since it has a NUL character in it; check where it comes from"
        )
    if os.path.isdir(path):
        raise ImageError(f"{what} is a folder; pass the image files in it")
    register_decoders()
    try:
        if os.path.getsize(path) == 0:
            raise ImageError(f"{what}: {stand_in_at(path)}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            _warn_of_frames(image, what)
            return _decode(image, what)
    except FileNotFoundError as error:
        found = stand_in_at(path)
        raise ImageError(f"{what}: {found}" if found else f"{what} does not exist; check the path") from error
    except UnidentifiedImageError as error:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        found = "" if stand_in(head) else stand_in_at(path)  # of half of a download, say
        raise ImageError(f"{what} {f'cannot be read: {found}' if found else _unidentified(head)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{what} has too many pixels: {error}; {_limit_advice()}") from error
    except ImageError:
        raise
    except DECODING_ERRORS as error:
        if found := _mistaken(path):
            raise ImageError(f"{what} {found}") from error
        raise _damaged(what, error) from error


def _mistaken(path: Any) -> str:
    """What is said of a file that Pillow takes for an image that it is not, or that is half of one; else ""."""
    try:
        with open(path, "rb") as file:
            kind = other_kind_of(file.read(HEAD_BYTES))
    except (OSError, ValueError):
        return ""
    found = stand_in_at(path)
    return f"cannot be read: {found}" if found else f"is {kind}, not an image" if kind else ""


def _unidentified(head: bytes) -> str:
    """What is said of something that begins with `head`, and that Pillow cannot open."""
    if found := stand_in(head):
        return f"is not an image: {found}"
    kind = kind_of(head)
    if kind.startswith("."):
        return f"is damaged, or: {unreadable(kind)}" if unreadable(kind) else f"is {kind} and damaged; get it again"
    if kind := other_kind_of(head) or kind:
        return f"is {kind}, not an image"
    return "is not an image that Pillow can read, or its beginning is damaged; save it as PNG, JPEG or WebP"


def _warn_of_frames(image: Image.Image, what: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _ONE_PICTURE:
        warn_user(f"{what} has {frames} frames; the first is used")


def _limit_advice() -> str:
    return (
        f"the limit is {Image.MAX_IMAGE_PIXELS} pixels. Make the image smaller or, if you trust it, raise "
        "PIL.Image.MAX_IMAGE_PIXELS"
    )


def _damaged(what: str, error: Exception) -> ImageError:
    if "closed" in str(error):  # by the caller: its file may be whole
        return ImageError(f"{what} is closed; load it before its file is closed, or pass the path")
    if found := cause_of(error):  # memory, say, or rights: the file may be whole
        return ImageError(f"{what} cannot be read: {found}")
    if isinstance(error, OSError) and error.errno is not None:  # of the file system, not of a decoder
        return ImageError(f"{what} cannot be read: {error.strerror}; check the file and its permissions")
    return ImageError(f"{what} is damaged or cut off: {type(error).__name__}: {error}; get the file again")


def _decode(image: Image.Image, what: str) -> Image.Image:
    """The image in RGB and upright."""
    _check_size(image.size, what)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageError(f"{what} has too many pixels: {image.width} x {image.height}; {_limit_advice()}")
    try:
        depth = depth_of(image)
        image.load()
        return to_rgb(_upright(image, what), what, depth)
    except ImageError:
        raise
    except DECODING_ERRORS as error:
        raise _damaged(what, error) from error


def _upright(image: Image.Image, what: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DECODING_ERRORS as error:  # the pixels are whole
        warn_user(
            f"{what} has EXIF data that cannot be read: {type(error).__name__}: {error}; it is taken as it stands"
        )
        return image


def _check_size(size: tuple[int, int], what: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{what} is {width} x {height}, without any pixels; pass another image")
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ImageError(
            f"{what} is {width} x {height}: one side may be at most {MAX_ASPECT_RATIO} times the other; crop it"
        )


# --- arrays and tensors -------------------------------------------------------------------


def _from_array(array: NDArray[Any], label: str, kind: str, *, channels_first: bool) -> list[Image.Image]:
    what = f"{label}the {kind} of shape {array.shape} and dtype {array.dtype}"
    if array.dtype == object:
        raise ImageError(f"{what} holds objects and not numbers, as of rows of several lengths; {_ACCEPTED}")
    if array.ndim not in (2, 3, 4):
        raise ImageError(f"{what} is not an image; {_ACCEPTED}")
    if array.size == 0:
        raise ImageError(f"{what} has no pixels; pass another image")
    if array.ndim == 2:
        array = array[..., None]
    else:
        channels = array.shape[-3 if channels_first else -1] in CHANNELS
        otherwise = array.shape[-1 if channels_first else -3] in CHANNELS
        layout, other = ("(C, H, W)", "(H, W, C)") if channels_first else ("(H, W, C)", "(C, H, W)")
        if channels and otherwise:
            raise ImageError(f"{what} could be {layout} or {other}; pass a PIL image, which cannot be mistaken")
        if not channels:
            change = "tensor.movedim(-1, -3)" if channels_first else "np.moveaxis(array, -3, -1)"
            advice = f"it looks like {other}: use {change}" if otherwise else f"channels must be one of {CHANNELS}"
            raise ImageError(f"{what} is not {layout} or a batch of it; {advice}")
        if channels_first:
            array = np.moveaxis(array, -3, -1)
    pixels = _to_bytes(array, what)
    images = []
    for one in pixels if pixels.ndim == 4 else [pixels]:
        _check_size((one.shape[1], one.shape[0]), what)
        # A copy, since Pillow would otherwise look at memory that the caller goes on to change.
        image = Image.fromarray(np.ascontiguousarray(one[..., 0] if one.shape[-1] == 1 else one).copy())
        images.append(to_rgb(image, what))
    return images


def _to_bytes(array: NDArray[Any], what: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        whole: NDArray[np.uint8] = np.where(array, np.uint8(255), np.uint8(0))
        return whole
    if array.dtype == np.uint16:
        return np.rint(array / 257.0).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"{what} has a dtype that says no range; use uint8 (0 to 255), uint16, or floats in [0, 1]")
    if not np.isfinite(array).all():
        raise ImageError(f"{what} has NaN or infinite values; replace them")
    low, high = float(array.min()), float(array.max())
    if low < -FLOAT_TOLERANCE or high > 1 + FLOAT_TOLERANCE:
        advice = "map [-1, 1] with (x + 1) / 2" if low >= -1 and high <= 1 else "divide 0 to 255 by 255"
        raise ImageError(f"{what} has values from {low:g} to {high:g}; floats must be in [0, 1]: {advice}")
    pixels: NDArray[np.uint8] = np.rint(array.clip(0, 1).astype(np.float32) * 255).astype(np.uint8)
    return pixels
