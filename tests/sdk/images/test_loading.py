"""Images as people have them, good and bad; every file is made here."""

import inspect
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardprompts.errors import ImageError
from hardprompts.images import augmented_views, load_images

#: Left half and right half of the picture that all tests use.
LEFT, RIGHT = (200, 40, 10), (20, 60, 220)


def picture(width: int = 12, height: int = 8) -> Image.Image:
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    return image


def only(images: object) -> Image.Image:
    (image,) = load_images(images)  # type: ignore[arg-type]
    assert image.mode == "RGB"
    return image


def assert_near(image: Image.Image, expected: Image.Image, tolerance: int = 2) -> None:
    assert image.size == expected.size
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(expected.convert("RGB"), dtype=int))
    assert difference.max() <= tolerance


# --- files --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"])
@pytest.mark.parametrize("kind", [str, Path])
def test_paths(tmp_path: Path, suffix: str, kind: type) -> None:
    file = tmp_path / f"Ein Bild ü {{}}.{suffix}"
    picture(64, 64).save(file)
    assert_near(only(kind(file)), picture(64, 64), tolerance=80 if suffix in ("jpg", "webp") else 0)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    picture().save(tmp_path / "turned.png", exif=exif)
    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert_near(only(given), picture().transpose(Image.Transpose.ROTATE_270), 0)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame_and_a_warning(tmp_path: Path, format: str) -> None:
    file = tmp_path / f"moving.{format.lower()}"
    options = {"lossless": True} if format == "WEBP" else {}
    picture(32, 32).save(
        file,
        save_all=True,
        append_images=[Image.new("RGB", (32, 32), color) for color in ("white", "black")],
        **options,
    )
    with pytest.warns(UserWarning, match=r"moving.* has 3 frames; the first is used"):
        assert_near(only(file), picture(32, 32), 0)


def test_pages_and_frames_that_the_caller_chose(tmp_path: Path) -> None:
    file = tmp_path / "pages.tiff"
    Image.new("RGB", (12, 8), "white").save(file, save_all=True, append_images=[picture()])
    with pytest.warns(UserWarning, match="2 frames"):
        assert only(file).getpixel((0, 0)) == (255, 255, 255)
    with Image.open(file) as image, warnings.catch_warnings():
        warnings.simplefilter("error")
        image.seek(1)
        assert_near(only(image), picture(), 0)
        assert image.tell() == 1


# --- modes --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "RGBa", "P", "CMYK", "YCbCr", "HSV"])
def test_color_modes(mode: str) -> None:
    image = picture().convert("RGBA").convert(mode) if mode == "RGBa" else picture().convert(mode)
    assert_near(only(image), picture(), tolerance=50 if mode == "P" else 6)  # a palette of 216 web colors


def test_lab() -> None:
    from PIL import ImageCms

    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    assert_near(only(ImageCms.profileToProfile(picture(), srgb, lab, outputMode="LAB")), picture(), tolerance=6)


@pytest.mark.parametrize("mode", ["L", "LA", "La", "1", "I", "F", "I;16"])
def test_gray_modes(mode: str) -> None:
    ramp = np.tile(np.array([0, 60, 128, 200, 255], dtype=np.uint8), (4, 1))
    expected = Image.fromarray(ramp)
    if mode == "1":
        expected = expected.point(lambda value: 255 * (value > 127))
        given = expected.convert("1")
    elif mode == "I;16":
        given = Image.fromarray(ramp.astype(np.uint16) * 257)
        assert given.mode == "I;16"
    else:
        given = expected.convert("LA").convert(mode) if mode == "La" else expected.convert(mode)
    assert given.mode == mode
    assert_near(only(given), expected, 0)


@pytest.mark.parametrize(("dtype", "scale"), [("uint16", 257), ("int32", 257), ("float32", 257), ("float32", 1 / 255)])
def test_deep_gray_is_scaled_rather_than_clipped(tmp_path: Path, dtype: str, scale: float) -> None:
    ramp = np.tile(np.array([0, 60, 128, 200, 255]), (4, 1))
    given = Image.fromarray((ramp * scale).astype(dtype))
    file = tmp_path / "deep.tiff"
    given.save(file)
    for source in (given, file):
        assert_near(only(source), Image.fromarray(ramp.astype(np.uint8)), 0)


def test_dark_16_bit_images_stay_dark() -> None:
    assert only(Image.fromarray(np.full((4, 4), 200, dtype=np.uint16))).getpixel((0, 0)) == (1, 1, 1)


