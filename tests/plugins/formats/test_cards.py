"""Soft prompts inside images: in a text, and in the pixels."""

import base64
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from prompt_files import A1111, rows

from hardprompts import FileFormatError
from hardprompts.softprompts import SoftPrompt


def only(path: Path) -> SoftPrompt:
    return SoftPrompt.from_file(path)


def card_json(content: dict[str, Any]) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return {"TORCHTENSOR": value.tolist()}
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    return json.dumps(plain(content)).encode()


def numbers() -> Iterator[int]:
    """The pseudo-random numbers that cards are mixed with, one after the other."""
    state = 0
    while True:
        state = (1664525 * state + 1013904223) % 2**32
        yield state % 255


def with_pixels(picture: Image.Image, content: bytes) -> Image.Image:
    """A card with its JSON in the low bits of the pixels beside the picture."""
    packed = zlib.compress(content, 9)
    height = picture.height
    columns = -(-len(packed) // (3 * height))
    packed += bytes(columns * 3 * height - len(packed))
    sides = []
    for half in (lambda byte: byte & 15, lambda byte: byte >> 4):
        mixed = [half(byte) ^ (number & 15) for byte, number in zip(packed, numbers(), strict=False)]
        values = np.array(mixed, dtype=np.uint8).reshape(height, columns, 3)
        sides.append(values | 0x50)  # the upper bits are a pattern for the eye
    gap = np.zeros((height, 1, 3), dtype=np.uint8)
    middle = np.asarray(picture.convert("RGB")) | 1
    return Image.fromarray(np.concatenate([sides[0], gap, middle, gap, sides[1]], axis=1))


PICTURE = Image.linear_gradient("L").resize((96, 96)).convert("RGB")


def with_text(path: Path, text: str | bytes) -> Path:
    info = PngInfo()
    info.add_text("parameters", "a cat, steps: 20")
    info.add_text("sd-ti-embedding", base64.b64encode(text).decode() if isinstance(text, bytes) else text)
    PICTURE.save(path, pnginfo=info)
    return path


@pytest.mark.parametrize("width", [768, 1024])
def test_a_card_with_a_text(width: int, tmp_path: Path) -> None:
    content = {**A1111, "string_to_param": {"*": rows(3, width)}}
    prompt = only(with_text(tmp_path / "card.png", card_json(content)))
    assert torch.equal(next(iter(prompt.embeddings.values())), rows(3, width))
    assert (prompt.name, prompt.step, prompt.source_format) == ("my style", 1500, "a1111-card")


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("border", [0, 7])
def test_a_card_in_the_pixels(suffix: str, border: int, tmp_path: Path) -> None:
    card = with_pixels(PICTURE, card_json(A1111))
    framed = Image.new("RGB", (card.width + 2 * border, card.height + 2 * border))
    framed.paste(card, (border, border))
    framed.save(tmp_path / f"card{suffix}", **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    prompt = only(tmp_path / f"card{suffix}")
    assert torch.equal(prompt.embeddings["clip_l"], rows(2, 768))
    assert (prompt.name, prompt.step) == ("my style", 1500)


def test_images_without_a_card(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "plain.png")
    with_pixels(PICTURE, card_json(A1111)).save(tmp_path / "lossy.jpg", quality=95)
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    stripes = np.asarray(PICTURE).copy()
    stripes[:, [30, 65]] = 0
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    for name in ("plain.png", "black.png", "stripes.png"):
        with pytest.raises(FileFormatError, match="an image without a soft prompt"):
            only(tmp_path / name)
    with pytest.raises(FileFormatError, match="JPEG keeps none"):
        only(tmp_path / "lossy.jpg")


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        b"",
        b"{",
        b"[]",
        b"3",
        b"{}",
        b"[" * 200_000,
        b'{"string_to_param": 3}',
        b'{"string_to_param": {"*": 3}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": 3}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": []}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[1, 2], [3]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [["a"]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[NaN]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[1e999]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[[1.0]]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[null]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": {"a": 1}}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[' + b"9" * 5000 + b"]]}}}",
        b"\xff\xfe",
    ],
)
def test_damaged_cards_are_one_clear_error(text: str | bytes, tmp_path: Path) -> None:
    with_text(tmp_path / "card.png", text)
    with pytest.raises(FileFormatError, match=r"card\.png"):
        only(tmp_path / "card.png")


def test_damaged_images_and_bombs_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_text(tmp_path / "card.png", card_json(A1111)).read_bytes()
    for end in (8, 20, 40, 100, len(content) // 2):
        (tmp_path / "cut.png").write_bytes(content[:end])
        with pytest.raises(FileFormatError, match=r"cut\.png"):
            only(tmp_path / "cut.png")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    with pytest.raises(FileFormatError, match=r"pixels"):
        only(tmp_path / "bomb.png")
    monkeypatch.setattr("hardprompts_formats.cards.MAX_JSON_BYTES", 1000)
    with_pixels(PICTURE, card_json(A1111)).save(tmp_path / "pixels.png")
    with pytest.raises(FileFormatError, match="more than 1000 bytes"):
        only(tmp_path / "pixels.png")


def test_the_noise_of_cards_is_the_sequence_one_after_the_other() -> None:
    from hardprompts_formats.cards import _noise

    expected = [number & 15 for number, _ in zip(numbers(), range(5000), strict=False)]
    for count in (1, 2, 3, 100, 5000):
        assert _noise(count).tolist() == expected[:count]
