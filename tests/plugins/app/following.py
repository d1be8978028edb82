"""What a tab yields while it works, and what it finds."""

from typing import Any


def seen_and_found(finding: Any) -> tuple[list[Any], Any]:
    """All that was yielded, and the result."""
    seen = []
    while True:
        try:
            seen.append(next(finding))
        except StopIteration as end:
            return seen, end.value
