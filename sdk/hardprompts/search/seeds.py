"""Seeds, and the streams of randomness that one seed gives: independent of each other, and of torch's global state."""

import enum
import operator
import secrets
from typing import Any

import torch

#: How many seeds there are: as many as ComfyUI's inputs and torch have, 64 bits.
SEEDS = 2**64

_LOW = 2**32 - 1


class Stream(enum.IntEnum):
    """What random numbers are for; each gets a stream of its own, so that none shifts when another is used less."""

    SEARCH = 0
    STARTS = 0x5EED
    NOISES = 0xBA7C4
    BATCHES = 0xBA7C
    EXAMPLES = 0xDA7A
    SHOTS = 0x5407
    HELD_OUT_NOISES = 0x4E015E
    HELD_OUT_PICTURES = 0x0DD
    PROPOSALS = 0x9209

    def generator(self, seed: int) -> torch.Generator:
        """The generator of this stream, on the CPU. Raises as `checked_seed`."""
        return generator_of(checked_seed(seed) ^ self.value)


def generator_of(seed: int) -> torch.Generator:
    """The generator of a seed, on the CPU.

    torch's own takes no notice of more than the lowest 32 bits; here the others count too: two seeds that differ in
    those alone have different generators. Raises as `checked_seed`.
    """
    number = checked_seed(seed)
    return torch.Generator().manual_seed((number & _LOW) ^ _mixed(number >> 32))


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator of a device that begins with a number of `generator`; on the CPU, that one itself.

    For numbers that are too many to be brought along (see `Draws`). They differ from those of the CPU.
    """
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**32, (), generator=generator)))


def checked_seed(seed: Any, name: str = "seed") -> int:
    """A seed as a plain number: whole numbers of numpy are taken too.

    Args:
        name: what the caller calls it, for the message.

    Raises:
        ValueError: it is not a whole number from 0 to 2**64 - 1; nor are True, False and 1.0.
    """
    try:
        # numpy's own truth value is called bool_ in numpy 1, where it warns when it is taken as a number.
        number = -1 if type(seed).__name__ in ("bool", "bool_") else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < SEEDS:
        raise ValueError(f"{name} must be a whole number from 0 to 2**64 - 1, got {seed!r}")
    return number


def drawn_seed(seed: int | None) -> int:
    """`seed`, or a new one in [0, 2**31) where there is none; leaves the caller's global random state as it is.

    Raises as `checked_seed`.
    """
    return secrets.randbits(31) if seed is None else checked_seed(seed)


def _mixed(bits: int) -> int:
    """32 bits as 32 others, each as one other: 0 stays 0, so that seeds of 32 bits are torch's own.

    Source: the finalizer of MurmurHash3 (Austin Appleby, public domain).
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = ((bits ^ (bits >> shift)) * factor) & _LOW
    return bits ^ (bits >> 16)
