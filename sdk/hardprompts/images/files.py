"""The images of a folder, what is left out of them and why, and where their captions are: one rule for all doors."""

import collections
import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hardprompts.images.decoders import IMAGE_SUFFIXES, OTHER_IMAGES, kind_of, unreadable
from hardprompts.images.folders import is_junk, list_folder

#: Suffixes of other files that a message names.
_SHOWN = 5

#: Folders that nobody asked for are counted, but not to the end of a disk.
_COUNTED = 10_000

_HEAD_BYTES = 512

_SUFFIX = re.compile(r"\.(?=.*[a-z])[a-z0-9_~-]{1,12}", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class FolderImages:
    """The images of a folder.

    Attributes:
        images: their files, in order.
        passed_over: images that cannot be read here, and why, in order; what is wrong with a file alone is found when
            it is opened.
        notes: what else is there, in sentences without a full stop: files that are not images, folders that were not
            looked into. "2 other files are not images: 1 .mp4, 1 .pdf".
    """

    images: tuple[Path, ...]
    passed_over: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()


def images_in(folder: str | os.PathLike[str], recursive: bool = False) -> FolderImages:
    """The images of a folder, in the order of their paths, and what was left out.

    A file is an image by its suffix, whatever its case, or, if it has none, by its first bytes. Junk
    (`folders.is_junk`) does not count. Files beside an image that have its name and another suffix (captions, settings,
    the raw picture or the video of a photograph) belong to it and are not reported.

    Args:
        recursive: look into its folders too.

    Raises:
        OSError: there is no such folder, or it cannot be read.
    """
    listing = list_folder(folder, recursive)
    images: list[Path] = []
    passed_over = [(path, why) for path, why in listing.unreachable if _may_be_image(path)]
    rest: list[Path] = []
    for path in listing.files:
        suffix = _suffix(path) or _kind_inside(path)
        reason = unreadable(suffix) if suffix in IMAGE_SUFFIXES else ""
        if reason:
            passed_over.append((path, reason))
        elif suffix in IMAGE_SUFFIXES:
            images.append(path)
        else:
            rest.append(path)
    named = {(path.parent, name) for path in images for name in (path.stem, path.name)}
    others: list[Path] = []
    for path in rest:
        suffix = _suffix(path)
        if (path.parent, path.stem) in named:
            continue
        if suffix in OTHER_IMAGES:
            passed_over.append((path, unreadable(suffix)))
        else:
            others.append(path)
    notes = [*_of_others(others), *_of_folders(listing.folders)]
    return FolderImages(tuple(images), tuple(sorted(passed_over)), tuple(notes))


def caption_files(images: Iterable[Path]) -> dict[Path, Path]:
    """The text file of each image, where trainers look for captions.

    It is `cat.txt` for `cat.png`, and `cat.png.txt` where a `cat.jpg` is in the same folder, as file systems that
    ignore case see it, whether that is among the images or not.
    """
    files = list(dict.fromkeys(images))
    siblings = {path for folder in {image.parent for image in files} if folder.is_dir() for path in folder.iterdir()}
    every = {*files, *(path for path in siblings if _suffix(path) in IMAGE_SUFFIXES and not is_junk(path.name))}
    stems = collections.Counter((image.parent, image.stem.casefold()) for image in every)
    return {
        image: image.with_name(f"{image.stem if stems[image.parent, image.stem.casefold()] == 1 else image.name}.txt")
        for image in files
    }


def _suffix(path: Path) -> str:
    """A file's suffix in lower case; "" if it has none: "1.5 final" ends in none, and "IMG.0021" neither."""
    return path.suffix.lower() if _SUFFIX.fullmatch(path.suffix) else ""


def _may_be_image(path: Path) -> bool:
    return _suffix(path) in {"", *IMAGE_SUFFIXES, *OTHER_IMAGES} or path.is_dir()


def _kind_inside(path: Path) -> str:
    """The kind of a file whose name does not say it; "" if it is not known, or the file may not be read."""
    try:
        with open(path, "rb") as file:
            return kind_of(file.read(_HEAD_BYTES))
    except OSError:
        return ""


def counted_files(paths: Iterable[Path]) -> str:
    """Files by their suffixes: "3 .txt, 1 .mp4"; "" if there are none."""
    counts = collections.Counter(_suffix(path) or "without a suffix" for path in paths)
    most = sorted(counts.items(), key=lambda found: (-found[1], found[0]))
    named = [f"{number:,} {suffix}" for suffix, number in most[:_SHOWN]]
    return ", ".join([*named, "..."] if len(counts) > _SHOWN else named)


def _of_others(others: Sequence[Path]) -> list[str]:
    count = len(others)
    are = "other file is not an image" if count == 1 else "other files are not images"
    return [f"{count:,} {are}: {counted_files(others)}"] if others else []


def _of_folders(folders: Sequence[Path]) -> list[str]:
    """How many images are in folders that were not looked into."""
    paths = list(itertools.islice(_below(folders), _COUNTED))
    count = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in paths)
    if not count:
        return []
    were = "1 folder was" if len(folders) == 1 else f"{len(folders):,} folders were"
    least = "at least " if len(paths) == _COUNTED else ""
    return [f"{were} not looked into, with {least}{count:,} image{'s' * (count != 1)} in all (recursive looks there)"]


def _below(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for place, inner, names in os.walk(folder):
            inner[:] = [name for name in inner if not is_junk(name)]
            yield from (Path(place, name) for name in names if not is_junk(name))
