"""What is matched: the quantities in which a hard prompt is compared with its original, and how they are built."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch

from hardprompts.allowance import Allowance
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

#: Of what is left of a call, one part in so many may go into reading the original, and one into that.
READING_SHARE, SPREAD_SHARE = 2, 4

#: Texts that are measured between two looks at the clock; of a denoiser one.
TEXTS_AT_ONCE = 32


@dataclasses.dataclass
class HeldOutMatch:
    """A match that is built when it is first asked for.

    Attributes:
        build: gives it, in what it may spend; None where that does not suffice.
    """

    build: Callable[[Allowance], Match | None]
    _found: Match | None = None

    def within(self, allowance: Allowance) -> Match | None:
        """The match; None where there is no room to build it."""
        if self._found is None:
            self._found = self.build(allowance)
        return self._found


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
    """What a search of some originals follows, and what is measured of its result besides.

    Attributes:
        kind: of the quantity; never "auto".
        followed: what is matched.
        held_out: the same elsewhere, each built when it is first asked for; empty where the originals leave no room.
        described: what is compared in either, in words.
    """

    kind: Quantity
    followed: Match
    held_out: tuple[HeldOutMatch, ...]
    described: tuple[str, str]

    @property
    def score_unit(self) -> str:
        return "cosine similarity" if self.kind == "features" else self.followed.unit

    def random_texts(self, backend: Backend, num_tokens: int) -> list[str]:
        """Random prompts, the same whatever the seed and the method, so that figures can be compared."""
        count = RANDOM_PROMPTS_OF_NOISE if self.kind == "noise" else RANDOM_PROMPTS
        return random_texts(backend.vocabulary, count, num_tokens)

    @property
    def texts_at_once(self) -> int:
        """Texts that are measured between two looks at the clock."""
        return 1 if self.kind == "noise" else TEXTS_AT_ONCE

    def spread(self, backend: Backend, originals: int, allowance: Allowance) -> float:
        """The standard deviation of the score of random prompts, the mean over the originals.

        0, with a note, where the allowance has no room to measure it.
        """
        texts = self.random_texts(backend, min(4, self.followed.free_tokens()))
        left = allowance.share(SPREAD_SHARE)
        each = []
        for task in range(originals):
            distances = functools.partial(self.followed.distances, group=task)
            found = left.measured("", texts, distances, size=self.texts_at_once)
            if found is None:
                allowance.leave_out("originals that the cost of tokens is measured by", task, originals)
                break
            each.append(found)
        return float(torch.tensor(each, dtype=torch.float64).std(dim=1).mean()) if each else 0.0


def matches_of(
    backend: Backend, originals: Sequence[Original], options: DistillationOptions, seed: int, allowance: Allowance
) -> Matches:
    """What prompts are compared in with these originals.

    Args:
        allowance: of which the passes of the originals are taken.

    Raises:
        ValueError: an option belongs to another quantity than what "auto" chose.
        BackendError, TemplateError, NonFiniteError: see `PromptDistiller.distill`.
    """
    kind = chosen_quantity(backend, originals, options)
    options.check_apply(kind)
    if kind == "noise":
        return _noises(backend, originals, options, seed)
    if kind == "outputs":
        allowance.spend(2 * len(originals))  # the original, and the empty slot
        return _outputs(backend, originals, options, seed)
    return _encoded(backend, originals, options, kind, allowance)


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


def _encoded(
    backend: Backend,
    originals: Sequence[Original],
    options: DistillationOptions,
    kind: Quantity,
    allowance: Allowance,
) -> Matches:
    """The text features, or the states, in each template."""
    followed: list[Match] = []
    for place, one in enumerate(options.slots):
        pieces = windows(backend, originals, one)
        if kind == "features":
            left = allowance.share(READING_SHARE * (len(options.slots) - place))
            followed.append(match_features(backend, pieces, one, left))
            allowance.left_out += left.left_out[len(allowance.left_out) :]
        else:
            allowance.spend(2 * len(originals))
            followed.append(match_states(backend, pieces, one))
    # A text is cut where it does not fit, of which features alone can be compared; a soft prompt is not.
    whole = [len(one) for one in originals if one.text is None or kind != "features"]
    needed = max(*map(options.tokens_for, originals), *whole, 1)

    def elsewhere(template: PromptTemplate, left: Allowance) -> Match | None:
        pieces = windows(backend, originals, template)
        passes = sum(map(len, pieces))
        if not left.affords(passes):
            return None
        if kind != "features":
            left.spend(2 * passes)
            return match_states(backend, pieces, template)
        reading = left.share(1)
        found = match_features(backend, pieces, template, reading)
        return found if reading.left_out == left.left_out else None  # read in part it is another match

    held_out = [
        HeldOutMatch(functools.partial(elsewhere, template))
        for template in options.other_slots()
        if needed <= room(backend, template)
    ]
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

    def elsewhere(left: Allowance) -> Match:
        left.spend(2 * len(originals))
        return match_outputs(model, windows(backend, originals, others[0]), others, options.answers)

    held_out = (HeldOutMatch(elsewhere),) if others else ()
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

    def built(template: PromptTemplate, stream: Stream, sample_size: int | None) -> Match:
        own_seed = seed ^ stream
        bank = _bank(backend, predictor, original, template, options, own_seed)
        return match_noise(
            predictor, windows(backend, [original], template)[0], bank, template, sample_size=sample_size,
            generator=Stream.NOISES.generator(own_seed), batch_size=options.batch_size,
        )  # fmt: skip

    followed = [built(template, Stream.HELD_OUT_NOISES, options.noises_per_step) for template in options.slots]

    def elsewhere(template: PromptTemplate, left: Allowance) -> Match:
        left.spend(1)
        return built(template, Stream.HELD_OUT_PICTURES, None)

    held_out = [HeldOutMatch(functools.partial(elsewhere, template)) for template in options.slots]
    described = ("predicted noise", "predicted noise at other noises and levels")
    return Matches("noise", mean_match(followed), tuple(held_out), described)


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
