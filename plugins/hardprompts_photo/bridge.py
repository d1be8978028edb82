"""The bridge: from what a classifier sees in a picture to the text space of a sentence encoder."""

import dataclasses
import json
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hardprompts.encoders import normalize
from hardprompts.errors import BackendError

FILE = Path(__file__).resolve().parent / "bridge.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Bridge:
    """A picture's place in the text space: its classes' words, the people in it, and a linear map of its features.

    The classes' part is ConSE: the probabilities of the likeliest classes, times the embeddings of their words. People
    are no class of ImageNet, but many classes are worn, played or ridden by one: their joint probability says whether
    somebody is there. The map is a ridge regression on drawings with words.

    Attributes:
        classes: of the words of each class, of unit length.
        people: 1 for classes whose photographs show a person, else 0.
        person: of the word "person", of unit length.
        weight: of the map.
        bias: of the map.
        names: of the classes.
        top: classes that count.
        person_share: what a person adds, where the classes have length 1.
        person_full: joint probability of the classes with people from which on all of that is added.
        map_share: what the map adds, at its own length.
        least_familiarity: below it, a picture shows nothing that the classifier knows.

    Source: Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings (arXiv 1312.5650).
        Deviations: an embedding stands for several words of a class; people and the linear map are added.
    """

    classes: Float[Tensor, "classes text"]
    people: Float[Tensor, " classes"]
    person: Float[Tensor, " text"]
    weight: Float[Tensor, "width text"]
    bias: Float[Tensor, " text"]
    names: tuple[str, ...]
    top: int
    person_share: float
    person_full: float
    map_share: float
    least_familiarity: float

    @classmethod
    def open(cls, size: str, device: torch.device) -> "Bridge":
        """The bridge of the image tower `size`, in float32.

        Raises:
            BackendError: its file is missing or damaged.
        """
        tensors, metadata = read()
        settings = json.loads(metadata["settings"])[size]
        return cls(
            *(tensors[name].float().to(device) for name in ("classes", "people", "person")),
            tensors[f"{size}.weight"].float().to(device),
            tensors[f"{size}.bias"].float().to(device),
            names=tuple(json.loads(metadata["names"])),
            **settings,
        )

    def text_features(
        self, pooled: Float[Tensor, "images width"], logits: Float[Tensor, "images classes"]
    ) -> Float[Tensor, "images text"]:
        """Where pictures lie among texts. Not normalised."""
        probabilities = logits.softmax(dim=-1)
        shares, likeliest = probabilities.topk(self.top, dim=-1)
        seen = normalize((shares[..., None] * self.classes[likeliest]).sum(dim=1))
        somebody = (probabilities @ self.people / self.person_full).clamp(max=1)
        mapped = pooled @ self.weight + self.bias
        return seen + self.person_share * somebody[:, None] * self.person + self.map_share * mapped

    def familiarity(self, logits: Float[Tensor, "images classes"]) -> Float[Tensor, " images"]:
        """How surely the classifier recognizes anything in each picture: the largest of its outputs, before the softmax.

        The probabilities do not say it: they add up to one for noise, too.
        """
        return logits.float().amax(dim=-1)


def read() -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of the bridge's file.

    Raises:
        BackendError: the file is missing or damaged.
    """
    try:
        with safe_open(FILE, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata())
    except (OSError, SafetensorError) as error:
        raise BackendError(f"cannot read {FILE}: {type(error).__name__}: {error}; install hardprompts again") from error
