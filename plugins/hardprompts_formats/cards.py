"""Soft prompts in pictures: the cards that AUTOMATIC1111's web UI makes while it trains."""

import base64
import binascii
import json
import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hardprompts.causes.failures import cause_of
from hardprompts.errors import FileFormatError, brief
from hardprompts.images import DECODING_ERRORS
from hardprompts.softprompts import MAX_VALUES, Match, SoftPrompt, SoftPromptFile, StoredTensor
from hardprompts_formats.embeddings import A1111

#: The text in a PNG that holds the soft prompt.
TEXT = "sd-ti-embedding"

#: Bytes of the JSON text in a card: 256 tokens of width 1280 have seven million.
MAX_JSON_BYTES = 2**25

#: Pixels of a card: those of 512 x 512 pictures have about one million.
MAX_PIXELS = 2**24

#: JSON in which a tensor is {"TORCHTENSOR": nested lists}.
_TENSOR = "TORCHTENSOR"


class Card:
    """A picture with the soft prompt in it: as a PNG text, or in the low bits of the pixels at both sides.

    In the pixels, JSON compressed by zlib is cut into the lower and the upper half of each byte. The lower halves
    stand left of the picture and the upper ones right of it, four bits to a channel, each behind a black column;
    they are mixed with a fixed sequence of pseudo-random numbers. JPEG does not keep them.

    Source: AUTOMATIC1111/stable-diffusion-webui, modules/textual_inversion/image_embedding.py.
    """

    suffixes = ()

    def detect(self, file: SoftPromptFile) -> Match:
        return Match.FITS if file.container == "image" else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        tree = _tree(_card_json(file.path))
        part = file.inside(tree, file.name)
        if A1111().detect(part) is Match.NO:
            raise FileFormatError("the card in it has no 'string_to_param'; get the image again")
        return A1111().read(part)

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        raise FileFormatError("the format 'a1111-card' is only read; write a1111")


def _card_json(path: Path) -> Any:
    """What the card says, as JSON."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise FileFormatError(f"it has {image.width} x {image.height} pixels; no card is so large")
                image.load()  # texts may stand behind the pixels
                text = getattr(image, "text", {}).get(TEXT)
                if text is not None and len(text) > 2 * MAX_JSON_BYTES:
                    raise FileFormatError(f"the card in it has {len(text)} letters; no card is so long")
                if text is not None:
                    return _json(base64.b64decode(text))
                pixels = np.asarray(image.convert("RGB"))
                lossy = image.format == "JPEG"
    except FileFormatError:
        raise
    except binascii.Error as error:
        raise FileFormatError(f"the card in it is damaged: {brief(error)}; get the image again") from error
    except (*DECODING_ERRORS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FileFormatError(cause_of(error) or f"it is a damaged image: {brief(error)}; get it again") from error
    data = _hidden(pixels)
    if data is None:
        reason = "; JPEG keeps none, so get the original PNG" if lossy else ""
        raise FileFormatError(f"it is an image without a soft prompt in it{reason}")
    return _json(data)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number of thousands of digits, nested too deep
        raise FileFormatError(f"the card in it is damaged: {brief(error)}; get the image again") from error


def _hidden(pixels: NDArray[np.uint8]) -> bytes | None:
    """The bytes in the low bits of (height, width, 3) pixels; None if there are none."""
    bright = pixels.min(axis=2) > 0
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if not len(rows):
        return None
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 0x0F  # without a black border
    black = np.flatnonzero(low.max(axis=(0, 2)) == 0)
    if len(black) < 2:
        return None
    left, right = low[:, : black[0]], low[:, black[-1] + 1 :]
    if left.shape != right.shape or not left.size:
        return None
    noise = _noise(left.size).reshape(left.shape)
    content = ((right ^ noise) << 4 | (left ^ noise)).tobytes()
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(content, MAX_JSON_BYTES)
    except zlib.error:
        return None  # a picture that has two black columns by chance
    if not unpacking.eof:
        raise FileFormatError(f"the card in it is cut off, or has more than {MAX_JSON_BYTES} bytes")
    return data


def _noise(count: int) -> NDArray[np.uint8]:
    """The low four bits of `count` numbers of a linear congruential generator, modulo 255."""
    # x(n + k) is linear in x(n) too, so the sequence is made in pieces that double; uint32 wraps as it should.
    numbers = np.array([1013904223], dtype=np.uint32)
    factor, offset = np.uint32(1664525), np.uint32(1013904223)
    with np.errstate(over="ignore"):
        while len(numbers) < count:
            numbers = np.concatenate([numbers, numbers * factor + offset])
            offset = factor * offset + offset
            factor = factor * factor
    low: NDArray[np.uint8] = (numbers[:count] % 255).astype(np.uint8) & np.uint8(0x0F)
    return low


def _tree(value: Any) -> Any:
    """JSON with its tensors, as deep as a soft prompt lies in it."""
    if not isinstance(value, dict):
        raise FileFormatError("the card in it holds no named values; get the image again")
    return {
        key: {term: _tensor(inner) for term, inner in item.items()} if isinstance(item, dict) else item
        for key, item in value.items()
    }


def _tensor(value: Any) -> Any:
    if not isinstance(value, dict) or value.keys() != {_TENSOR}:
        return value
    try:
        array = np.array(value[_TENSOR], dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise FileFormatError(f"the tensor in its card is damaged: {brief(error)}; get the image again") from error
    if math.prod(array.shape) > MAX_VALUES:
        raise FileFormatError(
            f"the tensor in its card has the shape {array.shape}; at most {MAX_VALUES} values are read"
        )
    return StoredTensor.of(torch.from_numpy(array))
