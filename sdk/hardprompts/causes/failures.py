"""What really happened when something else than hardprompts raised an error: memory, disk, rights, packages.

Whoever turns an error of a library into one of ours asks here first, and names a reason of its own only where nothing
is known.
"""

import errno
import os
from collections.abc import Iterator

from hardprompts.errors import brief, missing_package

#: What the numbers of the operating system's errors mean, and what to do.
_ERRNO = {
    errno.EACCES: "permission denied; look at the rights of the file and of its folder",
    errno.EPERM: "permission denied; look at the rights of the file and of its folder",
    errno.ENOSPC: "the disk is full; make room",
    getattr(errno, "EDQUOT", errno.ENOSPC): "the disk is full, or your share of it; make room",
    errno.ENAMETOOLONG: "its path is longer than the file system allows; choose a shorter one",
    errno.EISDIR: "it is a folder, and a file is needed",
    errno.ENOTDIR: "a part of its path is a file, and should be a folder",
    errno.EROFS: "the file system can only be read; choose another place",
    errno.EMFILE: "too many files are open; close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open; close some, or raise the limit (ulimit -n)",
    errno.ELOOP: "its links lead in a circle",
    errno.EIO: "the disk or the network drive could not be read; look at the drive",
    getattr(errno, "ESTALE", errno.EIO): "the network drive is not there any more; connect it again",
}

#: Of Windows: files that a cloud service keeps elsewhere, and files that another program holds.
_CLOUD = range(358, 405)
_HELD = (32, 33)

_MEMORY = "there is too little memory{where}; use a smaller model, dtype=torch.float16, or close other programs"


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from, the last one first."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)


def cause_of(error: BaseException) -> str:
    """What happened, and what to do, where an error or one that it came from says so by its kind; else "".

    That is: memory ran out; the operating system refused (rights, a full disk, a path that is too long, a folder, ...);
    or data is nested too deeply. Packages that are missing are `import_cause`'s, since libraries often go on without.
    """
    return next((found for one in chain(error) if (found := _cause(one))), "")


def memory_cause(error: BaseException) -> str:
    """That memory ran out, and what to do, if that is what an error says; else ""."""
    if isinstance(error, MemoryError):
        return _MEMORY.format(where="")
    if not isinstance(error, RuntimeError):
        return ""
    from hardprompts.devices import is_out_of_memory  # torch is there where such an error comes from

    return _MEMORY.format(where=" on the device") if is_out_of_memory(error) else ""


def _cause(error: BaseException) -> str:
    if found := memory_cause(error):
        return found
    if isinstance(error, RecursionError):
        return "it is nested too deeply to be read"
    return system_cause(error) if isinstance(error, OSError) else ""


def system_cause(error: OSError) -> str:
    """What the operating system says, and about which file; "" where that says no more than that there is none."""
    of_windows = getattr(error, "winerror", None)
    if of_windows in _CLOUD:
        reason = "it is kept in a cloud (OneDrive, say) and could not be fetched; start that program, or keep it here"
    elif of_windows in _HELD:
        reason = "another program holds it; close that program"
    elif error.errno in _ERRNO:
        reason = _ERRNO[error.errno]
    else:
        return ""
    return f"{os.fsdecode(error.filename)!r}: {reason}" if isinstance(error.filename, str | bytes) else reason


def import_cause(error: ImportError) -> str:
    """Which package is missing, or what is wrong with one that is there, and what to do."""
    said = brief(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if missing_package(error):
            return f"the package {package} is not installed; pip install {_DISTRIBUTIONS.get(package, package)}"
        return (
            f"the package {package} that is installed has no {error.name}, so its version does not fit; "
            f"pip install --upgrade {_DISTRIBUTIONS.get(package, package)}"
        )
    if error.name:
        package = error.name.partition(".")[0]
        return (
            f"the package {package} is installed and cannot be imported ({said}): it is damaged, or versions do not "
            f"fit each other; pip install --upgrade {_DISTRIBUTIONS.get(package, package)}"
        )
    return f"a package is missing or does not fit ({said}); install what is named there"


#: How packages are called where they are installed from, if not as they are imported.
_DISTRIBUTIONS = {
    "PIL": "pillow", "sklearn": "scikit-learn", "open_clip": "open_clip_torch", "google": "protobuf", "yaml": "pyyaml",
    "cv2": "opencv-python", "sentence_transformers": "sentence-transformers",
}  # fmt: skip
