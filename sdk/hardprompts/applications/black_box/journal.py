"""What came of every picture that a generator was asked for, in a file that a later run goes on from."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from hardprompts.atomic import json_text, write_text_atomically, written_atomically
from hardprompts.errors import FileFormatError

#: The file in a run's folder, and the folder beside it that has the pictures, each by the first digits of its hash.
FILE, PICTURES = "pictures.jsonl", "pictures"

FORMAT_VERSION = 1

#: Digits of a picture's hash that are kept.
_DIGITS = 16


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One picture that was asked for.

    Attributes:
        prompt: the whole text that was drawn.
        score: of the picture; None where there is none.
        failure: why there is none.
        picture: the first digits of the SHA-256 of its pixels, by which equal pictures are known.
    """

    prompt: str
    seed: int
    score: float | None = None
    failure: str = ""
    picture: str = ""


def digest_of(picture: Image.Image) -> str:
    """The first digits of the SHA-256 of a picture's size and pixels, by which equal pictures are known."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()[:_DIGITS]


class Journal:
    """The attempts of a run and of the runs before it that used the same folder; each prompt and seed in order.

    A line of the file is one attempt, written in one go as soon as its score is known; half of a line, which is what a
    power failure leaves, is dropped. Numbers have all their digits, so that what is read is what was measured.

    Args:
        folder: None: nothing is kept.
        of: what the scores depend on beside prompt and seed: the images, the judge, the generator.
        breakdown: so many failures at the end of the file, or more, are those of a generator that broke down: they are
            removed, so that a run in the same folder asks again.

    Raises:
        FileFormatError: the file is of other images, or another judge or generator; or it is damaged.
    """

    def __init__(self, folder: Path | None, of: Mapping[str, Any], breakdown: int) -> None:
        self._path = None if folder is None else folder / FILE
        self._kept: dict[tuple[str, int], collections.deque[Attempt]] = {}
        if self._path is None:
            return
        first = {"format_version": FORMAT_VERSION, **of}
        if self._path.exists():
            self._read(self._path, first, breakdown)
        else:
            write_text_atomically(self._path, json_text(first, indent=None))

    def recalled(self, prompt: str, seed: int) -> Attempt | None:
        """The next attempt of an earlier run at this picture; None if there is none left."""
        kept = self._kept.get((prompt, seed))
        return kept.popleft() if kept else None

    def picture(self, attempt: Attempt) -> Image.Image | None:
        """The picture of an attempt of an earlier run; None where there is none, or it is not there any more."""
        path = self._place_of(attempt)
        if path is None or not path.exists():
            return None
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except OSError as error:
            raise FileFormatError(f"{path} is damaged ({error}); remove it, and it is done without") from error
        return picture if digest_of(picture) == attempt.picture else None

    def keep(self, attempt: Attempt, picture: Image.Image | None = None) -> None:
        """Adds an attempt that was made now: its picture, then its line."""
        place = self._place_of(attempt)
        if place is not None and picture is not None and not place.exists():
            with written_atomically(place) as file:
                picture.save(file, "PNG")
        if self._path is not None:
            line = json_text(dataclasses.asdict(attempt), indent=None)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line)

    def _place_of(self, attempt: Attempt) -> Path | None:
        kept = self._path is not None and attempt.picture
        return self._path.parent / PICTURES / f"{attempt.picture}.png" if self._path is not None and kept else None

    def _read(self, path: Path, first: Mapping[str, Any], breakdown: int) -> None:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
            write_text_atomically(path, "".join(lines))
        try:
            head, *rest = [json.loads(line) for line in lines]
            attempts = [Attempt(**row) for row in rest]
        except (ValueError, TypeError) as error:
            raise FileFormatError(f"{path} is damaged ({error}); remove it, or give another folder") from error
        if other := [name for name, value in first.items() if head.get(name) != value]:
            raise FileFormatError(
                f"{path} has the pictures of another run: it differs in {', '.join(other)} "
                f"({', '.join(repr(head.get(name)) for name in other)}); give another folder"
            )
        last = next((place for place, one in enumerate(reversed(attempts)) if one.score is not None), len(attempts))
        if last >= breakdown:
            attempts = attempts[: len(attempts) - last]
            write_text_atomically(path, "".join(lines[: 1 + len(attempts)]))
        for attempt in attempts:
            self._kept.setdefault((attempt.prompt, attempt.seed), collections.deque()).append(attempt)
