"""The bridge: from what a classifier sees in a picture to the text space of a sentence encoder."""

import dataclasses
import functools
import json
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hardprompts.encoders import normalize
from hardprompts.errors import BackendError
from hardprompts.hub.reasons import loading_cause

FILE = Path(__file__).resolve().parent / "bridge.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Bridge:
    """A picture's place in the text space: what the classifier sees in it, said in words, and a linear map of features.

    In photographs there are several things. What is seen in any part of one is said, class by class, and the sentence
    encoder reads it: the features of "pizza cup person", and not the mean of those of the three, which are near to
    "meal". Kinds of one thing (thirty breeds) are said by their plain word, unless one of them is likely. People are
    not a class of ImageNet, but many classes are worn, played or ridden by one: their joint probability says whether
    somebody is there.

    Of drawings and cut-outs, one thing on a plain ground, the classes' words are averaged as in ConSE, and a ridge
    regression, learned on drawings with words, adds what these words miss.

    Attributes:
        classes: of the words of each class, of unit length.
        people: 1 for classes whose photographs show a person, else 0.
        weight: of the map, from the roots of the features.
        bias: of the map.
        names: of the classes.
        plain: the plain word of each class, such as "dog"; "" where there is none.
        top: classes that count in a drawing.
        map_share: what the map adds to a drawing, as a share of its own output.
        least_share: probability from which on something is said of a photograph; twice that for several kinds of one.
        most_said: things that are said of a photograph, at most, but for a person.
        person_from: joint probability of the classes with people from which on there is a person.
        least_familiarity: below it, a picture shows nothing that the classifier knows.

    Source: Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings (arXiv 1312.5650).
        Deviations: photographs are read as words; an embedding stands for several words of a class; the map.
    """

    classes: Float[Tensor, "classes text"]
    people: Float[Tensor, " classes"]
    weight: Float[Tensor, "width text"]
    bias: Float[Tensor, " text"]
    names: tuple[str, ...]
    plain: tuple[str, ...]
    top: int
    map_share: float
    least_share: float
    most_said: int
    person_from: float
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
            weight=tensors[f"{size}.weight"],
            bias=tensors[f"{size}.bias"],
            names=tuple(json.loads(metadata["names"])),
            plain=tuple(json.loads(metadata["plain"])),
            **json.loads(metadata["settings"]),
        )

    def said(self, logits: Float[Tensor, "parts classes"]) -> str:
        """The words for what is seen in the parts of one photograph, the likeliest first."""
        probabilities = logits.softmax(dim=-1)
        likeliest = probabilities.amax(dim=0)
        found: list[tuple[float, str]] = []
        for members in self._kinds:
            together = float(probabilities[:, members].sum(dim=1).max())
            share, place = likeliest[members].max(dim=0)
            first = int(members[place])
            alone = float(share) >= together / 2
            # A little probability for each of a hundred breeds is not a dog.
            if together < (self.least_share if alone else 2 * self.least_share):
                continue
            # A class may have the plain word for a name, and so may two classes: "sunglasses".
            found.append((together, self.names[first] if alone else self.plain[first] or self.names[first]))
        words = [name for _, name in sorted(found, reverse=True)[: self.most_said]]
        words = words or [self.names[int(likeliest.argmax())]]
        if float((probabilities @ self.people).mean()) >= self.person_from and "person" not in words:
            words.append("person")
        return " ".join(words)

    @functools.cached_property
    def _kinds(self) -> list[Int[Tensor, " members"]]:
        """The classes by what they are kinds of; those without a plain word each by itself."""
        kinds: dict[str, list[int]] = {}
        for place, (name, plain) in enumerate(zip(self.names, self.plain, strict=True)):
            kinds.setdefault(plain or name, []).append(place)
        return [torch.tensor(members, device=self.people.device) for members in kinds.values()]

    def text_features(
        self, pooled: Float[Tensor, "images width"], logits: Float[Tensor, "images classes"]
    ) -> Float[Tensor, "images text"]:
        """Where drawings and cut-outs on a plain ground lie among texts. Not normalized."""
        mapped = roots(pooled) @ self.weight + self.bias
        return class_words(logits.softmax(dim=-1), self.classes, self.top) + self.map_share * mapped

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
        found = loading_cause(error, FILE) or f"{type(error).__name__}: {error}"
        raise BackendError(f"cannot read {FILE}: {found}; install hardprompts again") from error