def test_16_bit_png_file(tmp_path: Path) -> None:
    ramp = np.tile(np.array([0, 60, 128, 200, 255]), (4, 1))
    Image.fromarray((ramp * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    assert_near(only(tmp_path / "deep.png"), Image.fromarray(ramp.astype(np.uint8)), 0)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    image = picture().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert only(image).getextrema() == ((255, 255),) * 3
    image.putalpha(Image.new("L", image.size, 128))
    red, green, blue = only(image).getpixel((0, 0))
    assert (red, green, blue) == pytest.approx((227, 147, 132), abs=2)

    palette = picture().quantize(4)
    palette.info["transparency"] = palette.getpixel((0, 0))
    palette.save(tmp_path / "palette.png")
    for given in (palette, tmp_path / "palette.png"):
        assert only(given).getpixel((0, 0)) == (255, 255, 255)
        assert only(given).getpixel((11, 0)) == pytest.approx(RIGHT, abs=3)

    gray = Image.new("LA", (4, 4), (0, 0))
    assert only(gray).getpixel((0, 0)) == (255, 255, 255)


def test_the_callers_image_is_left_alone() -> None:
    image = picture().convert("RGBA")
    before = image.tobytes()
    only(image)
    assert image.mode == "RGBA" and image.tobytes() == before


# --- arrays and tensors -------------------------------------------------------------------

PIXELS = np.asarray(picture(12, 8))


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS[None],
        PIXELS.astype(np.uint16) * 257,
        PIXELS.astype(np.float32) / 255,
        PIXELS.astype(np.float16) / 255,
        PIXELS / 255.0,
        np.concatenate([PIXELS, np.full((8, 12, 1), 255, np.uint8)], axis=-1),
        PIXELS[::-1][::-1],
        np.asfortranarray(PIXELS),
        PIXELS / 255.0 * 1.0005,
    ],
    ids=["uint8", "batch", "uint16", "float32", "float16", "float64", "rgba", "strides", "fortran", "overshoot"],
)
def test_numpy_color(array: np.ndarray) -> None:
    assert_near(only(array), picture(12, 8), 1)
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, -3)))
    assert_near(only(tensor), picture(12, 8), 1)


def test_numpy_and_torch_gray() -> None:
    gray = PIXELS[..., 0]
    expected = Image.fromarray(gray)
    for given in (
        gray,
        gray[..., None],
        torch.from_numpy(gray.copy()),
        torch.from_numpy(gray.copy())[None],
        gray / 255,
    ):
        assert_near(only(given), expected, 0)
    assert only(gray > 100).getextrema() == ((0, 255),) * 3


def test_tensors_of_any_float_that_need_gradients() -> None:
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1) / 255
    assert_near(only(tensor.clone().requires_grad_()), picture(12, 8), 0)
    assert_near(only(tensor.to(torch.bfloat16)), picture(12, 8), 1)
    assert_near(only(tensor.double().requires_grad_() * 1), picture(12, 8), 0)


@pytest.mark.gpu
def test_tensors_on_cuda() -> None:
    assert_near(only(torch.from_numpy(PIXELS.copy()).permute(2, 0, 1).cuda()), picture(12, 8), 0)


def test_batches_and_lists(tmp_path: Path) -> None:
    picture().save(tmp_path / "one.png")
    batch = np.stack([PIXELS, 255 - PIXELS, PIXELS])
    assert len(load_images(batch)) == 3
    assert_near(load_images(torch.from_numpy(batch).permute(0, 3, 1, 2))[1], Image.fromarray(255 - PIXELS), 0)
    mixed = [tmp_path / "one.png", str(tmp_path / "one.png"), picture(), PIXELS, batch, torch.zeros(3, 8, 12)]
    loaded = load_images(mixed)
    assert len(loaded) == 8 and all(image.mode == "RGB" for image in loaded)
    assert len(load_images(tuple(mixed))) == 8


def test_later_changes_of_the_array_do_not_reach_the_image() -> None:
    array = PIXELS.copy()
    image = only(array)
    array[:] = 0
    assert_near(image, picture(12, 8), 0)


# --- bad input ----------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A PNG file that claims to be of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"these are words, not an image", "not an image that Pillow can read"),
        (encoded("PNG")[:20], "can read|damaged"),
        (encoded("PNG")[:2000], "damaged or cut off"),
        (encoded("JPEG")[:900], "damaged or cut off"),
        (encoded("WEBP")[:500], "can read|damaged"),
        (encoded("GIF")[:900], "damaged or cut off"),
        (encoded("TIFF")[:3000], "can read|damaged"),
        (encoded("PNG")[:60] + b"\xff" * 400 + encoded("PNG")[460:], "damaged"),
        (png(0, 7), "damaged|without any pixels|can read"),
        (png(60_000, 60_000), "too many pixels.*limit is"),
        (png(10_000, 10_000), "too many pixels.*limit is"),
        (png(5_000, 7), "at most 100 times"),
    ],
    ids=[
        "empty", "text", "png-header", "png-cut", "jpeg-cut", "webp-cut", "gif-cut", "tiff-cut", "png-corrupt",
        "zero-size", "bomb", "bomb-of-warning-size", "strip",
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=f"bad.png.*({message})"), warnings.catch_warnings():
        warnings.simplefilter("error")
        load_images(file)
    with pytest.raises(ImageError, match="image 2 of 2: "):
        load_images([picture(), file])


