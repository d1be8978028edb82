"""Words with weights, "(fox:1.2) (neon:0.9)", for UIs that weight words: fitted to what the denoiser should do."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from hardprompts.allowance import Allowance
from hardprompts.diffusion.features import backend_of, denoiser_of
from hardprompts.diffusion.noise_prediction import NoiseBank, NoisePrediction
from hardprompts.diffusion.sampling import own_bank
from hardprompts.distillation.states import ContextStates
from hardprompts.encoders import Backend, NoisePredictor
from hardprompts.errors import VocabularyError
from hardprompts.images import ImageInput, load_images
from hardprompts.noise import Conditioning, NoiseWindow
from hardprompts.objectives import check_length
from hardprompts.prompts import HardPrompt, PromptTemplate, WordWeights
from hardprompts.search.markup import read_markup
from hardprompts.search.options import check_names
from hardprompts.search.protocol import StopReason
from hardprompts.search.seeds import Stream, drawn_seed


class WeightArguments(TypedDict, total=False):
    """The fields of `WeightOptions`, as keyword arguments."""

    window: NoiseWindow
    num_noises: int
    batch_size: int
    limits: tuple[float, float]
    max_steps: int
    deadline: float | None
    seed: int | None
    callback: Callable[[int, float], bool | None] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """How weights are fitted.

    Attributes:
        window, num_noises, batch_size: the noises on which the denoiser is asked; see `DenoisingOptions`. Here the
            whole range of noise levels is the default, since weights act on all of a picture.
        limits: the least and the greatest weight, with 1 between them. Far from 1, denoisers draw artifacts.
        max_steps: evaluations of L-BFGS, each a forward and a backward pass of every noise.
        deadline: seconds for the whole call, of which the fit takes up to a half; where there is no time to measure
            the gain on held-out noises, it is None.
        seed: of the noises. Default: drawn, and recorded in the result.
        callback: called after every evaluation with its number and the best score; returning True ends the fit.

    Raises:
        ValueError: a number out of range.
    """

    window: NoiseWindow = NoiseWindow()
    num_noises: int = 32
    batch_size: int = 8
    limits: tuple[float, float] = (0.5, 1.5)
    max_steps: int = 24
    deadline: float | None = None
    seed: int | None = None
    callback: Callable[[int, float], bool | None] | None = None

    def __post_init__(self) -> None:
        for name in ("num_noises", "batch_size", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.limits[0] < 1 < self.limits[1]:
            raise ValueError(f"limits need 0 <= low < 1 < high, got {self.limits}")
        if self.deadline is not None and not 0 <= self.deadline < math.inf:
            raise ValueError(f"deadline must be finite and not negative, got {self.deadline}")


def fit_weights(
    prompt: HardPrompt,
    model: str | Backend | NoisePredictor,
    *,
    images: "ImageInput | Sequence[ImageInput] | None" = None,
    text: str | None = None,
    syntax: str = "comfyui",
    **options: Unpack[WeightArguments],
) -> HardPrompt:
    """The prompt with a weight for each of its words, under which the denoiser does better what it should.

    `prompt.weighted()` then writes them. Weights are rounded to two decimals before they are scored; if the rounded
    ones are no better than none, all are 1.

    Args:
        prompt: of a template; the words of the template keep the weight 1.
        model: the denoiser that the prompt is for, or its name for `load_backend`.
        images: pictures that the denoiser should draw.
        text: what the prompt should do the same as, such as the long prompt that it came from, of which the words
            alone are taken where it has markup (see `hardprompts.search.markup`); what is beyond
            the model's context is cut off. With `images` too, these are what is noised; else the denoiser makes
            some from the text.
        syntax: of the UI, "comfyui" or "a1111". They weight words by different rules: see `weighted_states`.
        options: see `WeightOptions`.

    Returns:
        The prompt with `weights`, whose figures are, for images, the share of the empty prompt's denoising error that
        is removed, and for a text the share of its effect, each also on noises that the fit never saw.

    Raises:
        ValueError: neither images nor a text, an unknown syntax, or an option out of range.
        BackendError: the model has no denoiser, or its conditioning has more places for longer prompts, as T5's has.
        VocabularyError: the words, each encoded by itself, are other tokens than the prompt.
        TemplateError: prompt and template do not fit into the model's context.
    """
    text = None if text is None else read_markup(text).text
    check_names("fit_weights", options, [field.name for field in dataclasses.fields(WeightOptions)])
    chosen = WeightOptions(**options)
    allowance = Allowance(chosen.deadline)
    if images is None and text is None:
        raise ValueError("nothing to fit weights to; pass images, a text, or both")
    if syntax not in RULES:
        raise ValueError(f"unknown syntax {syntax!r}; known: {', '.join(RULES)}")
    fit = _Fit.create(prompt, denoiser_of(model), syntax)
    seed = drawn_seed(chosen.seed)
    followed = fit.objective(images, text, chosen, Stream.NOISES.generator(seed).initial_seed(), allowance)
    values, reason = fit.best(followed, chosen, allowance.share(2))
    ones = torch.ones(fit.words)
    rounded = (values * 100).round() / 100
    plain, weighted = (fit.score(followed, one) for one in (ones, rounded))
    if not weighted > plain:
        rounded, weighted = ones, plain
    held_out: tuple[float, float] | None = None
    with allowance.reporting():
        if not allowance.is_over:
            other_seed = Stream.HELD_OUT_NOISES.generator(seed).initial_seed()
            other = fit.objective(images, text, chosen, other_seed, allowance)
            held_out = (fit.score(other, ones), fit.score(other, rounded))
    allowance.leave_out("the gain on held-out noises", int(held_out is not None), 1)
    weights = WordWeights(
        values=tuple(round(value, 2) for value in rounded.tolist()),
        syntax=syntax,
        unit=NoisePrediction.unit if text is None else "share of the text's effect",
        plain=plain,
        weighted=weighted,
        held_out=held_out,
    )
    settings = {"seed": seed, "num_noises": chosen.num_noises, "stop_reason": str(reason)}
    left_out = (*prompt.left_out, *allowance.left_out)
    return dataclasses.replace(
        prompt, weights=weights, left_out=left_out, provenance={**prompt.provenance, "weights": settings}
    )


def weighted_conditioning(prompt: HardPrompt, model: str | Backend | NoisePredictor) -> Conditioning:
    """What a UI hands to the denoiser for a prompt with weights, such as `prompt_embeds` of a diffusers pipeline.

    Args:
        model: the denoiser that the weights are for, or its name for `load_backend`.

    Raises:
        ValueError: no weights were fitted.
        BackendError, VocabularyError, TemplateError: see `fit_weights`.
    """
    if prompt.weights is None:
        raise ValueError("this prompt has no weights; fit them with hardprompts.applications.fit_weights")
    fit = _Fit.create(prompt, denoiser_of(model), prompt.weights.syntax)
    with torch.no_grad():
        return fit.weighted(torch.tensor(prompt.weights.values))


# --- the rules of the UIs ---------------------------------------------------------------------


def interpolated(
    states: Float[Tensor, "rows places width"],
    empty: Float[Tensor, "1 places width"],
    weights: Float[Tensor, "1 places 1"],
) -> Float[Tensor, "rows places width"]:
    """ComfyUI's rule: the states at a word's places, on the line from those of the empty prompt, 1 being the word's."""
    return states + (states - empty) * (weights - 1)  # so that a weight of 1 changes nothing, and has a gradient


