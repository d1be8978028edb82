"""What is in a folder, without what operating systems and programs leave in every folder."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

#: Names of what operating systems, network disks and programs leave in folders, in lower case; what begins with a dot
#: (.DS_Store, ._cat.jpg, .directory, .git) is hidden anyway.
JUNK_NAMES = frozenset(
    ("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini", "__macosx", "@eadir",
     "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
)  # fmt: skip

#: What programs write while they work: lock files of Office, and files on their way from another machine.
JUNK_BEGINNINGS = (".", "~$", "~syncthing~")
JUNK_ENDINGS = (".tmp", "~")

#: How clouds name what stands for a file that they keep: the file's name is within.
PLACEHOLDER_ENDINGS = (".icloud", ".nextcloud", ".owncloud")


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is one that nobody put there on purpose: hidden, temporary or a trace."""
    return name.lower() in JUNK_NAMES or name.startswith(JUNK_BEGINNINGS) or name.lower().endswith(JUNK_ENDINGS)


def has_junk(path: str) -> bool:
    """Whether a file in an archive is junk, or in a folder of it: "__MACOSX/a/._cat.jpg". Hidden folders are not,
    since what somebody packed may have been in one.
    """
    *folders, name = PurePath(path).parts or ("",)
    return is_junk(name) or any(folder.lower() in JUNK_NAMES for folder in folders)


@dataclasses.dataclass(frozen=True)
class FolderListing:
    """The files of a folder.

    Attributes:
        files: in order; links to files among them.
        unreachable: what cannot be read, and why, in order: links to nothing, folders that may not be looked into,
            files that only a cloud has. Links to folders too, which may lead in circles and are not followed.
        folders: those in the folder itself that were not looked into, since nobody asked for it.
    """

    files: tuple[Path, ...]
    unreachable: tuple[tuple[Path, str], ...] = ()
    folders: tuple[Path, ...] = ()


def list_folder(folder: str | os.PathLike[str], recursive: bool = False) -> FolderListing:
    """The files of a folder, without junk; see `is_junk`.

    Args:
        recursive: look into its folders too.

    Raises:
        OSError: there is no such folder, or it cannot be read.
    """
    files: list[Path] = []
    unreachable: list[tuple[Path, str]] = []
    folders: list[Path] = []
    todo = [Path(folder)]
    while todo:
        place = todo.pop()
        try:
            entries = list(_entries(place))
        except OSError as error:
            if place == Path(folder):
                raise
            unreachable.append((place, f"the folder cannot be looked into: {error.strerror}"))
            continue
        for path, problem in entries:
            if problem:
                unreachable.append((path, problem))
            elif path.is_file():
                files.append(path)
            elif path.is_dir() and not recursive:
                folders.append(path)
            elif path.is_dir() and path.is_symlink():
                unreachable.append(
                    (path, "it is a link to a folder, and these are not followed; name the folder itself")
                )
            elif path.is_dir():
                todo.append(path)
    return FolderListing(tuple(sorted(files)), tuple(sorted(unreachable)), tuple(sorted(folders)))


def _entries(folder: Path) -> Iterator[tuple[Path, str]]:
    """What is in a folder, and what is wrong with it, if anything is."""
    for path in folder.iterdir():
        ending = next((ending for ending in PLACEHOLDER_ENDINGS if path.name.lower().endswith(ending)), None)
        if ending is not None:
            name = path.name[: -len(ending)].removeprefix(".")
            yield path.with_name(name), f"only the cloud has it ({path.name} stands for it); download it first"
        elif is_junk(path.name):
            continue
        elif path.is_symlink() and not path.exists():
            yield path, f"it is a link to {os.readlink(path)!r}, where nothing is"
        else:
            yield path, ""
