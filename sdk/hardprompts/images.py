"""Images as people have them, as RGB images that a model's preprocessing takes."""

import collections
import dataclasses
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageEnhance, ImageOps, UnidentifiedImageError
from torch import Tensor

from hardprompts.errors import ImageError, stand_in_at

#: One image, or a batch of images as one array or tensor; see `load_images`.
ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor

#: Models scale the shorter side to a fixed length, so a thin strip would become gigabytes.
MAX_ASPECT_RATIO = 100

#: Floats may leave [0, 1] by this much, as resampling makes them do; they are clipped.
FLOAT_TOLERANCE = 1e-3

CHANNELS = (1, 3, 4)

_ACCEPTED = (
    "accepted are paths, PIL images, numpy arrays (H, W), (H, W, C) or (B, H, W, C), torch tensors (H, W), "
    "(C, H, W) or (B, C, H, W) with 1, 3 or 4 channels, and lists of these"
)

#: What image files end in; Pillow reads those that it has a decoder for, see `images_in`.
IMAGE_SUFFIXES = frozenset(".avif .bmp .gif .heic .heif .hif .jfif .jpeg .jpg .jxl .png .ppm .tif .tiff .webp".split())

#: What operating systems leave in folders, beside files that are hidden by a dot.
_JUNK = frozenset(("__macosx", "desktop.ini", "thumbs.db"))

#: What Pillow's decoders raise on damaged files.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error, zlib.error)

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://|data:")


def load_images(images: "ImageInput | Sequence[ImageInput]") -> list[Image.Image]:
    """The images in RGB, in order.

    - Paths: any format that Pillow reads. Of an animation or a file of several pages the first
      frame is taken, with a UserWarning. EXIF rotation is applied.
    - PIL images of any mode, at the frame that they stand at. Transparency is laid over white.
      "I;16" has 16 bits. "I" and "F" do not say their range: it is taken to be 8 bits if no value
      exceeds 255, else 16 bits; for "F" it is [0, 1] if no value exceeds 1.
    - numpy arrays (H, W), (H, W, C) or (B, H, W, C), and torch tensors (H, W), (C, H, W) or
      (B, C, H, W) on any device, with 1, 3 (RGB) or 4 (RGBA) channels: uint8, uint16, bool, or
      floats in [0, 1].
    - Lists and tuples of these.

    Raises:
        ImageError: nothing was given; a file is missing, damaged or no image; a URL; more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS` (89 million by default); no pixels at all; one side more
            than 100 times the other; a shape, dtype or range that is not understood, or NaN.
    """
    loaded = _load(images, "")
    if not loaded:
        raise ImageError(f"no images were given; {_ACCEPTED}")
    return loaded


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
        array = item.detach().cpu()
        # numpy has no bfloat16
        return _from_array(
            (array.float() if array.is_floating_point() else array).numpy(), label, "torch tensor", channels_first=True
        )
    advice = "; open bytes and files with PIL.Image.open" if isinstance(item, bytes) or hasattr(item, "read") else ""
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


# --- folders ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FolderImages:
    """The images of a folder.

    Attributes:
        images: their files, in order.
        passed_over: image files that cannot be read here, and why, in order.
    """

    images: tuple[Path, ...]
    passed_over: tuple[tuple[Path, str], ...] = ()


def images_in(folder: str | os.PathLike[str], recursive: bool = False) -> FolderImages:
    """The image files of a folder, by their suffix, and those among them that Pillow has no decoder for here.

    Files and folders that are hidden, or that operating systems leave everywhere, do not count.

    Args:
        recursive: look into its folders too.

    Raises:
        OSError: there is no such folder, or it cannot be read.
    """
    readable = Image.registered_extensions()
    images: list[Path] = []
    passed_over: list[tuple[Path, str]] = []
    for path in files_in(folder, IMAGE_SUFFIXES, recursive):
        suffix = path.suffix.lower()
        if suffix in readable:
            images.append(path)
        else:
            plugin = "; install pillow-heif" if suffix in (".heic", ".heif", ".hif") else ""
            passed_over.append((path, f"Pillow cannot read {suffix} here{plugin}, or save it as PNG or JPEG"))
    return FolderImages(tuple(images), tuple(passed_over))


def files_in(folder: str | os.PathLike[str], suffixes: Iterable[str], recursive: bool = False) -> list[Path]:
    """The files of a folder with one of these endings, in order, without hidden ones and those of operating systems."""
    root = Path(folder)
    endings = tuple(suffixes)
    return sorted(
        path
        for path in (root.rglob("*") if recursive else root.iterdir())
        if path.name.lower().endswith(endings)
        and not any(part.startswith(".") or part.lower() in _JUNK for part in path.relative_to(root).parts)
        and path.is_file()
    )


def caption_files(images: Iterable[Path]) -> dict[Path, Path]:
    """The text file of each image, where trainers look for captions.

    It is `cat.txt` for `cat.png`, and `cat.png.txt` where a `cat.jpg` is in the same folder, as file systems that
    ignore case see it.
    """
    files = list(images)
    stems = collections.Counter((image.parent, image.stem.casefold()) for image in files)
    return {
        image: image.with_name(f"{image.stem if stems[image.parent, image.stem.casefold()] == 1 else image.name}.txt")
        for image in files
    }


