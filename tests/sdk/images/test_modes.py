"""Colors: every mode that images have, transparency in all its forms, and color profiles."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from color_profiles import INKS, SPACES, cmyk_profile, gray_profile, in_srgb, lab_in_srgb, rgb_profile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from hardprompts.batch.records import Record
from hardprompts.errors import ImageError
from hardprompts.images import load_images
from hardprompts.images.decoders import register_decoders

WHITE = (255, 255, 255)


def only(given: Any) -> Image.Image:
    (image,) = load_images(given)
    assert image.mode == "RGB" and not {"icc_profile", "transparency"} & set(image.info)
    return image


def row(given: Any) -> list[tuple[int, ...]]:
    """The pixels of an image of one row."""
    image = only(given)
    return [image.getpixel((x, 0)) for x in range(image.width)]


# --- transparency -------------------------------------------------------------------------


def png(width: int, depth: int, kind: int, pixels: bytes, key: bytes | None = None, palette: bytes = b"") -> bytes:
    """A PNG file of one row, as the specification has it; `key` is its chunk tRNS."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [] if key is None else [chunk(b"tRNS", key)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(b"\0" + pixels)), chunk(b"IEND", b"")])


GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6

#: Files whose first pixel is transparent, and what the second one is.
TRANSPARENT = {
    "gray 1 bit": (png(2, 1, GRAY, b"\x40", b"\0\0"), WHITE),
    "gray 1 bit, white": (png(2, 1, GRAY, b"\x80", b"\0\1"), (0, 0, 0)),
    "gray 2 bits": (png(2, 2, GRAY, b"\x60", b"\0\1"), (170,) * 3),
    "gray 4 bits": (png(2, 4, GRAY, b"\x5a", b"\0\5"), (170,) * 3),
    "gray 8 bits": (png(2, 8, GRAY, b"\x05\x06", b"\0\5"), (6,) * 3),
    "gray 16 bits": (png(2, 16, GRAY, struct.pack(">HH", 300, 25700), struct.pack(">H", 300)), (100,) * 3),
    "gray 16 bits, dark": (png(2, 16, GRAY, struct.pack(">HH", 7, 8), struct.pack(">H", 7)), (0,) * 3),
    "RGB 8 bits": (png(2, 8, RGB, bytes((1, 2, 3, 4, 5, 6)), struct.pack(">HHH", 1, 2, 3)), (4, 5, 6)),
    "RGB 16 bits": (
        png(2, 16, RGB, struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x4000, 0x5000, 0x6000), struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC)),
        (64, 80, 96),
    ),
    "RGB 16 bits, dark": (
        png(2, 16, RGB, struct.pack(">6H", 7, 8, 9, 0x4000, 0x5000, 0x6000), struct.pack(">HHH", 7, 8, 9)), (64, 80, 96)
    ),
    "palette, index": (png(2, 8, PALETTE, b"\0\1", b"\0", bytes((1, 2, 3, 4, 5, 6))), (4, 5, 6)),
    "palette 1 bit": (png(2, 1, PALETTE, b"\x40", b"\0", bytes((1, 2, 3, 4, 5, 6))), (4, 5, 6)),
    "palette, bytes": (png(2, 8, PALETTE, b"\0\1", b"\0\x80", bytes((1, 2, 3, 4, 5, 6))), (129, 130, 130)),
    "gray and alpha 16 bits": (png(2, 16, GRAY_ALPHA, struct.pack(">4H", 9, 0, 25700, 65535)), (100,) * 3),
    "RGBA 16 bits": (png(2, 16, RGB_ALPHA, struct.pack(">8H", 9, 9, 9, 0, 0x4000, 0x5000, 0x6000, 65535)), (64, 80, 96)),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_in_a_file_is_white(kind: str, tmp_path: Path) -> None:
    data, other = TRANSPARENT[kind]
    (tmp_path / "x.png").write_bytes(data)
    for given in (tmp_path / "x.png", Image.open(io.BytesIO(data))):
        first, second = row(given)
        assert first == WHITE
        assert np.abs(np.subtract(second, other)).max() <= 1
    assert Record("x", data).load().getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_what_is_transparent_in_memory_is_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (90, 90, 90, 0))
    image.putpixel((1, 0), (90, 90, 90, 255))
    if mode == "PA":  # which Pillow forgets the alpha of when it converts to it
        alpha = image.getchannel("A")
        image = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE).convert("PA")
        image.putalpha(alpha)
    else:
        image = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
    assert image.mode == mode and row(image) == [WHITE, (90, 90, 90)]


