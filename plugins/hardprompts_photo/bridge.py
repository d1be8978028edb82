"""The bridge: from what a classifier sees in a picture to the text space of a sentence encoder."""

import dataclasses
import json
from pathlib import Path

import torch
from jaxtyping import Bool, Float
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
    somebody is there. The map is a ridge regression, learned on drawings with words, from the roots of the features to
    what the classes' words miss.

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
        map_share: what the map adds to a photograph, as a share of its own output.
        plain_map_share: likewise to a drawing or cut-out on a plain ground.
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
    plain_map_share: float
    least_familiarity: float

    @classmethod
    def open(cls, size: str, device: torch.device) -> "Bridge":
        """The bridge of the image tower `size`, in float32.

        Raises:
            BackendError: its file is missing or damaged.
        """
        stored, metadata = read()
        tensors = {name: tensor.float().to(device) for name, tensor in stored.items()}
        return cls(
            classes=tensors["classes"],
            people=tensors["people"],
            person=tensors["person"],
            weight=tensors[f"{size}.weight"],
            bias=tensors[f"{size}.bias"],
            names=tuple(json.loads(metadata["names"])),
            **json.loads(metadata["settings"]),
        )

    def text_features(
        self,
        pooled: Float[Tensor, "images width"],
        logits: Float[Tensor, "images classes"],
        plain: Bool[Tensor, " images"],
    ) -> Float[Tensor, "images text"]:
        """Where pictures lie among texts. Not normalised.

        Args:
            plain: which of them show a thing on a plain ground.
        """
        probabilities = logits.softmax(dim=-1)
        # Clothes on a plain ground are worn by nobody.
        somebody = (probabilities @ self.people / self.person_full).clamp(max=1) * ~plain.to(logits.device)
        mapped = roots(pooled) @ self.weight + self.bias
        share = torch.where(plain.to(mapped.device), self.plain_map_share, self.map_share)
        seen = class_words(probabilities, self.classes, self.top)
        return seen + self.person_share * somebody[:, None] * self.person + share[:, None] * mapped

    def familiarity(self, logits: Float[Tensor, "images classes"]) -> Float[Tensor, " images"]:
        """By how many standard deviations of all classes' outputs the likeliest one is above their mean.

        The probabilities do not say whether anything is recognized: of noise they add up to one, too.
        """
        values = logits.float()
        familiarity: Tensor = (values.amax(dim=-1) - values.mean(dim=-1)) / values.std(dim=-1)
        return familiarity


def class_words(
    probabilities: Float[Tensor, "images classes"], classes: Float[Tensor, "classes text"], top: int
) -> Float[Tensor, "images text"]:
    """ConSE: the words of the likeliest classes by their probabilities, at unit length."""
    shares, likeliest = probabilities.topk(top, dim=-1)
    return normalize((shares[..., None] * classes[likeliest]).sum(dim=1))


def roots(pooled: Float[Tensor, "images width"]) -> Float[Tensor, "images width"]:
    """What the map reads of pooled features: few are large, and their roots are nearer to alike."""
    return pooled.clamp(min=0).sqrt()


def read() -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of the bridge's file.

    Raises:
        BackendError: the file is missing or damaged.
    """
    try:
        with safe_open(FILE, framework="pt") as opened:
            names = list(opened.keys())
            return {name: opened.get_tensor(name) for name in names}, dict(opened.metadata())
    except (OSError, SafetensorError) as error:
        raise BackendError(f"cannot read {FILE}: {type(error).__name__}: {error}; install hardprompts again") from error