def test_bad_paths(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "absent.png", "does not exist"),
        ("https://example.org/cat.png", "is a URL; download it first"),
        ("data:image/png;base64,AAAA", "is a URL"),
        ("", "does not exist"),
        ("no\0where.png", "NUL character|does not exist"),
    ]:
        with pytest.raises(ImageError, match=message):
            load_images(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no images were given"),
        ((), "no images were given"),
        ([[], []], "no images were given"),
        (None, "NoneType is not an image"),
        (7, "int is not an image"),
        (b"\x89PNG", "PIL.Image.open"),
        (io.BytesIO(b"\x89PNG"), "PIL.Image.open"),
        ([picture(), 0.5], "image 2 of 2: float is not an image"),
        (Image.new("RGB", (0, 5)), "without any pixels"),
        (Image.new("RGB", (300, 2)), "at most 100 times"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "NaN"),
        (Image.fromarray(np.full((4, 4), -3, np.int32)), "values from -3"),
        (Image.fromarray(np.full((4, 4), 1e6, np.float32)), "0 to 65535"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((0, 9, 9, 3), np.uint8), "no pixels"),
        (np.zeros(12, np.uint8), "is not an image"),
        (np.zeros((1, 1, 9, 9, 3), np.uint8), "is not an image"),
        (np.zeros((9, 9, 5), np.uint8), "channels must be one of"),
        (np.zeros((3, 9, 9), np.uint8), r"looks like \(C, H, W\): use np.moveaxis"),
        (np.zeros((2, 3, 9, 9), np.uint8), r"looks like \(C, H, W\)"),
        (np.zeros((3, 9, 3), np.uint8), "could be"),
        (np.zeros((9, 9, 3), np.int64), "dtype that says no range"),
        (np.zeros((9, 9, 3), complex), "dtype that says no range"),
        (np.full((9, 9, 3), "x"), "dtype that says no range"),
        (np.full((9, 9, 3), np.nan), "NaN"),
        (np.full((9, 9, 3), np.inf, np.float32), "infinite"),
        (np.full((9, 9, 3), 128.0), "divide 0 to 255 by 255"),
        (np.full((9, 9, 3), -0.5), r"\(x \+ 1\) / 2"),
        (torch.zeros(9, 9, 3), r"looks like \(H, W, C\): use tensor.movedim"),
        (torch.zeros(3, 9, 3), "could be"),
        (torch.zeros(5, 9, 9), "channels must be one of"),
        (torch.full((3, 9, 9), float("nan")), "NaN"),
        (torch.full((3, 9, 9), 255.0), "divide 0 to 255 by 255"),
        (torch.zeros(3, 9, 9, dtype=torch.int64), "dtype that says no range"),
        (torch.zeros(0, 3, 9, 9), "no pixels"),
    ],
)
def test_bad_objects(given: object, message: str) -> None:
    # Users run without the checks of types that these tests run with, which would be first to refuse some of these.
    as_users_have_it = inspect.unwrap(load_images)
    with pytest.raises(ImageError, match=message):
        as_users_have_it(given)  # type: ignore[arg-type]


def test_the_limit_of_pixels_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ImageError, match="12 x 8; the limit is 50 pixels"):
        load_images(picture(12, 8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert_near(only(picture(12, 8)), picture(12, 8), 0)


# --- views --------------------------------------------------------------------------------


def test_views_are_the_image_and_crops_of_it() -> None:
    image = Image.effect_noise((60, 40), 60).convert("RGB")
    views = augmented_views(image, 40, torch.Generator().manual_seed(0))
    assert len(views) == 40 and views[0] is image
    areas = [view.width * view.height / 2400 for view in views[1:]]
    aspects = [view.width / view.height / 1.5 for view in views[1:]]
    assert 0.8 < min(areas) < 0.9 and 0.95 < max(areas) <= 1
    assert min(aspects) > 0.9 and max(aspects) < 1.1
    assert all(view.mode == "RGB" for view in views)
    assert len({view.tobytes() for view in views}) == 40


def test_views_follow_the_generator() -> None:
    def drawn(seed: int) -> list[bytes]:
        return [view.tobytes() for view in augmented_views(picture(), 6, torch.Generator().manual_seed(seed))]

    assert drawn(3) == drawn(3) != drawn(4)


def test_views_are_not_mirrored_and_tinted_lightly() -> None:
    for view in augmented_views(picture(60, 40), 101, torch.Generator().manual_seed(0))[1:]:
        color = np.array(view.getpixel((0, 0)), dtype=int)
        assert 0 < np.abs(color - np.array(LEFT)).max() < 60


def test_views_of_a_pixel_and_of_nothing() -> None:
    assert [view.size for view in augmented_views(Image.new("RGB", (1, 1)), 4, torch.Generator())] == [(1, 1)] * 4
    assert len(augmented_views(picture(), 1, torch.Generator())) == 1
    with pytest.raises(ValueError, match="at least 1"):
        augmented_views(picture(), 0, torch.Generator())
