"""Images of any mode and color space in RGB, as sRGB, without transparency."""

import functools
import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from hardprompts.errors import ImageError, warn_user

#: What an image file says besides its pixels, once these are sRGB and opaque.
_USED_UP = ("icc_profile", "transparency")

#: Floats may leave [0, 1] by this much, as resampling makes them do; they are clipped.
FLOAT_TOLERANCE = 1e-3

#: Levels of 255 by which a profile may differ from sRGB and still be taken for it: a conversion would only round.
_SAME = 3

#: ImageCms.Flags.BLACKPOINTCOMPENSATION, which Pillow names from 10.3 on.
_BLACK_POINT: Any = 0x2000

#: The color spaces of profiles, and the modes of images in them.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}

#: In mode "F", values up to this may be 0 to 1 with highlights, or a very dark 0 to 255.
_UNCLEAR = 8.0


def depth_of(image: Image.Image) -> int:
    """The bits of a channel in a PNG file whose pixels are not loaded yet; 0 where nothing says it."""
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or not tiles:
        return 0
    found = re.search(r";(\d+)", str(tiles[0][3]))  # as "RGB;16B"
    return int(found[1]) if found else 8


def to_rgb(image: Image.Image, what: str, depth: int = 0) -> Image.Image:
    """A loaded image in mode RGB: its colors as sRGB if it has a profile, its transparency laid over white.

    Warns (UserWarning) of a profile that cannot be used; the colors are then taken as sRGB.

    Args:
        what: what a message calls it.
        depth: see `depth_of`.

    Raises:
        ImageError: values that are not colors.
    """
    colors, alpha = _colors_and_alpha(image, what, depth)
    rgb = _as_srgb(colors, image.info.get("icc_profile"), what)
    if alpha is not None:
        rgb = rgb.convert("RGBA")
        rgb.putalpha(alpha)
        rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb).convert("RGB")
    for name in _USED_UP:
        rgb.info.pop(name, None)
    return rgb


def _colors_and_alpha(image: Image.Image, what: str, depth: int) -> tuple[Image.Image, Image.Image | None]:
    """An image in a mode that profiles are for (L, RGB, CMYK, LAB), and how opaque its pixels are, if not all are."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        deep = image.mode.startswith("I;16") or depth == 16
        gray = Image.fromarray(_gray(values, image.mode, what, deep))
        key = image.info.get("transparency")
        opaque = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None
        return gray, opaque
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        elif image.mode in ("1", "L"):
            image = _with_scaled_key(image, depth).convert("LA")
        if image.mode != "LA":
            image = _with_scaled_key(image, depth).convert("RGBA")
        return image.convert("L" if image.mode == "LA" else "RGB"), image.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return (image if image.mode in ("L", "CMYK", "LAB") else image.convert("RGB")), None


def _with_scaled_key(image: Image.Image, depth: int) -> Image.Image:
    """The image with its transparent color as its pixels are.

    Of a PNG file with 2, 4 or 16 bits Pillow scales the pixels to 8 bits, and leaves the color as it is in the file.
    """
    key = image.info.get("transparency")
    colors = (key,) if isinstance(key, int) else key
    if image.mode not in ("L", "RGB") or not isinstance(colors, tuple):
        return image
    if depth == 16 or max(colors) > 255:
        scaled = tuple(color >> 8 for color in colors)
    elif depth in (2, 4):
        scaled = tuple(color * 255 // (2**depth - 1) for color in colors)
    else:
        return image
    image = image.copy()
    image.info["transparency"] = scaled if image.mode == "RGB" else scaled[0]
    return image


def _gray(values: NDArray[Any], mode: str, what: str, deep: bool) -> NDArray[np.uint8]:
    """Gray values of more than 8 bits, scaled; Pillow's own conversion clips them at 255."""
    if not np.isfinite(values).all():
        raise ImageError(f"{what} has NaN or infinite values; replace them")
    low, high = float(values.min()), float(values.max())
    if low < (-FLOAT_TOLERANCE if mode == "F" else 0) or high > 65535:
        raise ImageError(
            f"{what} has mode {mode!r} and values from {low:g} to {high:g}; accepted are 0 to 255 or 0 to 65535"
            f"{', or 0 to 1' if mode == 'F' else ''}; scale it"
        )
    unit = mode == "F" and high <= 1 + FLOAT_TOLERANCE
    if mode == "F" and not unit and high < _UNCLEAR:
        raise ImageError(
            f"{what} has mode 'F' and values from {low:g} to {high:g}: perhaps 0 to 1 with brighter highlights; divide "
            "it by its white, and clip it to [0, 1]"
        )
    full = 1.0 if unit else 255.0
    if deep or high > 255:
        full = 65535.0
    scaled: NDArray[np.uint8] = np.rint(values.clip(0, full) * (255.0 / full)).astype(np.uint8)
    return scaled


# --- profiles -----------------------------------------------------------------------------


def _as_srgb(image: Image.Image, profile: Any, what: str) -> Image.Image:
    """An image of mode L, RGB, CMYK or LAB in RGB, as sRGB."""
    if not profile and image.mode != "LAB":
        return image.convert("RGB")
    try:
        mode, transform = _conversion(bytes(profile or b""), image.mode)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        taken = "plain Lab" if image.mode == "LAB" else "sRGB"
        warn_user(f"{what} has a color profile that cannot be used: {error}; its colors are taken as {taken}")
        return _as_srgb(image, None, what)
    image = image if image.mode == mode else image.convert(mode)
    if transform is None:
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only a transform in place returns nothing
    return converted


@functools.lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that an image needs first, and what makes sRGB of it; None where that would only round.

    Source: relative colorimetric with black point compensation, the default of image editors. Profiles without
    tables, as those of cameras and displays, give the same by every intent.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile) if profile else ImageCms.createProfile("LAB"))
    space = source.profile.xcolor_space.strip()
    needed = _MODES.get(space, "")
    if needed != mode and (mode, needed) != ("L", "RGB"):  # gray pictures often have the profile of a display
        raise ValueError(f"it is for {space}, and the image has mode {mode}")
    transform = ImageCms.buildTransform(
        source, ImageCms.createProfile("sRGB"), needed, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, _BLACK_POINT,
    )  # fmt: skip
    return needed, None if needed in ("L", "RGB") and _changes_little(transform, needed) else transform


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    steps = np.linspace(0, 255, 256 if mode == "L" else 9).round().astype(np.uint8)
    colors = steps[None] if mode == "L" else np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    probe = Image.fromarray(colors)
    changed = np.asarray(ImageCms.applyTransform(probe, transform), dtype=int)
    return bool(np.abs(changed - np.asarray(probe.convert("RGB"), dtype=int)).max() <= _SAME)
