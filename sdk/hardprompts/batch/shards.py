"""Shards: tar files of samples, as webdataset writes them. Nothing is unpacked to the disk."""

import dataclasses
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hardprompts.batch.records import Record, UnusablePicture
from hardprompts.causes.failures import cause_of
from hardprompts.causes.standins import stand_in_at
from hardprompts.errors import FileFormatError, ImageError
from hardprompts.images import IMAGE_SUFFIXES, has_junk, kind_of

#: What tarfile and the decompressors raise on damaged files.
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError, OverflowError)


@dataclasses.dataclass(frozen=True)
class Member:
    """The bytes of one file in a shard that is not compressed."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise ImageError(f"the shard is cut off: {len(data)} of {self.size} bytes are there; get it again")
        return data


def shard_records(path: Path, name: str, image: str | None) -> list[Record] | Iterator[Record]:
    """The samples of a shard; of a compressed one, one after the other with their bytes.

    Files of one base name, up to its first dot, are a sample, whose picture is the member that ends in `image`, or
    its only member that is a picture by its suffix.

    Raises:
        FileFormatError: it is not a tar file.
    """
    compressed = not path.name.lower().endswith(".tar")
    try:
        archive = tarfile.open(path, "r:gz" if compressed else "r:")  # noqa: SIM115  # closed by `_samples`
    except _DAMAGE as error:
        reason = _instead(path) or f"it is not a tar file: {error}; get the shard again"
        raise FileFormatError(f"{path}: {reason}") from error
    records = _samples(archive, path, name, image, compressed)
    return records if compressed else list(records)


def _samples(archive: tarfile.TarFile, path: Path, name: str, image: str | None, compressed: bool) -> Iterator[Record]:
    sample, damage = "", None
    members: dict[str, Any] = {}
    with archive:
        try:
            for info in archive:
                base, ending = _split(info.name)
                if not _counts(info):
                    continue
                ending = ending or _kind_inside(archive, info)
                if not ending:
                    continue
                if base != sample and members:
                    yield _sample(name, sample, members, image)
                    members = {}
                sample = base
                members[ending] = _content(archive, info, path, compressed)
            damage = _left_over(archive, path, compressed)
        except (*_DAMAGE, OSError) as error:
            damage = _instead(path) or cause_of(error) or f"{type(error).__name__}: {error}"
    if members:
        yield _sample(name, sample, members, image)
    if damage:
        where = f"behind {sample!r}" if sample else "from its beginning"
        reason = f"the shard is damaged {where}: {damage}; what follows there is lost; get the shard again"
        yield Record(f"{name}/(damaged)", UnusablePicture(reason))


def _instead(path: Path) -> str:
    """What lies there instead of a shard; shards are archives themselves, and may be compressed."""
    return stand_in_at(path, archives=False)


def _counts(info: tarfile.TarInfo) -> bool:
    """Whether a member may belong to a sample: no folder, no device, and nothing that an operating system left."""
    return (info.isreg() or info.islnk() or info.issym()) and not has_junk(info.name)


def _kind_inside(archive: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    """The ending of a picture whose name has none; "" of other files, which belong to no sample."""
    file = archive.extractfile(info) if info.isreg() else None
    kind = "" if file is None else kind_of(file.read(tarfile.BLOCKSIZE))
    return kind.removeprefix(".") if kind in IMAGE_SUFFIXES else ""


def _split(name: str) -> tuple[str, str]:
    """The key of the sample that a member belongs to, and the member's ending: "a/b", "left.png"."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, ending = base.partition(".") if not base.startswith(".") else (base, "", "")
    return f"{folder}{slash}{stem}".encode("utf-8", "backslashreplace").decode(), ending.lower()


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path, compressed: bool) -> Any:
    if not info.isreg():
        return UnusablePicture(f"the member is a link to {info.linkname!r}; pack the file itself")
    if not compressed:
        return (
            UnusablePicture("the member is a sparse file")
            if info.issparse()
            else Member(path, info.offset_data, info.size)
        )
    file = archive.extractfile(info)
    return b"" if file is None else file.read()


def _left_over(archive: tarfile.TarFile, path: Path, compressed: bool) -> str | None:
    """What is behind the last member, if it is not the end of an archive: tarfile takes anything for its end."""
    if compressed:
        return None
    with open(path, "rb") as file:
        file.seek(archive.offset)
        block = file.read(tarfile.BLOCKSIZE)
    return "no header of a member where one should be" if block.strip(b"\0") else None


def _sample(name: str, sample: str, members: dict[str, Any], image: str | None) -> Record:
    key = f"{name}/{sample}"
    pictures = [ending for ending in members if f".{ending}".endswith(tuple(IMAGE_SUFFIXES))]
    if image is not None:
        pictures = [ending for ending in members if ending == image.removeprefix(".").lower()]
    if len(pictures) == 1:
        return Record(key, members[pictures[0]])
    if pictures:
        return Record(
            key, UnusablePicture(f"there are {len(pictures)} pictures: {', '.join(pictures)}; choose by image=...")
        )
    wanted = "no picture" if image is None else f"no {image!r}"
    return Record(key, UnusablePicture(f"there is {wanted} in the sample, but {', '.join(members)}"))
