"""`hardprompts invert-folder`: many images, one prompt each, picking up where it stopped."""

import collections
import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hardprompts.atomic import write_text_atomically
from hardprompts.batch.chunks import prompts_of_each
from hardprompts.batch.sources import images_in
from hardprompts.cli.screen import LiveSearch, out, say
from hardprompts.errors import FileFormatError, HardPromptsError, ImageError
from hardprompts.prompts import HardPrompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from hardprompts.inversion.inverter import PromptInverter

__all__ = ("CsvFile", "Destination", "FolderRun", "TextFiles", "images_in")

COLUMNS = ("file", "prompt", "score", "model", "method", "seed")


@runtime_checkable
class Destination(Protocol):
    """Where prompts are written, and which images have one already."""

    def is_done(self, image: Path) -> bool: ...

    def write(self, image: Path, prompt: HardPrompt) -> None: ...


class TextFiles:
    """`cat.txt` beside `cat.png`; `cat.png.txt` where a `cat.jpg` is in the same folder."""

    def __init__(self, images: Iterable[Path]) -> None:
        images = list(images)
        stems = collections.Counter(self._stem(image) for image in images)
        self._paths = {
            image: image.with_suffix(".txt") if stems[self._stem(image)] == 1 else image.with_name(f"{image.name}.txt")
            for image in images
        }

    @staticmethod
    def _stem(image: Path) -> tuple[Path, str]:
        return image.parent, image.stem.casefold()  # as file systems that ignore case see it

    def is_done(self, image: Path) -> bool:
        return self._paths[image].exists()

    def write(self, image: Path, prompt: HardPrompt) -> None:
        write_text_atomically(self._paths[image], f"{prompt.filled}\n")


class CsvFile:
    """One row for each image, each on the disk before the next search starts.

    Args:
        path: the file; made with the first row.
        folder: what the names in the file are relative to.
        overwrite: forget the rows that are there.

    Raises:
        FileFormatError: the file exists and is not such a table; it is left as it is.
    """

    def __init__(self, path: Path, folder: Path, overwrite: bool = False) -> None:
        self.path = path
        self.folder = folder
        rows, length = self._read() if path.exists() else ([], 0)
        self._keep = 0 if overwrite else length
        self._done = set() if overwrite else {row["file"] for row in rows}

    def _read(self) -> tuple[list[dict[str, str]], int]:
        """The rows, and the bytes that they take: a crash may have left half a row at the end."""
        data = self.path.read_bytes()
        length = data.rfind(b"\n") + 1
        while data.count(b'"', 0, length) % 2:  # that line break is inside of a quoted field
            length = data.rfind(b"\n", 0, length - 1) + 1
        try:
            text = data[:length].decode("utf-8", "surrogateescape")
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            rows = list(reader)
        except csv.Error as error:
            raise FileFormatError(f"{self.path} is not a CSV file: {error}; choose another name") from error
        if data and tuple(reader.fieldnames or ()) != COLUMNS:
            raise FileFormatError(
                f"{self.path} is there already and its columns are not {', '.join(COLUMNS)}; choose another name"
            )
        return rows, length

    def _name(self, image: Path) -> str:
        return image.relative_to(self.folder).as_posix()

    def is_done(self, image: Path) -> bool:
        return self._name(image) in self._done

    def write(self, image: Path, prompt: HardPrompt) -> None:
        row = (self._name(image), prompt.filled, f"{prompt.score:.4f}", prompt.model, prompt.method, prompt.seed)
        lines = io.StringIO(newline="")
        writer = csv.writer(lines, lineterminator="\n")
        if not self._keep:
            writer.writerow(COLUMNS)
        writer.writerow(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write for each row; a half one from a crash before is written over.
        with open(self.path, "r+b" if self.path.exists() else "wb", buffering=0) as file:
            file.truncate(self._keep)
            file.seek(self._keep)
            file.write(lines.getvalue().encode("utf-8", "surrogateescape"))
            os.fsync(file.fileno())
            self._keep = file.tell()


class FolderRun:
    """Inverts images in batches, and goes on when one of them fails.

    Attributes:
        written, skipped, failed: counts of images.
        interrupted: Ctrl-C ended the run; nothing half-done was written.
    """

    def __init__(self, inverter: "PromptInverter", options: Mapping[str, Any], batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
        self.inverter = inverter
        self.options = options
        self.batch_size = batch_size
        self.written = self.skipped = self.failed = 0
        self.interrupted = False

    def run(self, images: Sequence[Path], destination: Destination, overwrite: bool = False) -> None:
        """Writes a prompt for each image that has none yet."""
        waiting = [image for image in images if overwrite or not destination.is_done(image)]
        self.skipped = len(images) - len(waiting)
        try:
            for start in range(0, len(waiting), self.batch_size):
                batch = waiting[start : start + self.batch_size]
                title = (
                    f"{start + 1}/{len(waiting)} {batch[0].name}, "
                    if self.batch_size == 1
                    else (f"{start + 1}-{start + len(batch)}/{len(waiting)}, ")
                )
                for image, found in self._invert(batch, title):
                    self._keep(image, found, destination)
                if self.interrupted:
                    break
        except KeyboardInterrupt:
            self.interrupted = True

    def _keep(self, image: Path, found: "HardPrompt | HardPromptsError", destination: Destination) -> None:
        if not isinstance(found, HardPrompt):
            self.failed += 1
            say(f"{image}: {' '.join(str(found).split())}", "red")
        elif found.stop_reason == "interrupted":
            # Not written, or the next run would take half a search for a whole one.
            self.interrupted = True
            say(f"{image}: best so far, not written: {found.filled} ({found.score:.3f})", "yellow")
        else:
            destination.write(image, found)
            self.written += 1
            say(f"{image}: {found.filled} ({found.score:.3f})", console=out)

    def _invert(self, paths: Sequence[Path], title: str) -> list[tuple[Path, "HardPrompt | HardPromptsError"]]:
        from hardprompts.images import load_images

        found: list[tuple[Path, HardPrompt | HardPromptsError]] = []
        images: list[Image] = []
        readable: list[Path] = []
        for path in paths:
            try:
                images.extend(load_images(path))
                readable.append(path)
            except ImageError as error:
                found.append((path, error))
        if images:
            with LiveSearch(title) as live:
                prompts = prompts_of_each(self.inverter, images, {**self.options, "callback": live})
            found.extend(zip(readable, prompts, strict=True))
        return found