def test_gif_and_webp_and_tiff_transparency(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 1), (200, 40, 10, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    for name, options in (
        ("x.gif", {}),
        ("x.webp", {"lossless": True}),
        ("x.tiff", {}),
    ):
        image.save(tmp_path / name, **options)
        first, *others = row(tmp_path / name)
        assert first == WHITE and np.abs(np.subtract(others, (200, 40, 10))).max() <= 2, name


# --- deep and bright ----------------------------------------------------------------------


def test_floats_a_little_over_one_are_one_and_highlights_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-0.0005, 0.5, 1.0005]], np.float32)).save(tmp_path / "x.tiff")
    assert row(tmp_path / "x.tiff") == [(0, 0, 0), (128,) * 3, WHITE]
    Image.fromarray(np.array([[0, 0.5, 2.5]], np.float32)).save(tmp_path / "hdr.tiff")
    with pytest.raises(ImageError, match=r"hdr\.tiff.* 0 to 2\.5: perhaps 0 to 1 with brighter highlights"):
        load_images(tmp_path / "hdr.tiff")


def test_a_16_bit_png_of_older_pillows_stays_dark() -> None:
    image = Image.fromarray(np.full((1, 1), 200, np.int32))
    assert image.mode == "I" and row(image) == [(200,) * 3]
    image.format, image.tile = "PNG", [("zip", (0, 0, 1, 1), 0, "I;16B")]  # as older Pillows open such files
    assert row(image) == [(1, 1, 1)]


def test_a_cmyk_jpeg_of_an_image_editor_is_not_inverted(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 200, 250, 0)).save(tmp_path / "x.jpg", quality=95)
    Image.new("CMYK", (8, 8), (0, 200, 250, 0)).save(tmp_path / "x.tiff")
    for name in ("x.jpg", "x.tiff"):
        assert np.abs(np.subtract(row(tmp_path / name)[0], (255, 55, 5))).max() <= 3


