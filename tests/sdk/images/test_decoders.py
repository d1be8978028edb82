"""Formats that Pillow opens with a plugin, and what is said of others."""

import importlib.util
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from hardprompts.batch.records import Record
from hardprompts.errors import ImageError
from hardprompts.images import IMAGE_SUFFIXES, decoders, images_in, load_images

COLORS = ((200, 40, 10), (20, 60, 220))


def picture() -> Image.Image:
    image = Image.new("RGB", (64, 48), COLORS[0])
    image.paste(COLORS[1], (32, 0, 64, 48))
    return image


def encoded(format: str, **options: Any) -> bytes:
    if format in ("HEIF", "JXL"):
        pytest.importorskip({"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[format], reason=f"no plugin for {format} here")
    decoders.register_decoders()
    if format == "AVIF" and decoders.unreadable(".avif"):
        pytest.skip("this Pillow was built without AVIF, and its plugin is not installed")
    file = io.BytesIO()
    picture().save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "suffix"), [("HEIF", ".HEIC"), ("AVIF", ".avif"), ("JXL", ".jxl"), ("JPEG2000", ".jp2")]
)
def test_newer_formats_are_read_in_files_bytes_and_folders(format: str, suffix: str, tmp_path: Path) -> None:
    data = encoded(format, quality=95) if format != "JPEG2000" else encoded(format)
    for name in (f"a{suffix}", "b.jpg", "c"):  # called as it is, otherwise, and without a suffix
        (tmp_path / name).write_bytes(data)
    found = images_in(tmp_path)
    assert [path.name for path in found.images] == [f"a{suffix}", "b.jpg", "c"] and not found.passed_over
    for image in (*load_images(list(found.images)), Record("x", data).load()):
        assert image.size == (64, 48)
        for place, color in zip(((8, 24), (56, 24)), COLORS, strict=True):
            assert np.abs(np.subtract(image.getpixel(place), color)).max() <= 12


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pillow as it is without plugins, and without AVIF."""
    Image.init()
    for name in ("HEIF", "JXL", "AVIF"):
        monkeypatch.delitem(Image.OPEN, name, raising=False)
    monkeypatch.setattr(features, "get_supported", lambda: [])
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name in Image.OPEN])
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name.startswith("pillow_") else find(name, *more)
    )
    decoders.register_decoders.cache_clear()
    yield
    decoders.register_decoders.cache_clear()


@pytest.mark.parametrize(("format", "extra"), [("HEIF", "heif"), ("AVIF", "avif"), ("JXL", "jxl")])
def test_without_its_plugin_a_format_is_named_with_the_pip_line(
    format: str, extra: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = encoded(format)
    request.getfixturevalue("bare")
    suffix = {"HEIF": ".heic"}.get(format, f".{extra}")
    for name in (f"a{suffix}", f"b{suffix.upper()}", "c.jpg"):
        (tmp_path / name).write_bytes(data)
    line = rf'pip install "hardprompts\[{extra}\]"'
    found = images_in(tmp_path)
    assert [path.name for path in found.images] == ["c.jpg"]
    assert [path.name for path, _ in found.passed_over] == [f"a{suffix}", f"b{suffix.upper()}"]
    for given in (tmp_path / f"a{suffix}", tmp_path / "c.jpg"):
        with pytest.raises(ImageError, match=line):
            load_images(given)
    with pytest.raises(ImageError, match=line):
        Record("x", data).load()


def test_a_plugin_that_cannot_be_imported_is_a_warning_and_no_end(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libheif.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "pillow_heif" else None)
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.warns(RuntimeWarning, match="pillow_heif is installed and cannot be imported: libheif"):
        decoders.register_decoders()


def test_the_list_is_what_pillow_opens_and_what_people_have() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unreadable = {suffix for suffix in IMAGE_SUFFIXES if decoders.unreadable(suffix)}
    assert unreadable <= {".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs", ".jxl"}
    assert not IMAGE_SUFFIXES & set(decoders.OTHER_IMAGES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "a vector drawing"),
        (b"%PDF-1.7\n", "is a PDF document, not an image"),
        (b"\0\0\0\x18ftypmp42" + bytes(20), "is a video, not an image"),
        (b"\0\0\0\x18ftypqt  " + bytes(20), "is a video, not an image"),
        (b"\x1a\x45\xdf\xa3" + bytes(20), "is a video, not an image"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video, not an image"),
        (b"\0\0\0\x18ftypcrx " + bytes(20), "a camera's raw picture"),
        (b"gimp xcf v011\0", "another program's picture"),
        (b"v/1\x01\x02\0\0\0", "another program's picture"),
        (b"\x89PNG\r\n\x1a\n rubbish", "png.*damaged|damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    ],
)
def test_what_is_called_an_image_and_is_something_else_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=message):
        load_images(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match=message):
        Record("x", data).load()


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "x.png")

    def refused(*given: Any, **more: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refused)
    with pytest.raises(ImageError, match="cannot be read: permission denied") as caught:
        load_images(tmp_path / "x.png")
    assert "damaged" not in str(caught.value)
