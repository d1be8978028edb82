"""Color profiles (ICC, version 2) as cameras, displays and printers have them, and what their colors are in sRGB."""

import itertools
import struct

import numpy as np
from numpy.typing import NDArray

#: The red, green and blue of color spaces, as XYZ under D50, and the gamma of their values.
SPACES = {
    "Display P3": (((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)), 2.2),
    "Adobe RGB": (((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 563 / 256),
    "ProPhoto": (((0.79767, 0.28802, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491)), 1.8),
}

_SRGB = np.array(((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)))
_D50 = np.array((0.96420, 1.0, 0.82491))

#: Lab of the inks and their mixtures, by how much cyan, magenta, yellow and black there is (0 or 1).
INKS = {
    (0, 0, 0): (100, 0, 0), (1, 0, 0): (55, -37, -50), (0, 1, 0): (48, 74, -3), (0, 0, 1): (89, -5, 93),
    (1, 1, 0): (24, 22, -46), (1, 0, 1): (50, -68, 33), (0, 1, 1): (47, 68, 48), (1, 1, 1): (23, 0, 0),
}  # fmt: skip


def rgb_profile(space: str) -> bytes:
    """A profile of one of `SPACES`, whose values are a power of light."""
    colors, gamma = SPACES[space]
    curve = b"curv" + struct.pack(">IIHxx", 0, 1, round(gamma * 256))
    tags = {name: b"XYZ " + _fixed(0, *color) for name, color in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colors, strict=True)}
    return _profile(b"RGB ", b"XYZ ", space, {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def gray_profile(gamma: float) -> bytes:
    """A profile of gray values that are a power of light."""
    return _profile(b"GRAY", b"XYZ ", "gray", {b"kTRC": b"curv" + struct.pack(">IIHxx", 0, 1, round(gamma * 256))})


def cmyk_profile() -> bytes:
    """A profile of a printer with `INKS`; black darkens all of them to one black."""
    corners = [
        (12, 0, 0) if black else INKS[cyan, magenta, yellow]
        for cyan, magenta, yellow, black in itertools.product((0, 1), repeat=4)
    ]
    table = b"".join(
        struct.pack(">HHH", round(light * 652.8), round((a + 128) * 256), round((b + 128) * 256))
        for light, a, b in corners
    )
    head = b"mft2" + struct.pack(">IBBBx", 0, 4, 3, 2) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", 2, 2)
    straight = struct.pack(">HH", 0, 65535)
    return _profile(b"CMYK", b"Lab ", "press", {b"A2B0": head + straight * 4 + table + straight * 3}, b"prtr")


def in_srgb(space: str, colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What 8-bit colors of one of `SPACES` are in sRGB, 0 to 255, clipped."""
    primaries, gamma = SPACES[space]
    return _encoded((colors / 255.0) ** gamma @ np.array(primaries))


def lab_in_srgb(light: float, a: float, b: float) -> NDArray[np.float64]:
    """What a Lab color under D50 is in sRGB."""
    middle = (light + 16) / 116
    steps = np.array((middle + a / 500, middle, middle - b / 200))
    return _encoded(np.where(steps > 6 / 29, steps**3, 3 * (6 / 29) ** 2 * (steps - 4 / 29)) * _D50)


def _encoded(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.clip(xyz @ np.linalg.inv(_SRGB), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _profile(space: bytes, between: bytes, name: str, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, len(text)) + text + bytes(79),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + _fixed(0, *_D50),
        **tags,
    }
    directory, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        directory += tag + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    date = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    header = struct.pack(">I4xI", start + len(data), 0x02400000) + kind + space + between + date + b"acsp"
    return header.ljust(68, b"\0") + _fixed(*_D50) + bytes(48) + directory + data
