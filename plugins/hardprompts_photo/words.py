"""What each word of the sentence encoder means by itself: read in advance, since that takes a CPU half a minute."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hardprompts.encoders import normalize
from hardprompts.errors import BackendError
from hardprompts.hub.reasons import loading_cause
from hardprompts_photo import weights

FILE = Path(__file__).resolve().parent / "words.safetensors"

#: A step between two numbers that can be written down. Features are of unit length, so all of a word's together are
#: wrong by a third of `STEP` times the root of their number: 2 %.
STEP = 0.0038

Word = tuple[int, ...]


def read() -> tuple[list[Word], Float[Tensor, "words features"]]:
    """The words that a search has by default, as ids, and the unit features of each, in half precision.

    Raises:
        BackendError: the file is damaged, or of another text tower than the one that `weights` names.
    """
    try:
        with safe_open(FILE, "pt") as file:
            told = file.metadata()
            ids, packed = file.get_tensor("ids"), file.get_tensor("features")
        text = told["sha256"]
        numbers = bytearray(zlib.decompress(packed.numpy().tobytes()))
        levels = torch.frombuffer(numbers, dtype=torch.int8).view(-1, len(ids))
    except (OSError, KeyError, TypeError, RuntimeError, ValueError, zlib.error, SafetensorError) as error:
        found = loading_cause(error, FILE) or f"{error}; install hardprompts again"
        raise BackendError(f"cannot read {FILE}: {found}") from error
    if text != weights.TEXT.sha256:
        raise BackendError(
            f"{FILE} was made with the text tower of sha256 {text}, and this is {weights.TEXT.sha256}; make it again: "
            "python -m hardprompts_photo.recipe.read_words"
        )
    words = [tuple(i for i in row if i >= 0) for row in ids.tolist()]
    return words, normalize(levels.T.float() * STEP).half()


def written(words: Sequence[Word], features: Float[Tensor, "words features"]) -> bytes:
    """The content of the file: each number in steps of `STEP`, with short codes for common numbers (Huffman's)."""
    levels = (features.float() / STEP).round()
    most = int(levels.abs().max())
    if most > torch.iinfo(torch.int8).max:
        raise ValueError(f"a feature is {most} steps of {STEP}, at most {torch.iinfo(torch.int8).max} can be written")
    # A feature of all words at a time: they are distributed alike.
    packing = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
    packed = packing.compress(levels.to(torch.int8).T.contiguous().numpy().tobytes()) + packing.flush()
    ids = torch.full((len(words), max(map(len, words))), -1, dtype=torch.int16)
    for row, word in enumerate(words):
        ids[row, : len(word)] = torch.tensor(word, dtype=torch.int16)
    tensors = {"ids": ids, "features": torch.frombuffer(bytearray(packed), dtype=torch.uint8)}
    return save(tensors, {"sha256": weights.TEXT.sha256})
