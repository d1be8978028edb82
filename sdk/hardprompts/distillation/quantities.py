"""What is matched: the quantities in which a hard prompt is compared with its original, and how they are built."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from hardprompts.classification.prompted import language_model
from hardprompts.diffusion.features import conditioning_encoder
from hardprompts.diffusion.noise_prediction import NoiseBank
from hardprompts.diffusion.sampling import own_bank
from hardprompts.distillation.features import FeatureMatch, MeanFeatureMatch, match_features
from hardprompts.distillation.matching import Match, MeanMatch, Windows
from hardprompts.distillation.noises import match_noise
from hardprompts.distillation.options import BEHIND_PROMPTS, DistillationOptions, Quantity
from hardprompts.distillation.originals import Original
from hardprompts.distillation.outputs import match_outputs
from hardprompts.distillation.states import ContextStates, match_states
from hardprompts.encoders import Backend, NoisePredictor
from hardprompts.errors import BackendError
from hardprompts.images import load_images
from hardprompts.prompts import PromptTemplate
from hardprompts.search.rows import random_texts
from hardprompts.search.seeds import Stream
from hardprompts.vocabulary import EmbeddedTemplate

#: Random prompts that tell how far words of any kind are from an original; fewer where a denoiser judges.
RANDOM_PROMPTS, RANDOM_PROMPTS_OF_NOISE = 16, 4


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
    """What a search of some originals follows, and what is measured of its result besides.

    Attributes:
        kind: of the quantity; never "auto".
        followed: what is matched.
        held_out: the same elsewhere; empty where the originals leave no room.
        described: what is compared in either, in words.
    """

    kind: Quantity
    followed: Match
    held_out: tuple[Match, ...]
    described: tuple[str, str]

    @property
    def score_unit(self) -> str:
        return "cosine similarity" if self.kind == "features" else self.followed.unit

    def random_texts(self, backend: Backend, num_tokens: int) -> list[str]:
        """Random prompts, the same whatever the seed and the method, so that figures can be compared."""
        count = RANDOM_PROMPTS_OF_NOISE if self.kind == "noise" else RANDOM_PROMPTS
        return random_texts(backend.vocabulary, count, num_tokens)

    def spread(self, backend: Backend, originals: int) -> float:
        """The standard deviation of the score of random prompts, the mean over the originals."""
        texts = self.random_texts(backend, min(4, self.followed.free_tokens()))
        each = torch.tensor([self.followed.distances(texts, task) for task in range(originals)], dtype=torch.float64)
        return float(each.std(dim=1).mean())


def matches_of(backend: Backend, originals: Sequence[Original], options: DistillationOptions, seed: int) -> Matches:
    """What prompts are compared in with these originals.

    Raises:
        ValueError: an option belongs to another quantity than what "auto" chose.
        BackendError, TemplateError, NonFiniteError: see `PromptDistiller.distill`.
    """
    kind = chosen_quantity(backend, originals, options)
    options.check_apply(kind)
    if kind == "noise":
        return _noises(backend, originals, options, seed)
    if kind == "outputs":
        return _outputs(backend, originals, options, seed)
    return _encoded(backend, originals, options, kind)


def chosen_quantity(backend: Backend, originals: Sequence[Original], options: DistillationOptions) -> Quantity:
    """What is matched; where that is "auto", what it means for these originals."""
    if options.match != "auto":
        return options.match
    if backend.language_model is not None:
        return "outputs"
    if conditioning_encoder(backend) is None:
        return "features"
    whole = all(len(own) == 1 for template in options.slots for own in windows(backend, originals, template))
    try:
        ContextStates.of(backend)
    except BackendError:  # a row of states that grows with the prompt: only its mean can be compared
        return "features"
    return "hidden_states" if whole else "features"


def room(backend: Backend, template: PromptTemplate) -> int:
    """Tokens that the context leaves beside a template."""
    return EmbeddedTemplate.of(backend.vocabulary, template).room(backend.text_encoder.max_tokens)


def windows(backend: Backend, originals: Sequence[Original], template: PromptTemplate) -> list[Windows]:
    """The originals in as many pieces as the context beside a template takes."""
    free = room(backend, template)
    return [original.windows(free, backend.vocabulary) for original in originals]


def mean_match(parts: Sequence[Match]) -> Match:
    """The mean of matches in several templates; with linear features of its own where all match features."""
    if len(parts) == 1:
        return parts[0]
    alike = tuple(part for part in parts if isinstance(part, FeatureMatch))
    return MeanFeatureMatch(alike) if len(alike) == len(parts) else MeanMatch(tuple(parts))


def _encoded(backend: Backend, originals: Sequence[Original], options: DistillationOptions, kind: Quantity) -> Matches:
    """The text features, or the states, in each template."""
    build: Any = match_features if kind == "features" else match_states
    followed = [build(backend, windows(backend, originals, one), one) for one in options.slots]
    needed, held_out = max(map(options.tokens_for, originals)), []
    for template in options.other_slots():
        own, free = windows(backend, originals, template), room(backend, template)
        fits = needed <= free and all(len(window) <= free for pieces in own for window in pieces)
        if fits and (kind == "features" or all(len(pieces) == 1 for pieces in own)):
            held_out.append(build(backend, own, template))
    name = "text features" if kind == "features" else "states of the text encoder"
    return Matches(kind, mean_match(followed), tuple(held_out), (name, f"{name} in other templates"))


def _outputs(backend: Backend, originals: Sequence[Original], options: DistillationOptions, seed: int) -> Matches:
    """What a language model finds likely behind all templates together."""
    model, templates = language_model(backend), options.slots
    followed = match_outputs(
        model, windows(backend, originals, templates[0]), templates, options.answers,
        sample_size=options.texts_per_step, generator=Stream.NOISES.generator(seed),
    )  # fmt: skip
    needed = max(*map(options.tokens_for, originals), *map(len, originals)) + followed.continuations.longest
    asked = options.other_slots(() if options.answers else BEHIND_PROMPTS)
    others = [template for template in asked if needed <= room(backend, template)]
    held_out: tuple[Match, ...] = ()
    if others:
        held_out = (match_outputs(model, windows(backend, originals, others[0]), others, options.answers),)
    name = "likelihood of the answers" if options.answers else "likelihood of the next token"
    return Matches("outputs", followed, held_out, (name, f"{name} in other templates"))


def _noises(backend: Backend, originals: Sequence[Original], options: DistillationOptions, seed: int) -> Matches:
    """The predictions of one original in each template; held out: other noises and noise levels."""
    predictor = backend.noise_predictor
    if predictor is None:
        raise BackendError(
            f"{backend.name} has no denoiser, so there is no noise to match; open a text-to-image model, as "
            "in diffusers:<folder or hub id>, or use match='features'"
        )
    (original,) = originals
    found: list[list[Match]] = [[], []]
    for template in options.slots:
        for place, stream in enumerate((Stream.HELD_OUT_NOISES, Stream.HELD_OUT_PICTURES)):
            own_seed = seed ^ stream
            found[place].append(
                match_noise(
                    predictor, windows(backend, [original], template)[0],
                    _bank(backend, predictor, original, template, options, own_seed), template,
                    sample_size=None if place else options.noises_per_step,
                    generator=Stream.NOISES.generator(own_seed), batch_size=options.batch_size,
                )
            )  # fmt: skip
    described = ("predicted noise", "predicted noise at other noises and levels")
    return Matches("noise", mean_match(found[0]), tuple(found[1]), described)


def _bank(
    backend: Backend,
    predictor: NoisePredictor,
    original: Original,
    template: PromptTemplate,
    options: DistillationOptions,
    seed: int,
) -> NoiseBank:
    """Noised latents of the images given, or of pictures that the denoiser itself makes from the original."""
    if options.images is not None:
        task = [(image, 1.0) for image in load_images(options.images)]
        return NoiseBank.draw(predictor, [task], items=options.num_noises, window=options.window, seed=seed)
    tokens = original.embeddings[None, : room(backend, template)].to(predictor.vocabulary.table)
    whole = EmbeddedTemplate.of(predictor.vocabulary, template).around(tokens)[0]
    return own_bank(predictor, whole, items=options.num_noises, window=options.window, seed=seed)
