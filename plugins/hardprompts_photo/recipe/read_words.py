"""Reads the words of the sentence encoder once for everybody: words.safetensors.

    python -m hardprompts_photo.recipe.read_words

Needs the extra `photo` and, on one core, a minute. Again after anything that changes the words of a search by default.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hardprompts import load_backend
from hardprompts.atomic import write_files_atomically
from hardprompts.encoders import Backend
from hardprompts.methods.word_table import Word
from hardprompts_photo import words


def default_words(backend: Backend) -> list[Word]:
    """The words that a search has by default: real ones."""
    return list(backend.text_encoder.vocabulary.narrowed(None, (), None).units)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write words.safetensors into the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=words.FILE)
    options = parser.parse_args(arguments)
    backend = load_backend("photo", device="cpu")
    found = default_words(backend)
    features = backend.encode_texts([backend.text_encoder.vocabulary.decode(word) for word in found])
    write_files_atomically({options.output: words.written(found, features)})


if __name__ == "__main__":
    main()
