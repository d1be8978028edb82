"""Calibrations: how likely a statement is true of a picture, given what was measured of it."""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hardprompts import plugins
from hardprompts.atomic import json_text, write_text_atomically
from hardprompts.causes.standins import read_json
from hardprompts.encoders import Backend
from hardprompts.errors import FileFormatError
from hardprompts.wording import Categories

FORMAT_VERSION = 2

#: What half the squares of weights may cost, of inputs in units of their spread; which of these is found by pictures
#: that were left aside, of which there are so many parts, or the one for few pictures where there are too few to part.
PRICES, PARTS_ASIDE, PRICE_OF_FEW = (10.0, 30.0, 100.0, 300.0), 5, 30.0

#: Figures count as no further from their mean than so many of their spreads.
FURTHEST = 3.0

#: Stands between the names of two figures in the name of their product.
TIMES = " * "

#: No statement is said to be surer than that.
SUREST = 0.999


@dataclasses.dataclass(frozen=True)
class EvidenceCalibration:
    """A logistic model of the truth of statements, fitted for one model, or a model and its judge.

    Attributes:
        models: names of the models whose figures it reads, the searched one first.
        weights: by the name of a figure, or of two with `TIMES` between them, whose product counts; see `Figures`, and
            "contribution" and "in text" of `Witness`.
        biases: by category, of all statements of it; "" is for all others.
        searched: whether it is of prompts that a search with the model found, which fit by construction, so that
            figures say less, and of what such a prompt lacks; else of those that somebody wrote.
        source: what it was fitted on, in words.
        categories: further phrases by category, which the world of the model has.
        scales: mean and spread of figures, in units of which they count; what has none counts as it is.
    """

    models: tuple[str, ...]
    weights: Mapping[str, float]
    biases: Mapping[str, float]
    searched: bool = True
    source: str = ""
    categories: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    scales: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def figures(self) -> frozenset[str]:
        """The names of what it reads."""
        return frozenset(name for term in self.weights for name in term.split(TIMES))

    def probability(self, figures: Mapping[str, float], category: str) -> float:
        """How likely a statement is true, given its figures."""
        read = {name: self._scaled(name, figures[name]) for name in self.figures}
        logit = self.biases.get(category, self.biases.get("", 0.0))
        for term, weight in self.weights.items():
            logit += weight * math.prod(read[name] for name in term.split(TIMES))
        return min(SUREST, max(1 - SUREST, 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))))

    def _scaled(self, name: str, value: float) -> float:
        mean, spread = self.scales.get(name, (None, 1.0))
        return value if mean is None else max(-FURTHEST, min(FURTHEST, (value - mean) / spread))

    def fits(self, models: Sequence[str], figures: Mapping[str, float], searched: bool) -> bool:
        """Whether it is of these models, or the first of them, and reads nothing that was not measured."""
        same = self.models == tuple(models[: len(self.models)]) and self.searched == searched
        return same and self.figures <= set(figures)

    def extended(self, categories: Categories) -> Categories:
        """The categories with the phrases of its own."""
        for name, phrases in self.categories.items():
            categories = categories.with_words(name, phrases)
        return categories

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EvidenceCalibration":
        """The calibration that `to_dict` described.

        Raises:
            FileFormatError: fields are missing or of the wrong kind.
        """
        try:
            found = cls(
                tuple(map(str, values["models"])),
                {str(name): float(weight) for name, weight in values["weights"].items()},
                {str(name): float(bias) for name, bias in values["biases"].items()},
                bool(values["searched"]),
                str(values.get("source", "")),
                {str(name): tuple(map(str, own)) for name, own in values.get("categories", {}).items()},
                {str(name): (float(mean), float(spread)) for name, (mean, spread) in values["scales"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"not a calibration of evidence: {error!r}") from error
        scales = [number for scale in found.scales.values() for number in scale]
        if not all(map(math.isfinite, (*found.weights.values(), *found.biases.values(), *scales))):
            raise FileFormatError("not a calibration of evidence: a weight is not finite")
        if any(spread <= 0 for _, spread in found.scales.values()):
            raise FileFormatError("not a calibration of evidence: a spread is not above 0")
        return found


@runtime_checkable
class OpenCalibrations(Protocol):
    """How a plugin gives the calibrations of models that it opens."""

    def __call__(self, backend: Backend) -> Sequence[EvidenceCalibration]:
        """Those that come with a model, perhaps none; where several fit, the first is taken."""
        ...


def calibrations() -> dict[str, OpenCalibrations]:
    """The ways to find the calibrations that come with models, by the scheme of the plugin."""
    return plugins.collect("calibrations")


def calibrations_of(backend: Backend) -> tuple[EvidenceCalibration, ...]:
    """The calibrations that come with a model."""
    return tuple(one for opening in calibrations().values() for one in opening(backend))


#: Calibrations as they are asked for: a file, open ones, or None for those that come with the model.
CalibrationInput: TypeAlias = str | os.PathLike[str] | Sequence[EvidenceCalibration] | None


def opened_calibrations(given: CalibrationInput) -> tuple[EvidenceCalibration, ...] | None:
    """The calibrations that are asked for; None: those that come with the model.

    Raises:
        FileFormatError, OSError: see `load_calibrations`.
    """
    if given is None:
        return None
    return load_calibrations(given) if isinstance(given, str | os.PathLike) else tuple(given)


def save_calibrations(path: str | os.PathLike[str], found: Sequence[EvidenceCalibration]) -> Path:
    """Writes calibrations into a JSON file, which `load_calibrations` reads."""
    values = {"format_version": FORMAT_VERSION, "calibrations": [one.to_dict() for one in found]}
    write_text_atomically(Path(path), json_text(values))
    return Path(path)


def load_calibrations(path: str | os.PathLike[str]) -> tuple[EvidenceCalibration, ...]:
    """The calibrations of a file.

    Raises:
        FileFormatError: it is damaged, or of another kind.
        OSError: it cannot be read.
    """
    values = read_json(Path(path))
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(f"{os.fspath(path)}: not calibrations of evidence of version {FORMAT_VERSION}")
    try:
        return tuple(map(EvidenceCalibration.from_dict, values["calibrations"]))
    except (FileFormatError, KeyError, TypeError) as error:
        raise FileFormatError(f"{os.fspath(path)}: {error}") from error


def calibration_error(probabilities: Sequence[float], true: Sequence[bool], bins: int = 10) -> float:
    """How far probabilities are from the shares of what is true, in [0, 1]: the mean over bins of equally many.

    Raises:
        ValueError: there are none, or not as many of both.

    Source: the expected calibration error with bins of equal mass (Nguyen and O'Connor 2015).
    """
    if not probabilities or len(probabilities) != len(true):
        raise ValueError(f"{len(probabilities)} probabilities and {len(true)} truths; give one for each, and some")
    # Of equal probabilities the order must not depend on the truth, or bins would part true ones from false ones.
    pairs = sorted(zip(probabilities, true, strict=True), key=lambda pair: pair[0])
    error, bins = 0.0, min(bins, len(pairs))
    for place in range(bins):
        own = pairs[place * len(pairs) // bins : (place + 1) * len(pairs) // bins]
        error += abs(sum(probability - held for probability, held in own))
    return error / len(pairs)


# --- fitting ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LabeledFigures:
    """The figures of one statement with one picture, and whether it is true of it.

    Attributes:
        searched: see `EvidenceCalibration`.
        picture: which picture it is, by any number.
    """

    figures: Mapping[str, float]
    category: str
    true: bool
    searched: bool = True
    picture: int = 0


def fitted(
    examples: Sequence[LabeledFigures],
    models: Sequence[str],
    names: Sequence[str],
    *,
    searched: bool = True,
    source: str = "",
    categories: Mapping[str, tuple[str, ...]] | None = None,
) -> EvidenceCalibration:
    """The logistic calibration that examples give: their likelihood is the greatest, but for a price of weights.

    It reads figures, their squares and the products of two. The price of weights is the one by which pictures that are
    left aside are judged best.

    Args:
        names: of the figures that it may read; those that are the same in all examples are left out.
        searched, source, categories: see `EvidenceCalibration`.

    Raises:
        ValueError: the examples are all true, all false or none.
    """
    labels = torch.tensor([one.true for one in examples], dtype=torch.float64)
    if not 0 < labels.sum() < len(labels):
        raise ValueError(
            f"of {len(examples)} statements {int(labels.sum())} are true; a calibration needs true and false ones"
        )
    every = torch.tensor([[one.figures[name] for name in names] for one in examples], dtype=torch.float64)
    varied = [place for place in range(len(names)) if float(every[:, place].std()) > 1e-9]
    names, figures = [names[place] for place in varied], every[:, varied]
    mean, spread = figures.mean(dim=0), figures.std(dim=0)
    scaled = ((figures - mean) / spread).clamp(-FURTHEST, FURTHEST)
    one, other = torch.triu_indices(len(names), len(names))
    terms = [*names, *(f"{names[a]}{TIMES}{names[b]}" for a, b in zip(one.tolist(), other.tolist(), strict=True))]
    read = torch.cat([scaled, scaled[:, one] * scaled[:, other]], dim=1)
    middle, width = read.mean(dim=0), read.std(dim=0).clamp_min(1e-9)
    own = sorted({one.category for one in examples})
    members = torch.tensor([[one.category == name for name in own] for one in examples], dtype=torch.float64)
    inputs = torch.cat([(read - middle) / width, members, torch.ones(len(examples), 1, dtype=torch.float64)], dim=1)
    pictures = [one.picture for one in examples]
    solved = _logistic(inputs, labels, _price(inputs, labels, pictures))
    weights = solved[: len(terms)] / width
    bias = solved[-1] - weights @ middle
    biases = {name: float(bias + solved[len(terms) + place]) for place, name in enumerate(own)}
    return EvidenceCalibration(
        tuple(models), dict(zip(terms, weights.tolist(), strict=True)), {**biases, "": float(bias)}, searched, source,
        categories or {}, {name: (float(a), float(b)) for name, a, b in zip(names, mean, spread, strict=True)},
    )  # fmt: skip


def _price(
    inputs: Float[Tensor, "examples inputs"], labels: Float[Tensor, " examples"], pictures: Sequence[int]
) -> float:
    """The price of weights with which the truth of what pictures left aside show is the likeliest."""
    numbers = {picture: place for place, picture in enumerate(sorted(set(pictures)))}
    part = torch.tensor([numbers[picture] % PARTS_ASIDE for picture in pictures])
    kept = [part != aside for aside in range(PARTS_ASIDE)]
    if len(numbers) < 2 * PARTS_ASIDE or any(not 0 < labels[own].sum() < own.sum() for own in kept):
        return PRICE_OF_FEW
    losses = {}
    for price in PRICES:
        logits = torch.empty_like(labels)
        for own in kept:
            logits[~own] = inputs[~own] @ _logistic(inputs[own], labels[own], price)
        losses[price] = float(functional.binary_cross_entropy_with_logits(logits, labels))
    return min(losses, key=losses.__getitem__)


def _logistic(
    inputs: Float[Tensor, "examples inputs"], labels: Float[Tensor, " examples"], price: float, steps: int = 50
) -> Float[Tensor, " inputs"]:
    """Weights by Newton's method; the last input costs nothing."""
    prices = torch.full((inputs.shape[1],), price, dtype=inputs.dtype)
    prices[-1] = 1e-6 * len(inputs)
    weights = torch.zeros(inputs.shape[1], dtype=inputs.dtype)
    for _ in range(steps):
        probability = torch.sigmoid(inputs @ weights)
        slope = inputs.T @ (probability - labels) + prices * weights
        curvature = (inputs.T * (probability * (1 - probability)).clamp_min(1e-9)) @ inputs + torch.diag(prices)
        step = torch.linalg.solve(curvature, slope)
        weights = weights - step * min(1.0, 5.0 / float(step.norm().clamp_min(1e-12)))
        if float(step.norm()) < 1e-9:
            break
    return weights