def test_an_mpo_and_a_layered_file_are_one_picture(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), (200, 40, 10))
    image.save(tmp_path / "x.mpo", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(np.subtract(row(tmp_path / "x.mpo")[0], (200, 40, 10))).max() <= 3


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.tiff", "x.png", "x.avif", "x.heic", "x.jxl"])
def test_every_format_is_turned_upright(name: str, tmp_path: Path) -> None:
    register_decoders()
    image = Image.new("RGB", (64, 32), (250, 0, 0))
    image.paste((0, 0, 250), (32, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 8  # show it a quarter turn counterclockwise: what is right comes to the top
    try:
        image.save(tmp_path / name, exif=exif.tobytes() if name in ("x.heic", "x.jxl") else exif)
    except (KeyError, ValueError, OSError):
        pytest.skip(f"this Pillow writes no {name}")
    found = only(tmp_path / name)
    assert found.size == (32, 64) and found.getpixel((16, 8))[2] > 200 and found.getpixel((16, 56))[0] > 200


def test_broken_exif_is_said_and_the_pixels_are_used(tmp_path: Path) -> None:
    about = PngInfo()
    about.add_text("Raw profile type exif", "\nexif\n    8\nno hexadecimal digits")
    Image.new("RGB", (8, 8), (200, 40, 10)).save(tmp_path / "x.png", pnginfo=about)
    with pytest.warns(UserWarning, match=r"x\.png' has EXIF data that cannot be read"):
        assert row(tmp_path / "x.png")[0] == (200, 40, 10)


# --- profiles -----------------------------------------------------------------------------

COLORS = np.random.default_rng(0).integers(0, 256, (1, 64, 3), dtype=np.uint8)


def saved(image: Image.Image, profile: bytes, path: Path) -> Path:
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    image.save(path, icc_profile=profile, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
@pytest.mark.parametrize("space", SPACES)
def test_colors_with_a_profile_become_srgb(space: str, suffix: str, tmp_path: Path) -> None:
    path = saved(Image.fromarray(COLORS), rgb_profile(space), tmp_path / f"x{suffix}")
    expected = in_srgb(space, COLORS)
    for given in (path, Image.open(path)):
        assert np.abs(np.asarray(only(given), float) - expected).max() <= 3
    assert np.abs(COLORS - expected).max() > 20  # so that the pixels as they are would not pass
    assert Record("x", path.read_bytes()).load().tobytes() == only(path).tobytes()


@pytest.mark.parametrize(
    ("space", "stored"), [("Display P3", (234, 51, 35)), ("Adobe RGB", (219, 0, 0)), ("ProPhoto", (179, 70, 26))]
)
def test_the_red_of_srgb_as_other_spaces_write_it(space: str, stored: tuple[int, int, int]) -> None:
    image = Image.new("RGB", (1, 1), stored)
    image.info["icc_profile"] = rgb_profile(space)
    assert np.abs(np.subtract(row(image)[0], (255, 0, 0))).max() <= 8


def test_what_is_transparent_is_white_whatever_the_profile() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*COLORS[0, 0].tolist(), 255))
    image.info["icc_profile"] = rgb_profile("ProPhoto")
    first, second = row(image)
    assert first == WHITE and np.abs(np.subtract(second, in_srgb("ProPhoto", COLORS[0, 0]))).max() <= 3


def test_a_palette_has_a_profile_too(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1))
    image.putpalette([10, 200, 30])
    path = saved(image, rgb_profile("Adobe RGB"), tmp_path / "x.png")
    assert np.abs(np.subtract(row(path)[0], in_srgb("Adobe RGB", np.array([10, 200, 30], np.uint8)))).max() <= 3


def test_srgb_itself_changes_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(np.asarray(only(saved(Image.fromarray(COLORS), srgb, tmp_path / "x.png"))), COLORS)
    gray = Image.fromarray(COLORS[..., 0])
    gray.info["icc_profile"] = srgb  # of a display, as many gray pictures have it
    assert np.array_equal(np.asarray(only(gray))[..., 0], COLORS[..., 0])


def test_images_that_were_loaded_are_not_converted_again() -> None:
    image = Image.fromarray(COLORS)
    image.info["icc_profile"] = rgb_profile("ProPhoto")
    once = only(image)
    assert only(once).tobytes() == once.tobytes() != image.tobytes()
    assert image.info["icc_profile"], "the caller's image is left alone"


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1"])
def test_gray_profiles(mode: str) -> None:
    ramp = np.array([[0, 60, 128, 200, 255]], np.uint8)
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    image.info["icc_profile"] = gray_profile(1.0)
    light = np.where(ramp > 127, 255, 0) if mode == "1" else ramp
    linear = light / 255
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    tolerance = 255 if mode == "1" else 2  # a picture of two colors is dithered
    assert np.abs(np.asarray(only(image), float)[..., 0] - expected).max() <= tolerance


@pytest.mark.parametrize("suffix", [".jpg", ".tiff"])
def test_inks_become_the_colors_of_their_profile(suffix: str, tmp_path: Path) -> None:
    for inks, lab in INKS.items():
        pixel = (*(255 * ink for ink in inks), 0)
        path = saved(Image.new("CMYK", (8, 8), pixel), cmyk_profile(), tmp_path / f"x{suffix}")
        found = row(path)[0]
        # Black point compensation lightens or darkens what is dark, by up to the lightness of the darkest mixture.
        assert np.abs(np.subtract(found, lab_in_srgb(*lab))).max() <= 30, inks
    assert row(saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), cmyk_profile(), tmp_path / f"x{suffix}"))[0] != (
        0,
        255,
        255,
    )


@pytest.mark.parametrize(
    ("mode", "profile", "reason"),
    [
        ("RGB", b"no profile at all", "cannot open profile"),
        ("RGB", rgb_profile("ProPhoto")[:200], "cannot"),
        ("RGB", cmyk_profile(), "it is for CMYK, and the image has mode RGB"),
        ("CMYK", rgb_profile("ProPhoto"), "it is for RGB, and the image has mode CMYK"),
        ("RGB", gray_profile(1.0), "it is for GRAY"),
        ("LAB", b"no profile at all", "taken as plain Lab"),
    ],
)
def test_a_profile_that_cannot_be_used_is_said_and_left_out(mode: str, profile: bytes, reason: str) -> None:
    image = Image.new(mode, (4, 4), (80, 90, 100, 20)[: len(mode)])
    plain = only(image).tobytes()
    image.info["icc_profile"] = profile
    with pytest.warns(UserWarning, match=f"the PIL image has a color profile that cannot be used: .*{reason}"):
        assert only(image).tobytes() == plain
