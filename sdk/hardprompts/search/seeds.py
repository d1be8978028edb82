"""Seeds, and the streams of randomness that one seed gives: independent of each other, and of torch's global state."""

import enum
import secrets

import torch


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

    def generator(self, seed: int) -> torch.Generator:
        """The generator of this stream, on the CPU."""
        return torch.Generator().manual_seed(seed ^ self.value)


def drawn_seed(seed: int | None) -> int:
    """`seed`, or a new one in [0, 2**31) where there is none; leaves the caller's global random state as it is."""
    return secrets.randbits(31) if seed is None else seed