# --- files and PIL images -----------------------------------------------------------------


def _open(path: Any, label: str) -> Image.Image:
    what = f"{label}{path!r}"
    if isinstance(path, str) and _URL.match(path):
        raise ImageError(f"{what} is a URL; download it first, and pass the file")
    if os.path.isdir(path):
        raise ImageError(f"{what} is a folder; pass the image files in it")
    try:
        if os.path.getsize(path) == 0:
            raise ImageError(f"{what} is empty; get the file again")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _warn_of_frames(image, what)
                return _decode(image, what)
    except FileNotFoundError as error:
        raise ImageError(f"{what} does not exist; check the path") from error
    except UnidentifiedImageError as error:
        if found := stand_in_at(path):
            raise ImageError(f"{what}: {found}") from error
        raise ImageError(
            f"{what} is not an image that Pillow can read, or its beginning is damaged; save it as PNG, JPEG or WebP"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{what} has too many pixels: {error}; {_limit_advice()}") from error
    except ImageError:
        raise
    except DECODING_ERRORS as error:
        raise _damaged(what, error) from error


def _warn_of_frames(image: Image.Image, what: str) -> None:
    # Phones write photographs with a preview as "MPO": nobody thinks of these as several images.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        warnings.warn(f"{what} has {frames} frames; the first is used", UserWarning, stacklevel=5)


def _limit_advice() -> str:
    return (
        f"the limit is {Image.MAX_IMAGE_PIXELS} pixels. Make the image smaller or, if you trust it, raise "
        "PIL.Image.MAX_IMAGE_PIXELS"
    )


def _damaged(what: str, error: Exception) -> ImageError:
    return ImageError(f"{what} is damaged or cut off: {type(error).__name__}: {error}; get the file again")


def _decode(image: Image.Image, what: str) -> Image.Image:
    """The image in RGB and upright; a copy, unless it is so already."""
    _check_size(image.size, what)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageError(f"{what} has too many pixels: {image.width} x {image.height}; {_limit_advice()}")
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _to_rgb(upright, what)
    except ImageError:
        raise
    except DECODING_ERRORS as error:
        raise _damaged(what, error) from error


def _check_size(size: tuple[int, int], what: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{what} is {width} x {height}, without any pixels; pass another image")
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ImageError(
            f"{what} is {width} x {height}: one side may be at most {MAX_ASPECT_RATIO} times the other; crop it"
        )


def _to_rgb(image: Image.Image, what: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_values(np.asarray(image), image.mode, what)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if converted is not None:
            image = converted
    return image.convert("RGB")


def _from_values(values: NDArray[Any], mode: str, what: str) -> Image.Image:
    """Gray values of more than 8 bits, scaled; Pillow's own conversion clips them at 255."""
    if not np.isfinite(values).all():
        raise ImageError(f"{what} has NaN or infinite values; replace them")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        raise ImageError(
            f"{what} has mode {mode!r} and values from {low:g} to {high:g}; accepted are 0 to 255 or 0 to 65535"
            f"{', or 0 to 1' if mode == 'F' else ''}; scale it"
        )
    full = 1.0 if mode == "F" and high <= 1 else 255.0
    if mode.startswith("I;16") or high > 255:
        full = 65535.0
    return Image.fromarray(np.rint(values * (255.0 / full)).astype(np.uint8)).convert("RGB")


# --- arrays and tensors -------------------------------------------------------------------


def _from_array(array: NDArray[Any], label: str, kind: str, *, channels_first: bool) -> list[Image.Image]:
    what = f"{label}the {kind} of shape {array.shape} and dtype {array.dtype}"
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
        images.append(_to_rgb(image, what))
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


# --- views --------------------------------------------------------------------------------


def augmented_views(image: Image.Image, count: int, generator: torch.Generator) -> list[Image.Image]:
    """The RGB image itself, and `count - 1` random views of the same scene.

    A view is a crop of 85 to 100 % of the area with nearly the image's own aspect ratio, with
    brightness, contrast and color changed by at most 10 %: little enough that everything in the
    image is still there. It is not mirrored, which would exchange left and right. The views are
    determined by the generator.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return [image, *(_view(image, generator) for _ in range(count - 1))]


def _view(image: Image.Image, generator: torch.Generator) -> Image.Image:
    area, stretch, left, top, *tints = torch.rand(7, generator=generator, device=generator.device).tolist()
    side = math.sqrt(0.85 + 0.15 * area)
    shape = math.exp((2 * stretch - 1) * math.log(1.05) / 2)  # aspect ratios 5 % either way
    width = max(1, round(image.width * min(1.0, side * shape)))
    height = max(1, round(image.height * min(1.0, side / shape)))
    x, y = round(left * (image.width - width)), round(top * (image.height - height))
    view = image.crop((x, y, x + width, y + height))
    for enhance, tint in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), tints, strict=True):
        view = enhance(view).enhance(1 + 0.1 * (2 * tint - 1))
    return view
