"""ComfyUI's own parser reads prompts as `hardprompts.search.markup` does: pieces and weights are equal, whatever the brackets."""

import random
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from server import comfyui_path, in_comfyui

from hardprompts.search.markup import _parentheses

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(comfyui_path() is None, reason="needs a ComfyUI checkout in COMFYUI_PATH"),
]

PIECES = ("(", ")", "(", ")", "[", "]", ":1.2", ":", "a", "b ", "\\(", "\\)", "\\", "0.5", " ", ",")


def joined(pieces: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces of one weight as one."""
    found: list[tuple[str, float]] = []
    for text, weight in pieces:
        if text and found and abs(found[-1][1] - weight) < 1e-9:
            found[-1] = (found[-1][0] + text, weight)
        elif text:
            found.append((text, weight))
    return found


def test_comfyui_finds_the_same_pieces_and_weights() -> None:
    draw = random.Random(0)
    texts = ["".join(draw.choice(PIECES) for _ in range(draw.randint(1, 14))) for _ in range(3000)]
    found = in_comfyui("print(json.dumps([pieces(text) for text in asked]))", texts)
    for text, theirs in zip(texts, found, strict=True):
        ours = joined(_parentheses(text, 1.0))
        expected = joined((part, weight) for part, weight in theirs)
        assert [part for part, _ in ours] == [part for part, _ in expected], text
        assert [weight for _, weight in ours] == pytest.approx([weight for _, weight in expected]), text