def multiplied(
    states: Float[Tensor, "rows places width"],
    empty: Float[Tensor, "1 places width"],
    weights: Float[Tensor, "1 places 1"],
) -> Float[Tensor, "rows places width"]:
    """A1111's rule: the states at a word's places times its weight; then all, so that their mean is what it was."""
    scaled = states * weights
    return scaled * (states.mean(dim=(1, 2), keepdim=True) / scaled.mean(dim=(1, 2), keepdim=True))


#: How each syntax weights the states of one text encoder. Source: `encode_token_weights` of ComfyUI's sd1_clip.py, and
#: `EmphasisOriginal` of AUTOMATIC1111's sd_emphasis.py, its default.
RULES = {"comfyui": interpolated, "a1111": multiplied}


def weighted_states(
    states: Float[Tensor, "rows places width"],
    empty: Float[Tensor, "1 places width"],
    weights: Float[Tensor, " places"],
    syntax: str,
    widths: Sequence[int] = (),
) -> Float[Tensor, "rows places width"]:
    """The states that a UI hands to the denoiser where words are weighted.

    Args:
        states: of the text encoder, place by place.
        empty: the same of the empty prompt.
        weights: of the token at each place; 1 for special tokens and padding.
        widths: of the states of several text encoders, one beside the other, which are weighted each by itself.
    """
    rule, factors = RULES[syntax], weights.to(states)[None, :, None]
    sizes = list(widths) if sum(widths) == states.shape[2] else [states.shape[2]]
    parts = zip(states.split(sizes, dim=2), empty.to(states).split(sizes, dim=2), strict=True)
    return torch.cat([rule(part, nothing, factors) for part, nothing in parts], dim=2)


