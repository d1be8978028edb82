"""What a decoded soft prompt is worth on models that it was not made for."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.distillation.features import match_features
from hardprompts.distillation.matching import filled
from hardprompts.distillation.originals import Original, OriginalInput
from hardprompts.encoders import Backend
from hardprompts.evaluation import markdown_table
from hardprompts.hub.machine import model_label
from hardprompts.images import ImageInput, load_images
from hardprompts.prompts import HardPrompt, PromptTemplate
from hardprompts.search.rows import random_texts
from hardprompts.vocabulary import Vocabulary

#: The cosine below which a soft token is dropped by the converter that one popular UI ships: 45 degrees.
CUTOFF = 0.707

#: Random prompts whose similarity with the images is the origin, and its spread the unit, on every model.
RANDOM_PROMPTS = 64

#: The fewest of these that tell a spread, and images that are looked at together.
FEWEST, IMAGES_AT_ONCE = 8, 64


@dataclasses.dataclass(frozen=True)
class Portability:
    """How strongly the texts of one soft prompt mean its images to one model.

    Strength is the similarity with the images, less the mean of random prompts, in their standard deviations:
    0 says nothing, and models with other scales of similarity can be compared.

    Attributes:
        model: what they were scored with.
        hard, nearest: of the decoded text, and of the nearest tokens above the cut-off.
        soft: of the soft prompt itself on its own model; the same in every row.
    """

    model: str
    hard: float
    nearest: float
    soft: float

    @property
    def hard_share(self) -> float:
        """What share of the soft prompt's strength the decoded text has here; below 0 it is worse than random."""
        return self.hard / self.soft if self.soft > 0 else float("nan")

    @property
    def nearest_share(self) -> float:
        """What share the nearest tokens have here."""
        return self.nearest / self.soft if self.soft > 0 else float("nan")


@dataclasses.dataclass(frozen=True)
class PortabilityReport:
    """One row for each model, that of the soft prompt first.

    Attributes:
        text, nearest_text: the filled texts that were scored.
        left_out: what the limits left no room for, in words.
        evaluations: texts that went through the models.
    """

    text: str
    nearest_text: str
    rows: tuple[Portability, ...]
    left_out: tuple[str, ...] = ()
    evaluations: int = 0

    def __str__(self) -> str:
        """A Markdown table, and below it what was left out."""
        head = ["model", "soft prompt", "decoded", "share", "nearest tokens", "share"]
        cells = [
            [model_label(row.model), f"{row.soft:.2f}" if place == 0 else "", f"{row.hard:.2f}",
             f"{row.hard_share:.0%}", f"{row.nearest:.2f}", f"{row.nearest_share:.0%}"]
            for place, row in enumerate(self.rows)
        ]  # fmt: skip
        told = f"\nNo room within the limits: {'; '.join(self.left_out)}.\n" if self.left_out else ""
        return markdown_table([head, *cells]) + told


def portability_report(
    prompt: HardPrompt,
    soft: OriginalInput,
    source: Backend,
    backends: Sequence[Backend],
    images: "ImageInput | Sequence[ImageInput]",
    template: str | None = None,
    *,
    deadline: float | None = None,
    max_evaluations: int | None = None,
) -> PortabilityReport:
    """What a soft prompt's decoded text is worth on other models, beside the nearest tokens.

    A keyboard interrupt ends it with the models that were asked by then.

    Args:
        prompt: what the soft prompt was decoded to, by `PromptDistiller` say.
        soft: the soft prompt.
        source: the model that it was made for, with an image tower.
        backends: other models with image towers; any tokenizers.
        images: what the soft prompt stands for.
        template: where all stand; default: the prompt's own.
        deadline: seconds for the whole call. Fewer images and random prompts are taken where it is short, and models
            that it does not suffice for are left out; `source` is always asked.
        max_evaluations: texts that go through the models, likewise.

    Raises:
        BackendError: a model has no image tower, or the soft prompt is not for `source`.
        ImageError: there is no image.
        TemplateError: the soft prompt does not fit beside the template.
    """
    allowance = Allowance(deadline, max_evaluations)
    slot = PromptTemplate(prompt.template if template is None else template)
    pictures = load_images(images)
    embeddings = Original.of(soft, source.vocabulary, source.name).embeddings
    texts = [filled(slot, prompt.text), filled(slot, nearest_above(embeddings, source.vocabulary))]
    allowance.spend(1)
    unit = match_features(source, [[embeddings]], slot).mean_targets
    rows: list[Portability] = []
    own = 0.0
    models = (source, *backends)
    for place, backend in enumerate(models):
        if place and not allowance.affords(len(texts) + FEWEST):
            break
        with allowance.reporting() if place else contextlib.nullcontext():
            left = allowance.share(len(models) - place)
            strengths = _Strengths.of(backend, pictures, slot, left)
            allowance.left_out += [f"{what} ({backend.name})" for what in left.left_out[len(allowance.left_out) :]]
            own = own if place else float(strengths.of_features(unit)[0])
            allowance.spend(len(texts))
            hard, near = strengths.of_features(backend.encode_texts(texts)).tolist()
            rows.append(Portability(backend.name, hard, near, own))
    allowance.leave_out("models", len(rows), len(models))
    return PortabilityReport(texts[0], texts[1], tuple(rows), tuple(allowance.left_out), allowance.evaluations)


def nearest_above(embeddings: Tensor, vocabulary: Vocabulary, cutoff: float = CUTOFF) -> str:
    """The text of each soft token's nearest token by cosine, those below the cut-off left out.

    Source: the converter of SD.Next, pull request 2764. Deviations: it puts token 0, which is "!" in CLIP's
    vocabulary, where a soft token is below the cut-off; and it takes any token, where these have a text.
    """
    ids = vocabulary.nearest(embeddings)
    near = torch.nn.functional.cosine_similarity(embeddings.float(), vocabulary.embed(ids).float(), dim=1) >= cutoff
    kept = ids[near].tolist()
    return vocabulary.decode(kept) if kept else ""


@dataclasses.dataclass(frozen=True, eq=False)
class _Strengths:
    """Similarities with the images on one model, in units of those of random prompts."""

    target: Tensor
    mean: float
    spread: float

    @classmethod
    def of(
        cls, backend: Backend, pictures: Sequence[Any], template: PromptTemplate, allowance: Allowance
    ) -> "_Strengths":
        """Those by as many images, and as many random prompts, as there is room for; no fewer than a few."""
        looking = allowance.share(2)
        seen = [backend.encode_images(part) for part in looking.batches(pictures, IMAGES_AT_ONCE, passes=0, first=1)]
        shown = torch.cat(seen or [backend.encode_images(pictures[:1])])
        allowance.leave_out("images", len(shown), len(pictures))
        target = shown.mean(dim=0)
        texts = [filled(template, text) for text in random_texts(backend.vocabulary, RANDOM_PROMPTS, 4)]
        passes = allowance.remaining
        kept = texts if passes is None else texts[: max(FEWEST, passes - 2)]
        read = [backend.encode_texts(part) for part in allowance.batches(kept)]
        if sum(map(len, read)) < FEWEST:
            allowance.spend(FEWEST)
            read = [backend.encode_texts(texts[:FEWEST])]
        similarities = torch.cat(read) @ target
        allowance.leave_out("random prompts", len(similarities), len(texts))
        return cls(target, float(similarities.mean()), float(similarities.std().clamp_min(1e-6)))

    def of_features(self, features: Tensor) -> Tensor:
        strengths: Tensor = (features.to(self.target) @ self.target - self.mean) / self.spread
        return strengths