# --- the fit ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Fit:
    """One prompt in a denoiser's conditioning, whose words can be weighted.

    Attributes:
        conditioning, empty: of the prompt in its template, and of nothing.
        word_of_place: (places,) the number of the word at each place; -1 where there is none.
    """

    predictor: NoisePredictor
    conditioning: Conditioning
    empty: Conditioning
    word_of_place: Tensor
    words: int
    syntax: str

    @classmethod
    def create(cls, prompt: HardPrompt, predictor: NoisePredictor, syntax: str) -> "_Fit":
        vocabulary, template = predictor.vocabulary, PromptTemplate(prompt.template)
        # In a template such as "{}-style" a word goes on behind the slot; the comparison below refuses it.
        before, own, behind = (text.split() for text in (template.prefix, prompt.text, template.suffix))
        pieces = [[vocabulary.encode(word) for word in words] for words in (before, own, behind)]
        ids = vocabulary.encode(prompt.filled)
        apart = [i for words in pieces for word in words for i in word]
        if not own or apart != list(ids):
            raise VocabularyError(
                f"the words of {prompt.filled!r}, each encoded by itself, are other tokens than the whole; a UI reads "
                "weighted words by themselves, so weights would change what the prompt says"
            )
        check_length(len(ids), predictor.max_tokens, PromptTemplate(), predictor.name)
        first = ContextStates.of(backend_of(predictor)).first_place
        with torch.no_grad():
            conditioning = predictor.condition(vocabulary.embed(torch.tensor([ids], device=vocabulary.table.device)))
            empty = predictor.condition(vocabulary.table.new_zeros(1, 0, vocabulary.table.shape[1]))
        places = next(tensor.shape[1] for tensor in conditioning.tensors if tensor.ndim == 3)
        word_of_place = torch.full((places,), -1)
        place = first + sum(map(len, pieces[0]))
        for number, word in enumerate(pieces[1]):
            word_of_place[place : place + len(word)] = number
            place += len(word)
        return cls(predictor, conditioning, empty, word_of_place, len(own), syntax)

    def weighted(self, weights: Float[Tensor, " words"]) -> Conditioning:
        """The conditioning with these weights; gradients flow to them."""
        each = torch.cat([weights, weights.new_ones(1)])[self.word_of_place]
        widths = self.predictor.vocabulary.widths
        tensors = tuple(
            weighted_states(tensor, nothing, each.to(tensor.device), self.syntax, widths)
            if tensor.ndim == 3
            else tensor
            for tensor, nothing in zip(self.conditioning.tensors, self.empty.tensors, strict=True)
        )
        return dataclasses.replace(self.conditioning, tensors=tensors)

    def objective(
        self,
        images: "ImageInput | Sequence[ImageInput] | None",
        text: str | None,
        options: WeightOptions,
        seed: int,
        allowance: Allowance,
    ) -> NoisePrediction:
        """What the denoiser should do on noises of a seed."""
        if images is None:
            assert text is not None
            bank = self._bank_of(text, options, seed)
        else:
            bank = NoiseBank.draw(
                self.predictor, [[(image, 1.0) for image in load_images(images)]],
                items=options.num_noises, window=options.window, seed=seed, allowance=allowance.share(3),
            )  # fmt: skip
        judged = NoisePrediction(self.predictor, bank, batch_size=options.batch_size)
        return judged if text is None else judged.imitating(self.predictor.condition_text(text))

    def _bank_of(self, text: str, options: WeightOptions, seed: int) -> NoiseBank:
        """Noised pictures that the denoiser makes from a text."""
        vocabulary = self.predictor.vocabulary
        ids = vocabulary.encode(text)[: self.predictor.max_tokens]
        embeddings = vocabulary.embed(torch.tensor(ids, dtype=torch.long, device=vocabulary.table.device))
        return own_bank(self.predictor, embeddings, items=options.num_noises, window=options.window, seed=seed)

    def score(self, objective: NoisePrediction, weights: Float[Tensor, " words"]) -> float:
        """The score of the prompt with these weights, higher is better."""
        groups = torch.zeros(1, dtype=torch.long, device=objective.bank.noisy.device)
        return float(objective.scores_of(self.weighted(weights), groups))

    def best(
        self, objective: NoisePrediction, options: WeightOptions, allowance: Allowance
    ) -> tuple[Float[Tensor, " words"], StopReason]:
        """The weights of least loss that L-BFGS meets, and why it stopped."""
        low, high = options.limits
        # A bend of the whole line into the limits, on which 1 is where it starts.
        start = math.log((1 - low) / (high - 1))
        free = torch.full((self.words,), start, requires_grad=True)
        found: list[tuple[float, Tensor]] = []

        def weights() -> Tensor:
            return low + (high - low) * torch.sigmoid(free)

        def closure() -> Tensor:
            if allowance.is_over:
                raise _Stopped(StopReason.DEADLINE)
            with torch.enable_grad():
                current = weights()
                conditioning = self.weighted(current)
                loss, gradients = objective.loss_and_gradient(
                    conditioning, torch.zeros(1, dtype=torch.long, device=objective.bank.noisy.device)
                )
                outputs = [tensor for tensor in conditioning.tensors if tensor.is_floating_point()]
                reached = [(out, grad) for out, grad in zip(outputs, gradients, strict=True) if out.requires_grad]
                (gradient,) = torch.autograd.grad(
                    [out for out, _ in reached], free, [grad.to(out) for out, grad in reached]
                )
            # L-BFGS's tolerances are for losses near 1; the scores' differences are hundredths.
            free.grad = gradient / float(objective.bank.noisy[0, 0].numel()) * SCALE
            found.append((float(loss), current.detach().clone()))
            if options.callback and options.callback(len(found), -min(one[0] for one in found)):
                raise _Stopped(StopReason.CANCELLED)
            return loss.detach().sum().to(free) * SCALE

        optimizer = torch.optim.LBFGS(
            [free], max_iter=options.max_steps, max_eval=options.max_steps, line_search_fn="strong_wolfe"
        )
        reason = StopReason.CONVERGED
        try:
            optimizer.step(closure)
        except _Stopped as stopped:
            (reason,) = stopped.args
        except KeyboardInterrupt:  # what was found so far is returned
            reason = StopReason.INTERRUPTED
        if reason is StopReason.CONVERGED and len(found) >= options.max_steps:
            reason = StopReason.MAX_STEPS
        finite = [one for one in found if math.isfinite(one[0])]
        return (min(finite, key=lambda one: one[0])[1] if finite else torch.ones(self.words)), reason


#: Of the loss that L-BFGS sees.
SCALE = 1e3


class _Stopped(Exception):
    """Ends the fit from inside of the optimizer; its argument says why."""
